"""Sorting more rows by time than fit into memory: sorted runs on disk, merged block by block."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

LEAST = 1024
"""Rows of a block, at least: smaller ones cost more time than they save memory."""


class ByTime:
    """Takes tables in any order of the column `time`, gives them back in order. Rows of one time keep their order.

    At most `rows` rows wait in memory; then they are sorted and written to `folder` as a run. While merging, each of R
    runs has one block of max(1024, rows / R) rows in memory, so the bound is 2 `rows` rows as long as there are fewer
    than `rows` / 1024 runs: with the 524,288 rows an import takes, for logs of up to 268 million rows; beyond, each
    run costs 1024 rows more.

    Args:
        folder: for the runs, which have the size of the log; it must exist. Runs are removed once merged.
        rows: rows in memory.
    """

    def __init__(self, folder: Path, rows: int = 1 << 19) -> None:
        if rows < 1:
            raise ValueError(f"ByTime needs rows >= 1, got {rows}")
        self.folder, self.rows = folder, rows
        self._waiting: list[pa.Table] = []
        self._count = 0
        self._runs: list[Path] = []

    def add(self, table: pa.Table) -> None:
        """More rows, all tables with one schema."""
        for start in range(0, table.num_rows, self.rows):
            part = table.slice(start, self.rows)
            if self._count and self._count + part.num_rows > self.rows:
                self._spill()
            self._waiting.append(part)
            self._count += part.num_rows

    def _spill(self) -> None:
        path = self.folder / f"run-{len(self._runs):05d}.arrow"
        table = self._sorted()
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema, options=_PACKED) as writer:
            writer.write_table(table, max_chunksize=LEAST)
        self._runs.append(path)
        self._waiting, self._count = [], 0

    def _sorted(self) -> pa.Table:
        return _in_order(pa.concat_tables(self._waiting))

    def __iter__(self) -> Iterator[pa.Table]:
        """All rows in order, once."""
        if not self._runs:
            if self._waiting:
                yield self._sorted()
            return
        if self._waiting:
            self._spill()
        blocks = max(1, self.rows // len(self._runs) // LEAST)
        runs = [_Run(path, blocks) for path in self._runs]
        while any(run.head.num_rows for run in runs):
            yield _next(runs)
        for run in runs:
            run.close()


_PACKED = pa.ipc.IpcWriteOptions(compression="lz4")


class _Run:
    """A sorted run: `head` is what of it is in memory, at most `blocks` batches."""

    def __init__(self, path: Path, blocks: int) -> None:
        self._path, self._blocks = path, blocks
        self._file = pa.OSFile(str(path))
        self._reader = pa.ipc.open_file(self._file)
        self._at = 0
        self.head = self._reader.schema.empty_table()
        self.take(0)

    @property
    def more(self) -> bool:
        """There are rows behind the head."""
        return self._at < int(self._reader.num_record_batches)

    @property
    def times(self) -> NDArray[np.float64]:
        return _times(self.head)

    def take(self, rows: int) -> pa.Table:
        """Remove the first rows of the head; the next blocks are read when it is used up."""
        taken, self.head = self.head.slice(0, rows), self.head.slice(rows)
        if self.head.num_rows == 0 and self.more:
            end = min(self._at + self._blocks, self._reader.num_record_batches)
            read = [self._reader.get_batch(at) for at in range(self._at, end)]
            self.head, self._at = pa.Table.from_batches(read), end
        return taken

    def close(self) -> None:
        self._file.close()
        self._path.unlink()


def _next(runs: list[_Run]) -> pa.Table:
    """All rows up to the smallest last row of a head that goes on: nothing still on disk can come before them.

    Rows of one time come from the runs in the order of the runs, which is the order in which they were added.
    """
    ends = [(run.times[-1], at) for at, run in enumerate(runs) if run.more]
    bound, by = min(ends, default=(np.inf, len(runs)))
    taken = []
    for at, run in enumerate(runs):
        count = int(np.searchsorted(run.times, bound, side="right" if at <= by else "left"))
        if count:
            taken.append(run.take(count))
    return _in_order(pa.concat_tables(taken))


def _times(table: pa.Table) -> NDArray[np.float64]:
    times: NDArray[np.float64] = table["time"].to_numpy()
    return times


def _in_order(table: pa.Table) -> pa.Table:
    times = _times(table)
    if (times[1:] >= times[:-1]).all():
        return table
    return table.combine_chunks().take(pa.array(np.argsort(times, kind="stable")))
