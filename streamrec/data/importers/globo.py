"""Globo: clicks on the articles of the news portal G1, 1 to 17 October 2017."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import pyarrow as pa

from streamrec.data.importers.dataset import DataSet
from streamrec.data.importers.fields import Fields
from streamrec.data.importers.ledger import Ledger, Page
from streamrec.data.importers.prepared import parquet
from streamrec.data.importers.source import Source
from streamrec.data.importers.text import Layout, batches

_CLICKS = Layout(("user_id", "session_id", "click_article_id", "click_timestamp"))
_ARTICLES = Layout(("article_id", "category_id", "created_at_ts", "publisher_id", "words_count"))


class Globo(DataSet):
    """Clicks by hour files, or one Parquet file with the same columns."""

    title = "News Portal User Interactions by Globo.com"
    homepage = "Kaggle, https://www.kaggle.com/datasets/gspmoreira/news-portal-user-interactions-by-globocom"
    licence = "academic use only, no commercial use; cite the two papers named on its page"
    files = "clicks_hour_*.csv (or clicks*.parquet with the same columns), articles_metadata.csv"
    mapping: ClassVar[Mapping[str, str]] = {
        "user": "user_id",
        "item": "click_article_id",
        "kind": "click",
        "time": "click_timestamp / 1000",
        "session": "session_id",
        "items.category": "category_id; also created (seconds), publisher and words",
        "left out": "session_start, session_size (it knows the future), environment, device, os, country, region, "
        "referrer; clicks_sample.csv; the article embeddings",
    }

    def events(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        names = source.find("clicks_hour_*.csv") or source.find("clicks*.parquet")
        if not names:
            raise source.lacks("clicks_hour_*.csv or clicks*.parquet (the original packs the hours in clicks.zip)")
        for name in names:
            for batch, page in _clicks(source, name, ledger):
                fields = Fields(batch, page)
                user, session, item = (fields.ids(c) for c in ("user_id", "session_id", "click_article_id"))
                time = fields.whole("click_timestamp", low=1) / 1000
                yield fields.table(user=user, session=session, item=item, kind="click", time=time)

    def items(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        for name in source.find("articles_metadata.csv"):
            for batch, page in batches(source, name, _ARTICLES, ledger):
                fields = Fields(batch, page)
                item, created = fields.ids("article_id"), fields.whole("created_at_ts") / 1000
                category, publisher, words = fields.texts("category_id", "publisher_id", "words_count").values()
                yield fields.table(item=item, category=category, created=created, publisher=publisher, words=words)


def _clicks(source: Source, name: str, ledger: Ledger) -> Iterator[tuple[pa.RecordBatch, Page]]:
    if name.lower().endswith(".parquet"):
        return parquet(source, name, _CLICKS.needed, ledger)
    return batches(source, name, _CLICKS, ledger)
