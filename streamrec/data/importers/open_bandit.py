"""Open Bandit Dataset: a fashion shop's recommendations with the true propensities of two policies (ZOZOTOWN, 2019).

How a row becomes events: the original has one row per place of the recommendation interface, and nothing that says
which rows were on one screen. So a row is a decision of its own: a slate in which one slot is known, slot 0, 1 or 2.

    impression  slate = <policy>-<row>  slot = position - 1  propensity = propensity_score
    click       slate = <policy>-<row>  slot = position - 1                  where click is 1

The propensity is that of the item at that position, summed over what may have stood in the other places; the event log
asks for the probability given the slots above, which are none here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from streamrec.data.formats import BadLog
from streamrec.data.importers.attributes import Attributes
from streamrec.data.importers.dataset import DataSet
from streamrec.data.importers.fields import Fields
from streamrec.data.importers.ledger import Ledger
from streamrec.data.importers.slates import numbered, with_reactions
from streamrec.data.importers.source import Source
from streamrec.data.importers.text import Layout, batches

CAMPAIGNS = ("all", "men", "women")
POLICIES = ("random", "bts")
_USER = tuple(f"user_feature_{at}" for at in range(4))
_ROWS = Layout(("timestamp", "item_id", "position", "click", "propensity_score", *_USER))
_ITEM = tuple(f"item_feature_{at}" for at in range(4))
_ITEMS = Layout(("item_id", *_ITEM))


class OpenBandit(DataSet):
    """The log of one campaign under one logging policy, or under both.

    Args:
        campaign: all, men or women; "" = the one there is. Item numbers mean other items in another campaign, so
            campaigns are never joined.
        policy: random or bts; "" = the one there is; "both" = both logs in one, each row with the propensity under
            the policy that logged it.
    """

    title = "Open Bandit Dataset"
    homepage = "ZOZO Research, https://research.zozo.com/data.html"
    licence = "commonly cited as CC BY 4.0; see its page"
    files = "random/ and bts/ with all/all.csv, men/men.csv, women/women.csv and item_context.csv beside them"
    mapping: ClassVar[Mapping[str, str]] = {
        "user": "a hash of the four user features: there is no user id, and people with equal features are one user",
        "item": "item_id, which counts from 0 in each campaign",
        "kind": "impression for each row, and click where click is 1",
        "time": "timestamp",
        "session": "the slate: no row is known to belong with another",
        "slate": "policy and row of the file: each row is a decision of its own, since rows of one screen are not "
        "marked as such",
        "slot": "position - 1",
        "propensity": "propensity_score, on impressions: of this item at this position, whatever is in the others",
        "items.category": "none: the meanings of the hashed item features are not published",
        "left out": "user-item affinities",
    }

    def __init__(self, campaign: str = "", policy: str = "") -> None:
        if campaign not in ("", *CAMPAIGNS):
            raise ValueError(f"campaign must be one of {', '.join(CAMPAIGNS)}, or empty for the one there is, "
                             f"got {campaign!r}")  # fmt: skip
        if policy not in ("", "both", *POLICIES):
            raise ValueError(f"policy must be random, bts or both, or empty for the one there is, got {policy!r}")
        self.campaign, self.policy = campaign, policy
        self._people = Attributes("user")
        self._found: dict[str, tuple[str, str]] = {}

    def events(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        self._people, self._found = Attributes("user"), self._logs(source)
        for name, (campaign, policy) in self._found.items():
            ledger.note(f"{name}: campaign {campaign}, logged by {policy or 'a policy its folder does not name'}")
            for batch, page in batches(source, name, _ROWS, ledger):
                yield self._rows(Fields(batch, page), policy or "row")

    def _logs(self, source: Source) -> dict[str, tuple[str, str]]:
        """File -> campaign, policy; those asked for."""
        found = {name: _place(source, name) for name in source.find(*(f"{campaign}.csv" for campaign in CAMPAIGNS))}
        wanted = {
            name: (campaign, policy)
            for name, (campaign, policy) in found.items()
            if self.campaign in ("", campaign) and self.policy in ("", "both", policy)
        }
        if not wanted:
            raise source.lacks(f"{self.campaign or 'all, men or women'}.csv of {self.policy or 'a policy'}")
        for what, at in (("campaign", 0), ("policy", 1)):
            several = sorted({place[at] for place in wanted.values()})
            if len(several) > 1 and not (what == "policy" and self.policy == "both"):
                problem = f"expected the log of one {what}, found {', '.join(several)}"
                raise BadLog(source.path, f"{problem}; say which: --set {what}={several[0]}")
        if len(set(wanted.values())) < len(wanted):
            raise BadLog(source.path, f"expected each log once, found {', '.join(wanted)}; name the folder of one")
        return wanted

    def _rows(self, fields: Fields, prefix: str) -> pa.Table:
        time, item = fields.moments("timestamp", "ISO8601"), fields.ids("item_id")
        slot, click = fields.whole("position", 1, 3) - 1, fields.whole("click", 0, 1)
        propensity = fields.decimal("propensity_score", high=1)
        fields.require(propensity > 0, "propensity_score: not above 0")
        features = fields.texts(*_USER)
        user, slate = _profiles(features), numbered(f"{prefix}-", fields.number)
        self._people.add(fields.table(user=user, **features))
        shown = fields.table(user=user, item=item, time=time, session=slate, slate=slate, slot=slot,
                             propensity=propensity)  # fmt: skip
        return with_reactions(shown, fields.number[fields.good], ("click", click[fields.good] == 1))

    def items(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        """The items beside the first log: both policies of a campaign show the same ones."""
        beside = PurePosixPath(next(iter(self._found))).parent
        for name in source.find("item_context.csv"):
            if PurePosixPath(name).parent != beside:
                continue
            for batch, page in batches(source, name, _ITEMS, ledger):
                fields = Fields(batch, page)
                item, none = fields.ids("item_id"), pa.nulls(len(fields.good), pa.string())
                yield fields.table(item=item, category=none, **fields.texts(*_ITEM))

    def users(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        return self._people.tables()


def _place(source: Source, name: str) -> tuple[str, str]:
    """Campaign and policy of a log; the policy is "" where no folder says it."""
    folders = [*source.path.resolve().parts, *PurePosixPath(name).parts[:-1]]
    policy = next((folder for folder in reversed(folders) if folder in POLICIES), "")
    return PurePosixPath(name).name.lower().partition(".")[0], policy


def _profiles(features: dict[str, pa.Array]) -> pa.Array:
    """[rows] text, the same for rows with the same features."""
    filled = [pc.fill_null(column, "") for column in features.values()]
    joined = pc.binary_join_element_wise(*filled, "|").to_numpy(zero_copy_only=False).astype(object)
    return numbered("u", pd.util.hash_array(joined).astype(np.uint64))
