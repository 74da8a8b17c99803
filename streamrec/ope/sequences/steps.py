"""One batch of steps with their place in their sequences, and the figures estimators compute from a step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from streamrec.ope.codes import NO_MODEL, Refused
from streamrec.ope.rows import Floats
from streamrec.ope.sequences.live import Ints

LARGEST = 300.0
"""Logarithm of the largest weight told apart; beyond it a value means nothing, and sums must stay finite."""


def grown(log: Floats) -> Floats:
    """Weights from their logarithms, [...]; above e**300 they count as e**300."""
    weights: Floats = np.exp(np.minimum(log, LARGEST))
    return weights


@dataclass(frozen=True)
class Steps:
    """[n] float64 each.

    Args:
        reward: what the step earned.
        log: logarithm of rho_t.
        before: logarithm of rho_(t-1).
        step: t.
        gamma: discount factor of a step.
        q: a model's value of the step's action, with all that follows; None = no model.
        v: the same under the policy; None = no model.
    """

    reward: Floats
    log: Floats
    before: Floats
    step: Ints
    gamma: float
    q: Floats | None = None
    v: Floats | None = None

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def discount(self) -> Floats:
        """gamma**t."""
        discount: Floats = np.exp(self.step * math.log(self.gamma))
        return discount

    def modelled(self) -> tuple[Floats, Floats]:
        """q and v, demanded."""
        if self.q is None or self.v is None:
            raise Refused(NO_MODEL, "sequential_dr needs q and v of every step")
        return self.q, self.v


def begun(steps: Steps) -> Floats:
    """1 at the first step of a sequence: their sum counts sequences."""
    first: Floats = (steps.step == 0).astype(np.float64)
    return first
