"""Quantiles of the normal and of Student's t distribution."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_SERIES_FROM = 2000
"""Degrees of freedom from which the expansion in 1 / freedom has more digits than the incomplete beta function."""


@lru_cache(maxsize=1024)
def student(p: float, freedom: float) -> float:
    """The p-quantile of Student's t with `freedom` degrees, to better than 1e-10.

    Raises:
        ValueError: p outside (0, 1), or no degree of freedom.
    """
    if not (0 < p < 1 and freedom > 0):
        raise ValueError(f"p={p:g}, freedom={freedom:g}: expected 0 < p < 1 and at least one degree of freedom")
    if p < 0.5:
        return -student(1 - p, freedom)
    if p == 0.5:
        return 0.0
    if freedom >= _SERIES_FROM:
        return _expanded(NormalDist().inv_cdf(p), freedom)
    low, high = 0.0, 2.0
    while above(high, freedom) > 1 - p:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle, freedom) > 1 - p else (low, middle)
    return (low + high) / 2


def _expanded(z: float, n: float) -> float:
    """From the normal's quantile z to that of t (Abramowitz, Stegun, 1964, 26.7.5)."""
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / n**at for at, term in enumerate(terms, start=1))


def above(t: float, freedom: float) -> float:
    """P(T > t) for t >= 0: half the regularised incomplete beta function I_x(freedom / 2, 1 / 2)."""
    x = freedom / (freedom + t * t)
    return 0.5 * _beta(x, freedom / 2, 0.5)


def _beta(x: float, a: float, b: float) -> float:
    """I_x(a, b) by its continued fraction (DLMF 8.17.22), from whichever end it converges fast."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    value = 1.0
    for m in range(300, 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        value = 1 + even / (1 + odd / value)
    return front / (1 - (a + b) / (a + 1) * x / value)
