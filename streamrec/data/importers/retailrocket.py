"""RetailRocket: views, carts and purchases of a shop's visitors, four and a half months of 2015."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import pyarrow as pa

from streamrec.data.importers.attributes import Attributes
from streamrec.data.importers.dataset import DataSet
from streamrec.data.importers.fields import Fields
from streamrec.data.importers.ledger import Ledger
from streamrec.data.importers.source import Source
from streamrec.data.importers.text import Layout, batches

_EVENTS = Layout(("timestamp", "visitorid", "event", "itemid"))
_PROPERTIES = Layout(("timestamp", "itemid", "property", "value"))
_TREE = Layout(("categoryid", "parentid"))
_KINDS = {"view": "click", "addtocart": "click", "transaction": "purchase"}


class RetailRocket(DataSet):
    """Events of visitors, with the categories items had last."""

    title = "Retailrocket recommender system dataset"
    homepage = "Kaggle, https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset"
    licence = "CC BY-NC-SA 4.0"
    files = "events.csv; item_properties_part1.csv, item_properties_part2.csv, category_tree.csv"
    mapping: ClassVar[Mapping[str, str]] = {
        "user": "visitorid",
        "item": "itemid",
        "kind": "view and addtocart are clicks (the event log has no kind for carts), transaction is a purchase",
        "time": "timestamp / 1000",
        "items.category": "value of the last categoryid in item_properties: what it was at the end, not at each event",
        "items.parent": "parentid of that category in category_tree.csv",
        "left out": "transactionid; all properties but categoryid, most of which are hashed",
    }

    def events(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        for batch, page in batches(source, source.one("events.csv"), _EVENTS, ledger):
            fields = Fields(batch, page)
            user, item, kind = fields.ids("visitorid"), fields.ids("itemid"), fields.one_of("event", _KINDS)
            time = fields.whole("timestamp", low=1) / 1000
            yield fields.table(user=user, item=item, kind=kind, time=time)

    def items(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        last = Attributes("item", by="time")
        for name in source.find("item_properties*.csv"):
            for batch, page in batches(source, name, _PROPERTIES, ledger):
                fields = Fields(batch, page)
                fields.require(fields.matches("property", "^categoryid$"), "property: another one, not used")
                item, category = fields.ids("itemid"), fields.ids("value")
                last.add(fields.table(item=item, category=category, time=fields.whole("timestamp", low=1)))
        parents = _parents(source, ledger)
        for table in last.tables():
            frame = table.to_pandas().drop(columns="time")
            frame["parent"] = frame["category"].map(parents).astype("object")
            yield pa.Table.from_pandas(frame, preserve_index=False).cast(_ITEMS)


_ITEMS = pa.schema([("item", pa.string()), ("category", pa.string()), ("parent", pa.string())])


def _parents(source: Source, ledger: Ledger) -> dict[str, str | None]:
    """Category -> the one above it; None at the top."""
    found: dict[str, str | None] = {}
    for name in source.find("category_tree.csv"):
        for batch, page in batches(source, name, _TREE, ledger):
            fields = Fields(batch, page)
            rows = fields.table(category=fields.ids("categoryid"), parent=fields.optional_ids("parentid"))
            found |= dict(zip(*(rows[name].to_pylist() for name in rows.schema.names), strict=True))
    return found
