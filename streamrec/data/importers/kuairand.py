"""KuaiRand: videos shown in the Kuaishou app with the reactions of people, some of them put in at random (2022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamrec.data.importers.dataset import DataSet
from streamrec.data.importers.fields import Fields
from streamrec.data.importers.ledger import Ledger
from streamrec.data.importers.slates import numbered, with_reactions
from streamrec.data.importers.source import Source
from streamrec.data.importers.text import Layout, batches

_ACTS = ("is_click", "long_view", "is_like", "is_follow", "is_comment", "is_forward", "is_profile_enter")
_LOG = Layout(("user_id", "video_id", "time_ms", "is_hate", "is_rand", *_ACTS))
_VIDEOS = Layout(("video_id", "tag"), quote='"', rest=True)
_USERS = Layout(("user_id",), quote='"', rest=True)


class KuaiRand(DataSet):
    """Every row is one video shown, in a slate of its own.

    Args:
        positive: the signal that counts as a click: is_click, long_view, is_like, is_follow, is_comment, is_forward
            or is_profile_enter.
    """

    title = "KuaiRand (27K, 1K, Pure)"
    homepage = "https://kuairand.com and https://github.com/chongminggao/KuaiRand"
    licence = "CC BY-SA 4.0"
    files = "log_random_*.csv, log_standard_*.csv, video_features_basic_*.csv, user_features_*.csv"
    mapping: ClassVar[Mapping[str, str]] = {
        "user": "user_id",
        "item": "video_id",
        "kind": "impression for each row; skip where is_hate is 1; click where the signal `positive` is 1 (is_click "
        "means a click in the pages with two columns, and in those with one that the video was played)",
        "time": "time_ms / 1000",
        "slate": "random- or policy- (is_rand 1 or 0), number of the file among the logs, row of the file",
        "slot": "0",
        "propensity": "not published: empty, also for the random ones, of which only the share of all shown is known",
        "items.category": "tag; with all columns of video_features_basic",
        "users": "all columns of user_features",
        "left out": "the other signals, play_time_ms, duration_ms, stay times, tab, video_features_statistic",
    }

    def __init__(self, positive: str = "is_click") -> None:
        if positive not in _ACTS:
            raise ValueError(f"positive must be one of {', '.join(_ACTS)}, got {positive!r}")
        self.positive = positive

    def events(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        names = source.find("log_random_*.csv", "log_standard_*.csv")
        if not names:
            raise source.lacks("log_random_*.csv or log_standard_*.csv")
        for at, name in enumerate(names):
            ledger.note(f"file {at} of the logs is {name}")
            for batch, page in batches(source, name, _LOG, ledger):
                yield self._rows(Fields(batch, page), at)

    def _rows(self, fields: Fields, file: int) -> pa.Table:
        user, item, time = fields.ids("user_id"), fields.ids("video_id"), fields.whole("time_ms", low=1) / 1000
        liked, hated, random = (fields.whole(name, 0, 1) == 1 for name in (self.positive, "is_hate", "is_rand"))
        row = numbered(f"-{file}-", fields.number)
        slate = pc.binary_join_element_wise(pc.if_else(pa.array(random), "random", "policy"), row, "")
        slot = np.zeros(len(fields.good), dtype=np.int64)
        shown = fields.table(user=user, item=item, time=time, slate=slate, slot=slot)
        good = fields.good
        return with_reactions(shown, fields.number[good], ("skip", hated[good]), ("click", (liked & ~hated)[good]))

    def items(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        for name in source.find("video_features_basic*.csv"):
            for batch, page in batches(source, name, _VIDEOS, ledger):
                fields = Fields(batch, page)
                rest = [column for column in page.columns if column not in ("video_id", "tag")]
                item, tag = fields.ids("video_id"), fields.text("tag")
                yield fields.table(item=item, category=tag, **fields.texts(*rest))

    def users(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        for name in source.find("user_features*.csv"):
            for batch, page in batches(source, name, _USERS, ledger):
                fields = Fields(batch, page)
                rest = [column for column in page.columns if column != "user_id"]
                yield fields.table(user=fields.ids("user_id"), **fields.texts(*rest))
