"""One pass over logged slates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from streamrec.ope import judging
from streamrec.ope.codes import EMPTY_LOG, Refused
from streamrec.ope.estimate import Estimate, WindowEstimate
from streamrec.ope.estimator import Estimator
from streamrec.ope.rows import Floats, Keys
from streamrec.ope.slates.cascade_dr import cascade_dr
from streamrec.ope.slates.iips import iips
from streamrec.ope.slates.pi import pi
from streamrec.ope.slates.rips import rips
from streamrec.ope.slates.rows import Slates, count
from streamrec.ope.slates.sips import sips
from streamrec.ope.sums import Sums
from streamrec.ope.valuing import ClusterInterval, check, valued

_MAKERS: dict[str, Callable[[], Estimator[Slates]]] = {
    "sips": sips,
    "iips": iips,
    "rips": rips,
    "pi": pi,
    "cascade_dr": cascade_dr,
}
NAMES = ("logged", *_MAKERS)


class SlateAccumulator:
    """Estimates of one policy from logged slates, in one pass and constant memory; mergeable and resumable.

    The value is the expected sum of rewards of a slate. `logged`, the mean sum in the log, is always there.

    Args:
        estimators: of `NAMES`.
        buckets: hash buckets of sessions that intervals are made from.
        reward_range: (least, most) a slate can earn; values outside are flagged.
        window_s: width of the windows of time in which drift is looked for; seconds.
    """

    def __init__(
        self,
        estimators: Sequence[str],
        buckets: int = 4096,
        reward_range: tuple[float, float] | None = None,
        window_s: float = 86_400.0,
    ) -> None:
        unknown = [name for name in estimators if name not in NAMES]
        if unknown:
            raise ValueError(f"unknown estimators {', '.join(unknown)}: expected some of {', '.join(NAMES)}")
        self.names, self.reward_range = list(dict.fromkeys(estimators)), reward_range
        self._settings = (tuple(self.names), buckets, reward_range, window_s)
        self.estimators = {"logged": _logged()} | {name: _MAKERS[name]() for name in self.names if name != "logged"}
        self._columns: dict[str, Callable[[Slates], Floats]] = {}
        for of in self.estimators.values():
            self._columns |= of.columns
            if of.weight:
                self._columns[f"{of.weight}^2"] = _squared(of.columns[of.weight])
        self.sums = Sums(list(self._columns), buckets, window_s)
        self.max_w = {of.weight: 0.0 for of in self.estimators.values() if of.weight}

    def add(
        self,
        reward: ArrayLike,
        session: Keys | None = None,
        time: ArrayLike | None = None,
        filled: ArrayLike | None = None,
        propensity_prefix: ArrayLike | None = None,
        target_prefix: ArrayLike | None = None,
        propensity_slot: ArrayLike | None = None,
        target_slot: ArrayLike | None = None,
        q: ArrayLike | None = None,
        v: ArrayLike | None = None,
    ) -> None:
        """Add a batch of slates: [n, L] as in `Slates`, sessions [n] and times [n] as in `Accumulator.add`.

        Raises:
            Refused: `no_propensity`, `bad_propensity`, `bad_target`, `bad_reward`, `no_model`.
            ValueError: shapes that do not fit.
        """
        rewards = np.asarray(reward, dtype=np.float64)
        held = np.ones(rewards.shape, dtype=bool) if filled is None else np.asarray(filled, dtype=bool)
        ratios = (propensity_prefix, target_prefix, propensity_slot, target_slot, q, v)
        slates = Slates(rewards, held, *(None if one is None else np.asarray(one, dtype=np.float64) for one in ratios))
        values = {name: column(slates) for name, column in self._columns.items()}
        mixed = self.sums.keys(session, len(slates))
        when = None if time is None else np.asarray(time, dtype=np.float64)
        self.sums.add(values, mixed, when, session is not None)
        for name in self.max_w if len(slates) else ():
            self.max_w[name] = max(self.max_w[name], float(values[name].max()))

    def result(self, alpha: float = 0.05, interval: ClusterInterval = "session") -> dict[str, Estimate]:
        """Every estimator's estimate, the mean of the log first.

        Raises:
            Refused: `empty_log`.
            ValueError: an alpha outside (0, 1), or an unknown interval.
        """
        check(alpha, interval)
        if self.sums.rows == 0:
            raise Refused(EMPTY_LOG, "no slate was added")
        return {name: self._estimate(of, alpha, interval) for name, of in self.estimators.items()}

    def _estimate(self, of: Estimator[Slates], alpha: float, interval: ClusterInterval) -> Estimate:
        max_w = self.max_w[of.weight] if of.weight else None
        sums = self.sums
        found = valued(of, sums.by_bucket(), sums.sessions, sums.known, max_w, self.reward_range, alpha, interval)
        if found.value is not None:
            found.warnings.extend(judging.drift(found.value, self.windows(of.name)))
        return found

    def windows(self, estimator: str) -> list[WindowEstimate]:
        """The estimator's value in each window of time; empty without times."""
        return judging.by_window(self.estimators[estimator], self.sums)

    def __add__(self, other: SlateAccumulator) -> SlateAccumulator:
        """The accumulator of both logs.

        Raises:
            ValueError: different settings.
        """
        if self._settings != other._settings:
            raise ValueError(f"accumulators differ in their settings, {self._settings} and {other._settings}")
        both = SlateAccumulator(*self._settings)
        both.sums = self.sums + other.sums
        both.max_w = {name: max(most, other.max_w[name]) for name, most in self.max_w.items()}
        return both

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums.state_dict(), "max_w": dict(self.max_w)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a `state_dict()` of an accumulator with the same settings.

        Raises:
            ValueError: other estimators or buckets.
        """
        self.sums.load_state_dict(state["sums"])
        self.max_w = dict(state["max_w"])


def _logged() -> Estimator[Slates]:
    return Estimator("logged", {"n": count, "r": lambda slates: slates.total}, (("r", "n"),))


def _squared(column: Callable[[Slates], Floats]) -> Callable[[Slates], Floats]:
    def squared(slates: Slates) -> Floats:
        figure: Floats = column(slates) ** 2
        return figure

    return squared
