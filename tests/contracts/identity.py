"""The easiest world with something to learn: the best item is a function of the last clicked one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from streamrec.ports import Agent
from streamrec.records import Decision, History, Kind, Transition
from tests.histories import window

ITEMS = 24
SLATE = 3
LENGTH = 4
CHANCE = SLATE / ITEMS
"""Share of slates that hold the right item by luck."""


class Identity:
    """Users with random histories; after item x they click `follows[x]` and nothing else.

    A logger who knows nothing shows random slates, half of them with the right item in a random slot.

    Args:
        seed: of histories, slates and of the order of the items.
        noise: the right item is drawn anew for every decision instead, so that there is nothing to learn.
    """

    def __init__(self, seed: int = 0, noise: bool = False) -> None:
        self.generator = Generator().manual_seed(seed)
        self.noise = noise
        cycle = torch.randperm(ITEMS, generator=Generator().manual_seed(9)) + 1
        self.follows = torch.zeros(ITEMS + 1, dtype=torch.int64)
        self.follows[cycle] = cycle.roll(-1)
        self.clock = 1_000.0

    def history(self, n: int, times: int = 1) -> History:
        """`n` users whose windows hold one to four clicks; with `times` 0 nobody clicked anything yet."""
        items = torch.randint(1, ITEMS + 1, (n, LENGTH), generator=self.generator)
        known = torch.randint(1, LENGTH + 1, (n, 1), generator=self.generator) * times
        made = window(items * (torch.arange(LENGTH - 1, -1, -1) < known))
        made.user = torch.randperm(4 * n, generator=self.generator)[:n]
        made.key = made.user * 2_654_435_761 + 12_345
        self.clock += 10.0
        made.time = torch.full((n,), self.clock, dtype=torch.float64)
        made.times = made.time.unsqueeze(1) - torch.arange(LENGTH, 0, -1)
        return made

    def transition(self, agent: Agent, n: int) -> Transition:
        """`n` decisions of the logger, with what `agent` wanted instead."""
        before = self.history(n)
        right = self._right(before.items[:, -1].long())
        slate = torch.rand(n, ITEMS, generator=self.generator).topk(SLATE).indices + 1
        put = (torch.rand(n, generator=self.generator) < 0.5) & ~(slate == right.unsqueeze(1)).any(1)
        slot = torch.randint(0, SLATE, (n,), generator=self.generator)
        slate[put, slot[put]] = right[put]
        hit = slate == right.unsqueeze(1)
        shown = Decision.of(before.user, slate, torch.full(slate.shape, torch.nan))
        return Transition(
            history=before,
            shown=shown,
            wanted=agent.act(before),
            feedback=torch.where(hit, int(Kind.CLICK), int(Kind.SKIP)).to(torch.int8),
            rewards=hit.float(),
            next=after(before, right * hit.any(1)),
            time=before.time + 5,
            done=torch.rand(n, generator=self.generator) < 0.1,
            sent=before.time,
        )

    def _right(self, last: Tensor) -> Tensor:
        if self.noise:
            return torch.randint(1, ITEMS + 1, last.shape, generator=self.generator)
        return self.follows[last]

    def solved(self, agent: Agent, n: int = 480) -> float:
        """Share of the agent's slates that hold the item that follows."""
        before = self.history(n)
        right = self.follows[before.items[:, -1].long()]
        return float((agent.act(before).slate == right.unsqueeze(1)).any(1).double().mean())


def after(before: History, item: Tensor) -> History:
    """The histories once `item` [B] was clicked, 0 = nothing was."""
    moved = torch.cat([before.items[:, 1:], item.int().unsqueeze(1)], dim=1)
    items = torch.where(item.unsqueeze(1) > 0, moved, before.items)
    return replace(before, items=items, in_session=before.in_session + (item > 0), time=before.time + 5)
