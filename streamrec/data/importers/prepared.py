"""Session logs as benchmark code hands them on: tables with `SessionId`, `ItemId` and `Time`.

The layout is that of GRU4Rec (Hidasi et al., 2016) and of the many that followed it: tab-separated text with a header,
or Parquet. `Time` is a number; some preparations keep seconds, others only the order of the events.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from streamrec.data.formats import BadLog
from streamrec.data.importers.fields import Fields
from streamrec.data.importers.ledger import Ledger, Page
from streamrec.data.importers.source import Source, unpacking
from streamrec.data.importers.text import Layout, batches

COLUMNS = ("SessionId", "ItemId", "Time")

NOTE = (
    "a prepared table of SessionId, ItemId and Time, not the publisher's files: it was filtered by who prepared it, "
    "sessions stand for users, and Time is taken as seconds although it may only give the order"
)


def tables(source: Source) -> list[str]:
    """The prepared tables there are: text, or Parquet where there is no text."""
    return source.find("*.tsv", "rsc15_*.txt") or source.find("*.parquet")


def clicks(source: Source, names: list[str], ledger: Ledger) -> Iterator[pa.Table]:
    """The rows of prepared tables as clicks; the session is also the user."""
    ledger.note(NOTE)
    for name in names:
        for batch, page in _batches(source, name, ledger):
            fields = Fields(batch, page)
            session, item = fields.ids("SessionId"), fields.ids("ItemId")
            time = fields.decimal("Time")
            yield fields.table(user=session, session=session, item=item, kind="click", time=time)


def _batches(source: Source, name: str, ledger: Ledger) -> Iterator[tuple[pa.RecordBatch, Page]]:
    if name.lower().endswith(".parquet"):
        return parquet(source, name, COLUMNS, ledger)
    return batches(source, name, Layout(COLUMNS, delimiter="\t"), ledger)


def parquet(
    source: Source, name: str, needed: tuple[str, ...], ledger: Ledger
) -> Iterator[tuple[pa.RecordBatch, Page]]:
    """The columns `needed` of a Parquet file, with the account of the file, in which the rows are counted.

    Raises:
        BadLog: a file inside an archive, a damaged one, or columns that are missing.
    """
    path = source.on_disk(name)
    if path is None:
        raise BadLog(source.where(name), "expected a Parquet file on its own, found one in an archive; unpack it first")
    with unpacking(path), pq.ParquetFile(path) as file:
        there = list(file.schema_arrow.names)
        if missing := [column for column in needed if column not in there]:
            problem = f"expected the columns {', '.join(needed)}, got {', '.join(there)}: no {', '.join(missing)}"
            raise BadLog(path, f"{problem}; check that this is the file meant")
        page = ledger.page(name, there)
        for batch in file.iter_batches(1 << 16, columns=list(needed), use_threads=False):
            page.parse(batch.num_rows)
            yield batch, page


PERIODS = "period_*.txt"
"""Files of the layout that `periods` reads."""


def periods(source: Source, names: list[str], ledger: Ledger) -> Iterator[pa.Table]:
    """The rows of `period_*.txt` as clicks: lines "session item" in the order of events, one file per period.

    The layout is that of ADER (Mi, Lin and Faltings, 2020). There are no times: the time of an event is its number.
    """
    ledger.note("prepared files of periods without times: the time of an event is its number in the order of the files")
    before = 0
    for name in names:
        page = ledger.page(name, ["session", "item"])
        for batch, page in batches(source, name, Layout(("session", "item"), header=False, delimiter=" "), ledger):
            fields = Fields(batch, page)
            session, item = fields.ids("session"), fields.ids("item")
            time = (before + fields.number).astype(float)
            yield fields.table(user=session, session=session, item=item, kind="click", time=time)
        before += page.parsed
