"""Tmall: half a year of clicks, carts, favourites and purchases before Double 11 of 2014 (IJCAI-15 contest)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa

from streamrec.data.importers import prepared
from streamrec.data.importers.attributes import Attributes
from streamrec.data.importers.dataset import DataSet
from streamrec.data.importers.fields import Fields
from streamrec.data.importers.ledger import Ledger
from streamrec.data.importers.slates import numbered
from streamrec.data.importers.source import Source
from streamrec.data.importers.text import Layout, batches

_LOG = Layout(("user_id", "item_id", "cat_id", "seller_id", "brand_id", "time_stamp", "action_type"))
_USERS = Layout(("user_id", "age_range", "gender"))
_KINDS = {"0": "click", "1": "click", "2": "purchase", "3": "click"}
_YEAR = 2014


class Tmall(DataSet):
    """Actions by day; the order within a day is that of the file."""

    title = "Tmall repeat buyers (IJCAI-15)"
    homepage = "Alibaba Tianchi, data set 42, https://tianchi.aliyun.com/dataset/42"
    licence = "the terms Tianchi gives for the data set"
    files = (
        "user_log_format1.csv, user_info_format1.csv; or prepared tables *.tsv, *.parquet of SessionId, ItemId, Time"
    )
    mapping: ClassVar[Mapping[str, str]] = {
        "user": "user_id",
        "item": "item_id",
        "kind": "action_type 0 (click), 1 (cart) and 3 (favourite) are clicks, 2 is a purchase",
        "time": "time_stamp is month and day: midnight UTC of that day of 2014, which the files do not say",
        "session": "user_id and day, since there is no time of day",
        "items.category": "cat_id of the first row of the item; seller and brand likewise",
        "left out": "train and test tables of the contest, user_log of format 2",
    }

    def __init__(self) -> None:
        self._items = Attributes("item")

    def events(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        self._items = Attributes("item")
        if source.find("user_log_format1.csv"):
            return self._actions(source, ledger)
        names = prepared.tables(source)
        if not names:
            raise source.lacks(self.files)
        return prepared.clicks(source, names, ledger)

    def _actions(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        for batch, page in batches(source, source.one("user_log_format1.csv"), _LOG, ledger):
            fields = Fields(batch, page)
            user, item, kind = fields.ids("user_id"), fields.ids("item_id"), fields.one_of("action_type", _KINDS)
            day = fields.whole("time_stamp", low=101, high=1231)
            time = _midnight(day)
            fields.require(np.isfinite(time), "time_stamp: no day of the year")
            texts = fields.texts("cat_id", "seller_id", "brand_id")
            names = ("category", "seller", "brand")
            self._items.add(fields.table(item=item, **dict(zip(names, texts.values(), strict=True))))
            session = pa.compute.binary_join_element_wise(user, numbered("", day), "-")
            yield fields.table(user=user, item=item, kind=kind, time=time, session=session)

    def items(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        return self._items.tables()

    def users(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        for name in source.find("user_info_format1.csv"):
            for batch, page in batches(source, name, _USERS, ledger):
                fields = Fields(batch, page)
                yield fields.table(user=fields.ids("user_id"), **fields.texts("age_range", "gender"))


def _midnight(day: np.ndarray[tuple[int], np.dtype[np.int64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """[rows] seconds since the epoch of a month and day such as 1111; NaN where the year has no such day."""
    found = pd.to_datetime(pd.Series(_YEAR * 10_000 + day).astype(str), format="%Y%m%d", errors="coerce")
    seconds = found.astype("datetime64[s]").astype("int64").to_numpy(np.float64)
    return np.asarray(np.where(found.notna(), seconds, np.nan))
