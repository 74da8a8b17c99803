"""One batch of logged decisions, checked, and the figures estimators compute from a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from streamrec.ope.codes import BAD_PROPENSITY, BAD_REWARD, BAD_TARGET, NO_MODEL, NO_PROPENSITY, Refused

Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]

SLACK = 1e-9
"""What a probability may lie above 1: sums of floats do."""


@dataclass(frozen=True)
class Rows:
    """Decisions of the log, [n] float64 each.

    Args:
        reward: what the shown item earned.
        propensity: probability with which the logger chose what it showed; None = the log does not say.
        target: probability with which the evaluated policy chooses the shown item; None = it does not say.
        q: a model's expected reward of the shown item; None = no model.
        v: the same model's expected reward under the policy, sum over a of target(a) q(a).

    Raises:
        Refused: `bad_propensity`, `bad_target`, `bad_reward`.
        ValueError: arrays of different lengths.
    """

    reward: Floats
    propensity: Floats | None = None
    target: Floats | None = None
    q: Floats | None = None
    v: Floats | None = None

    def __post_init__(self) -> None:
        check_finite("reward", self.reward)
        for name, column in (("q", self.q), ("v", self.v)):
            if column is not None:
                same_shape(name, column, self.reward)
                check_finite(name, column)
        if self.propensity is not None:
            same_shape("propensity", self.propensity, self.reward)
            check_propensity(self.propensity)
        if self.target is not None:
            same_shape("target", self.target, self.reward)
            check_target(self.target)

    def __len__(self) -> int:
        return len(self.reward)

    @cached_property
    def weight(self) -> Floats:
        """[n] target / propensity. Exactly 1 where the two are equal."""
        if self.propensity is None:
            raise Refused(NO_PROPENSITY, "a weight is target / propensity and the log has no propensity column")
        return self.chosen / self.propensity

    @property
    def chosen(self) -> Floats:
        """[n] the target, demanded."""
        if self.target is None:
            raise ValueError(
                "target is None: expected the policy's probability of each logged item; only dm needs none"
            )
        return self.target

    @property
    def of_logged(self) -> Floats:
        """[n] q, demanded."""
        if self.q is None:
            raise Refused(NO_MODEL, "q is missing")
        return self.q

    @property
    def of_policy(self) -> Floats:
        """[n] v, demanded."""
        if self.v is None:
            raise Refused(NO_MODEL, "v is missing")
        return self.v


Column = Callable[[Rows], Floats]
"""What an estimator adds up: one float64 a row."""


def count(rows: Rows) -> Floats:
    """1 a row."""
    return np.ones(len(rows))


def reward(rows: Rows) -> Floats:
    """r."""
    return rows.reward


def weight(rows: Rows) -> Floats:
    """w = target / propensity."""
    return rows.weight


def weighted_reward(rows: Rows) -> Floats:
    """w r."""
    return rows.weight * rows.reward


def model_value(rows: Rows) -> Floats:
    """v."""
    return rows.of_policy


def weighted_error(rows: Rows) -> Floats:
    """w (r - q): what the model missed, weighted."""
    return rows.weight * (rows.reward - rows.of_logged)


def check_finite(name: str, values: Floats) -> None:
    """Refuse NaN and infinity as `bad_reward`."""
    # NaN and infinities reach the extremes, so two reductions do for a look at each value.
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise Refused(
            BAD_REWARD, f"{int((~np.isfinite(values)).sum())} of {values.size} values of {name} are not finite"
        )


def check_propensity(values: Floats) -> None:
    """Refuse what is no probability of something that happened."""
    if values.size and not (values.min() > 0 and values.max() <= 1 + SLACK):
        odd = ~((values > 0) & (values <= 1 + SLACK))
        raise Refused(BAD_PROPENSITY, f"{int(odd.sum())} of {values.size} propensities, such as {values[odd][0]:g}")


def check_target(values: Floats) -> None:
    """Refuse what is no probability."""
    if values.size and not (values.min() >= 0 and values.max() <= 1 + SLACK):
        odd = ~((values >= 0) & (values <= 1 + SLACK))
        raise Refused(BAD_TARGET, f"{int(odd.sum())} of {values.size} probabilities, such as {values[odd][0]:g}")


def same_shape(name: str, values: Floats, like: Floats) -> None:
    """Stop where two columns do not belong together."""
    if values.shape != like.shape:
        raise ValueError(f"{name} has shape {values.shape}: expected {like.shape}, that of reward")
