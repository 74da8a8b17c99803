"""One batch of logged slates, checked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from streamrec.ope.codes import NO_MODEL, NO_PROPENSITY, Refused
from streamrec.ope.rows import Floats, check_finite, check_propensity, check_target, same_shape


@dataclass(frozen=True)
class Slates:
    """Slates of the log, [n, L] float64 each; what stands in an empty slot is ignored.

    Args:
        reward: what each slot earned.
        filled: which slots held an item; slots are filled from the first on.
        propensity_prefix: probability of the slot's item given the items above it, under the logger.
        target_prefix: the same under the policy.
        propensity_slot: marginal probability of the slot's item, under the logger.
        target_slot: the same under the policy.
        q: a model's expected reward of this slot and those below it, given the items down to this slot.
        v: q averaged over the policy's choice for this slot, given the items above it.

    Raises:
        Refused: `bad_propensity`, `bad_target`, `bad_reward`.
        ValueError: arrays of different shapes, or a filled slot below an empty one.
    """

    reward: Floats
    filled: NDArray[np.bool_]
    propensity_prefix: Floats | None = None
    target_prefix: Floats | None = None
    propensity_slot: Floats | None = None
    target_slot: Floats | None = None
    q: Floats | None = None
    v: Floats | None = None

    def __post_init__(self) -> None:
        if self.reward.ndim != 2 or self.filled.shape != self.reward.shape:
            raise ValueError(f"reward has shape {self.reward.shape} and filled {self.filled.shape}: expected [n, L]")
        if (self.filled[:, 1:] & ~self.filled[:, :-1]).any():
            raise ValueError("a slot below an empty one is filled: expected slots filled from the first on")
        check_finite("reward", self.reward[self.filled])
        for name in ("propensity_prefix", "target_prefix", "propensity_slot", "target_slot", "q", "v"):
            column = getattr(self, name)
            if column is not None:
                same_shape(name, column, self.reward)
                self._check(name, column[self.filled])

    @staticmethod
    def _check(name: str, values: Floats) -> None:
        if name in ("q", "v"):
            check_finite(name, values)
        elif name.startswith("propensity"):
            check_propensity(values)
        else:
            check_target(values)

    def __len__(self) -> int:
        return len(self.reward)

    @cached_property
    def rewards(self) -> Floats:
        """[n, L] rewards, 0 in empty slots."""
        return np.where(self.filled, self.reward, 0.0)

    @cached_property
    def total(self) -> Floats:
        """[n] reward of the slate."""
        summed: Floats = self.rewards.sum(1)
        return summed

    @cached_property
    def prefix(self) -> Floats:
        """[n, L] u_1 ... u_l: the ratio of the probabilities of all items down to slot l."""
        ratio = self._ratio("prefix", self.target_prefix, self.propensity_prefix)
        return np.asarray(np.cumprod(ratio, axis=1), dtype=np.float64)

    @cached_property
    def above(self) -> Floats:
        """[n, L] u_1 ... u_(l-1), 1 for the first slot."""
        return np.concatenate([np.ones((len(self), 1)), self.prefix[:, :-1]], axis=1)

    @cached_property
    def slot(self) -> Floats:
        """[n, L] w_l; 1 in empty slots."""
        return self._ratio("slot", self.target_slot, self.propensity_slot)

    def _ratio(self, kind: str, target: Floats | None, propensity: Floats | None) -> Floats:
        if propensity is None:
            raise Refused(NO_PROPENSITY, f"propensity_{kind} is missing")
        if target is None:
            raise ValueError(f"target_{kind} is None: expected the policy's probabilities of the logged items")
        return np.where(self.filled, target, 1.0) / np.where(self.filled, propensity, 1.0)

    def modelled(self) -> tuple[Floats, Floats]:
        """q and v, [n, L], 0 in empty slots."""
        if self.q is None or self.v is None:
            raise Refused(NO_MODEL, "cascade_dr needs q and v of every slot")
        return np.where(self.filled, self.q, 0.0), np.where(self.filled, self.v, 0.0)

    def mean(self, weights: Floats) -> Floats:
        """[n] mean of [n, L] weights over the filled slots; 1 of an empty slate."""
        slots = self.filled.sum(1)
        mean: Floats = np.where(slots > 0, (weights * self.filled).sum(1) / np.maximum(slots, 1), 1.0)
        return mean


def count(slates: Slates) -> Floats:
    """1 a slate."""
    return np.ones(len(slates))
