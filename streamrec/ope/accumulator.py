"""One pass over logged decisions, and what each estimator says of a policy with an interval that respects sessions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from streamrec.ope import judging
from streamrec.ope.anytime import ConfidenceSequence
from streamrec.ope.codes import (
    BAD_REWARD,
    DEPENDENT_ROWS,
    EMPTY_LOG,
    NO_INTERVAL,
    NO_RANGE,
    NO_SUPPORT,
    REPLAY_NON_UNIFORM,
    Refused,
    Warned,
)
from streamrec.ope.estimate import Estimate, WindowEstimate
from streamrec.ope.estimator import Estimator
from streamrec.ope.estimators.clipped import clipped
from streamrec.ope.estimators.dm import dm
from streamrec.ope.estimators.dr import dr
from streamrec.ope.estimators.dros import dros
from streamrec.ope.estimators.ips import ips
from streamrec.ope.estimators.logged import logged
from streamrec.ope.estimators.matching import matching
from streamrec.ope.estimators.sndr import sndr
from streamrec.ope.estimators.snips import snips
from streamrec.ope.estimators.switch import switch
from streamrec.ope.intervals import Interval, bootstrap, by_session, empirical_bernstein
from streamrec.ope.propensities import Propensities
from streamrec.ope.rows import Column, Floats, Keys, Rows, count, reward, weight
from streamrec.ope.sums import Sums
from streamrec.ope.tails import Tails

IntervalName = Literal["session", "bootstrap", "bernstein", "anytime"]
INTERVALS: tuple[IntervalName, ...] = ("session", "bootstrap", "bernstein", "anytime")
NAMES = ("logged", "matching", "dm", "ips", "snips", "clipped", "switch", "dr", "sndr", "dros")


class Accumulator:
    """Estimates of one policy from rows of a log, in one pass and constant memory; mergeable and resumable.

    A row is one logged decision. The value is that of replacing one decision at a time, in the states the logger
    brought about: not what the policy earns in a world it shapes (see `streamrec.ope.study`).

    `logged`, the mean reward of the log, is there in every accumulator; with target = propensity, `ips` and `snips`
    equal it to the bit.

    Args:
        estimators: of `NAMES`.
        buckets: hash buckets of sessions that intervals are made from.
        reward_range: (least, most) a reward can be. Rewards outside are refused, values outside flagged; the
            intervals `bernstein` and `anytime` need it.
        max_weight: most a weight target / propensity can be, known before the log is read; for `bernstein`.
        clip: weight above which `clipped` clips and `switch` leaves the row to the model.
        lam: lambda of `dros`.
        window_s: width of the windows of time in which drift is looked for; seconds.
    """

    def __init__(
        self,
        estimators: Sequence[str],
        buckets: int = 4096,
        reward_range: tuple[float, float] | None = None,
        max_weight: float | None = None,
        clip: float = 10.0,
        lam: float = 50.0,
        window_s: float = 86_400.0,
    ) -> None:
        self._check(estimators, reward_range, max_weight, clip, lam)
        self.names, self.reward_range, self.max_weight = list(dict.fromkeys(estimators)), reward_range, max_weight
        self._settings = (tuple(self.names), buckets, reward_range, max_weight, clip, lam, window_s)
        self.estimators = _made(self.names, clip, lam)
        self._columns = self._wanted()
        self.sums = Sums(list(self._columns), buckets, window_s)
        self.tails, self.propensities = Tails(), Propensities()
        self.max_w = {of.weight: 0.0 for of in self.estimators.values() if of.weight}
        self.gap, self._extremes = 0.0, [math.inf, -math.inf]  # of q and v
        tracked = reward_range if "ips" in self.names else None
        self.sequence = None if tracked is None else ConfidenceSequence(*tracked)

    @staticmethod
    def _check(
        names: Sequence[str], reach: tuple[float, float] | None, heaviest: float | None, clip: float, lam: float
    ) -> None:
        unknown = [name for name in names if name not in NAMES]
        if unknown:
            raise ValueError(f"unknown estimators {', '.join(unknown)}: expected some of {', '.join(NAMES)}")
        if reach is not None and not reach[0] < reach[1]:
            raise ValueError(f"reward_range is {reach}: expected (least, most) with least < most")
        if heaviest is not None and not heaviest > 0:
            raise ValueError(f"max_weight is {heaviest:g}: expected the largest target / propensity, above 0")
        if not (clip > 0 and lam > 0):
            raise ValueError(f"clip={clip:g}, lam={lam:g}: expected both above 0")

    def _wanted(self) -> dict[str, Column]:
        columns: dict[str, Column] = {"n": count, "r": reward}
        for estimator in self.estimators.values():
            columns |= estimator.columns
            if estimator.weight:
                columns[estimator.weight] = _weights(estimator)
                columns[f"{estimator.weight}^2"] = _squared(_weights(estimator))
            if estimator.model:
                columns["q-r"] = _excess
            if estimator.mean and self.reward_range and self.max_weight and estimator.heaviest:
                columns[f"{estimator.mean}^2"] = _squared(estimator.columns[estimator.mean])
        if self._weighted:
            columns["w"] = weight
        return columns

    @property
    def _weighted(self) -> bool:
        return any(of.weight not in (None, "t") for of in self.estimators.values())

    def add(
        self,
        reward: ArrayLike,
        propensity: ArrayLike | None = None,
        target: ArrayLike | None = None,
        session: Keys | None = None,
        q: ArrayLike | None = None,
        v: ArrayLike | None = None,
        time: ArrayLike | None = None,
        unsupported: ArrayLike | None = None,
    ) -> None:
        """Add a batch of rows, [n] each, in the order of the log.

        Args:
            reward: what the shown item earned.
            propensity: probability with which the logger chose the shown item.
            target: probability with which the policy chooses it.
            session: 64-bit hash of the row's session; None = there are no sessions.
            q: model's expected reward of the shown item.
            v: model's expected reward under the policy.
            time: seconds since the epoch, for windows.
            unsupported: the policy's probability of candidates the logger shows with probability 0, where the log
                says so.

        Raises:
            Refused: `no_propensity`, `bad_propensity`, `bad_target`, `bad_reward`, `no_model`, `no_range`.
            ValueError: shapes that do not fit, no target, or sessions or times in some batches only.
        """
        rows = Rows(_floats(reward), _maybe(propensity), _maybe(target), _maybe(q), _maybe(v))
        self._check_range(rows)
        values = {name: column(rows) for name, column in self._columns.items()}
        mixed = self.sums.keys(session, len(rows))
        self.sums.add(values, mixed, _maybe(time), session is not None)
        if len(rows) == 0:
            return
        for name in self.max_w:
            self.max_w[name] = max(self.max_w[name], float(values[name].max()))
        self._add_weights(rows, mixed)
        self.gap += 0.0 if unsupported is None else float(np.sum(unsupported))

    def _add_weights(self, rows: Rows, mixed: Keys) -> None:
        if rows.propensity is not None:
            self.propensities.add(rows.propensity)
        if self._weighted:
            self.tails.add(rows.weight, rows.reward, mixed)
        if self.sequence is not None:
            self.sequence.add(rows.weight, rows.reward)
        for part in (rows.q, rows.v):
            if part is not None:
                low, high = self._extremes
                self._extremes = [min(low, float(part.min())), max(high, float(part.max()))]

    def _check_range(self, rows: Rows) -> None:
        if len(rows) == 0:
            return
        if self.reward_range is not None:
            low, high = self.reward_range
            if rows.reward.min() < low or rows.reward.max() > high:
                raise Refused(BAD_REWARD, f"a reward lies outside the declared range [{low:g}, {high:g}]")
        if self.max_weight is not None and self._weighted and rows.weight.max() > self.max_weight * (1 + 1e-9):
            raise Refused(NO_RANGE, f"a weight of {rows.weight.max():g} exceeds max_weight {self.max_weight:g}")

    def result(self, alpha: float = 0.05, interval: IntervalName = "session") -> dict[str, Estimate]:
        """Every estimator's estimate, the mean of the log first.

        Args:
            alpha: 0.05 for a 95 % interval.
            interval: "session" (delta method on session buckets), "bootstrap" (of session buckets), "bernstein"
                (empirical Bernstein, rows taken as independent), "anytime" (confidence sequence, of `ips`).

        Raises:
            Refused: `empty_log`; `no_range` where the interval needs what was not declared.
            ValueError: an alpha outside (0, 1), or an unknown interval.
        """
        if not 0 < alpha < 1:
            raise ValueError(f"alpha is {alpha:g}: expected a number between 0 and 1, 0.05 for a 95 % interval")
        if interval not in INTERVALS:
            raise ValueError(f"unknown interval {interval!r}: expected one of {', '.join(INTERVALS)}")
        if self.sums.rows == 0:
            raise Refused(EMPTY_LOG, "no row was added")
        if interval in ("bernstein", "anytime") and self.reward_range is None:
            raise Refused(NO_RANGE, f"interval {interval} without reward_range")
        if interval == "bernstein" and self.max_weight is None:
            raise Refused(NO_RANGE, "interval bernstein without max_weight")
        return {name: self.estimate(of, alpha, interval) for name, of in self.estimators.items()}

    def windows(self, estimator: str) -> list[WindowEstimate]:
        """The estimator's value in each window of time; empty without times."""
        return judging.by_window(self.estimators[estimator], self.sums)

    def estimate(self, of: Estimator[Rows], alpha: float, kind: IntervalName) -> Estimate:
        """One estimator's estimate; `result` has them all, and checks its arguments."""
        total = self.sums.total()
        ess, max_w = self._spread(of)
        refused = self._refusal(of, total)
        if refused is not None:
            n, sessions = self.sums.rows, self.sums.sessions
            return Estimate(None, None, None, None, n, sessions, ess, max_w, of.kind, [], refused)
        value = float(of.value(total))
        interval, found = self._interval(of, value, alpha, kind)
        found += self._warnings(of, value, ess, max_w)
        ends, n = (interval.low, interval.high, interval.se), self.sums.rows
        return Estimate(value, *ends, n, self.sums.sessions, ess, max_w, of.kind, found)

    def _spread(self, of: Estimator[Rows]) -> tuple[float | None, float | None]:
        if of.weight is None:
            return None, None
        total = self.sums.total()
        squares = float(total[f"{of.weight}^2"])
        return (float(total[of.weight]) ** 2 / squares if squares else 0.0), self.max_w[of.weight]

    def _refusal(self, of: Estimator[Rows], total: dict[str, Floats]) -> Warned | None:
        if of.uniform and not self.propensities.rows:
            return _as_warned(Refused("no_propensity", "whether the log is uniform cannot be seen"))
        if of.uniform and not self.propensities.uniform:
            text = f"propensities lie between {self.propensities.smallest:g} and {self.propensities.largest:g}"
            return _as_warned(Refused(REPLAY_NON_UNIFORM, text))
        if of.weight and float(total[of.weight]) == 0:
            return _as_warned(Refused(NO_SUPPORT, f"all weights of {of.name} are 0"))
        return None

    def _interval(
        self, of: Estimator[Rows], value: float, alpha: float, kind: IntervalName
    ) -> tuple[Interval, list[Warned]]:
        none = Interval(None, None)
        if of.kind == "model-based":
            text = "the spread of a model's predictions is not the error of the model"
            return none, [Warned.of(NO_INTERVAL, text)]
        if kind == "session":
            residuals = of.residuals(self.sums.by_bucket(), self.sums.total())
            return by_session(value, residuals, alpha), []
        if kind == "bootstrap":
            return bootstrap(of.value, of.needed(self.sums.by_bucket()), alpha), []
        if kind == "bernstein":
            return self._bernstein(of, alpha)
        if self.sequence is None or of.name != "ips":
            return none, [Warned.of(NO_INTERVAL, f"the confidence sequence is that of ips, not of {of.name}")]
        return self.sequence.interval(alpha), []

    def _bernstein(self, of: Estimator[Rows], alpha: float) -> tuple[Interval, list[Warned]]:
        bounds = self._bounds(of)
        if bounds is None or of.mean is None:
            text = f"{of.name} is no mean of rows within known bounds"
            return Interval(None, None), [Warned.of(NO_INTERVAL, text)]
        total, n = self.sums.total(), self.sums.rows
        interval = empirical_bernstein(n, float(total[of.mean]), float(total[f"{of.mean}^2"]), *bounds, alpha)
        if not self.sums.known or n <= 1.01 * self.sums.sessions:
            return interval, []
        text = f"sessions have {n / self.sums.sessions:.1f} rows and the Bernstein interval takes rows as independent"
        return interval, [Warned.of(DEPENDENT_ROWS, text)]

    def _bounds(self, of: Estimator[Rows]) -> tuple[float, float] | None:
        """What a row's figure can be, from the range of rewards and the largest weight."""
        if self.reward_range is None or self.max_weight is None or of.heaviest is None:
            return None
        (low, high), most = self.reward_range, of.heaviest(self.max_weight)
        if of.name == "logged":
            return low, high
        if not of.model:
            return min(0.0, low * most), max(0.0, high * most)
        if self._extremes[0] < low or self._extremes[1] > high:
            return None  # a model that says what no reward can be bounds nothing
        return low - most * (high - low), high + most * (high - low)

    def _warnings(self, of: Estimator[Rows], value: float, ess: float | None, max_w: float | None) -> list[Warned]:
        total, by_bucket, n = self.sums.total(), self.sums.by_bucket(), self.sums.rows
        found = judging.model_based(of.kind)
        if of.weight and ess is not None and max_w is not None:
            found += judging.weights(ess, max_w, float(total[of.weight]), n)
            found += judging.logger(self.propensities) + judging.support(self.gap / n)
        if of.weight and of.weight != "t":
            found += judging.mean_weight(by_bucket, total)
        if of.model:
            found += judging.overestimation(by_bucket, total)
        found += judging.reach(value, self.reward_range) + judging.sessions(self.sums.sessions, self.sums.known)
        if of.kind == "model-free":
            found += judging.heaviness(value, of.residuals(by_bucket, total), by_bucket["n"] / total["n"])
            found += judging.drift(value, self.windows(of.name))
        return found

    def __add__(self, other: Accumulator) -> Accumulator:
        """The accumulator of both logs; `self`'s rows come first.

        Raises:
            ValueError: different settings.
        """
        if self._settings != other._settings:
            raise ValueError(f"accumulators differ in their settings, {self._settings} and {other._settings}")
        names, buckets, reach, heaviest, clip, lam, window_s = self._settings
        both = Accumulator(names, buckets, reach, heaviest, clip, lam, window_s)
        both.sums, both.tails = self.sums + other.sums, self.tails + other.tails
        both.propensities = self.propensities + other.propensities
        both.max_w = {name: max(most, other.max_w[name]) for name, most in self.max_w.items()}
        both.gap = self.gap + other.gap
        low, high = zip(self._extremes, other._extremes, strict=True)
        both._extremes = [min(low), max(high)]
        if self.sequence is not None and other.sequence is not None:
            both.sequence = self.sequence + other.sequence
        return both

    def state_dict(self) -> dict[str, Any]:
        """Everything but the settings: tensors and JSON values."""
        return {
            "sums": self.sums.state_dict(),
            "tails": self.tails.state_dict(),
            "propensities": self.propensities.state_dict(),
            "max_w": dict(self.max_w),
            "gap": self.gap,
            "extremes": list(self._extremes),
            "sequence": None if self.sequence is None else self.sequence.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a `state_dict()` of an accumulator with the same settings.

        Raises:
            ValueError: other estimators or buckets.
        """
        self.sums.load_state_dict(state["sums"])
        self.tails.load_state_dict(state["tails"])
        self.propensities.load_state_dict(state["propensities"])
        self.max_w, self.gap = dict(state["max_w"]), float(state["gap"])
        self._extremes = list(state["extremes"])
        if self.sequence is not None:
            self.sequence.load_state_dict(state["sequence"])


def _made(names: Sequence[str], clip: float, lam: float) -> dict[str, Estimator[Rows]]:
    makers: dict[str, Callable[[], Estimator[Rows]]] = {
        "matching": matching,
        "dm": dm,
        "ips": ips,
        "snips": snips,
        "clipped": lambda: clipped(clip),
        "switch": lambda: switch(clip),
        "dr": dr,
        "sndr": sndr,
        "dros": lambda: dros(lam),
    }
    return {"logged": logged()} | {name: makers[name]() for name in names if name != "logged"}


def _weights(estimator: Estimator[Rows]) -> Column:
    """The weights of an estimator whether or not it sums them for its value."""
    own = estimator.columns.get(estimator.weight or "")
    return weight if own is None else own


def _squared(column: Column) -> Column:
    def squared(rows: Rows) -> Floats:
        figure: Floats = column(rows) ** 2
        return figure

    return squared


def _excess(rows: Rows) -> Floats:
    """q - r; 0 where only v is given, as `dm` needs no more."""
    return np.zeros(len(rows)) if rows.q is None else rows.q - rows.reward


def _as_warned(refused: Refused) -> Warned:
    return Warned(refused.code, str(refused))


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _maybe(values: ArrayLike | None) -> Floats | None:
    return None if values is None else np.asarray(values, dtype=np.float64)
