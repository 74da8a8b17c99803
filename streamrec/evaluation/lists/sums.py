"""Sums of metrics by bucket of sessions, for all rows and for each label of each segment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from streamrec.evaluation.lists.chunk import Bools, Floats, Ints
from streamrec.ope.arrays import floats, keys, packed
from streamrec.ope.keys import DistinctKeys
from streamrec.ope.rows import Keys

Cells = list[tuple[Ints, Bools | None]]
"""For each segment: the rows' places in the sums, and which rows have one; None = all do."""

ALL = ""
"""The group of all rows."""


class GroupSums:
    """Per group and bucket: sums of `columns` figures and, in `counts`, of how many rows had a value.

    Groups are all rows and, for each segment, its labels. A bucket's sum is a left fold over its rows in their order:
    how a log is cut into batches changes no bit.

    Args:
        columns: figures per row.
        counts: kinds of rows that are counted.
        segments: name -> labels.
        buckets: hash buckets of sessions. Memory is 8 * (columns + counts) * buckets bytes a group.
    """

    def __init__(self, columns: int, counts: int, segments: Mapping[str, int], buckets: int) -> None:
        self.buckets, self.segments = buckets, {ALL: 1, **segments}
        self.first = dict(zip(self.segments, np.cumsum([0, *self.segments.values()])[:-1].tolist(), strict=True))
        groups = sum(self.segments.values())
        self.sums = np.zeros((columns, groups * buckets))
        self.counts = np.zeros((counts, groups * buckets))
        self.distinct = [DistinctKeys() for _ in range(groups)]

    def meet(self, mixed: Keys, labels: Mapping[str, Ints]) -> None:
        """Count the sessions of n rows; arguments as of `cells`."""
        self.distinct[0].add(mixed)
        for name, label in labels.items():
            for one in np.unique(label[label >= 0]).tolist():
                self.distinct[self.first[name] + one].add(mixed[label == one])

    def cells(self, mixed: Keys, labels: Mapping[str, Ints]) -> Cells:
        """Places of n rows in the sums.

        Args:
            mixed: [n] mixed hashes of sessions.
            labels: segment -> [n], -1 = in none.
        """
        bucket = (mixed % np.uint64(self.buckets)).astype(np.int64)
        found: Cells = [(bucket, None)]
        for name, label in labels.items():
            inside, group = label >= 0, label + self.first[name]
            found.append(((group * self.buckets + bucket)[inside], None if inside.all() else inside))
        return found

    def add(self, table: Floats, column: int, cells: Cells, values: Floats) -> None:
        """Add [n] values to a column of `sums` or `counts`."""
        for cell, inside in cells:
            np.add.at(table[column], cell, values if inside is None else values[inside])

    def of(self, group: int) -> tuple[Floats, Floats]:
        """Sums [columns, buckets] and counts [counts, buckets] of a group."""
        part = slice(group * self.buckets, (group + 1) * self.buckets)
        return self.sums[:, part], self.counts[:, part]

    def merge(self, other: GroupSums) -> None:
        """Add what another object of the same settings holds."""
        self.sums += other.sums
        self.counts += other.counts
        for mine, theirs in zip(self.distinct, other.distinct, strict=True):
            mine.add(theirs.smallest)

    def state_dict(self) -> dict[str, Any]:
        smallest = [one.smallest for one in self.distinct]
        state: dict[str, Any] = packed({"sums": self.sums, "counts": self.counts, "smallest": smallest})
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        sums, counts = floats(state["sums"]), floats(state["counts"])
        if (sums.shape, counts.shape) != (self.sums.shape, self.counts.shape):
            raise ValueError(
                f"the sums were saved as {sums.shape} and {counts.shape}, here they are {self.sums.shape} and "
                f"{self.counts.shape}: metrics, ks, segments and buckets must be what they were"
            )
        self.sums, self.counts = sums, counts
        for one, smallest in zip(self.distinct, state["smallest"], strict=True):
            one.smallest = keys(smallest)
