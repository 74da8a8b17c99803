"""Delimited text of any size as Arrow batches of raw fields; lines with another number of fields are counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from streamrec.data.formats import MAX_LINE, BadLog
from streamrec.data.importers.ledger import Ledger, Page
from streamrec.data.importers.source import Source, unpacking
from streamrec.data.mapping import nearest

BLOCK = 8 << 20
"""Bytes of text read at once; also the longest line."""

ODD_LINE = "another number of fields than the layout has"


@dataclass(frozen=True)
class Layout:
    """How a file of the original looks.

    Args:
        needed: names of the columns that are used. Without a header: all columns, in order.
        header: the first line names the columns.
        delimiter: between fields; one character, or one character twice.
        quote: the sign around fields that hold the delimiter. "" = quotes mean nothing: one that is never closed then
            spoils its own row, not all up to the next.
        rest: the columns of the header that are not needed come along too.
    """

    needed: tuple[str, ...]
    header: bool = True
    delimiter: str = ","
    quote: str = ""
    rest: bool = False


def batches(source: Source, name: str, layout: Layout, ledger: Ledger) -> Iterator[tuple[pa.RecordBatch, Page]]:
    """The fields of a file as columns of bytes, with the account of the file, in which the rows are counted.

    Raises:
        BadLog: an empty file, columns that are missing, or bytes that cannot be unpacked.
    """
    path = source.where(name)
    with unpacking(path):
        with source.open(name) as file:
            first = _first_line(file, layout, source, name)
        columns = _columns(first, layout, source, name)
        page = ledger.page(name, columns)
        with source.open(name) as file:
            yield from ((batch, page) for batch in _parse(source, name, file, columns, layout, page))


def _first_line(file: IO[bytes], layout: Layout, source: Source, name: str) -> list[str]:
    line = file.readline(MAX_LINE).decode("utf-8", "replace").lstrip("\ufeff").strip("\r\n")
    if not line.strip():
        raise BadLog(source.where(name), f"expected {_said(layout.needed)} on the first line, got an empty one")
    fields = line.split(layout.delimiter)
    return [field.strip().strip('"') for field in fields] if layout.header else fields


def _columns(first: list[str], layout: Layout, source: Source, name: str) -> list[str]:
    if not layout.header:
        if len(first) != len(layout.needed):
            came = f"{len(first)} fields ({_said(first)})"
            problem = f"expected {len(layout.needed)} fields between {layout.delimiter!r} ({_said(layout.needed)})"
            raise BadLog(source.where(name), f"{problem}, got {came}; check that this is the original file", line=1)
        return list(layout.needed)
    missing = [column for column in layout.needed if column not in first]
    if missing:
        near = nearest(missing[0], first)
        meant = f" ({missing[0]!r} may be {near!r} here)" if near else ""
        problem = f"expected the columns {_said(layout.needed)}, got {_said(first)}: no {_said(missing)}{meant}"
        raise BadLog(source.where(name), f"{problem}; check that this is the original file", line=1)
    return _distinct(first)


def _distinct(names: Sequence[str]) -> list[str]:
    """Names that differ: an index column has none, and what stands twice is not used."""
    return [name if name and names.index(name) == at else f"{name}#{at}" for at, name in enumerate(names)]


def _said(names: Sequence[str]) -> str:
    shown = [repr(name[:40]) for name in names[:24]]
    return ", ".join(shown) + (f" and {len(names) - 24} more" if len(names) > 24 else "")


def _parse(
    source: Source, name: str, file: IO[bytes], columns: list[str], layout: Layout, page: Page
) -> Iterator[pa.RecordBatch]:
    on_disk = source.on_disk(name)
    fields = columns if len(layout.delimiter) == 1 else _with_gaps(columns)
    reader = pacsv.open_csv(
        file if on_disk is None else pa.OSFile(str(on_disk)),
        read_options=pacsv.ReadOptions(
            use_threads=False, block_size=BLOCK, column_names=fields, skip_rows=int(layout.header)
        ),
        parse_options=pacsv.ParseOptions(
            delimiter=layout.delimiter[0], quote_char=layout.quote or False, invalid_row_handler=_Odd(page)
        ),
        convert_options=pacsv.ConvertOptions(
            check_utf8=False,
            column_types={field: pa.binary() for field in fields},
            strings_can_be_null=False,
            include_columns=None if layout.rest or not layout.header else layout.needed,
        ),
    )
    for batch in reader:
        batch = batch if fields is columns else _without_gaps(batch, columns, page)
        page.parse(batch.num_rows)
        if batch.num_rows:
            yield batch


class _Odd:
    """Counts and skips lines with another number of fields."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def __call__(self, row: Any) -> str:
        self._page.read += 1
        self._page.drop(ODD_LINE, 1)
        return "skip"


def _with_gaps(columns: list[str]) -> list[str]:
    """A delimiter of twice the same character has an empty field between any two fields."""
    return [name for column in columns for name in (column, f"after {column}")][:-1]


def _without_gaps(batch: pa.RecordBatch, columns: list[str], page: Page) -> pa.RecordBatch:
    gaps = [batch.column(name) for name in batch.schema.names if name not in columns]
    filled = reduce(pc.or_, [pc.not_equal(gap, b"") for gap in gaps])
    odd = pc.sum(filled).as_py() or 0
    page.read += odd
    page.drop(ODD_LINE, odd)
    return batch.filter(pc.invert(filled)).select(columns)
