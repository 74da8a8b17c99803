"""The one event format: a row is an event, in Parquet, CSV or JSONL; read as it streams, checked, and written.

| column | | meaning |
|---|---|---|
| `user` | needed | id of the user, text of 1 to 128 characters |
| `item` | needed | id of the item; may be empty for `request`, `leave` and `return` |
| `kind` | needed | a `Kind` in lower case: request, impression, click, skip, purchase, rating, leave, return |
| `time` | needed | seconds since the epoch; from a text also ISO 8601, UTC unless it says more |
| `session` | | id of the session; empty = sessions are cut by the gap in time |
| `value` | | strength of the event (stars, price, seconds); empty = 1 |
| `slate` | | id of the decision the row belongs to; empty = organic, nobody was asked |
| `slot` | | place in the slate, from 0; empty = unknown |
| `propensity` | | probability of this item in this slot given the slots above, in (0, 1]; empty = unknown |

The `impression` rows with one `slate` are what was shown, one row per slot, next to each other in the file. Later rows
of another kind with that `slate` are the reactions. A folder of files `part-*.parquet` is read as one log, by name.
"""

from __future__ import annotations

import csv
import functools
import gzip
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streamrec.data.formats import SUFFIXES, Format, ParquetRows, damage, open_format, text_suffix
from streamrec.data.formats import BadLog as BadLog
from streamrec.data.mapping import Expression, nearest, no_column, parse
from streamrec.data.rules import COLUMNS as COLUMNS
from streamrec.data.rules import KINDS as KINDS
from streamrec.data.rules import MAX_SLOTS as MAX_SLOTS
from streamrec.data.rules import NEEDED, OPTIONAL, STORED, Fault, Shown, canonical
from streamrec.records import Kind

Report = Callable[[Fault, int], None]
"""Takes a fault and the row (from 0) of the log at which its batch begins."""


def read(
    path: Path | str, columns: Mapping[str, str] | None = None, chunk: int = 65_536, start: int = 0
) -> Iterator[pd.DataFrame]:
    """The rows of a log as frames with all of `COLUMNS`, checked.

    In a frame `user`, `item`, `session` and `slate` are text ("" = none), `kind` is categorical with
    `kind.cat.codes` equal to the numbers of `Kind`, `value` is 1 where the log says nothing, `slot` is -1 and
    `propensity` NaN where unknown. The impressions of one slate are never split between two frames, so a frame may
    have up to `MAX_SLOTS` rows more or fewer than `chunk`.

    Args:
        path: a .parquet, .csv or .jsonl file, the last two also with .gz behind, or a folder of `part-*.parquet`.
        columns: for logs in other words, event column -> expression over the columns of the file: a column
            (`"SessionId"`), one whose words are others here (`"action[view:click, buy:purchase]"`), a constant in
            quotes (`"'click'"`), `"click_timestamp/1000"`, or a sum as in `"Period*604800 + Time*0.5"`. Event columns
            not named here are looked for under their own names.
        chunk: rows read at once, what bounds the memory.
        start: rows to leave out; cheap in Parquet, where whole row groups are passed over.

    Raises:
        BadLog: on the call if the file or its columns are not as they must be; while reading, for the first row
            that breaks a rule.
    """
    if chunk < 1 or start < 0:
        raise ValueError(f"read needs chunk >= 1 and start >= 0, got chunk={chunk} and start={start}")
    parts = [(part, _resolve(part, columns or {})) for part in _parts(Path(path).expanduser())]
    return _frames(parts, chunk, start)


def validate(path: Path | str, columns: Mapping[str, str] | None = None, limit: int = 20) -> dict[str, Any]:
    """Check a whole log: `{"rows": n, "faults": {reason: rows}, "examples": [message, ...]}`.

    At most `limit` messages, one per fault and batch, each about the first row concerned.

    Raises:
        BadLog: if the file cannot be read at all, or its columns are not as they must be.
    """
    faults: Counter[str] = Counter()
    examples: list[str] = []

    def count(file: Format, fault: Fault, first: int) -> None:
        faults[fault.reason] += int(fault.bad.sum())
        if len(examples) < limit:
            examples.append(str(_error(file, fault, first)))

    rows = sum(checked(path, columns, count))
    return {"rows": rows, "faults": dict(faults), "examples": examples}


def checked(
    path: Path | str, columns: Mapping[str, str] | None, report: Callable[[Format, Fault, int], None]
) -> Iterator[int]:
    """Rows per batch of a log; what is wrong with them goes to `report`, with its file and the batch's first row.

    Raises:
        BadLog: if the file cannot be read at all, or its columns are not as they must be.
    """
    for part in _parts(Path(path).expanduser()):
        note = functools.partial(report, part)
        for batch in _checked(part, _resolve(part, columns or {}), 65_536, 0, note):
            yield batch.num_rows


def _parts(path: Path) -> list[Format]:
    if not path.is_dir():
        return [open_format(path)]
    parts = sorted(path.glob("part-*.parquet"))
    if not parts:
        raise BadLog(path, "expected files part-*.parquet in this folder, found none; name a file or another folder")
    return [open_format(part) for part in parts]


