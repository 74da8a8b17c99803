"""From sums by bucket to an estimate: the part that slates and sequences share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from streamrec.ope import judging
from streamrec.ope.codes import NO_SUPPORT, Refused, Warned
from streamrec.ope.estimate import Estimate
from streamrec.ope.estimator import Estimator
from streamrec.ope.intervals import bootstrap, by_session
from streamrec.ope.rows import Floats

ClusterInterval = Literal["session", "bootstrap"]
CLUSTER_INTERVALS: tuple[ClusterInterval, ...] = ("session", "bootstrap")


def check(alpha: float, interval: str) -> None:
    """Stop at an alpha or an interval that is none."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha:g}: expected a number between 0 and 1, 0.05 for a 95 % interval")
    if interval not in CLUSTER_INTERVALS:
        raise ValueError(f"unknown interval {interval!r}: expected one of {', '.join(CLUSTER_INTERVALS)}")


def valued(
    of: Estimator[Any],
    by_bucket: Mapping[str, Floats],
    sessions: int,
    known: bool,
    max_w: float | None,
    reward_range: tuple[float, float] | None,
    alpha: float,
    interval: ClusterInterval,
) -> Estimate:
    """The estimate of `of` from [buckets] sums of its columns, "n" and, where it has weights, their squares.

    Args:
        of: the estimator.
        by_bucket: column -> [buckets in use].
        sessions: independent units.
        known: the log names its sessions.
        max_w: largest weight.
        reward_range: what the value may be; None = not declared.
        alpha: 0.05 for a 95 % interval.
        interval: "session" or "bootstrap".
    """
    total = {name: part.sum() for name, part in by_bucket.items()}
    n, ess = round(float(total["n"])), None
    warnings = judging.sessions(sessions, known)
    if of.weight is not None and max_w is not None:
        squares = float(total[f"{of.weight}^2"])
        ess = float(total[of.weight]) ** 2 / squares if squares else 0.0
        if squares == 0:
            refused = Refused(NO_SUPPORT, f"all weights of {of.name} are 0")
            return _none(of, n, sessions, ess, max_w, refused)
        warnings += judging.weights(ess, max_w, abs(float(total[of.weight])), n)
        warnings += judging.mean_weight(by_bucket, total, of.weight)
    value, residuals = float(of.value(total)), of.residuals(by_bucket, total)
    found = (
        by_session(value, residuals, alpha)
        if interval == "session"
        else bootstrap(of.value, of.needed(by_bucket), alpha)
    )
    warnings += judging.reach(value, reward_range)
    warnings += judging.heaviness(value, residuals, by_bucket["n"] / total["n"])
    return Estimate(value, found.low, found.high, found.se, n, sessions, ess, max_w, of.kind, warnings)


def _none(of: Estimator[Any], n: int, sessions: int, ess: float | None, max_w: float, why: Refused) -> Estimate:
    warned = Warned(why.code, str(why))
    return Estimate(None, None, None, None, n, sessions, ess, max_w, of.kind, [], warned)
