"""What is known of each item or user, collected from rows that say it again and again."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import pyarrow as pa

_LEAST = 1 << 16


class Attributes:
    """Keeps one row per key: the first that came, or that with the greatest `by`, among equals the last that came.

    Memory: the rows kept and as many again.
    """

    def __init__(self, key: str, by: str | None = None) -> None:
        self._key, self._by = key, by
        self._frames: list[pd.DataFrame] = []
        self._kept = self._waiting = 0

    def add(self, table: pa.Table) -> None:
        frame = self._one_each(table.to_pandas())
        self._frames.append(frame)
        self._waiting += len(frame)
        if self._waiting > max(_LEAST, self._kept):
            self._merge()

    def _one_each(self, frame: pd.DataFrame) -> pd.DataFrame:
        if self._by is None:
            return frame.drop_duplicates(self._key)
        return frame.sort_values(self._by, kind="stable").drop_duplicates(self._key, keep="last")

    def _merge(self) -> pd.DataFrame:
        kept = self._one_each(pd.concat(self._frames, ignore_index=True))
        self._frames, self._kept, self._waiting = [kept], len(kept), 0
        return kept

    def tables(self) -> Iterator[pa.Table]:
        """The rows, by key; nothing where none came."""
        if self._frames:
            yield pa.Table.from_pandas(self._merge().sort_values(self._key), preserve_index=False)
