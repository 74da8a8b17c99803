"""DIGINETICA: views, purchases and searches in a shop, first half of 2016 (CIKM Cup 2016, track 2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from streamrec.data.importers import prepared
from streamrec.data.importers.attributes import Attributes
from streamrec.data.importers.dataset import DataSet
from streamrec.data.importers.fields import Fields
from streamrec.data.importers.ledger import Ledger, Page
from streamrec.data.importers.slates import Once, numbered, with_reactions
from streamrec.data.importers.source import Source
from streamrec.data.importers.text import Layout, batches
from streamrec.data.rules import MAX_SLOTS

_VIEWS = Layout(("sessionId", "userId", "itemId", "timeframe", "eventdate"), delimiter=";")
_BUYS = Layout(("sessionId", "userId", "timeframe", "eventdate", "itemId"), delimiter=";")
_QUERIES = Layout(("queryId", "sessionId", "userId", "timeframe", "eventdate", "items", "is.test"), delimiter=";")
_CLICKS = Layout(("queryId", "timeframe", "itemId"), delimiter=";")
_CATEGORIES = Layout(("itemId", "categoryId"), delimiter=";")
_PRODUCTS = Layout(("itemId", "pricelog2", "product.name.tokens"), delimiter=";")


class Diginetica(DataSet):
    """Views and purchases; with `searches` also what the shop's search showed and which of it was clicked.

    Args:
        searches: read train-queries.csv and train-clicks.csv as slates. The clicks on results are kept in memory. A
            click on a result and the view of the page behind it are then two clicks.
    """

    title = "DIGINETICA (CIKM Cup 2016, track 2)"
    homepage = "CIKM Cup 2016, https://competitions.codalab.org/competitions/11161"
    licence = "terms of the contest: research, no redistribution"
    files = (
        "train-item-views.csv, train-purchases.csv, product-categories.csv, products.csv; train-queries.csv, "
        "train-clicks.csv; or period_*.txt, or prepared tables *.tsv, *.parquet of SessionId, ItemId, Time"
    )
    mapping: ClassVar[Mapping[str, str]] = {
        "user": "u and userId; where it is NA, s and sessionId: a session whose user is not known is a user of its own",
        "item": "itemId",
        "kind": "click for views and for clicks on results, purchase for purchases, impression for results",
        "time": "eventdate + timeframe / 1000: all sessions of a day begin at midnight UTC, since only the time since "
        "a session's beginning is known",
        "session": "sessionId",
        "slate": "q and queryId (with searches); a click on a result carries it and is never earlier than the search",
        "slot": "place in the list of results",
        "items.category": "categoryId; also pricelog2 and the hashed words of the name",
        "left out": "words and category of searches, duration, order numbers, pictures, queries of the contest's test",
    }

    def __init__(self, searches: bool = False) -> None:
        self.searches = searches

    def events(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        if not source.find("train-item-views.csv"):
            yield from _prepared(source, ledger, self.files)
            return
        yield from _acts(source, source.one("train-item-views.csv"), _VIEWS, "click", ledger)
        for name in source.find("train-purchases.csv"):
            yield from _acts(source, name, _BUYS, "purchase", ledger)
        if self.searches:
            yield from _searches(source, ledger)

    def items(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        found, shelf = Attributes("item"), Attributes("item")
        for name in source.find("products.csv"):
            for batch, page in batches(source, name, _PRODUCTS, ledger):
                fields = Fields(batch, page)
                item, price = fields.ids("itemId"), fields.text("pricelog2")
                found.add(fields.table(item=item, price_log2=price, name=fields.text("product.name.tokens")))
        for name in source.find("product-categories.csv"):
            for batch, page in batches(source, name, _CATEGORIES, ledger):
                fields = Fields(batch, page)
                shelf.add(fields.table(item=fields.ids("itemId"), category=fields.ids("categoryId")))
        frames = [table.to_pandas() for part in (shelf, found) for table in part.tables()]
        if len(frames) == 2:
            frames = [frames[0].merge(frames[1], on="item", how="outer")]
        columns = ["item", "category", "price_log2", "name"]
        for frame in frames:
            yield pa.Table.from_pandas(frame.reindex(columns=columns), preserve_index=False)


def _prepared(source: Source, ledger: Ledger, files: str) -> Iterator[pa.Table]:
    if names := source.find(prepared.PERIODS):
        return prepared.periods(source, names, ledger)
    if names := prepared.tables(source):
        return prepared.clicks(source, names, ledger)
    raise source.lacks(files)


def _acts(source: Source, name: str, layout: Layout, kind: str, ledger: Ledger) -> Iterator[pa.Table]:
    for batch, page in batches(source, name, layout, ledger):
        fields = Fields(batch, page)
        who = _who(fields)
        item = fields.ids("itemId")
        yield fields.table(**who, item=item, kind=kind, time=_when(fields))


def _who(fields: Fields) -> dict[str, pa.Array]:
    session = fields.ids("sessionId")
    known = fields.optional_ids("userId", prefix="u")
    return {"user": pc.coalesce(known, pc.binary_join_element_wise("s", session, "")), "session": session}


def _when(fields: Fields) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """[rows] seconds; the milliseconds since the session began are a whole number from 0."""
    day = fields.moments("eventdate", "%Y-%m-%d")
    return day + fields.whole("timeframe", low=0) / 1000


def _searches(source: Source, ledger: Ledger) -> Iterator[pa.Table]:
    clicks, page = _result_clicks(source, ledger)
    used, once = np.zeros(len(clicks), dtype=bool), Once()
    for batch, queries in batches(source, source.one("train-queries.csv"), _QUERIES, ledger):
        fields = Fields(batch, queries)
        fields.require(~fields.matches("is.test", "(?i)^true$"), "is.test: clicks are withheld")
        fields.require(fields.matches("items", r"^[0-9]{1,20}(,[0-9]{1,20})*$"), "items: no list of ids")
        number = fields.whole("queryId")
        fields.require(once.new(number, fields.good), "queryId: came before")
        lists = pc.split_pattern(fields.raw("items").cast(pa.string(), safe=False), ",")
        fields.require(pc.list_value_length(lists).to_numpy() <= MAX_SLOTS, f"items: more than {MAX_SLOTS}")
        rows = fields.table(**_who(fields), time=_when(fields), query=number, items=lists)
        shown = _shown(rows, ledger)
        hits = shown.select(["query", "item"]).to_pandas().reset_index()
        hits = hits.merge(clicks, on=["query", "item"])
        used[hits["click"].to_numpy()] = True
        yield _with_clicks(shown, hits)
    page.drop("queryId, itemId: no such result was shown", int((~used).sum()))


def _result_clicks(source: Source, ledger: Ledger) -> tuple[pd.DataFrame, Page]:
    """All clicks on results: `query`, `item`, `at` (seconds since the session began) and their number `click`."""
    name, tables = source.one("train-clicks.csv"), []
    for batch, _ in batches(source, name, _CLICKS, ledger):
        fields = Fields(batch, ledger.pages[name])
        query, item = fields.whole("queryId"), fields.ids("itemId")
        tables.append(fields.table(query=query, item=item, at=fields.whole("timeframe", low=0) / 1000))
    schema = pa.schema([("query", pa.int64()), ("item", pa.string()), ("at", pa.float64())])
    clicks = pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in tables)]).to_pandas()
    return clicks.assign(click=np.arange(len(clicks))), ledger.page(name, _CLICKS.needed)


def _shown(rows: pa.Table, ledger: Ledger) -> pa.Table:
    """One row per result, each item of a search once."""
    lists = rows["items"].combine_chunks()
    parent = pc.list_parent_indices(lists).to_numpy()
    slot = np.arange(len(parent)) - np.searchsorted(parent, parent)
    shown = rows.drop_columns(["items"]).take(pa.array(parent))
    shown = shown.append_column("item", pc.list_flatten(lists)).append_column("slot", pa.array(slot))
    shown = shown.append_column("slate", numbered("q", shown["query"].combine_chunks()))
    again = pd.DataFrame({"slate": parent, "item": shown["item"].to_pandas()}).duplicated().to_numpy()
    if again.any():
        ledger.note("an item that is twice in a list of results is kept in its first place")
    return shown.filter(pa.array(~again))


def _with_clicks(shown: pa.Table, hits: pd.DataFrame) -> pa.Table:
    """The results, then the clicks on them at their own times, which the sort by time puts in their places."""
    impressions = with_reactions(shown, np.arange(shown.num_rows))
    clicked = shown.take(pa.array(hits["index"].to_numpy()))
    searched = clicked["time"].to_numpy()
    midnight = np.floor(searched / 86_400) * 86_400
    time = np.maximum(searched, midnight + hits["at"].to_numpy())
    at = clicked.schema.get_field_index("time")
    clicked = clicked.set_column(at, "time", pa.array(time)).append_column("kind", pa.repeat("click", len(hits)))
    return pa.concat_tables([impressions, clicked]).drop_columns(["query"])
