"""A confidence sequence: an interval one may look at after every row and stop when one likes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from streamrec.ope.arrays import floats, packed
from streamrec.ope.intervals import Interval
from streamrec.ope.rows import Floats

_BETS: Floats = 0.75 * 2.0 ** (-np.arange(48) / 2.0)
"""Bets mixed over; a crossing is tight for sums of squares between about 1 and 2**40."""


class ConfidenceSequence:
    """Time-uniform bounds of the mean inverse-propensity value, for rewards of a declared range and any weights.

    Lower bound: with x_i = w_i (r_i - low) / (high - low) >= 0 and a guess m_i in [0, 1] made before row i, the
    product of exp(b (x_i - mu_i) - psi(b) (x_i - m_i)**2), psi(b) = -ln(1 - b) - b, is a supermartingale for every bet
    b in [0, 1), mu_i the expectation of x_i given what came before (empirical Bernstein: Howard, Ramdas, McAuliffe,
    Sekhon, Ann. Stat. 2021, theorem 4; Waudby-Smith, Ramdas, JRSSB 2024, theorem 2, uses the same inequality). Bets are
    mixed with equal weights and Ville's inequality inverted in the sum of mu_i. Upper bound: the same of high - r.
    No bound on the weights is needed (Waudby-Smith, Wu, Ramdas, Karampatziakis, Mineiro, 2022, arXiv 2210.10768).

    What is covered is the mean over rows of the policy's expected reward given the past, so rows of a session may
    depend on each other, the logger may learn and the value may drift. It needs true propensities (E[w] = 1 given the
    past). Departures from the papers: equal weights on a grid of bets instead of a conjugate mixture or
    predictable bets; then the state is three sums a side, the order of rows matters only through the guesses, and
    states of shards add up to a valid state.

    Args:
        low: least reward.
        high: largest reward.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high, self.n = low, high, 0
        self.sums = np.zeros((2, 2))  # [side, (sum x, sum (x - guess)**2)]

    def add(self, weight: Floats, reward: Floats) -> None:
        """Add rows in their order: weights and rewards [n]."""
        if len(weight) == 0:
            return
        unit = (reward - self.low) / (self.high - self.low)
        for side, share in enumerate((unit, 1 - unit)):
            self.sums[side] = self._folded(side, weight * share)
        self.n += len(weight)

    def _folded(self, side: int, x: Floats) -> tuple[float, float]:
        running = np.cumsum(np.concatenate([self.sums[side, :1], x]))
        guess = np.minimum(1.0, running[:-1] / np.maximum(1, self.n + np.arange(len(x))))
        squares = np.cumsum(np.concatenate([self.sums[side, 1:], (x - guess) ** 2]))
        return float(running[-1]), float(squares[-1])

    def interval(self, alpha: float) -> Interval:
        """Bounds that hold at all times together with probability 1 - alpha."""
        if self.n == 0:
            return Interval(None, None)
        below, above = (self._bound(side, alpha / 2) for side in (0, 1))
        width = self.high - self.low
        return Interval(self.low + width * below, self.high - width * above)

    def _bound(self, side: int, alpha: float) -> float:
        """A lower bound of the mean of mu_i on one side, at least 0 and at most 1."""
        total, squares = float(self.sums[side, 0]), float(self.sums[side, 1])
        spent = (-np.log1p(-_BETS) - _BETS) * squares + math.log(len(_BETS))

        def log_wealth(excess: float) -> float:
            return float(np.logaddexp.reduce(_BETS * excess - spent))

        low, high = 0.0, 1.0
        while log_wealth(high) < math.log(1 / alpha):
            high *= 2
        for _ in range(64):
            middle = (low + high) / 2
            low, high = (middle, high) if log_wealth(middle) < math.log(1 / alpha) else (low, middle)
        return min(1.0, max(0.0, (total - high) / self.n))

    def __add__(self, other: ConfidenceSequence) -> ConfidenceSequence:
        both = ConfidenceSequence(self.low, self.high)
        both.n, both.sums = self.n + other.n, self.sums + other.sums
        return both

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = packed({"n": self.n, "sums": self.sums})
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.n, self.sums = int(state["n"]), floats(state["sums"])
