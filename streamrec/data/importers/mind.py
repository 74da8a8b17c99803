"""MIND: impressions of the Microsoft News front page with the articles shown and clicked (2019)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from streamrec.data.importers.attributes import Attributes
from streamrec.data.importers.dataset import DataSet
from streamrec.data.importers.fields import Fields
from streamrec.data.importers.ledger import Ledger
from streamrec.data.importers.slates import Once, with_reactions
from streamrec.data.importers.source import Source
from streamrec.data.importers.text import Layout, batches
from streamrec.data.rules import MAX_SLOTS

_BEHAVIORS = Layout(("impression", "user", "time", "history", "impressions"), header=False, delimiter="\t")
_NEWS_COLUMNS = ("news", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
_NEWS = Layout(_NEWS_COLUMNS, header=False, delimiter="\t")
_SHOWN = r"^\S+-[01]( \S+-[01])*$"
_WORD = r"^[\x21-\x7e]{1,100}$"


class Mind(DataSet):
    """Each row of behaviors.tsv is a slate, each article in it a slot, each clicked one also a click."""

    title = "MIND: MIcrosoft News Dataset"
    homepage = "https://msnews.github.io"
    licence = "Microsoft Research License: non-commercial"
    files = "behaviors.tsv, news.tsv (one folder per split; several splits are joined)"
    mapping: ClassVar[Mapping[str, str]] = {
        "user": "user",
        "item": "news",
        "kind": "impression for each article shown, click for those marked 1",
        "time": "time, which names no zone and is read as UTC; clicks have the time of the impression",
        "slate": "number of the file among the splits, and the impression's id",
        "slot": "order in the row: the publisher has shuffled it, so it is NOT the place on the page",
        "propensity": "not published: empty",
        "items.category": "category; also subcategory, title, abstract, url",
        "left out": "history (clicks before the log, without times), entities and their embeddings",
    }

    def events(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        names = source.find("behaviors.tsv")
        if not names:
            raise source.lacks("behaviors.tsv")
        for at, name in enumerate(names):
            ledger.note(f"file {at} of the splits is {name}")
            once = Once()
            for batch, page in batches(source, name, _BEHAVIORS, ledger):
                fields = Fields(batch, page)
                number = fields.whole("impression", low=0)
                fields.require(once.new(number, fields.good), "impression: id came before")
                yield _slates(fields, number, at, ledger)

    def items(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        found = Attributes("item")
        for name in source.find("news.tsv"):
            for batch, page in batches(source, name, _NEWS, ledger):
                fields = Fields(batch, page)
                item, texts = fields.ids("news", _WORD), fields.texts(*_NEWS_COLUMNS[1:6])
                found.add(fields.table(item=item, **texts))
        return found.tables()


def _slates(fields: Fields, number: np.ndarray[tuple[int], np.dtype[np.int64]], file: int, ledger: Ledger) -> pa.Table:
    user, time = fields.ids("user", _WORD), fields.moments("time", "%m/%d/%Y %I:%M:%S %p")
    fields.require(~fields.matches("impressions", "^$"), "impressions: none")
    fields.require(fields.matches("impressions", "-[01]( |$)"), "impressions: no marks of clicks, as in the test split")
    fields.require(fields.matches("impressions", _SHOWN), "impressions: not all of the form N1-0")
    lists = pc.split_pattern(pc.fill_null(fields.text("impressions"), ""), " ")
    fields.require(pc.list_value_length(lists).to_numpy() <= MAX_SLOTS, f"impressions: more than {MAX_SLOTS}")
    slate = pc.binary_join_element_wise(str(file), pa.array(number).cast(pa.string()), "-")
    rows = fields.table(user=user, time=time, slate=slate, articles=lists)
    lists = rows["articles"].combine_chunks()
    parent = pc.list_parent_indices(lists).to_numpy()
    slot = np.arange(len(parent)) - np.searchsorted(parent, parent)
    marked = pc.list_flatten(lists)
    item, clicked = pc.utf8_slice_codeunits(marked, 0, -2), pc.ends_with(marked, "-1").to_numpy(zero_copy_only=False)
    shown = rows.drop_columns(["articles"]).take(pa.array(parent))
    shown = shown.append_column("item", item).append_column("slot", pa.array(slot))
    first = ~pd.DataFrame({"slate": parent, "item": item.to_pandas()}).duplicated().to_numpy()
    if not first.all():
        ledger.note("an article that is twice in an impression is kept in its first place")
    return with_reactions(shown.filter(pa.array(first)), parent[first], ("click", clicked[first]))
