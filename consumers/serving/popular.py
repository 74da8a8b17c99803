"""The list that answers when no model can: what was clicked most lately."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from streamrec.catalog import Catalog
from streamrec.ports import State

REFRESH_S = 1.0
"""Wall seconds between two sortings of the list."""


class PopularList:
    """Clicks per item, fading with the clicks of anybody.

    Args:
        catalog: what may be shown.
        half_life: clicks after which a click counts half.
    """

    def __init__(self, catalog: Catalog, half_life: float = 10_000.0) -> None:
        self.catalog = catalog
        self._clicks = torch.zeros(catalog.capacity + 1, dtype=torch.float64)
        self._step = 2.0 ** (1.0 / half_life)
        self._weight = 1.0  # of the next click
        self._order = torch.zeros(0, dtype=torch.int64)
        self._sorted = float("-inf")

    def note(self, items: Tensor) -> None:
        """Clicks on the rows `items` [B] int64."""
        if not len(items):
            return
        self._clicks.index_add_(0, items, torch.full((len(items),), self._weight, dtype=torch.float64))
        self._weight *= self._step ** len(items)
        if self._weight > 1e200:
            self._clicks /= self._weight
            self._weight = 1.0

    def forget(self, rows: Tensor) -> None:
        """These rows have other items now."""
        self._clicks[rows] = 0.0
        self._sorted = float("-inf")

    def top(self, k: int, among: Tensor | None, without: Tensor) -> list[int]:
        """At most `k` available rows, most clicked first.

        Args:
            k: rows.
            among: [C] only these, None = all.
            without: [E] none of these.
        """
        hidden = set(without.tolist())
        available = self.catalog.available
        if among is not None:
            ranked = among[torch.argsort(self._clicks[among], descending=True, stable=True)]
        else:
            ranked = self._ranked()
        found: list[int] = []
        for start in range(0, len(ranked), 4 * k + 16):
            part = ranked[start : start + 4 * k + 16]
            for row in part[available[part]].tolist():
                if row not in hidden:
                    hidden.add(row)
                    found.append(row)
                    if len(found) == k:
                        return found
        return found

    def _ranked(self) -> Tensor:
        now = time.monotonic()
        if now >= self._sorted + REFRESH_S:
            size = self.catalog.size
            self._order = torch.argsort(self._clicks[:size], descending=True, stable=True)
            self._sorted = now
        return self._order

    def state_dict(self) -> State:
        return {"clicks": self._clicks[: self.catalog.size] / self._weight}

    def load_state_dict(self, state: State) -> None:
        self._clicks.zero_()
        self._clicks[: len(state["clicks"])] = state["clicks"]
        self._weight, self._sorted = 1.0, float("-inf")
