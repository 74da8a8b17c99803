"""Rows of Parquet, CSV and JSONL files as Arrow batches of chosen columns, a bounded number at a time."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, AnyStr, Protocol, cast

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

MAX_LINE = 1 << 20
"""Longest line of a text file, in bytes or characters: a file without line ends must not fill the memory."""

_PEEK = 1000
"""Lines of a JSONL file that are looked at for its column names."""


class BadLog(ValueError):
    """A log that cannot be used as it is: says where that shows, what was expected, what came and what to do.

    Args:
        path: the file.
        problem: what was expected, what came and what to do, in one sentence.
        row: data row, from 1; a CSV header is not a data row.
        line: line of a text file, from 1.
        column: the column, by its canonical name.
    """

    def __init__(
        self,
        path: Path | str,
        problem: str,
        *,
        row: int | None = None,
        line: int | None = None,
        column: str | None = None,
    ) -> None:
        self.path, self.row, self.line, self.column = str(path), row, line, column
        at_line = "" if line is None else f" (line {line})"
        at_row = "" if row is None else f", row {row}{at_line}"
        of_column = "" if column is None else f", column {column!r}"
        super().__init__(f"{path}{at_row}{of_column}: {problem}")


class Format(Protocol):
    """A file of rows."""

    path: Path
    names: list[str]
    """Columns of the file; of a JSONL file, those of its first lines."""

    def batches(self, columns: Sequence[str], chunk: int, start: int) -> Iterator[pa.RecordBatch]:
        """Rows from `start` (from 0) on, at most `chunk` at a time; a column the rows lack is null."""

    def line(self, row: int) -> int | None:
        """The line on which data row `row` (from 0) begins, from 1. None where a file has no lines."""


def open_format(path: Path) -> Format:
    """The file at `path`, by its suffix: .parquet, .csv, .jsonl, the last two also with .gz behind.

    Raises:
        BadLog: no such file, another suffix, or not what the suffix says.
    """
    kinds: dict[str, Callable[[Path], Format]] = {".parquet": ParquetRows, ".csv": CsvRows, ".jsonl": JsonRows}
    suffix = text_suffix(path)
    if suffix not in kinds:
        raise BadLog(path, f"expected a name that ends in {SUFFIXES}, got {path.name!r}; rename or convert the file")
    if not path.is_file():
        raise BadLog(path, "expected a log file here, found none; check the path")
    with damage(path):
        return kinds[suffix](path)


SUFFIXES = ".parquet, .csv, .csv.gz, .jsonl or .jsonl.gz"


def text_suffix(path: Path) -> str:
    """The suffix that names the format: that before .gz for a packed text file."""
    if path.suffix == ".gz":
        inner = Path(path.stem).suffix
        return inner if inner in (".csv", ".jsonl") else ".gz"
    return path.suffix


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn what libraries raise about broken files into `BadLog`."""
    try:
        yield
    except (pa.ArrowException, EOFError, OSError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadLog(path, f"expected a readable {text_suffix(path)} file, got: {reason}; write it again") from error


class ParquetRows:
    """A Parquet file. Starting late skips whole row groups without reading them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with pq.ParquetFile(path) as file:
            self._metadata = file.metadata
            schema = file.schema_arrow
        self.names = list(schema.names)
        self._nested = {field.name: str(field.type) for field in schema if pa.types.is_nested(field.type)}

    def __len__(self) -> int:
        return int(self._metadata.num_rows)

    def batches(self, columns: Sequence[str], chunk: int, start: int) -> Iterator[pa.RecordBatch]:
        for name in columns:
            if name in self._nested:
                kind = self._nested[name]
                raise BadLog(self.path, f"expected one value a row, got the type {kind}; unnest it", column=name)
        first, skip = self._group_of(start)
        groups = list(range(first, self._metadata.num_row_groups))
        with damage(self.path), pq.ParquetFile(self.path) as file:
            read = file.iter_batches(chunk, row_groups=groups, columns=list(columns), use_threads=False)
            for batch in read if columns else _no_columns(len(self) - start + skip, chunk):
                if skip < batch.num_rows:
                    yield batch.slice(skip)
                skip = max(0, skip - batch.num_rows)

    def _group_of(self, start: int) -> tuple[int, int]:
        """The row group that holds row `start`, and how far into it that is."""
        group = 0
        while group < self._metadata.num_row_groups and start >= self._metadata.row_group(group).num_rows:
            start -= self._metadata.row_group(group).num_rows
            group += 1
        return group, start

    def line(self, row: int) -> int | None:
        return None


def _no_columns(rows: int, chunk: int) -> Iterator[pa.RecordBatch]:
    for begin in range(0, rows, chunk):
        nulls = pa.nulls(min(chunk, rows - begin))
        yield pa.RecordBatch.from_arrays([nulls], names=["row"])


class CsvRows:
    """A comma-separated file in UTF-8 with a header line; quoted fields may hold line ends. Blank lines are no rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as file:
            header = next(csv.reader(_lines(path, file)), [])
        self.names = [name.strip() for name in header]
        if not any(self.names):
            raise BadLog(path, "expected a header line with the names of the columns, got none; add one", line=1)
        twice = [name for name in self.names if self.names.count(name) > 1]
        if twice:
            raise BadLog(path, f"expected each column once, got {twice[0]!r} twice; rename one", column=twice[0])

    def _open(self) -> IO[str]:
        return _text(self.path)

    def batches(self, columns: Sequence[str], chunk: int, start: int) -> Iterator[pa.RecordBatch]:
        at = [self.names.index(name) for name in columns]
        with damage(self.path), self._open() as file:
            rows = filter(None, csv.reader(_lines(self.path, file)))
            next(islice(rows, start + 1, start + 1), None)  # the header and what was read before
            while part := list(islice(rows, chunk)):
                self._check_widths(part, start)
                fields = list(zip(*part, strict=True))
                arrays = [pa.array(fields[i], pa.string()) for i in at]
                yield _batch(arrays, columns, len(part))
                start += len(part)

    def _check_widths(self, rows: list[list[str]], start: int) -> None:
        if set(map(len, rows)) == {len(self.names)}:
            return
        at, row = next((i, row) for i, row in enumerate(rows) if len(row) != len(self.names))
        problem = f"expected {len(self.names)} fields as in the header, got {len(row)}; look for a comma or a quote"
        raise BadLog(self.path, problem, row=start + at + 1, line=self.line(start + at))

    def line(self, row: int) -> int | None:
        with self._open() as file:
            reader = csv.reader(_lines(self.path, file))
            seen, ended = -2, 0  # the header counts as row -1
            for fields in reader:
                seen += bool(fields)
                if seen == row and fields:
                    return ended + 1
                ended = reader.line_num
        return None


class JsonRows:
    """A file with one JSON object per line. Blank lines are no rows; a key that is absent is null."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._decoder = msgspec.json.Decoder()
        with self._open() as file:
            head = list(islice(self._rows(file), _PEEK))
        names: dict[str, None] = {}
        for document in self._decode(head, 0):
            names |= dict.fromkeys(document)
        self.names = list(names)

    def _open(self) -> IO[bytes]:
        packed = self.path.suffix == ".gz"
        return cast(IO[bytes], gzip.open(self.path, "rb") if packed else self.path.open("rb"))

    def _rows(self, file: IO[bytes]) -> Iterator[bytes]:
        return (line for line in _lines(self.path, file) if not line.isspace())

    def batches(self, columns: Sequence[str], chunk: int, start: int) -> Iterator[pa.RecordBatch]:
        with damage(self.path), self._open() as file:
            rows = self._rows(file)
            next(islice(rows, start, start), None)
            while part := list(islice(rows, chunk)):
                documents = self._decode(part, start)
                arrays = [self._column(name, [d.get(name) for d in documents], start) for name in columns]
                yield _batch(arrays, columns, len(part))
                start += len(part)

    def _decode(self, rows: list[bytes], start: int) -> list[dict[str, Any]]:
        try:
            documents = self._decoder.decode_lines(b"".join(rows))
            if set(map(type, documents)) <= {dict} and len(documents) == len(rows):
                return documents
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass  # found again below, row by row, to name the row
        for at, row in enumerate(rows):
            self._decode_one(row, start + at)
        return [self._decoder.decode(row) for row in rows]

    def _decode_one(self, text: bytes, row: int) -> None:
        try:
            document = self._decoder.decode(text)
            came = None if isinstance(document, dict) else f"a {type(document).__name__}"
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            came = str(error)
        if came is not None:
            problem = f"expected one JSON object on the line, got: {came}; fix the line or take it out"
            raise BadLog(self.path, problem, row=row + 1, line=self.line(row))

    def _column(self, name: str, values: list[Any], start: int) -> pa.Array:
        types = set(map(type, values))
        if types & {dict, list}:
            at = next(i for i, value in enumerate(values) if isinstance(value, dict | list))
            problem = f"expected text or a number, got a {type(values[at]).__name__}; write one value"
            raise BadLog(self.path, problem, row=start + at + 1, line=self.line(start + at), column=name)
        try:
            return pa.array(values)
        except (pa.ArrowException, OverflowError):  # text and numbers mixed, or numbers beyond 64 bits
            return pa.array([None if value is None else str(value) for value in values], pa.string())

    def line(self, row: int) -> int | None:
        with self._open() as file:
            seen = -1
            for number, line in enumerate(_lines(self.path, file), 1):
                seen += not line.isspace()
                if seen == row:
                    return number
        return None


def _text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _lines(path: Path, file: IO[AnyStr]) -> Iterator[AnyStr]:
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise BadLog(path, f"expected lines of at most {MAX_LINE} characters, got a longer one", line=number)
        yield line


def _batch(arrays: Iterable[pa.Array], names: Sequence[str], rows: int) -> pa.RecordBatch:
    arrays = list(arrays)
    if not arrays:
        return pa.RecordBatch.from_arrays([pa.nulls(rows)], names=["row"])
    return pa.RecordBatch.from_arrays(arrays, names=list(names))
