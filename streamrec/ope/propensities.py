"""What the propensities of a log look like: equal, rounded, or certain."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamrec.ope.arrays import floats, packed
from streamrec.ope.rows import Floats

SAMPLE = 10_000
"""Rows at the beginning of the log whose decimals are looked at."""

ROUNDED_SHARE = 0.9
"""Share of rows with few decimals from which a log counts as rounded: some fall back to a rule such as 1 / items."""

MOST_DECIMALS = 8
"""Decimals up to which rounding is looked for."""

FINE = 100
"""Units of the last decimal from which rounding moves a weight by at most half a percent."""

EXACT = 20
"""Different values up to which few decimals are taken for a design (epsilon-greedy), not for rounding."""

EQUAL = 0.01
"""Relative spread of propensities up to which a log counts as uniform."""


@dataclass
class Propensities:
    """Extremes and certainties of the propensities seen, and the first 10,000 of them."""

    rows: int = 0
    certain: int = 0
    smallest: float = math.inf
    largest: float = 0.0
    sample: Floats = field(default_factory=lambda: np.zeros(0))

    def add(self, propensity: Floats) -> None:
        """Take in [n]."""
        if len(propensity) == 0:
            return
        self.rows += len(propensity)
        self.smallest = min(self.smallest, float(propensity.min()))
        self.largest = max(self.largest, float(propensity.max()))
        if self.largest >= 1 - 1e-12:
            self.certain += int((propensity >= 1 - 1e-12).sum())
        if len(self.sample) < SAMPLE:
            self.sample = np.concatenate([self.sample, propensity])[:SAMPLE]

    @property
    def uniform(self) -> bool:
        """All rows have the same propensity, within 1 %."""
        return self.largest <= self.smallest * (1 + EQUAL)

    @property
    def decimals(self) -> int | None:
        """Decimals that nine of ten of the first rows have at most; None where they have more than 8."""
        for decimals in range(1, MOST_DECIMALS + 1):
            if len(self.sample) and _multiples(self.sample, decimals).mean() >= ROUNDED_SHARE:
                return decimals
        return None

    @property
    def rounded(self) -> bool:
        """Propensities have few decimals, so few that rounding may change the largest weight by over half a percent.

        Up to 20 different values count as exact, unless they are one that is not 1 / a whole number.
        """
        decimals = self.decimals
        if decimals is None or self.smallest * 10**decimals >= FINE:
            return False
        items = 1 / self.smallest
        return len(np.unique(self.sample)) > EXACT or (self.uniform and abs(items - round(items)) > 1e-6 * items)

    def __add__(self, other: Propensities) -> Propensities:
        return Propensities(
            self.rows + other.rows,
            self.certain + other.certain,
            min(self.smallest, other.smallest),
            max(self.largest, other.largest),
            np.concatenate([self.sample, other.sample])[:SAMPLE],
        )

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = packed(dict(vars(self)))
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"sample": floats(state["sample"])})


def _multiples(values: Floats, decimals: int) -> Any:
    """[n] which of the values have at most so many decimals."""
    scaled = values * 10.0**decimals
    return np.abs(scaled - np.rint(scaled)) <= 1e-6
