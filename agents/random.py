"""Items at random: the floor of every table, and the logger whose propensities everyone can trust."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from streamrec.catalog import Catalog
from streamrec.explore import NOTHING, choose, first_choice, offered, pick, unseen, without_repeats
from streamrec.ports import State
from streamrec.records import Decision, History, Transition


class Random:
    """Every ordered slate of available items is equally likely; propensities are exact.

    Args:
        catalog: which items may be shown.
        slate: K, slots of a slate.
        exclude_seen: never show what is in the user's window of positives.
        seed: of the draws.
        device: where histories live.
    """

    def __init__(
        self,
        catalog: Catalog,
        slate: int,
        exclude_seen: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.catalog, self.slate, self.exclude_seen = catalog, slate, exclude_seen
        self.generator = Generator(device).manual_seed(seed)

    @property
    def reads(self) -> tuple[str, ...]:
        """Windows of `History` that are used."""
        return ("items",) if self.exclude_seen else ()

    def act(self, history: History) -> Decision:
        given = offered(history, self.catalog.available, history.items if self.exclude_seen else None)
        if given is not None:
            items, mask = given
            scores = torch.zeros(items.shape, device=items.device).where(mask, -torch.inf)
            index, slot_logp = choose(scores, self.slate, 1.0, self.generator)
            return Decision.of(history.user, pick(items, index), slot_logp)
        available = self.catalog.available[: self.catalog.size].to(history.user.device)
        items = torch.nonzero(available).squeeze(1)
        taken = self._places(available, history.items) if self.exclude_seen else None
        left = torch.full_like(history.user, len(items))
        if taken is not None:
            left -= (taken != NOTHING).sum(1)
        numbers, slot_logp = without_repeats(left, self.slate, self.generator, taken)
        slate = torch.cat([items, items.new_zeros(1)])[numbers]  # -1 is the 0 at the end
        return Decision.of(history.user, slate, slot_logp)

    def probabilities(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """See `streamrec.explore.Probabilistic`."""
        mask = unseen(mask, items, history.items if self.exclude_seen else None)
        return first_choice(torch.zeros(items.shape, device=items.device).where(mask, -torch.inf), 1.0)

    def _places(self, available: Tensor, seen: Tensor) -> Tensor:
        """Places of `seen` [B, L] in the list of available items, each once, `NOTHING` elsewhere. [B, L] int64."""
        place = torch.where(available, available.cumsum(0) - 1, NOTHING)
        ordered = place[seen.long()].sort(1).values
        repeated = torch.zeros_like(ordered, dtype=torch.bool)
        repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
        return ordered.masked_fill(repeated, NOTHING)

    def recycle(self, rows: Tensor) -> None:
        """Nothing is kept by item."""

    def observe(self, transition: Transition) -> None:
        """Nothing to learn."""

    def update(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> State:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: State) -> None:
        self.generator.set_state(state["generator"])
