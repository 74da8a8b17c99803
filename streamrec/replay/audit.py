"""What can be said of a log before any policy is there: order, ties, duplicates, propensities, overlap, leaks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from streamrec.data.events import read, validate
from streamrec.mixing import keys_of
from streamrec.ope import judging
from streamrec.ope.codes import (
    BAD_PROPENSITY,
    DROPPED_ROWS,
    DUPLICATE_ITEM,
    DUPLICATE_SLOT,
    EMPTY_LOG,
    NO_PROPENSITY,
    REPLAY_NON_UNIFORM,
    TIME_DISORDER,
    TIMESTAMP_TIES,
    Refused,
    Warned,
)
from streamrec.ope.keys import DistinctKeys, mix
from streamrec.ope.propensities import Propensities
from streamrec.records import POSITIVE, Kind
from streamrec.replay.lengths import Lengths
from streamrec.replay.traces import Floats, Traces, hashed

CHUNK = 65_536
"""Rows read at once."""

MOST_ITEMS = 1_000_000
"""Different items whose shown counts are kept."""

TIE_SHARE = 0.01
"""Share of rows at the time of their user's row before from which ties are a warning."""

CHANCE = 0.001
"""Chance at which a log is said not to be uniform."""

_FAULTS = {"bad_propensity": BAD_PROPENSITY, "duplicate_slot": DUPLICATE_SLOT, "duplicate_item": DUPLICATE_ITEM}


