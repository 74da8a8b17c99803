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

    What is known of items beside their ids (`category`, `features`, `born`) comes from the world, where it has it.

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
        self.category = torch.zeros(capacity + 1, dtype=torch.int64, device=device)  # [N + 1], 0 = unknown
        self.features = torch.zeros(capacity + 1, 0, device=device)  # [N + 1, F] float32
        self.born = torch.full((capacity + 1,), torch.nan, dtype=torch.float64, device=device)  # [N + 1] event time
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

    def reserve(self, features: int) -> None:
        """Make room for `features` numbers per item; called by a world that has them, before agents are built.

        Raises:
            ValueError: another width was reserved before.
        """
        if features == self.features.shape[1]:
            return
        if self.features.shape[1]:
            raise ValueError(f"items have {self.features.shape[1]} features in this run, now {features} are asked for")
        self.features = self.features.new_zeros(self.capacity + 1, features)

    def describe(
        self,
        rows: Tensor,
        category: Tensor | None = None,
        features: Tensor | None = None,
        born: Tensor | None = None,
    ) -> None:
        """Say what items are like.

        Args:
            rows: [B].
            category: [B] int64, above 0.
            features: [B, F], as wide as reserved.
            born: [B] event time at which they appeared, seconds since the epoch.
        """
        for table, values in ((self.category, category), (self.features, features), (self.born, born)):
            if values is not None:
                table[rows] = values.to(table.device, table.dtype)

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
        tables = {name: table[: self.size].clone() for name, table in self._tables().items()}
        return {"ids": self.ids[1:], **tables}

    def _tables(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("available", "category", "features", "born")}

    def load_state_dict(self, state: State) -> None:
        if len(state["ids"]) > self.capacity:
            raise ValueError(
                f"the checkpoint holds {len(state['ids'])} items but catalog.capacity is {self.capacity}: "
                "raise catalog.capacity to at least that"
            )
        self.ids = ["", *state["ids"]]
        self._row = {item: row for row, item in enumerate(self.ids)}
        self.reserve(state["features"].shape[1])
        for name, table in self._tables().items():
            table.fill_(torch.nan if name == "born" else 0)
            table[: self.size] = state[name].to(table.device)