def _resolve(file: Format, columns: Mapping[str, str]) -> dict[str, Expression]:
    """Event column -> where it comes from; optional columns that are nowhere are left out."""
    for target in columns:
        if target not in COLUMNS:
            near = nearest(target, COLUMNS)
            meant = f"; did you mean {near!r}?" if near else ""
            raise BadLog(file.path, f"expected a mapping of {', '.join(COLUMNS)}, got one of {target!r}{meant}")
    found = {target: parse(text, file.names, file.path, target) for target, text in columns.items()}
    for target in COLUMNS:
        if target not in found and target in file.names:
            found[target] = parse(target, file.names, file.path, target)
        elif target not in found and text_suffix(file.path) == ".jsonl" and target in OPTIONAL:
            found[target] = parse(target, [target], file.path, target)  # may come on a later line
    for target in NEEDED:
        if target not in found:
            there = nearest(target, file.names) or (file.names[0] if file.names else "its name")
            example = {"kind": "'click'", "time": f"{there}/1000"}.get(target, there)
            remedy = f'map it, as in columns={{"{target}": "{example}"}} or --column "{target}={example}"'
            raise BadLog(file.path, f"expected {no_column(target, file.names)}; {remedy}", column=target)
    for target in ("user", "item", "kind", "session", "slate"):
        if target in found and found[target].constant is None and not found[target].is_column:
            problem = f"expected one column or 'text' in quotes, since it is no number, got {found[target].text!r}"
            raise BadLog(file.path, f"{problem}; name the column alone", column=target)
    return found


def _frames(parts: list[tuple[Format, dict[str, Expression]]], chunk: int, start: int) -> Iterator[pd.DataFrame]:
    for part, mapping in parts:
        if isinstance(part, ParquetRows) and start >= len(part):
            start -= len(part)
            continue

        def refuse(fault: Fault, first: int, file: Format = part) -> None:
            raise _error(file, fault, first)

        for batch in _checked(part, mapping, chunk, start, refuse):
            yield _frame(batch)
        start = 0


def _error(file: Format, fault: Fault, first: int) -> BadLog:
    at = int(fault.bad.argmax())
    row = first + at
    return BadLog(file.path, fault.says(at), row=row + 1, line=file.line(row), column=fault.column)


def _frame(batch: pa.RecordBatch) -> pd.DataFrame:
    frame: pd.DataFrame = batch.to_pandas()
    return frame


def _checked(
    file: Format, mapping: dict[str, Expression], chunk: int, start: int, report: Report
) -> Iterator[pa.RecordBatch]:
    """Batches of `SCHEMA` with whole slates; what is wrong goes to `report`."""
    before: NDArray[np.object_] = np.zeros(0, dtype=object)  # slates of the batch before
    for batch in _whole_slates(file, _rows(file, mapping, chunk, start, report)):
        shown = Shown(batch, before)
        for fault in shown.faults():
            report(fault, start)
        before = shown.slates
        yield batch
        start += batch.num_rows


def _rows(
    file: Format, mapping: dict[str, Expression], chunk: int, start: int, report: Report
) -> Iterator[pa.RecordBatch]:
    names = sorted({name for expression in mapping.values() for name in expression.columns})
    for raw in file.batches(names, chunk, start):
        with damage(file.path):
            batch, faults = canonical(raw, mapping)
        for fault in sorted(faults, key=lambda fault: int(fault.bad.argmax())):
            report(fault, start)
        yield batch
        start += raw.num_rows


