"""Metrics of recommendation lists, over the full catalogue, as sums that grow batch by batch and can be added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from streamrec.evaluation.lists import ties
from streamrec.evaluation.lists.checks import AT_ONCE, check_beside, check_labels, check_lists, of_shown, session_keys
from streamrec.evaluation.lists.chunk import Chunk, Floats, Ints, Relevant
from streamrec.evaluation.lists.figure import alone, ratio
from streamrec.evaluation.lists.items import Items
from streamrec.evaluation.lists.names import ACCURACY, BEYOND, EXPOSURE, check_names
from streamrec.evaluation.lists.popularity import Popularity
from streamrec.evaluation.lists.sums import ALL, Cells, GroupSums
from streamrec.ope.arrays import floats, packed
from streamrec.ope.codes import EMPTY_LOG, Refused
from streamrec.ope.estimate import Estimate
from streamrec.ope.keys import mix
from streamrec.ope.rows import Keys


class ListMetrics:
    """Sums of ranking metrics over rows, each of them one list for one request.

    Rules, the same for all metrics:

    * the order of a list is the ranking; where scores are given, slots of equal score count in the order that is worst
      for the model. `streamrec.evaluation.lists.ties` makes lists and ranks from scores of the whole catalogue so;
    * a row without a list counts, with 0 in every accuracy metric, and is reported as `missing`; it has no novelty,
      diversity or calibration and is left out of those means;
    * a row in which nothing was relevant is left out of the accuracy metrics and reported as `unjudged`;
    * an item that stands in a list twice is refused (`duplicate_item`); nothing of the batch is added then;
    * the ideal DCG has min(k, number of relevant items) hits; gains are linear, 1 unless given.

    Results are means over rows with an interval from the spread between sessions; see `result`.

    Args:
        ks: lengths at which lists are cut.
        metrics: names out of `ACCURACY`, `BEYOND` and `EXPOSURE`; each is computed at each k as `name@k`.
        items: largest catalogue row.
        segments: segment -> names of its labels, number 0 first. `add` takes the numbers.
        features: [items + 1, D] of items, for `ild`.
        categories: [items + 1] or [items + 1, M] of items, 0 = none, for `calibration` and, without features, `ild`.
        buckets: hash buckets of sessions.

    Raises:
        ValueError: an unknown metric, a k below 1, or a table of the wrong length.
    """

    def __init__(
        self,
        ks: Sequence[int],
        metrics: Sequence[str],
        items: int,
        segments: Mapping[str, Sequence[str]] | None = None,
        features: ArrayLike | None = None,
        categories: ArrayLike | None = None,
        buckets: int = 4096,
    ) -> None:
        check_names(ks, metrics, features is not None, categories is not None)
        if buckets < 2:
            raise ValueError(f"buckets must be at least 2, got {buckets}: the interval is their spread")
        self.ks, self.metrics, self.buckets = tuple(sorted(set(ks))), tuple(dict.fromkeys(metrics)), buckets
        self.items = Items.of(items, features, categories)
        self.labels = {name: tuple(labels) for name, labels in (segments or {}).items()}
        if ALL in self.labels:
            raise ValueError("a segment needs a name")
        self._means = [name for name in self.metrics if name not in EXPOSURE]
        counts = 1 + len(self.ks) * sum(name in BEYOND for name in self._means)
        numbers = {name: len(labels) for name, labels in self.labels.items()}
        self.sums = GroupSums(len(self.ks) * len(self._means), counts, numbers, buckets)
        listed = set(EXPOSURE) & set(self.metrics)
        self._listed = np.zeros((len(self.ks) if listed else 0, items + 1), dtype=np.int64)
        self.rows = self.missing = self.unjudged = self.fingerprint = 0
        self.with_sessions = True

    # --- adding ------------------------------------------------------------------------------------------------

    def add(
        self,
        lists: Ints,
        relevant: Ints,
        session: Keys | None = None,
        *,
        offsets: Ints | None = None,
        gains: Floats | None = None,
        scores: Floats | None = None,
        popularity: Popularity | None = None,
        history: Ints | None = None,
        segments: Mapping[str, Ints] | None = None,
    ) -> None:
        """Take in n rows.

        Args:
            lists: [n, K] int64 catalogue rows, best first, 0 = empty slot. Only 0 = a missing list.
            relevant: [m] catalogue rows that were relevant, row after row. A set: repeated ones count once.
            session: [n] 64-bit hashes of the sessions; None = the rows are independent.
            offsets: [n + 1] where each row's relevant items begin; None = one each, m = n.
            gains: [m] above 0, how relevant; None = 1. `ndcg` is the only metric that looks at more than above 0.
            scores: [n, K] of what is listed, never rising within a row; None = no ties.
            popularity: what was known before each row's time (`PopularityCounter.as_of`).
            history: [n, L] catalogue rows the user had before, 0 = nothing; for `calibration`.
            segments: segment -> [n] numbers of labels, -1 = in none of them; exactly the segments declared.

        Raises:
            Refused: `duplicate_item`.
            ValueError: shapes or values that do not fit.
        """
        lists = np.asarray(lists, dtype=np.int64)
        if lists.ndim != 2:
            raise ValueError(f"lists must be [n, K], got shape {lists.shape}")
        if lists.shape[1] == 0:
            lists = np.zeros((len(lists), 1), dtype=np.int64)
        n = len(lists)
        truth = Relevant.of(n, self.items.size, relevant, offsets, gains)
        labels = check_labels(segments or {}, self.labels, n)
        check_beside(self.metrics, lists, scores, popularity, history)
        missing = check_lists(lists, self.items.size)
        if self.rows and self.with_sessions != (session is not None):
            raise ValueError("some batches came with sessions and some without: give them always or never")
        mixed = session_keys(session, n, self.rows)
        self.sums.meet(mixed, labels)
        plain = truth.single and scores is None and set(self._means) <= set(ACCURACY)
        by_rank = self._by_rank(lists.shape[1]) if plain else np.zeros((0, 0))
        for start in range(0, n, AT_ONCE):
            rows = slice(start, min(start + AT_ONCE, n))
            part = truth.part(rows.start, rows.stop)
            cells = self.sums.cells(mixed[rows], {name: label[rows] for name, label in labels.items()})
            if plain:
                self._add_ranks(lists[rows], part.items, by_rank, cells)
            else:
                known = None if popularity is None else popularity[rows]
                had = None if history is None else np.asarray(history, dtype=np.int64)[rows]
                chunk = Chunk(lists[rows], part, part.gain(lists[rows]), known, had, self.items)
                self._add_chunk(chunk if scores is None else _reordered(chunk, scores[rows]), cells)
            self._expose(lists[rows])
            self._sign(mixed[rows], part)
        self.with_sessions = session is not None
        self.rows += n
        self.missing += missing
        self.unjudged += int((truth.many == 0).sum())

    def _add_ranks(self, lists: Ints, target: Ints, by_rank: Floats, cells: Cells) -> None:
        """One relevant item per row: every metric is a function of where it stands."""
        width = lists.shape[1]
        place = np.flatnonzero(lists == target[:, None])
        rank = np.full(len(lists), width)
        rank[place // width] = place % width
        for column, of_rank in enumerate(by_rank):
            self.sums.add(self.sums.sums, column, cells, of_rank[rank])
        self.sums.add(self.sums.counts, 0, cells, np.ones(len(lists)))

    def _by_rank(self, width: int) -> Floats:
        """[columns, width + 1] each metric when the only relevant item stands in slot 0, 1, ... or nowhere."""
        lists = np.vstack([np.eye(width, dtype=np.int64), np.zeros(width, dtype=np.int64)])
        truth = Relevant.of(width + 1, 1, np.ones(width + 1, dtype=np.int64), None, None)
        chunk = Chunk(lists, truth, lists.astype(np.float64), None, None, self.items)
        return np.hstack([np.zeros((width + 1, 0)), *(ACCURACY[name](chunk, self.ks) for name in self._means)]).T

    def _add_chunk(self, chunk: Chunk, cells: Cells) -> None:
        judged = (chunk.truth.many > 0).astype(np.float64)
        self.sums.add(self.sums.counts, 0, cells, judged)
        count = 1
        for at, name in enumerate(self._means):
            if name in ACCURACY:
                values = ACCURACY[name](chunk, self.ks) * judged[:, None]
            else:
                found, exists = BEYOND[name](chunk, self.ks)
                values = np.where(exists, found, 0.0)
                for column in range(len(self.ks)):
                    self.sums.add(self.sums.counts, count + column, cells, exists[:, column].astype(np.float64))
                count += len(self.ks)
            for column in range(len(self.ks)):
                self.sums.add(self.sums.sums, at * len(self.ks) + column, cells, values[:, column])

    def _expose(self, lists: Ints) -> None:
        """Count what stands below the first k slots, between the first k and the second and so on."""
        for table, low, high in zip(self._listed, (0, *self.ks), self.ks, strict=False):
            np.add.at(table, lists[:, low:high].ravel(), 1)

    def _sign(self, mixed: Keys, truth: Relevant) -> None:
        """Add to the order-free fingerprint of which rows came."""
        each = mix(truth.items)
        if not truth.single:
            run = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(each)])
            each = run[truth.offsets[1:]] - run[truth.offsets[:-1]]
        self.fingerprint = (self.fingerprint + int(mix(mixed ^ each).sum())) % 2**64

    # --- reading -----------------------------------------------------------------------------------------------

    def result(self, alpha: float = 0.05, available: int | None = None) -> dict[str, Estimate]:
        """Every metric over all rows, by `name@k`.

        Means come with the interval of a ratio of sums over buckets of sessions; coverage and gini have none.

        Args:
            alpha: 1 - level of the intervals.
            available: items that could be listed, for coverage and gini; None = `items`.

        Raises:
            Refused: `empty_log`, there are no rows.
            ValueError: fewer items available than were listed.
        """
        found = self._figures(0, alpha)
        for name in self.metrics:
            if name in EXPOSURE:
                found |= self._exposed(name, self.items.size if available is None else available)
        return {f"{name}@{k}": found[f"{name}@{k}"] for name in self.metrics for k in self.ks}

    def by(self, segment: str, alpha: float = 0.05) -> dict[str, dict[str, Estimate]]:
        """Label -> the means over its rows by `name@k`, for labels that have rows.

        Raises:
            ValueError: there is no such segment.
        """
        if segment not in self.labels:
            raise ValueError(f"there is no segment {segment!r}: expected one of {sorted(self.labels)}")
        groups = range(self.sums.first[segment], self.sums.first[segment] + len(self.labels[segment]))
        named = zip(self.labels[segment], groups, strict=True)
        return {label: self._figures(at, alpha) for label, at in named if len(self.sums.distinct[at])}

    def ratios(self, group: int = 0) -> dict[str, tuple[Floats, Floats]]:
        """Mean -> sums [buckets] and numbers of rows [buckets]: what paired tests are made of."""
        sums, counts = self.sums.of(group)
        columns = {}
        beyond = 1
        for at, name in enumerate(self._means):
            for column, k in enumerate(self.ks):
                count = 0 if name in ACCURACY else beyond + column
                columns[f"{name}@{k}"] = sums[at * len(self.ks) + column], counts[count]
            beyond += 0 if name in ACCURACY else len(self.ks)
        return columns

    @property
    def sessions(self) -> int:
        """Different sessions so far (within about 3 % beyond 4,096); rows where none were given."""
        return len(self.sums.distinct[0]) if self.with_sessions else self.rows

    def _figures(self, group: int, alpha: float) -> dict[str, Estimate]:
        if not self.rows:
            raise Refused(EMPTY_LOG, "no list was given")
        sessions = len(self.sums.distinct[group]) if self.with_sessions else None
        return {name: ratio(s, n, sessions, alpha) for name, (s, n) in self.ratios(group).items()}

    def _exposed(self, name: str, available: int) -> dict[str, Estimate]:
        out = {}
        for k, counts in zip(self.ks, np.cumsum(self._listed, axis=0)[:, 1:], strict=True):
            if available < (counts > 0).sum():
                raise ValueError(
                    f"{(counts > 0).sum()} items were listed, but only {available} are said to be available"
                )
            value = EXPOSURE[name](counts, available) if counts.any() else None
            out[f"{name}@{k}"] = alone(value, self.rows, self.sessions)
        return out

    # --- merging -----------------------------------------------------------------------------------------------

    def __add__(self, other: ListMetrics) -> ListMetrics:
        """The sums of both, as if all rows had come to one object (to the last bits of a sum).

        Raises:
            ValueError: they were made with other settings.
        """
        if self.settings() != other.settings():
            raise ValueError("only list metrics of the same ks, metrics, items, segments and buckets can be added")
        if self.rows and other.rows and self.with_sessions != other.with_sessions:
            raise ValueError("one has sessions and the other has none: they cannot be added")
        both = copy(self)
        both.sums, both._listed = deepcopy(self.sums), self._listed + other._listed
        both.sums.merge(other.sums)
        both.rows, both.missing = self.rows + other.rows, self.missing + other.missing
        both.unjudged = self.unjudged + other.unjudged
        both.fingerprint = (self.fingerprint + other.fingerprint) % 2**64
        both.with_sessions = self.with_sessions if self.rows else other.with_sessions
        return both

    def settings(self) -> dict[str, Any]:
        """What must be the same for two of them to be added or compared."""
        labels = {name: list(labels) for name, labels in self.labels.items()}
        return {
            "ks": list(self.ks),
            "metrics": list(self.metrics),
            "items": self.items.size,
            "segments": labels,
            "buckets": self.buckets,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything but the item tables, as copies."""
        return {
            "settings": self.settings(),
            "sums": self.sums.state_dict(),
            "listed": packed(self._listed),
            "rows": self.rows,
            "missing": self.missing,
            "unjudged": self.unjudged,
            "fingerprint": self.fingerprint,
            "with_sessions": self.with_sessions,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a `state_dict()`.

        Raises:
            ValueError: it was saved with other settings.
        """
        if state["settings"] != self.settings():
            raise ValueError(f"saved with {state['settings']}, here it is {self.settings()}: they must be the same")
        self.sums.load_state_dict(state["sums"])
        self._listed = floats(state["listed"])
        for name in ("rows", "missing", "unjudged", "fingerprint", "with_sessions"):
            setattr(self, name, state[name])


def _reordered(chunk: Chunk, scores: Floats) -> Chunk:
    """Slots of equal score in the order that is worst for the model."""
    order = ties.worst_order(of_shown(chunk.lists, scores), chunk.gain)
    lists, gain = np.take_along_axis(chunk.lists, order, axis=1), np.take_along_axis(chunk.gain, order, axis=1)
    known = chunk.popularity
    if known is not None:
        known = replace(known, count=np.take_along_axis(known.count, order, axis=1))
    return replace(chunk, lists=lists, gain=gain, popularity=known)
