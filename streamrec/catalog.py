"""The catalogue: item ids and their rows. New items turn up all the time; tables indexed by row never move."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamrec.ports import State

_MANY = 256
"""Calls of `rows` whose answers are kept apart until the next `expire`."""


class Catalog:
    """Item ids <-> rows 1..capacity; row 0 is "no item".

    Every table indexed by item (embeddings, counts) is allocated once at `capacity + 1` rows, so growth costs
    nothing and checkpoints keep their shapes. An item has a row as soon as its id was read anywhere; it can be
    recommended only from `see` on, which the loop calls after predictions were made: a batch of events must not
    leak tomorrow's items into today's ranking.

    A stream without end brings more items than any table holds. With `ttl_s` the rows of items that nobody mentions
    any more are given to new ones: `expire` says which rows are empty now, and whoever keeps anything by row makes it
    as if no item had ever been there, at that moment, before the row can mean something else. With `admit` above 1 an
    id has to turn up that often before it gets a row at all; until then it is row 0, as events without an item. Both
    are those of Monolith (Liu et al., ORSUM@RecSys 2022, section 2.2), with these departures: occurrences are counted
    exactly, for the newest rare ids only, where Monolith adds up 16-bit counters in hash filters, and admission is not
    by chance; and time is event time.

    What is known of items beside their ids (`category`, `features`, `born`) comes from the world, where it has it.

    Args:
        capacity: the most items held at once. When all rows are taken, a new id gets row 0; the caller reports it.
        device: where `available` lives.
        admit: occurrences of an id until it gets a row; 1 = at once. Remembered are the occurrences of at least the
            newest `capacity / 2` ids that have none, and of at most `capacity`.
        ttl_s: event time after which an item that did not occur in the stream loses its row, found within the next
            eighth of it; None = never. What we recommend ourselves is no occurrence, only what the world says is.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(
        self,
        capacity: int = 65_536,
        device: torch.device | str = "cpu",
        admit: int = 1,
        ttl_s: float | None = None,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"catalog.capacity must be at least 1, got {capacity}")
        if admit < 1:
            raise ValueError(f"catalog.admit must be at least 1, got {admit}")
        if ttl_s is not None and ttl_s <= 0.0:
            raise ValueError(f"catalog.ttl_s must be above 0 or left out, got {ttl_s}")
        self.capacity, self.admit, self.ttl_s = capacity, admit, ttl_s
        self.ids: list[str] = [""]  # by row; "" = the row is empty
        self.available = torch.zeros(capacity + 1, dtype=torch.bool, device=device)  # [N + 1], may be recommended
        self.category = torch.zeros(capacity + 1, dtype=torch.int64, device=device)  # [N + 1], 0 = unknown
        self.features = torch.zeros(capacity + 1, 0, device=device)  # [N + 1, F] float32
        self.born = torch.full((capacity + 1,), torch.nan, dtype=torch.float64, device=device)  # [N + 1] event time
        self.withdrawn = torch.zeros(capacity + 1, dtype=torch.bool, device=device)  # [N + 1], `see` is not enough
        self._some_withdrawn = False
        self._categories: dict[str, int] = {}  # name -> number
        self._row: dict[str, int] = {"": 0}
        self._free: deque[int] = deque()  # empty rows, emptied first in front
        self._rare: tuple[dict[str, int], dict[str, int]] = ({}, {})  # occurrences of ids without a row: newer, older
        self._used = np.zeros(capacity + 1 if ttl_s else 0)  # event time at which each row last occurred
        self._touched: list[NDArray[np.int64]] = []  # rows that occurred since `expire` last heard of the time
        self._said = self._clock = self._next_scan = float("-inf")
        self.waiting: dict[str, tuple[str, bool] | None] | None = None
        """New ids that wait for `settle`, with what `upsert` says of them; None = they get their rows at once."""

    def __len__(self) -> int:
        """Number of items that have a row."""
        return len(self._row) - 1

    @property
    def full(self) -> bool:
        """No row is left for a new item."""
        return len(self.ids) > self.capacity and not self._free

    def rows(self, ids: Sequence[str]) -> Tensor:
        """Rows of `ids`, which occur in the stream here. New ids get one, each occurrence counted in order.

        Returns:
            [B] int64; 0 for the empty id, for ids that are too rare yet, and for new ids when the catalogue is full.
        """
        known = self._row
        out = np.fromiter(map(known.get, ids, repeat(-1)), dtype=np.int64, count=len(ids))
        for at in np.flatnonzero(out < 0).tolist():
            out[at] = self._add(ids[at])
        if self.ttl_s is not None:
            self._touched.append(np.unique(out))
            if len(self._touched) > _MANY:  # nobody calls `expire`
                self._touched = [np.unique(np.concatenate(self._touched))]
        return torch.from_numpy(out)

    def find(self, ids: Sequence[str]) -> Tensor:
        """Rows of `ids` as they are, [B] int64: looking at an item is no occurrence. 0 = it has none."""
        known = self._row
        return torch.tensor([known.get(item, 0) for item in ids], dtype=torch.int64)

    def _add(self, item: str) -> int:
        row = self._row.get(item)
        if row is not None:
            return row
        if self.full or not self._common(item):
            return 0
        if self.waiting is not None:
            self.waiting.setdefault(item)
            return 0
        return self._give(item)

    def _give(self, item: str) -> int:
        """A row for an item that has none; one is left."""
        if self._free:
            row = self._free.popleft()
            self.ids[row] = item
        else:
            row = len(self.ids)
            self.ids.append(item)
        self._row[item] = row
        return row

    def _common(self, item: str) -> bool:
        """Count an occurrence of an id that has no row; whether it has occurred often enough to get one."""
        newer, older = self._rare
        count = newer.pop(item, 0) + older.pop(item, 0) + 1
        if count >= self.admit:
            return True
        if len(newer) >= max(self.capacity // 2, 1):
            newer, older = {}, newer
        newer[item] = count
        self._rare = (newer, older)
        return False

    def upsert(self, item: str, category: str = "", available: bool = True) -> int:
        """Know an item that was not heard of before, or know better; whatever was withdrawn is back.

        Args:
            item: its id. It gets a row at once, whatever `admit` says.
            category: what it is, "" = as before.
            available: it may be recommended from now on; False = not before `upsert` says so.

        Returns:
            its row; 0 when the catalogue is full, -1 when it waits for `settle`.
        """
        if self.waiting is not None and item not in self._row and not self.full:
            self.waiting[item] = category, available
            return -1
        row = self._row.get(item) or (0 if self.full else self._give(item))
        if row == 0:
            return 0
        for part in self._rare:
            part.pop(item, None)
        if self.ttl_s is not None:
            self._touched.append(np.array([row], dtype=np.int64))
        if category:
            self.category[row] = self._category(category)
        self.withdrawn[row] = not available
        self._some_withdrawn = bool(self.withdrawn.any())
        self.available[row] = available
        return row

    def settle(self, ids: Sequence[str]) -> None:
        """Give rows to `ids`, in this order, as long as there are some, and make them recommendable; none waits now."""
        told, self.waiting = self.waiting or {}, {}
        for item in ids:
            if item not in self._row and not self.full:
                self._give(item)
        self.see(self.find(ids).to(self.available.device))
        for item, about in told.items():
            if about is not None and item in self._row:
                self.upsert(item, *about)

    def _category(self, name: str) -> int:
        if name not in self._categories:
            self._categories[name] = len(self._categories) + 1
        return self._categories[name]

    @property
    def categories(self) -> list[str]:
        """Names of the categories that `upsert` was told, by number; 0 is unknown."""
        return ["", *self._categories]

    def expire(self, now: float) -> Tensor:
        """Empty the rows of items that have been idle for longer than `ttl_s`, up to an eighth of it longer.

        Called by the loop when everything the world said was taken in, with the event time of what was typical of it.
        A time is believed once the call before said as much: one message from a clock that is years ahead must not
        empty the catalogue.

        Args:
            now: event time, seconds since the epoch.

        Returns:
            the rows that are empty from now on, rising, [R] int64. Everything kept by row must be made new there
            before `rows` is called again.
        """
        if self.ttl_s is None:
            return torch.zeros(0, dtype=torch.int64)
        self._clock, self._said = max(self._clock, min(self._said, now)), now
        for rows in self._touched:
            self._used[rows] = max(now, self._clock)
        self._touched.clear()
        if self._clock < self._next_scan or self._clock == float("-inf"):
            return torch.zeros(0, dtype=torch.int64)
        self._next_scan = self._clock + self.ttl_s / 8
        return self._empty(np.flatnonzero(self._used[: self.size] < self._clock - self.ttl_s))

    def _empty(self, idle: NDArray[np.int64]) -> Tensor:
        gone = [row for row in idle.tolist() if self.ids[row]]
        for row in gone:
            del self._row[self.ids[row]]
            self.ids[row] = ""
        self._free.extend(gone)
        rows = torch.tensor(gone, dtype=torch.int64)
        for name, table in self._tables().items():
            table[rows.to(table.device)] = torch.nan if name == "born" else 0
        return rows

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
        self.available[rows] = ~self.withdrawn[rows] if self._some_withdrawn else True
        self.available[0] = False

    def withdraw(self, rows: Tensor) -> None:
        """Take items out of every later recommendation, whoever sees them again, until `upsert` brings them back."""
        self.withdrawn[rows] = True
        self.withdrawn[0] = False
        self.available[rows] = False
        self._some_withdrawn = bool(self.withdrawn.any())

    def retire(self, rows: Tensor) -> None:
        """Take items out of recommendations until they are seen again; their rows and what was learned of them stay."""
        self.available[rows] = False

    @property
    def size(self) -> int:
        """Rows ever in use including row 0: scores are computed for `table[:catalog.size]`."""
        return len(self.ids)

    def state_dict(self) -> State:
        tables = {name: table[: self.size].clone() for name, table in self._tables().items()}
        life = {
            "free": list(self._free),
            "rare": [dict(part) for part in self._rare],
            "used": torch.from_numpy(self._used[: self.size].copy()),
            "touched": np.unique(np.concatenate(self._touched)).tolist() if self._touched else [],
            "clock": torch.tensor([self._said, self._clock, self._next_scan], dtype=torch.float64),
        }
        return {"ids": self.ids[1:], "life": life, "categories": list(self._categories), **tables}

    def _tables(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("available", "category", "features", "born", "withdrawn")}

    def load_state_dict(self, state: State) -> None:
        if len(state["ids"]) > self.capacity:
            raise ValueError(
                f"the checkpoint holds {len(state['ids'])} items but catalog.capacity is {self.capacity}: "
                "raise catalog.capacity to at least that"
            )
        # Versions of a model that is being served come once a second and mostly add to the items: no new dictionary.
        before, self.ids = self.ids, ["", *state["ids"]]
        known = len(before)
        if self.ids[:known] != before:
            known, self._row = 0, {"": 0}
        self._row.update((item, row) for row, item in enumerate(self.ids[known:], known) if item)
        self.reserve(state["features"].shape[1])
        for name, table in self._tables().items():
            table.fill_(torch.nan if name == "born" else 0)
            if name in state:  # checkpoints of 0.1 know nothing of `withdrawn`
                table[: self.size] = state[name].to(table.device)
        self._some_withdrawn = bool(self.withdrawn.any())
        self._categories = {name: at for at, name in enumerate(state.get("categories", ()), 1)}
        self._load_life(state["life"])

    def _load_life(self, life: State) -> None:
        self._free = deque(life["free"])
        newer, older = life["rare"]
        self._rare = (dict(newer), dict(older))
        self._said, self._clock, self._next_scan = life["clock"].tolist()
        self._touched = [np.array(life["touched"], dtype=np.int64)]
        if len(life["used"]) == self.size and self.ttl_s is not None:
            self._used[: self.size] = life["used"].numpy()
        elif self.ttl_s is not None:  # saved by a run without `ttl_s`: every item begins its time to live now
            self._touched.append(np.arange(self.size))