def _whole_slates(file: Format, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows, cut so that the impressions of one slate stay in one batch."""
    kept: pa.RecordBatch | None = None
    for batch in batches:
        joined = batch if kept is None else _join([kept, batch])
        cut = _last_slate(joined)
        if joined.num_rows - cut > MAX_SLOTS:
            problem = f"expected slates of at most {MAX_SLOTS} impressions, got a longer one; give each its own id"
            raise BadLog(file.path, problem, column="slate")
        if cut:
            yield joined.slice(0, cut)
        kept = joined.slice(cut) if cut < joined.num_rows else None
    if kept is not None:
        yield kept


def _join(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def _last_slate(batch: pa.RecordBatch) -> int:
    """Where the slate begins that may go on after the last row; the number of rows if none does."""
    tail = batch.slice(max(0, batch.num_rows - MAX_SLOTS - 1))
    slate = tail["slate"].to_numpy(zero_copy_only=False)
    kind = tail["kind"].indices.to_numpy()
    other = (kind != int(Kind.IMPRESSION)) | (slate != slate[-1]) | (slate == "")
    return int(batch.num_rows - other[::-1].argmax() if other.any() else batch.num_rows - len(other))


# --- writing ---------------------------------------------------------------------------------------------------


def write(path: Path | str, frames: Iterable[pd.DataFrame]) -> int:
    """Write `frames`, as `EventWriter.append` takes them, to a new file at `path`; returns the number of rows."""
    with EventWriter(path) as writer:
        for frame in frames:
            writer.append(frame)
    return writer.rows


class EventWriter:
    """Writes a log. The file appears under its name, whole, when the writer is closed without an error.

    Until then the rows are in `<name>.partial` beside it. What is written is checked like what is read.

    Args:
        path: ends in .parquet, .csv, .csv.gz, .jsonl or .jsonl.gz, which says the format.
        group: rows of a Parquet row group.
    """

    def __init__(self, path: Path | str, group: int = 65_536) -> None:
        self.path = Path(path).expanduser()
        self.rows = 0
        self.group = group
        suffix = text_suffix(self.path)
        sinks: dict[str, Callable[[Any], _Sink]] = {
            ".parquet": _ParquetSink,
            ".csv": _CsvSink,
            ".jsonl": _JsonSink,
        }
        if suffix not in sinks:
            raise BadLog(self.path, f"expected a name that ends in {SUFFIXES}, got {self.path.name!r}; rename it")
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        self._waiting: list[pa.RecordBatch] = []
        self._file: io.BufferedIOBase | None = self._partial.open("wb")
        packed = (
            gzip.GzipFile(filename="", fileobj=self._file, mode="wb", mtime=0)
            if self.path.suffix == ".gz"
            else self._file
        )
        self._sink = sinks[suffix](packed)

    def append(self, frame: pd.DataFrame) -> None:
        """Add the rows of a frame with at least the columns `NEEDED`. "", NaN and slot -1 mean "nothing known".

        Raises:
            BadLog: a row breaks a rule; nothing of `frame` is written then.
        """
        if self._file is None:
            raise ValueError(f"{self.path} is closed: make a new EventWriter")
        if frame.empty:
            return
        if "slot" in frame:
            frame = frame.assign(slot=frame["slot"].where(frame["slot"] != -1))
        batch = self._checked(_join(pa.Table.from_pandas(frame, preserve_index=False).to_batches()))
        self._waiting.append(batch)
        self.rows += batch.num_rows
        if sum(part.num_rows for part in self._waiting) >= self.group:
            self._write()

    def _checked(self, raw: pa.RecordBatch) -> pa.RecordBatch:
        there = raw.schema.names
        for name in NEEDED:
            if name not in there:
                raise BadLog(self.path, f"expected {no_column(name, there)}; rename the column", column=name)
        mapping = {name: parse(name, there, self.path, name) for name in COLUMNS if name in there}
        batch, faults = canonical(raw, mapping)
        for fault in (*faults, *Shown(batch).faults()):
            at = int(fault.bad.argmax())
            raise BadLog(self.path, fault.says(at), row=self.rows + at + 1, column=fault.column)
        return batch

    def _write(self) -> None:
        if self._waiting:
            self._sink.write(_stored(_join(self._waiting)))
        self._waiting = []

    def close(self) -> None:
        """Write what waits and let the file appear. Calling it twice is fine."""
        if self._file is None:
            return
        self._write()
        self._sink.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self._partial.replace(self.path)

    def abandon(self) -> None:
        """Leave without a trace: no file appears."""
        if self._file is not None:
            self._sink.close()
            self._file.close()
            self._file = None
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


def _stored(batch: pa.RecordBatch) -> pa.Table:
    """As it goes into a file: kinds as text, nothing known = null."""
    table = pa.Table.from_batches([batch])
    columns = [table[name] for name in COLUMNS]
    columns[2] = columns[2].cast(pa.string())
    for name, none in (("item", ""), ("session", ""), ("slate", ""), ("slot", -1)):
        at = COLUMNS.index(name)
        columns[at] = pc.if_else(pc.equal(columns[at], none), pa.scalar(None, columns[at].type), columns[at])
    columns[-1] = pc.if_else(pc.is_nan(columns[-1]), pa.scalar(None, pa.float64()), columns[-1])
    return pa.table(columns, schema=STORED)


class _Sink(Protocol):
    """Rows of `STORED` into an open binary file, which it leaves open."""

    def write(self, table: pa.Table) -> None: ...

    def close(self) -> None: ...


class _ParquetSink:
    def __init__(self, file: Any) -> None:
        self._writer = pq.ParquetWriter(file, STORED, compression="zstd")

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=table.num_rows)

    def close(self) -> None:
        self._writer.close()


class _CsvSink:
    def __init__(self, file: Any) -> None:
        self._file = file
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        self._writer = csv.writer(self._text)  # ends lines as RFC 4180 does; with "\n" alone it leaves "\r" unquoted
        self._writer.writerow(COLUMNS)

    def write(self, table: pa.Table) -> None:
        self._writer.writerows(zip(*(column.to_pylist() for column in table.columns), strict=True))

    def close(self) -> None:
        self._text.detach()
        if isinstance(self._file, gzip.GzipFile):
            self._file.close()


class _JsonSink:
    def __init__(self, file: Any) -> None:
        self._file = file
        self._encoder = msgspec.json.Encoder()

    def write(self, table: pa.Table) -> None:
        rows = ({name: value for name, value in row.items() if value is not None} for row in table.to_pylist())
        self._file.write(self._encoder.encode_lines([{"item": "", **row} for row in rows]))

    def close(self) -> None:
        if isinstance(self._file, gzip.GzipFile):
            self._file.close()
