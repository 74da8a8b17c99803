"""The difference of two policies on the same rows, or of two estimators of one policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from streamrec.ope.accumulator import Accumulator
from streamrec.ope.codes import DIFFERENT_ROWS, Refused
from streamrec.ope.estimate import Estimate
from streamrec.ope.estimator import Estimator, Kind
from streamrec.ope.intervals import Interval, bootstrap, by_session
from streamrec.ope.rows import Floats, Rows


def paired(
    a: Accumulator,
    b: Accumulator,
    estimator: str,
    other: str | None = None,
    alpha: float = 0.05,
    interval: Literal["session", "bootstrap"] = "session",
) -> Estimate:
    """Value of `a` less value of `b`, two policies on the same rows, paired by session bucket.

    Args:
        a: one policy.
        b: the other; `a` itself to compare two estimators, such as "snips" with "logged".
        estimator: of `a`.
        other: of `b`; None = the same.
        alpha: 0.05 for a 95 % interval.
        interval: as in `Accumulator.result`.

    Returns:
        `n` and `sessions` of the rows; warnings of both estimates.

    Raises:
        Refused: `different_rows`; what either estimate is refused for.
    """
    _same_rows(a, b)
    mine, theirs = a.estimators[estimator], b.estimators[other or estimator]
    first, second = (acc.estimate(of, alpha, "session") for acc, of in ((a, mine), (b, theirs)))
    for one in (first, second):
        if one.refused is not None:
            raise Refused(one.refused.code, f"{estimator} and {other or estimator} cannot be compared")
    value = (first.value or 0.0) - (second.value or 0.0)
    kind: Kind = "model-based" if "model-based" in (first.kind, second.kind) else "model-free"
    if kind == "model-based":
        found = Interval(None, None)
    elif interval == "bootstrap":
        found = _paired_bootstrap(a, b, mine, theirs, alpha)
    else:
        parts = [of.residuals(acc.sums.by_bucket(), acc.sums.total()) for acc, of in ((a, mine), (b, theirs))]
        found = by_session(value, parts[0] - parts[1], alpha)
    warnings = list({warned.code: warned for warned in (*first.warnings, *second.warnings)}.values())
    return Estimate(value, found.low, found.high, found.se, first.n, first.sessions, kind=kind, warnings=warnings)


def _paired_bootstrap(
    a: Accumulator, b: Accumulator, mine: Estimator[Rows], theirs: Estimator[Rows], alpha: float
) -> Interval:
    both = {f"a.{name}": part for name, part in mine.needed(a.sums.by_bucket()).items()}
    both |= {f"b.{name}": part for name, part in theirs.needed(b.sums.by_bucket()).items()}

    def value(sums: Mapping[str, Floats]) -> Floats:
        first = mine.value({name[2:]: part for name, part in sums.items() if name[0] == "a"})
        return first - theirs.value({name[2:]: part for name, part in sums.items() if name[0] == "b"})

    return bootstrap(value, both, alpha)


def _same_rows(a: Accumulator, b: Accumulator) -> None:
    """Rows and rewards by bucket tell two logs apart; sums of shards may differ in their last bits."""
    same = a.sums.buckets == b.sums.buckets and a.sums.rows == b.sums.rows
    if same and a is not b:
        for name in ("n", "r"):
            left, right = (acc.sums.table[acc.sums.columns.index(name)] for acc in (a, b))
            same = same and bool(np.allclose(left, right, rtol=1e-9, atol=1e-9))
    if not same:
        raise Refused(DIFFERENT_ROWS, f"{a.sums.rows} rows on one side and {b.sums.rows} on the other do not match")
