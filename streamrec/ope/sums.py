"""Sums by bucket of sessions: all that values and intervals are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamrec.ope.arrays import floats, keys, packed
from streamrec.ope.keys import DistinctKeys, mix
from streamrec.ope.rows import Floats, Keys
from streamrec.ope.windows import Windows


class Sums:
    """Sums of named columns over rows, by hash bucket of the row's session, and by window of time.

    Buckets of whole sessions are independent where sessions are, so the spread between buckets is that between
    sessions however rows depend within one. Without sessions each row is one of its own.

    Each bucket's sum is a left fold over its rows in their order, whatever the batches: cutting a log differently
    gives the same bits (but for windows once their width has doubled). Adding two objects may differ in the last bits
    from one pass.

    Args:
        columns: names.
        buckets: hash buckets of sessions; the fewer sessions share one, the better the interval.
        window_s: width of a window in seconds.
    """

    def __init__(self, columns: Sequence[str], buckets: int = 4096, window_s: float = 86_400.0) -> None:
        if buckets < 2:
            raise ValueError(f"buckets is {buckets}: expected at least 2, the interval is their spread")
        self.columns, self.buckets, self.window_s = list(columns), buckets, window_s
        self.table: Floats = np.zeros((len(self.columns), buckets))
        self.occupied = np.zeros(buckets, dtype=bool)
        self.distinct, self.windows = DistinctKeys(), Windows(self.columns, window_s)
        self.rows, self.known, self.timed = 0, True, False

    def keys(self, session: Keys | None, n: int) -> Keys:
        """[n] mixed hashes of the sessions of the next n rows; of the rows' own numbers where there are none."""
        if session is None:
            return mix(np.arange(self.rows, self.rows + n, dtype=np.uint64))
        if session.shape != (n,):
            raise ValueError(f"session has shape {session.shape}: expected ({n},), one key a row")
        return mix(session)

    def add(
        self, values: Mapping[str, Floats], mixed: Keys, time: Floats | None = None, with_session: bool = True
    ) -> None:
        """Add rows: [n] values of every column, [n] keys made by `keys`, [n] times in seconds where there are any.

        Raises:
            ValueError: rows with and without sessions, or with and without times, in one object.
        """
        n = len(mixed)
        if n == 0:
            return
        self._one_kind(with_session, time is not None)
        bucket = (mixed % np.uint64(self.buckets)).astype(np.intp)
        cells = None if time is None else self.windows.cells(time, bucket)
        for name, values_of in values.items():
            np.add.at(self.table[self.columns.index(name)], bucket, values_of)
            if cells is not None:
                self.windows.add(name, cells, values_of)
        self.occupied[bucket] = True
        self.distinct.add(mixed)
        self.rows += n

    def _one_kind(self, with_session: bool, timed: bool) -> None:
        if self.rows == 0:
            self.known, self.timed = with_session, timed
        elif (self.known, self.timed) != (with_session, timed):
            raise ValueError("some batches came with session or time and some without: give them always or never")

    @property
    def sessions(self) -> int:
        """Different sessions so far; rows where the log names none."""
        return len(self.distinct) if self.known else self.rows

    def by_bucket(self) -> dict[str, Floats]:
        """Column -> [occupied buckets] sums."""
        return {name: self.table[at][self.occupied] for at, name in enumerate(self.columns)}

    def total(self) -> dict[str, Floats]:
        """Column -> scalar sum over all rows (pairwise over buckets)."""
        return {name: np.asarray(self.table[at].sum()) for at, name in enumerate(self.columns)}

    def __add__(self, other: Sums) -> Sums:
        if (self.columns, self.buckets, self.window_s) != (other.columns, other.buckets, other.window_s):
            raise ValueError("sums of different columns, buckets or windows cannot be added: make both alike")
        if self.rows and other.rows:
            self._one_kind(other.known, other.timed)
        both = Sums(self.columns, self.buckets, self.window_s)
        both.table, both.occupied = self.table + other.table, self.occupied | other.occupied
        both.distinct.smallest = self.distinct.smallest.copy()
        both.distinct.add(other.distinct.smallest)
        both.windows, both.rows = self.windows + other.windows, self.rows + other.rows
        kind = self if self.rows else other
        both.known, both.timed = kind.known, kind.timed
        return both

    def state_dict(self) -> dict[str, Any]:
        state = {
            "columns": list(self.columns),
            "table": self.table,
            "occupied": self.occupied,
            "smallest": self.distinct.smallest,
            "rows": self.rows,
            "known": self.known,
            "timed": self.timed,
        }
        kept: dict[str, Any] = packed(state)
        return kept | {"windows": self.windows.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a `state_dict()`.

        Raises:
            ValueError: it is of other columns or buckets.
        """
        table = floats(state["table"])
        if list(state["columns"]) != self.columns or table.shape != self.table.shape:
            raise ValueError(
                f"the state has columns {state['columns']} in {table.shape[1]} buckets, "
                f"this object {self.columns} in {self.buckets}: load it into one with the same settings"
            )
        self.table, self.occupied = table, floats(state["occupied"])
        self.distinct.smallest = keys(state["smallest"])
        self.rows, self.known, self.timed = int(state["rows"]), bool(state["known"]), bool(state["timed"])
        self.windows.load_state_dict(state["windows"])
