"""How popular items were at a time: the running counter, and what it says beside a batch of lists."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.ope.arrays import floats, packed
from streamrec.ope.codes import FUTURE_LEAK, Refused

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

HEAD = 0.8
"""Share of the interactions that the head holds: the fewest items that reach it; all others are the tail."""


@dataclass(frozen=True)
class Popularity:
    """What was known of n lists of K items before each was shown."""

    count: Ints  # [n, K] interactions with the item
    total: Ints  # [n] interactions with any item
    rank: Ints  # [N + 1] place among the counts, 1 = the most popular; items of one count share it; 0 = never seen
    tail: NDArray[np.bool_]  # [N + 1] item does not belong to the head

    @classmethod
    def of(cls, lists: Ints, counts: Ints) -> Popularity:
        """From counts [N + 1] that hold for all lists [n, K], as in a train-test split. Row 0 is not counted."""
        counts = np.asarray(counts, dtype=np.int64).copy()
        counts[0] = 0
        total = np.full(len(lists), counts.sum(), dtype=np.int64)
        return cls(counts[lists], total, dense_rank(counts), ~head(counts))

    def __getitem__(self, rows: slice) -> Popularity:
        return replace(self, count=self.count[rows], total=self.total[rows])


def dense_rank(counts: Ints) -> Ints:
    """[N + 1] 1 for the highest count, 2 for the next lower one and so on; 0 where the count is 0."""
    levels, at = np.unique(counts, return_inverse=True)
    return np.where(counts > 0, len(levels) - at, 0)


def head(counts: Ints) -> NDArray[np.bool_]:
    """[N + 1] the fewest items that together have `HEAD` of the interactions; of equal counts the lower row first."""
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    inside = np.zeros(len(counts), dtype=np.bool_)
    inside[order] = (before < HEAD * counts.sum()) & (counts[order] > 0)
    return inside


def deciles(counts: Ints) -> Ints:
    """[N + 1] 1 for the least popular tenth of the items ever seen, 10 for the most popular, 0 for items never seen.

    Of equal counts the lower row is taken to be the less popular, so that the tenths are equally large.
    """
    seen = np.flatnonzero(counts > 0)
    out = np.zeros(len(counts), dtype=np.int64)
    out[seen[np.argsort(counts[seen], kind="stable")]] = np.arange(len(seen)) * 10 // max(len(seen), 1) + 1
    return out


class PopularityCounter:
    """Counts interactions and says how many there were strictly before a time: never one of the same moment or later.

    Ranks, head and deciles are those of the last renewal: at most a hundredth of the interactions are newer than it.
    They too know only what was before the times asked for.

    Args:
        items: largest catalogue row.

    Raises:
        ValueError: items below 1.
    """

    RENEW = 0.01
    """Growth of the number of interactions after which ranks, head and deciles are made anew."""

    def __init__(self, items: int) -> None:
        if items < 1:
            raise ValueError(f"items must be the largest catalogue row, at least 1, got {items}")
        self.items = items
        self.counts = np.zeros(items + 1, dtype=np.int64)
        self.total = 0
        self._until = -np.inf  # newest interaction that is in `counts`
        self._item = np.zeros(0, dtype=np.int64)  # not in `counts` yet
        self._time = np.zeros(0)
        self._at_renewal = np.zeros(items + 1, dtype=np.int64)
        self._derive()

    def observe(self, items: Ints, time: Floats) -> None:
        """Take in interactions [m] with catalogue rows at event times [m], in any order.

        Raises:
            ValueError: rows outside 1..items.
        """
        items = np.asarray(items, dtype=np.int64)
        if len(items) and not 1 <= items.min() <= items.max() <= self.items:
            raise ValueError(f"items must be catalogue rows 1 to {self.items}, got {items.min()} to {items.max()}")
        self._item = np.concatenate([self._item, items])
        self._time = np.concatenate([self._time, np.asarray(time, dtype=np.float64)])

    def as_of(self, lists: Ints, time: Floats) -> Popularity:
        """Counts of the items in lists [n, K] before each row's event time [n].

        Rows may come in any order within a call; the next call must not go back behind the earliest of this one.

        Raises:
            Refused: `future_leak`, a row is older than an interaction that was counted for good.
        """
        time = np.asarray(time, dtype=np.float64)
        if len(time):
            self._settle(float(time.min()))
        moments, when = np.unique(self._time, return_inverse=True)
        keys = np.sort(self._item * (len(moments) + 1) + when)
        begin = np.asarray(lists, dtype=np.int64) * (len(moments) + 1)
        before = np.searchsorted(moments, time)
        more = np.searchsorted(keys, begin + before[:, None]) - np.searchsorted(keys, begin)
        total = self.total + np.searchsorted(np.sort(self._time), time)
        return Popularity(self.counts[lists] + more, total, self._rank, self._tail)

    @property
    def decile(self) -> Ints:
        """[N + 1] see `deciles`, as of the last renewal."""
        return self._decile

    def _settle(self, time: float) -> None:
        """Count for good what was before `time`, the earliest that will be asked for."""
        if time <= self._until:
            raise Refused(FUTURE_LEAK, f"popularity at time {time} was asked for after {self._until} had been counted")
        old = self._time < time
        if not old.any():
            return
        np.add.at(self.counts, self._item[old], 1)
        self.total += int(old.sum())
        self._until = max(self._until, float(self._time[old].max()))
        self._item, self._time = self._item[~old], self._time[~old]
        if self.total > (1.0 + self.RENEW) * self._at_renewal.sum():
            self._at_renewal = self.counts.copy()
            self._derive()

    def _derive(self) -> None:
        counts = self._at_renewal
        self._rank, self._tail, self._decile = dense_rank(counts), ~head(counts), deciles(counts)

    def state_dict(self) -> dict[str, Any]:
        """Everything, as copies."""
        tables = {"counts": self.counts, "at_renewal": self._at_renewal, "item": self._item, "time": self._time}
        state: dict[str, Any] = packed({**tables, "until": np.array([self._until])})
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a `state_dict()`.

        Raises:
            ValueError: it was saved for another number of items.
        """
        if len(state["counts"]) != self.items + 1:
            raise ValueError(f"saved for {len(state['counts']) - 1} items, here there are {self.items}")
        self.counts, self._at_renewal = floats(state["counts"]), floats(state["at_renewal"])
        self._item, self._time = floats(state["item"]), floats(state["time"])
        self.total, self._until = int(self.counts.sum()), float(state["until"][0])
        self._derive()
