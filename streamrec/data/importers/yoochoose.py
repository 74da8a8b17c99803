"""YOOCHOOSE: clicks and purchases of a shop's sessions, six months of 2014 (RecSys Challenge 2015)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamrec.data.importers import prepared
from streamrec.data.importers.dataset import DataSet
from streamrec.data.importers.fields import Fields
from streamrec.data.importers.ledger import Ledger
from streamrec.data.importers.source import Source
from streamrec.data.importers.text import Layout, batches

_CLICKS = Layout(("session", "timestamp", "item", "category"), header=False)
_BUYS = Layout(("session", "timestamp", "item", "price", "quantity"), header=False)
_SHELVES = r"^([1-9]|1[0-2])$"
"""The categories proper. "S" is a special offer, "0" nothing known, longer numbers are brands."""


class Yoochoose(DataSet):
    """Clicks and purchases by session; the data set knows no users, so each session is a user."""

    title = "YOOCHOOSE (RecSys Challenge 2015)"
    homepage = "RecSys Challenge 2015, https://recsys.acm.org/recsys15/challenge/"
    licence = "CC BY-NC-ND 4.0 according to its dataset-README"
    files = "yoochoose-clicks.dat, yoochoose-buys.dat; or prepared tables *.tsv, *.parquet of SessionId, ItemId, Time"
    mapping: ClassVar[Mapping[str, str]] = {
        "user": "session: the same visitor in two sessions is two users",
        "item": "item",
        "kind": "click in yoochoose-clicks.dat, purchase in yoochoose-buys.dat",
        "time": "timestamp, UTC",
        "session": "session",
        "value": "of a purchase price * quantity; empty where price or quantity is 0, which means unknown here",
        "items.category": "the one of the categories 1 to 12 an item was clicked in most often, the lower among equals",
        "left out": "yoochoose-test.dat, whose purchases are withheld; the categories of single clicks",
    }

    def __init__(self) -> None:
        self._seen: list[pa.Table] = []

    def events(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        self._seen = []
        if not source.find("yoochoose-clicks.dat"):
            names = prepared.tables(source)
            if not names:
                raise source.lacks(self.files)
            yield from prepared.clicks(source, names, ledger)
            return
        yield from self._clicks(source, ledger)
        for name in source.find("yoochoose-buys.dat"):
            yield from _buys(source, name, ledger)

    def _clicks(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        for batch, page in batches(source, source.one("yoochoose-clicks.dat"), _CLICKS, ledger):
            fields = Fields(batch, page)
            session, item, time = fields.ids("session"), fields.ids("item"), fields.moments("timestamp", "ISO8601")
            self._count(fields.table(item=item, category=fields.optional_ids("category", _SHELVES)))
            yield fields.table(user=session, session=session, item=item, kind="click", time=time)

    def _count(self, clicks: pa.Table) -> None:
        """Clicks by item and category; now and then those of many batches become one table."""
        self._seen.append(clicks.group_by(["item", "category"]).aggregate([([], "count_all")]))
        if len(self._seen) > 16:
            self._seen = [self._counted()]

    def _counted(self) -> pa.Table:
        total = pa.concat_tables(self._seen).group_by(["item", "category"]).aggregate([("count_all", "sum")])
        return total.rename_columns(["item", "category", "count_all"])

    def items(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        if not self._seen:
            return
        found = self._counted().to_pandas()
        found["shelf"] = found["category"].astype("float64")
        found.loc[found["shelf"].isna(), "count_all"] = 0  # an item without a category is still an item
        found = found.sort_values(["item", "count_all", "shelf"], ascending=[True, False, True])
        yield pa.Table.from_pandas(found.drop_duplicates("item")[["item", "category"]], preserve_index=False)


def _buys(source: Source, name: str, ledger: Ledger) -> Iterator[pa.Table]:
    for batch, page in batches(source, name, _BUYS, ledger):
        fields = Fields(batch, page)
        session, item, time = fields.ids("session"), fields.ids("item"), fields.moments("timestamp", "ISO8601")
        paid = fields.decimal("price", low=0) * fields.whole("quantity", low=0)
        value = pc.if_else(pa.array(paid > 0), pa.array(paid), pa.scalar(None, pa.float64()))
        unknown = int((fields.good & ~(paid > 0)).sum())
        if unknown and np.any(fields.good):
            ledger.note("purchases without price or quantity have no value and count as 1 wherever values are added")
        yield fields.table(user=session, session=session, item=item, kind="purchase", time=time, value=value)
