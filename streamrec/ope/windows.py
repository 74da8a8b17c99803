"""Sums by window of time, for drift: bounded in memory whatever the span of the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.ope.arrays import floats, packed
from streamrec.ope.rows import Floats

GROUPS = 64
"""Groups of sessions in a window; the spread between them gives the window's standard error."""

MOST = 512
"""Windows kept. Beyond, their width doubles and neighbours merge."""


class Windows:
    """Sums of each column by window and group of sessions.

    Windows are aligned to the epoch, so those of two parts of a log fit together.

    Args:
        columns: names.
        width: seconds, before any doubling.
    """

    def __init__(self, columns: Sequence[str], width: float = 86_400.0) -> None:
        if not width > 0:
            raise ValueError(f"window_s is {width:g}: expected seconds above 0")
        self.columns, self.width, self.first = list(columns), float(width), 0
        self.sums: Floats = np.zeros((len(self.columns), 0, GROUPS))

    def cells(self, time: Floats, bucket: NDArray[np.intp]) -> NDArray[np.intp]:
        """[n] flat places of rows at `time` (seconds) in sessions of `bucket`; makes room for them.

        Raises:
            ValueError: a time is not finite.
        """
        if not (np.isfinite(time.min()) and np.isfinite(time.max())):
            raise ValueError("a time is not finite: expected seconds since the epoch")
        self._cover(int(time.min() // self.width), int(time.max() // self.width))
        window = (time // self.width).astype(np.intp) - self.first
        return window * GROUPS + bucket % GROUPS

    def add(self, column: str, cells: NDArray[np.intp], values: Floats) -> None:
        """Add [n] values in the order of the rows."""
        np.add.at(self.sums[self.columns.index(column)].reshape(-1), cells, values)

    def _cover(self, low: int, high: int) -> None:
        while True:
            last = self.first + self.sums.shape[1] - 1
            start, stop = (low, high) if self.sums.shape[1] == 0 else (min(low, self.first), max(high, last))
            if stop - start < MOST:
                break
            self._double()
            low, high = low // 2, high // 2
        before = self.first - start if self.sums.shape[1] else 0
        after = stop - start + 1 - before - self.sums.shape[1]
        self.sums = np.ascontiguousarray(np.pad(self.sums, ((0, 0), (before, after), (0, 0))))
        self.first = start

    def _double(self) -> None:
        odd = self.first % 2
        even = np.pad(self.sums, ((0, 0), (odd, (self.sums.shape[1] + odd) % 2), (0, 0)))
        self.sums = even[:, 0::2] + even[:, 1::2]
        self.first, self.width = self.first // 2, self.width * 2

    def __add__(self, other: Windows) -> Windows:
        """The windows of both; widths that differ by doublings are brought together."""
        wide, fine = (self, other.copy()) if self.width >= other.width else (other, self.copy())
        while fine.width < wide.width:
            fine._double()
        both = wide.copy()
        if fine.sums.shape[1]:
            both._cover(fine.first, fine.first + fine.sums.shape[1] - 1)
            while fine.width < both.width:
                fine._double()
            at = fine.first - both.first
            both.sums[:, at : at + fine.sums.shape[1]] += fine.sums
        return both

    def copy(self) -> Windows:
        """An independent copy."""
        other = Windows(self.columns, self.width)
        other.first, other.sums = self.first, self.sums.copy()
        return other

    def by_group(self, at: int) -> Mapping[str, Floats]:
        """Column -> [groups] sums of window number `at`."""
        return {name: self.sums[column, at] for column, name in enumerate(self.columns)}

    def starts(self) -> Floats:
        """[windows] seconds at which each begins."""
        starts: Floats = (self.first + np.arange(self.sums.shape[1], dtype=np.float64)) * self.width
        return starts

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = packed({"width": self.width, "first": self.first, "sums": self.sums})
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.width, self.first, self.sums = float(state["width"]), int(state["first"]), floats(state["sums"])
