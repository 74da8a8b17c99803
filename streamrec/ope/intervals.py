"""Intervals from sums by bucket of sessions, and from bounded rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from streamrec.ope.rows import Floats
from streamrec.ope.student import student

_AT_ONCE = 128

Value = Callable[[Mapping[str, Floats]], Floats]


@dataclass(frozen=True)
class Interval:
    """Ends and standard error; None where there is none."""

    low: float | None
    high: float | None
    se: float | None = None


def by_session(value: float, residuals: Floats, alpha: float) -> Interval:
    """Delta method on a ratio of bucket sums: se**2 = sum of squared residuals, ends value +- t se.

    The cluster-robust (sandwich) variance without small-sample factor (Liang, Zeger, Biometrika 1986), with Student's
    quantile at one degree of freedom fewer than there are buckets in use. With one session a bucket it is clustering
    by session; with several the buckets are as independent as the sessions, only fewer.

    Args:
        value: the estimate.
        residuals: [buckets in use] influence of each on the value.
        alpha: 0.05 for a 95 % interval.
    """
    if len(residuals) < 2:
        return Interval(None, None)
    se = math.sqrt(float((residuals**2).sum()))
    half = student(1 - alpha / 2, len(residuals) - 1) * se
    return Interval(value - half, value + half, se)


def bootstrap(
    value: Value, by_bucket: Mapping[str, Floats], alpha: float, draws: int = 2000, seed: int = 0
) -> Interval:
    """Percentile interval of the value over resampled buckets (cluster bootstrap; Efron, Tibshirani 1993, ch. 13).

    Numerators and denominators are resampled together, so it fits self-normalised estimators.

    Args:
        value: sums of shape [draws] -> values [draws].
        by_bucket: column -> [buckets in use].
        alpha: 0.05 for a 95 % interval.
        draws: resamples.
        seed: of the resampling: the same sums give the same interval.
    """
    n = len(next(iter(by_bucket.values())))
    if n < 2:
        return Interval(None, None)
    values, table = [], np.stack(list(by_bucket.values()), axis=1)
    for times in resamples(n, draws, seed):
        sums = times @ table
        values.append(value({name: sums[:, at] for at, name in enumerate(by_bucket)}))
    return percentile(np.concatenate(values), alpha)


def resamples(n: int, draws: int, seed: int) -> Iterator[Floats]:
    """How often each of n units occurs in n drawn with replacement; [at most 128, n] at a time."""
    generator = np.random.default_rng(seed)
    for start in range(0, draws, _AT_ONCE):
        size = min(_AT_ONCE, draws - start)
        cells = generator.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(cells.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def percentile(drawn: Floats, alpha: float) -> Interval:
    """Quantiles of [draws] values and their standard deviation; draws that missed all support are left out."""
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < 2:
        return Interval(None, None)
    low, high = np.quantile(drawn, [alpha / 2, 1 - alpha / 2])
    return Interval(float(low), float(high), float(drawn.std(ddof=1)))


def empirical_bernstein(n: float, total: float, squares: float, low: float, high: float, alpha: float) -> Interval:
    """Holds at every n for independent rows in [low, high] (Maurer, Pontil, COLT 2009, theorem 4, alpha/2 a side).

    mean +- [sqrt(2 var ln(4/alpha) / n) + 7 (high - low) ln(4/alpha) / (3 (n - 1))], var with n - 1. Cut at the range.

    Args:
        n: rows.
        total: sum of the rows' figures.
        squares: sum of their squares.
        low: least a row can be.
        high: most a row can be.
        alpha: 0.05 for a 95 % interval.
    """
    if n < 2:
        return Interval(None, None)
    mean = total / n
    variance = max(0.0, (squares - n * mean * mean) / (n - 1))
    log = math.log(4 / alpha)
    half = math.sqrt(2 * variance * log / n) + 7 * (high - low) * log / (3 * (n - 1))
    return Interval(max(low, mean - half), min(high, mean + half))
