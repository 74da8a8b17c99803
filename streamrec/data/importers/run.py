"""One import from the original files to a folder that appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from streamrec.data.events import EventWriter
from streamrec.data.formats import BadLog
from streamrec.data.importers.dataset import DataSet
from streamrec.data.importers.ledger import Ledger
from streamrec.data.importers.merge import ByTime
from streamrec.data.importers.source import Source
from streamrec.data.rules import STORED

LOG, ITEMS, USERS, ABOUT = "part-0.parquet", "items.csv", "users.csv", "about.json"

GROUP = 1 << 16
"""Rows of a row group of the log."""

ROWS = 1 << 19
"""Rows of the log that may wait in memory for being sorted."""

SCHEMA = 1
"""Version of the manifest."""

Say = Callable[[str], None]


def import_data(
    data_set: DataSet, path: Path | str, out: Path | str, say: Say | None = None, rows: int = ROWS
) -> dict[str, Any]:
    """Turn the original files at `path` into the folder `out`, and return its manifest.

    The same files give the same bytes. Until everything is written it is in `<out>.partial` beside it; after an error
    nothing is left. Memory: at most about 2 `rows` rows of the log, and 8 bytes per different user, session and item.

    Args:
        data_set: which one, and what of it.
        path: a folder, file or archive, see `Source`.
        out: must not exist, or be an empty folder.
        say: told how far it has come, every few seconds.
        rows: rows of the log that may wait in memory for being sorted.

    Raises:
        BadLog: files that are not those of the data set, no row that can be used, or `out` exists.
    """
    out = Path(out).expanduser()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise BadLog(out, "expected a folder that does not exist yet, found something there; name another or remove it")
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        raise BadLog(partial, "expected no import under way, found what one left or is writing; remove it if none is")
    with Source(path) as source:
        partial.mkdir(parents=True)
        try:
            about = _write(data_set, source, partial, Progress(say), rows)
            partial.replace(out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return about


def _write(data_set: DataSet, source: Source, folder: Path, progress: Progress, rows: int) -> dict[str, Any]:
    ledger, counts = Ledger(), Counts()
    order = ByTime(folder, rows)
    for table in data_set.events(source, ledger):
        order.add(_whole(table))
        progress.step("read", table.num_rows)
    progress.begin()
    with EventWriter(folder / LOG, GROUP) as log:
        for table in order:
            for start in range(0, table.num_rows, GROUP):
                part = table.slice(start, GROUP)
                counts.add(part)
                log.append(part.to_pandas())
                progress.step("written", part.num_rows)
    if not counts.rows:
        raise BadLog(source.path, f"expected at least one row that can be used, got none; dropped: {ledger.dropped()}")
    tables = {
        ITEMS: _write_table(folder / ITEMS, data_set.items(source, ledger), "item"),
        USERS: _write_table(folder / USERS, data_set.users(source, ledger), "user"),
    }
    about = _about(data_set, source, ledger, counts, {name: n for name, n in tables.items() if n})
    _write_json(folder / ABOUT, about)
    return about


def _whole(table: pa.Table) -> pa.Table:
    """All columns of the event log; those that are not there are null."""
    there = table.schema.names
    empty = {name: pa.nulls(table.num_rows, STORED.field(name).type) for name in STORED.names if name not in there}
    columns = [empty[field.name] if field.name in empty else table[field.name].cast(field.type) for field in STORED]
    return pa.table(columns, schema=STORED)


def _write_table(path: Path, tables: Iterator[pa.Table], key: str) -> int:
    """Rows written to a CSV file; without rows no file is made."""
    writer: pacsv.CSVWriter | None = None
    rows = 0
    try:
        for table in tables:
            assert table.schema.names[0] == key, f"{path.name} must begin with {key!r}, got {table.schema.names}"
            if table.num_rows:
                table = _without_empty_types(table)
                writer = writer or pacsv.CSVWriter(str(path), table.schema)
                writer.write_table(table)
                rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    return rows


def _without_empty_types(table: pa.Table) -> pa.Table:
    """A column in which nothing is known becomes one of text: a CSV file has no other word for it."""
    fields = [pa.field(f.name, pa.string()) if pa.types.is_null(f.type) else f for f in table.schema]
    return table.cast(pa.schema(fields))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _about(data_set: DataSet, source: Source, ledger: Ledger, counts: Counts, tables: dict[str, int]) -> dict[str, Any]:
    read = sum(page.read for page in ledger.pages.values())
    return {
        "schema": SCHEMA,
        "data_set": type(data_set).__module__.rpartition(".")[2].replace("_", "-"),
        "title": data_set.title,
        "homepage": data_set.homepage,
        "licence": data_set.licence,
        "options": {name: value for name, value in vars(data_set).items() if not name.startswith("_")},
        "from": source.path.name,
        "files": {name: page.summary() for name, page in ledger.pages.items()},
        "rows_read": read,
        "rows_dropped": ledger.dropped(),
        **counts.summary(),
        "tables": tables,
        "mapping": dict(data_set.mapping),
        "notes": list(ledger.notes),
    }


class Counts:
    """Figures about a log, added up as it is written."""

    def __init__(self) -> None:
        self.rows = 0
        self.kinds: Counter[str] = Counter()
        self.first, self.last = np.inf, -np.inf
        self.propensities = 0
        self._different = {name: Different() for name in ("user", "item", "session", "slate")}

    def add(self, table: pa.Table) -> None:
        times = table["time"].to_numpy()
        self.rows += table.num_rows
        self.first, self.last = min(self.first, float(times[0])), max(self.last, float(times[-1]))
        for pair in table["kind"].value_counts().to_pylist():
            self.kinds[pair["values"]] += pair["counts"]
        self.propensities += table.num_rows - table["propensity"].null_count
        for name, different in self._different.items():
            different.add(table[name])

    def summary(self) -> dict[str, Any]:
        span = {"first": self.first, "last": self.last, "first_utc": _utc(self.first), "last_utc": _utc(self.last)}
        different = {f"{name}s": len(seen) for name, seen in self._different.items()}
        kinds = dict(sorted(self.kinds.items()))
        return {"events": self.rows, "kinds": kinds, **different, "propensities": self.propensities, "time": span}


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


class Different:
    """Counts different texts, by hashes of 64 bits: 8 bytes each, and up to as much again while adding."""

    def __init__(self) -> None:
        self._seen: NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)
        self._new: list[NDArray[np.uint64]] = []
        self._waiting = 0

    def add(self, texts: pa.ChunkedArray) -> None:
        unique = pc.unique(texts).drop_null().to_numpy(zero_copy_only=False).astype(object)
        self._new.append(pd.util.hash_array(unique, categorize=False))
        self._waiting += len(unique)
        if self._waiting > max(GROUP, len(self._seen)):
            self._merge()

    def _merge(self) -> None:
        found = np.sort(np.concatenate([self._seen, *self._new]))  # np.unique is ten times slower on hashes
        self._seen = found[np.append(True, found[1:] != found[:-1])] if len(found) else found
        self._new, self._waiting = [], 0

    def __len__(self) -> int:
        self._merge()
        return len(self._seen)


class Progress:
    """Says every few seconds how many rows have passed."""

    def __init__(self, say: Say | None, every_s: float = 5.0) -> None:
        self._say, self._every = say, every_s
        self._began = self._last = time.monotonic()
        self._rows = 0

    def begin(self) -> None:
        """Count from 0 again: the next pass over the rows."""
        self._rows = 0

    def step(self, done: str, rows: int) -> None:
        self._rows += rows
        now = time.monotonic()
        if self._say is not None and now - self._last >= self._every:
            self._last = now
            self._say(f"{self._rows:,} events {done} after {now - self._began:.0f} s")
