"""What a user will do with an item: a softmax over kinds of feedback, given what the user did and saw before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

STREAMS = 3
"""Streams a user remembers: positives, skips, and what was shown."""

POSITIVE, SKIPPED, SHOWN = range(STREAMS)


@dataclass
class Taste:
    """What of n users lasts: D wide averages over long windows, and how they have been so far."""

    liked: Tensor  # [n, D]
    passed: Tensor  # [n, D]
    level: Tensor  # [n, LEVELS] how much was shown, clicked and skipped, as numbers around 0

    def __getitem__(self, index: Tensor) -> Taste:
        return Taste(self.liked[index], self.passed[index], self.level[index])


LEVELS = 3


@dataclass
class Recent:
    """What of n users passes: sums over each stream that fade with time, at T time constants."""

    vectors: Tensor  # [n, STREAMS, T, D] sums of item vectors
    mass: Tensor  # [n, STREAMS, T] sums of ones


class ClickModel(nn.Module):
    """P(kind | user, item, slot) = softmax over kinds of a_k(x) + b_ik + c_k,slot + <q_k(x), v_i>.

    x is the state of the user: long averages of the vectors of items clicked and skipped, and sums over the items
    clicked, skipped and shown that fade at several time constants, divided by their mass plus the usual mass, with the
    share of that mass and with the squared length of each (a sum in which everything is alike is long). a and q come
    from a linear layer beside one of `hidden` units.

    It is the softmax over {skip, click, order} of the simulator of DEERS (Zhao et al., KDD 2018, Algorithm 3).
    Departures: sums that fade in place of two GRUs over the newest 10 clicks and skips, since a world that steps
    thousands of users must move their states with an addition; silence is a kind of its own where the log has it; the
    item enters by a product, so that all items are valued at once, and not through two towers; an extra effect of the
    slot.

    Args:
        items: N.
        kinds: kinds of feedback, C.
        slots: slots told apart; those beyond count as the last.
        dim: D, width of item vectors.
        hidden: units of the hidden layer.
        scales: T, time constants.
        generator: start of the weights.
    """

    usual: Tensor
    temperature: Tensor

    def __init__(
        self, items: int, kinds: int, slots: int, dim: int, hidden: int, scales: int, generator: Generator
    ) -> None:
        super().__init__()
        self.dim, self.kinds, self.slots, self.scales = dim, kinds, slots, scales
        width = 2 * dim + LEVELS + STREAMS * scales * (dim + 2)

        def normal(*shape: int, scale: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) * scale)

        self.vectors = normal(items + 1, dim, scale=dim**-0.5)
        self.bias = nn.Parameter(torch.zeros(items + 1, kinds))
        self.slot = nn.Parameter(torch.zeros(slots, kinds))
        self.inner = normal(hidden, width, scale=width**-0.5)
        self.shift = nn.Parameter(torch.zeros(hidden))
        self.outer = normal(kinds * (dim + 1), hidden, scale=0.1 * hidden**-0.5)
        self.straight = normal(kinds * (dim + 1), width, scale=0.1 * width**-0.5)
        self.level = nn.Parameter(torch.zeros(kinds * (dim + 1)))
        self.register_buffer("usual", torch.ones(STREAMS, scales))
        self.register_buffer("temperature", torch.ones(()))
        with torch.no_grad():
            self.vectors[0] = 0.0

    def state(self, taste: Taste, recent: Recent) -> Tensor:
        """x, [n, width]."""
        whole = recent.mass + self.usual
        mean = recent.vectors / whole.unsqueeze(-1)
        parts = [mean.flatten(1), (recent.mass / whole).flatten(1), mean.square().sum(-1).flatten(1)]
        return torch.cat([taste.liked, taste.passed, taste.level, *parts], dim=1)

    def read(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """q [n, C, D] and a [n, C] of states [n, width]."""
        hidden = F.relu(F.linear(state, self.inner, self.shift))
        out = F.linear(hidden, self.outer) + F.linear(state, self.straight, self.level)
        out = out.view(-1, self.kinds, self.dim + 1)
        return out[..., :-1], out[..., -1]

    def slots_of(self, slot: Tensor) -> Tensor:
        """[..., C] effects of `slot` [...]."""
        return self.slot[slot.clamp(max=self.slots - 1)]

    def rows(self, query: Tensor, level: Tensor, owner: Tensor, item: Tensor, slot: Tensor) -> Tensor:
        """Log-odds of the kinds, [R, C], not yet divided by the temperature: row r is shown to user `owner[r]`."""
        match = (query[owner] * self.vectors[item].unsqueeze(1)).sum(-1)
        return level[owner] + match + self.bias[item] + self.slots_of(slot)

    def everything(self, query: Tensor, level: Tensor, slot: Tensor) -> Tensor:
        """Log-odds of the kinds for all items, [n, N, C] (items 1..N), in slot `slot` [] for everybody."""
        match = query @ self.vectors[1:].T  # [n, C, N]
        return (match + level.unsqueeze(-1)).transpose(1, 2) + self.bias[1:] + self.slots_of(slot)
