"""A mean over rows with its interval, from sums by bucket of sessions."""

from __future__ import annotations

from streamrec.evaluation.lists.chunk import Floats
from streamrec.ope import judging
from streamrec.ope.codes import EMPTY_LOG, Refused, Warned
from streamrec.ope.estimate import Estimate
from streamrec.ope.intervals import Interval, by_session


def ratio(sums: Floats, counts: Floats, sessions: int | None, alpha: float) -> Estimate:
    """Sum over sum, with the interval of a ratio of bucket sums.

    Args:
        sums: [buckets] of the metric.
        counts: [buckets] rows that have a value.
        sessions: how many there were; None = the rows are taken to be independent.
        alpha: 1 - level of the interval.
    """
    n, units = int(counts.sum()), int(counts.sum()) if sessions is None else sessions
    if n == 0:
        none = Refused(EMPTY_LOG, "no row has a value")
        return _ranking(None, Interval(None, None), 0, units, refused=Warned(none.code, str(none)))
    value = float(sums.sum()) / n
    used = counts > 0
    interval = by_session(value, (sums[used] - value * counts[used]) / n, alpha)
    return _ranking(value, interval, n, units, judging.sessions(units, sessions is not None))


def alone(value: float | None, n: int, sessions: int) -> Estimate:
    """A figure of all rows together that has no interval."""
    if value is None:
        none = Refused(EMPTY_LOG, "nothing was listed")
        return _ranking(None, Interval(None, None), n, sessions, refused=Warned(none.code, str(none)))
    return _ranking(value, Interval(None, None), n, sessions)


def _ranking(
    value: float | None,
    interval: Interval,
    n: int,
    sessions: int,
    warnings: list[Warned] | None = None,
    refused: Warned | None = None,
) -> Estimate:
    low, high, se = interval.low, interval.high, interval.se
    return Estimate(value, low, high, se, n, sessions, kind="ranking", warnings=warnings or [], refused=refused)
