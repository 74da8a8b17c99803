"""The catalogue: item ids and their rows. New items turn up all the time; tables indexed by row never move."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from streamrec.ports import State


class Catalog:
    """Item ids <-> rows 1..capacity; row 0 is "no item".

    Every table indexed by item (embeddings, counts) is allocated once at `capacity + 1` rows, so growth costs
    nothing and checkpoints keep their shapes. An item has a row as soon as its id was read anywhere; it can be
    recommended only from `see` on, which the loop calls after predictions were made: a batch of events must not
    leak tomorrow's items into today's ranking.

    Args:
        capacity: the most items ever held. Ids beyond it get row 0; the caller reports them.
        device: where `available` lives.
    """

    def __init__(self, capacity: int = 65_536, device: torch.device | str = "cpu") -> None:
        if capacity < 1:
            raise ValueError(f"catalog.capacity must be at least 1, got {capacity}")
        self.capacity = capacity
        self.ids: list[str] = [""]
        self.available = torch.zeros(capacity + 1, dtype=torch.bool, device=device)  # [N + 1], may be recommended
        self._row: dict[str, int] = {"": 0}

    def __len__(self) -> int:
        """Number of items that have a row."""
        return len(self.ids) - 1

    def rows(self, ids: Sequence[str]) -> Tensor:
        """Rows of `ids`, new ids appended. [B] int64; 0 for the empty id and when the catalogue is full."""
        known = self._row
        out = np.fromiter((known.get(i, -1) for i in ids), dtype=np.int64, count=len(ids))
        for at in np.flatnonzero(out < 0).tolist():
            out[at] = self._add(ids[at])
        return torch.from_numpy(out)

    def _add(self, item: str) -> int:
        row = self._row.get(item)
        if row is not None:
            return row
        if len(self.ids) > self.capacity:
            return 0
        self._row[item] = row = len(self.ids)
        self.ids.append(item)
        return row

    def see(self, rows: Tensor) -> None:
        """Make items recommendable. Row 0 stays out."""
        self.available[rows] = True
        self.available[0] = False

    def retire(self, rows: Tensor) -> None:
        """Take items out of every later recommendation; their rows and what was learned about them stay."""
        self.available[rows] = False

    @property
    def size(self) -> int:
        """Rows in use including row 0: scores are computed for `table[:catalog.size]`."""
        return len(self.ids)

    def state_dict(self) -> State:
        return {"ids": self.ids[1:], "available": self.available[: self.size].clone()}

    def load_state_dict(self, state: State) -> None:
        if len(state["ids"]) > self.capacity:
            raise ValueError(
                f"the checkpoint holds {len(state['ids'])} items but catalog.capacity is {self.capacity}: "
                "raise catalog.capacity to at least that"
            )
        self.ids = ["", *state["ids"]]
        self._row = {item: row for row, item in enumerate(self.ids)}
        self.available.zero_()
        self.available[: self.size] = state["available"].to(self.available.device)
