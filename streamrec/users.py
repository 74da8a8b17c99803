"""Ids of users and the rows they have."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from streamrec.ports import State


class Users:
    """User ids <-> rows 0..capacity-1. When it is full, those not seen for longest make room.

    Args:
        capacity: the most users held at once.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"sessions.users must be at least 1, got {capacity}")
        self.capacity = capacity
        self.ids: list[str | None] = []
        self.evicted = torch.zeros(0, dtype=torch.int64)  # rows emptied by the last `rows` call
        self._row: dict[str, int] = {}
        self._used = np.zeros(capacity, dtype=np.int64)  # tick at which each row was last asked for
        self._tick = 0
        self._free: list[int] = []

    def rows(self, ids: Sequence[str]) -> tuple[Tensor, list[int]]:
        """Rows of `ids` [B] and, in order, the rows that were newly given out.

        Raises:
            ValueError: more different users in one call than the store can hold.
        """
        self._tick += len(ids) > 0  # polls without events must not show in the state
        known = self._row
        out = np.fromiter(map(known.get, ids, repeat(-1)), dtype=np.int64, count=len(ids))
        self._used[out[out >= 0]] = self._tick
        self.evicted = torch.zeros(0, dtype=torch.int64)
        fresh: list[int] = []
        new = np.flatnonzero(out < 0).tolist()
        if new:
            names = dict.fromkeys(ids[at] for at in new)
            self._make_room(len(names))
            fresh = [self._add(name) for name in names]
            out[new] = np.fromiter((known[ids[at]] for at in new), dtype=np.int64, count=len(new))
        return torch.from_numpy(out), fresh

    def _add(self, name: str) -> int:
        if self._free:
            row = self._free.pop()
            self.ids[row] = name
        else:
            row = len(self.ids)
            self.ids.append(name)
        self._row[name] = row
        self._used[row] = self._tick
        return row

    def _make_room(self, needed: int) -> None:
        missing = needed - len(self._free) - (self.capacity - len(self.ids))
        if missing <= 0:
            return
        idle = np.flatnonzero(self._used[: len(self.ids)] < self._tick)
        idle = idle[[self.ids[row] is not None for row in idle]]
        if len(idle) < missing:
            raise ValueError(
                f"one batch names {needed} new users but sessions.users = {self.capacity} leaves room for "
                f"{needed - missing + len(idle)}: raise sessions.users or poll smaller batches"
            )
        # A little more than needed at once, so that a full store does not sort its users on every batch.
        count = min(len(idle), max(missing, self.capacity // 100))
        oldest = idle[np.argsort(self._used[idle], kind="stable")[:count]]
        for row in oldest.tolist():
            self._row.pop(self.ids[row] or "")
            self.ids[row] = None
            self._free.append(row)
        self.evicted = torch.from_numpy(oldest)

    def __len__(self) -> int:
        """Users held."""
        return len(self._row)

    def find(self, name: str) -> int | None:
        """The row of a user, who is not counted as asked for by this."""
        return self._row.get(name)

    def remove(self, ids: Sequence[str]) -> list[int]:
        """Empty the rows of users, whom others may follow there; returns the rows. Those nobody knows are left out."""
        gone = [row for name in dict.fromkeys(ids) if (row := self._row.pop(name, None)) is not None]
        for row in gone:
            self.ids[row] = None
        self._used[gone] = 0
        self._free.extend(gone)
        return gone

    def rename(self, rows: Sequence[int], ids: Sequence[str]) -> None:
        """Give rows in use to other users."""
        for row, name in zip(rows, ids, strict=True):
            self._row.pop(self.ids[row] or "", None)
            self.ids[row] = name
            self._row[name] = row

    def state_dict(self) -> State:
        used = torch.from_numpy(self._used[: len(self.ids)].copy())
        return {"ids": list(self.ids), "used": used, "tick": self._tick, "free": list(self._free)}

    def load_state_dict(self, state: State) -> None:
        if len(state["ids"]) > self.capacity:
            raise ValueError(
                f"the checkpoint holds {len(state['ids'])} users but sessions.users is {self.capacity}: "
                "raise sessions.users to at least that"
            )
        self.ids = list(state["ids"])
        self._row = {name: row for row, name in enumerate(self.ids) if name is not None}
        self._used[:] = 0
        self._used[: len(self.ids)] = state["used"].numpy()
        self._tick = state["tick"]
        self._free = list(state["free"])
