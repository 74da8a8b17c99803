"""What an estimator is: sums over rows, and a value that is a sum of their ratios."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np

from streamrec.ope.rows import Floats

Kind = Literal["model-free", "model-based", "ranking"]
R = TypeVar("R")


@dataclass(frozen=True)
class Estimator(Generic[R]):
    """value = sum over terms of (sum of the numerator's column) / (sum of the denominator's column).

    Everything that intervals need follows: the value is smooth in the sums, so its linearised residual in a bucket of
    sessions is gradient . bucket's sums, and those residuals add up to 0.

    Args:
        name: what the user calls it.
        columns: column -> what a row adds to it. The same name must mean the same in every estimator.
        terms: pairs (numerator, denominator) of columns.
        weight: column of the weights the value rests on, for its effective sample size; None = none.
        heaviest: largest weight behind a row, from the largest target / propensity: what bounds a row's figure.
        model: uses q and v.
        kind: "model-based" where a wrong model makes a wrong value however long the log.
        uniform: needs a log in which all propensities are equal.
    """

    name: str
    columns: Mapping[str, Callable[[R], Floats]]
    terms: tuple[tuple[str, str], ...]
    weight: str | None = None
    heaviest: Callable[[float], float] | None = None
    model: bool = False
    kind: Kind = "model-free"
    uniform: bool = False

    def value(self, sums: Mapping[str, Floats]) -> Floats:
        """The estimate; sums of any shape give as many. NaN where a denominator is 0."""
        value = np.zeros_like(next(iter(sums.values())))
        with np.errstate(invalid="ignore", divide="ignore"):
            for numerator, denominator in self.terms:
                value = value + sums[numerator] / sums[denominator]
        return np.where(np.isfinite(value), value, np.nan)

    def residuals(self, by_bucket: Mapping[str, Floats], total: Mapping[str, Floats]) -> Floats:
        """[buckets] influence of each bucket on the value, by the delta method; sums to 0."""
        residual = np.zeros_like(next(iter(by_bucket.values())))
        for numerator, denominator in self.terms:
            ratio = total[numerator] / total[denominator]
            residual = residual + (by_bucket[numerator] - ratio * by_bucket[denominator]) / total[denominator]
        return residual

    def needed(self, sums: Mapping[str, Floats]) -> dict[str, Floats]:
        """Those of the sums that the value is made of."""
        return {name: sums[name] for term in self.terms for name in term}

    @property
    def mean(self) -> str | None:
        """The column whose mean over rows is the value, where it is one."""
        (first, *more) = self.terms
        return first[0] if not more and first[1] == "n" else None