class Audit:
    """Everything about one log, made in one pass in bounded memory (two where rows are faulty).

    Args:
        path: see `streamrec.data.events.read`, like `columns`.
        columns: event column -> expression over the columns of the file.
        late_s: seconds by which a row may be older than the newest before it.
        split: event time; sessions that begin before it and go on after it are counted.

    Attributes:
        refused: why the log cannot be used at all.
        warned: what must be known about it.
    """

    def __init__(
        self,
        path: Path | str,
        columns: Mapping[str, str] | None = None,
        late_s: float = 60.0,
        split: float | None = None,
    ) -> None:
        self.path, self.columns, self.late_s, self.split = path, dict(columns or {}), late_s, split
        self.kinds: Counter[str] = Counter()
        self.rows = 0
        self.first, self.last = math.inf, -math.inf
        self.users, self.items, self.sessions = DistinctKeys(), DistinctKeys(), DistinctKeys()
        self.lengths = Lengths()
        self.slates = 0
        self.counts = dict.fromkeys(("disorder", "late", "ties", "duplicates", "orphans", "early", "unnamed", "cut"), 0)
        self.worst_late = 0.0
        self.propensities = Propensities()
        self.without_propensity = 0
        self.inverse = np.zeros(3)  # rows with a propensity, sum of 1 / p, sum of 1 / p^2
        self.rarest = 0.0  # natural log of the smallest propensity of a whole slate
        self.shown: dict[int, Counter[str]] = {}
        self.faults: dict[str, int] = {}
        self.examples: list[str] = []
        self._times, self._seen, self._slates = Traces(), Traces(21), Traces()
        self._begun = Traces()
        self.refused: list[Warned] = []
        self.warned: list[Warned] = []

    def run(self) -> Audit:
        """Read the log.

        Raises:
            BadLog: the file or its columns are not as they must be.
        """
        try:
            for frame in read(self.path, self.columns, CHUNK):
                self._take(frame)
        except ValueError:
            checked = validate(self.path, self.columns)
            if not checked["faults"]:
                raise
            self.rows, self.faults, self.examples = checked["rows"], checked["faults"], checked["examples"]
        self._judge()
        self._times = self._seen = self._slates = self._begun = Traces(0)  # 80 MB that nobody needs any more
        return self

    # --- reading ---------------------------------------------------------------------------------------------------

    def _take(self, frame: pd.DataFrame) -> None:
        if frame.empty:
            return
        self.rows += len(frame)
        kind = frame["kind"].cat.codes.to_numpy()
        for code, many in zip(*np.unique(kind, return_counts=True), strict=True):
            self.kinds[Kind(int(code)).name.lower()] += int(many)
        time = frame["time"].to_numpy(np.float64)
        self._order(time)
        user = hashed(frame["user"].to_numpy())
        self.users.add(mix(user))
        named = frame["item"].to_numpy() != ""
        self.items.add(mix(hashed(frame["item"].to_numpy()[named])))
        session = frame["session"].to_numpy()
        self.lengths.add(keys_of(session[np.isin(kind, [int(one) for one in POSITIVE])].astype(object)))
        self.counts["unnamed"] += int((session == "").sum())
        self.sessions.add(mix(hashed(session[session != ""])))
        self._repeated(frame, kind, time, user)
        self._propensities(frame, kind)
        self._straddling(session, user, time)

    def _order(self, time: Floats) -> None:
        newest = np.maximum.accumulate(np.concatenate([[self.last], time]))[:-1]
        behind = np.where(np.isfinite(newest), newest - time, 0.0)
        self.counts["disorder"] += int((behind > 0).sum())
        self.counts["late"] += int((behind > self.late_s).sum())
        self.worst_late = max(self.worst_late, float(behind.max()))
        self.first, self.last = min(self.first, float(time.min())), max(self.last, float(time.max()))

    def _repeated(self, frame: pd.DataFrame, kind: Any, time: Floats, user: Any) -> None:
        """Ties within users, rows that come twice, reactions whose slate was not shown before them."""
        impression = kind == int(Kind.IMPRESSION)
        acts = ~(impression & (frame["slate"].to_numpy() != ""))  # slots of one slate have one time by nature
        organic = acts & (frame["slate"].to_numpy() == "")
        again, last = self._times.before(user[organic], time[organic])
        self.counts["ties"] += int((again & (last == time[organic])).sum())
        text = [frame[name].to_numpy() for name in ("item", "slate")]
        rows = hashed(user, *text, kind.astype(np.int64), time, frame["slot"].to_numpy())
        self.counts["duplicates"] += int(self._seen.before(rows, time)[0].sum())
        slated = frame["slate"].to_numpy() != ""
        slate = hashed(frame["slate"].to_numpy())
        begins = impression & slated
        reacts = slated & ~impression & (kind != int(Kind.REQUEST))
        known, shown_at = self._slates.before(slate[begins | reacts], time[begins | reacts])
        reaction = reacts[begins | reacts]
        self.slates += int((~known & ~reaction).sum())
        self.counts["orphans"] += int((reaction & ~known).sum())
        self.counts["early"] += int((reaction & known & (time[begins | reacts] < shown_at)).sum())

    def _propensities(self, frame: pd.DataFrame, kind: Any) -> None:
        shown = frame[(kind == int(Kind.IMPRESSION)) & (frame["slate"].to_numpy() != "")]
        propensity = shown["propensity"].to_numpy(np.float64)
        known = ~np.isnan(propensity)
        self.without_propensity += int((~known).sum())
        self.propensities.add(propensity[known])
        self.inverse += [known.sum(), (1 / propensity[known]).sum(), (1 / propensity[known] ** 2).sum()]
        if known.any():
            whole = pd.Series(np.log(propensity)).groupby(shown["slate"].to_numpy(), sort=False).sum(min_count=1)
            self.rarest = min(self.rarest, float(whole.min()))
        for slot, part in shown["item"].groupby(shown["slot"].to_numpy()):
            counts = self.shown.setdefault(int(slot), Counter())
            if len(counts) < MOST_ITEMS:
                counts.update(part.value_counts().to_dict())

    def _straddling(self, session: Any, user: Any, time: Floats) -> None:
        """Sessions with rows on both sides of the split."""
        if self.split is None:
            return
        named = session != ""
        keys = np.where(named, hashed(session), user)[named]
        early = (time < self.split)[named].astype(np.float64)
        known, before = self._begun.before(keys, early)
        self.counts["cut"] += int((known & (before == 1.0) & (early == 0.0)).sum())

    # --- judging ---------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        self._judge_faults()
        if self.rows == 0:
            self._refuse(EMPTY_LOG, f"{self.path} has no rows")
        if self.counts["late"]:
            text = f"{self.counts['late']} rows are older than a row before them by more than {self.late_s:g} s"
            self._refuse(TIME_DISORDER, f"{text}, the worst by {self.worst_late:.6g} s")
        if self.rows and self.counts["ties"] > TIE_SHARE * self.rows:
            share = self.counts["ties"] / self.rows
            self.warned.append(
                Warned.of(TIMESTAMP_TIES, f"{share:.1%} of the rows have the time of the row before them")
            )
        self.warned += judging.logger(self.propensities) if self.propensities.rows else []
        lost = self.counts["orphans"] + self.counts["early"]
        if lost or self.counts["duplicates"]:
            text = f"{self.counts['orphans']} reactions to slates never shown, {self.counts['early']} before they were"
            self.warned.append(Warned.of(DROPPED_ROWS, f"{text}, {self.counts['duplicates']} rows come twice"))

    def _judge_faults(self) -> None:
        for reason, many in self.faults.items():
            if reason in _FAULTS:
                self._refuse(_FAULTS[reason], f"{many} rows")
        other = {reason: many for reason, many in self.faults.items() if reason not in _FAULTS}
        if other:
            text = ", ".join(f"{many} rows: {reason}" for reason, many in other.items())
            self.refused.append(Warned("bad_rows", f"bad_rows: {text}. Mend the rows, or map the columns they are in."))

    def _refuse(self, code: str, found: str) -> None:
        self.refused.append(Warned(code, str(Refused(code, found))))

    # --- telling ---------------------------------------------------------------------------------------------------

    @property
    def uniform(self) -> bool:
        """All propensities of a slot are equal, and what was shown does not contradict that they are."""
        return self.propensities.rows > 0 and self.propensities.uniform and not self.off_uniform()

    def off_uniform(self) -> list[int]:
        """Slots whose items were not shown equally often, by a chi-square test at `CHANCE`."""
        return [slot for slot in sorted(self.shown) if (self.chi_square(slot)[2] or 1.0) < CHANCE]

    def chi_square(self, slot: int) -> tuple[float, int, float | None]:
        """Pearson's statistic of the items shown in a slot against equal frequencies, degrees of freedom, p-value.

        Expected are equal counts of all items ever shown in the log. None where fewer than 5 of each are expected, or
        there is one item: the approximation would not hold.
        """
        items = set().union(*self.shown.values())
        counts = np.array([self.shown[slot].get(item, 0) for item in sorted(items)], dtype=np.float64)
        expected = counts.sum() / max(len(counts), 1)
        if len(counts) < 2 or expected < 5:
            return 0.0, max(len(counts) - 1, 0), None
        statistic = float(((counts - expected) ** 2 / expected).sum())
        freedom = len(counts) - 1
        half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
        return statistic, freedom, float(torch.special.gammaincc(half[0], half[1]))

    def abilities(self) -> dict[str, str]:
        """What can be done with this log: "yes", or "no" with the code and the reason."""
        if self.refused:
            return dict.fromkeys(("lists", "values", "matching"), f"no: {self.refused[0].message}")
        positives = sum(self.kinds[name] for name in ("click", "purchase", "rating"))
        told = {"lists": "yes" if positives else f"no: {Refused(EMPTY_LOG, 'there are no positive events')}"}
        if not self.propensities.rows:
            return told | dict.fromkeys(("values", "matching"), f"no: {Refused(NO_PROPENSITY)}")
        told["values"] = "yes"
        if self.uniform:
            return told | {"matching": "yes"}
        low, high = self.propensities.smallest, self.propensities.largest
        found = f"propensities lie between {low:g} and {high:g}"
        if self.propensities.uniform:
            found = f"items of slots {', '.join(map(str, self.off_uniform()))} were not shown equally often"
        return told | {"matching": f"no: {Refused(REPLAY_NON_UNIFORM, found)}"}

    def overlap(self) -> dict[str, dict[str, float]]:
        """What slots have in common, see `overlaps`."""
        return overlaps({f"slot {slot}": counts for slot, counts in sorted(self.shown.items())})

    def pooled(self) -> Counter[str]:
        """How often each item was shown, over all slots."""
        total: Counter[str] = Counter()
        for counts in self.shown.values():
            total.update(counts)
        return total

    def as_json(self) -> dict[str, Any]:
        """All figures as JSON values."""
        span = None if not math.isfinite(self.first) else [self.first, self.last]
        return {
            "log": str(self.path),
            "rows": self.rows,
            "kinds": dict(self.kinds),
            "users": len(self.users),
            "items": len(self.items),
            "sessions": len(self.sessions),
            "slates": self.slates,
            "time": span,
            "order": {**self.counts, "worst_late_s": self.worst_late, "late_allowed_s": self.late_s},
            "propensities": self._told_propensities(),
            "slots": self._told_slots(),
            "overlap": self.overlap(),
            "abilities": self.abilities(),
            "faults": dict(self.faults),
            "examples": list(self.examples),
            "refused": {one.code: one.message for one in self.refused},
            "warnings": {one.code: one.message for one in self.warned},
        }

    def _told_propensities(self) -> dict[str, Any]:
        seen, (rows, inverse, squares) = self.propensities, self.inverse.tolist()
        if not rows:
            return {"rows": 0, "missing": self.without_propensity}
        return {
            "rows": int(rows),
            "missing": self.without_propensity,
            "smallest": seen.smallest,
            "largest": seen.largest,
            "certain": seen.certain,
            "rounded_to_decimals": seen.decimals if seen.rounded else None,
            "uniform": self.uniform,
            # The mean of 1 / p is the number of candidates where propensities are true and all can be shown.
            "mean_inverse": inverse / rows,
            "ess_uniform": inverse**2 / squares,
        }

    def _told_slots(self) -> dict[str, Any]:
        told = {}
        for slot, counts in sorted(self.shown.items()):
            statistic, freedom, chance = self.chi_square(slot)
            share = np.array(list(counts.values()), dtype=np.float64) / counts.total()
            told[str(slot)] = {
                "shown": counts.total(),
                "items": len(counts),
                "effective_items": float(np.exp(-(share * np.log(share)).sum())),
                "chi_square": statistic,
                "freedom": freedom,
                "p": chance,
            }
        return told


def overlaps(parts: Mapping[str, Counter[str]]) -> dict[str, dict[str, float]]:
    """Between every two of some distributions over items: the sum over items of the smaller share, 0 to 1."""
    shares = {name: {item: n / counts.total() for item, n in counts.items()} for name, counts in parts.items()}
    return {
        one: {other: sum(min(share, theirs.get(item, 0.0)) for item, share in mine.items())
              for other, theirs in shares.items()}
        for one, mine in shares.items()
    }  # fmt: skip


def between_loggers(audits: Sequence[Audit]) -> dict[str, dict[str, Any]]:
    """For several logs of one shop, what the items shown in one have in common with those shown in another.

    `overlap` as in `overlaps`; `gap`: share of what the first showed that the second never shows, which no weighting of
    the second log can make up for.
    """
    pooled = {str(audit.path): audit.pooled() for audit in audits}
    shared = overlaps(pooled)
    return {
        one: {
            other: {"overlap": shared[one][other], "gap": _gap(mine, theirs)}
            for other, theirs in pooled.items()
            if other != one
        }
        for one, mine in pooled.items()
    }


def _gap(mine: Counter[str], theirs: Iterable[str]) -> float:
    there = set(theirs)
    return sum(n for item, n in mine.items() if item not in there) / max(mine.total(), 1)
