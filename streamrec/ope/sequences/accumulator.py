"""One pass over logged steps, mixed over sessions, and what a policy would earn in a session of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from streamrec.ope import judging
from streamrec.ope.arrays import floats, packed
from streamrec.ope.codes import DROPPED_ROWS, EMPTY_LOG, NO_PROPENSITY, NO_SUPPORT, Refused, Warned
from streamrec.ope.estimate import Estimate
from streamrec.ope.estimator import Estimator
from streamrec.ope.intervals import by_session, percentile
from streamrec.ope.rows import Floats, Keys, Rows
from streamrec.ope.sequences.live import Ended, LiveSessions
from streamrec.ope.sequences.pdis import pdis
from streamrec.ope.sequences.sequential_dr import sequential_dr
from streamrec.ope.sequences.steps import Steps, begun, grown
from streamrec.ope.sequences.weighted_pdis import WeightedPdis
from streamrec.ope.sums import Sums
from streamrec.ope.valuing import ClusterInterval, check, valued

_MAKERS: dict[str, Callable[[], Estimator[Steps]]] = {"pdis": pdis, "sequential_dr": sequential_dr}
NAMES = ("logged", "pdis", "weighted_pdis", "sequential_dr")


class SequenceAccumulator:
    """Estimates of one policy from sessions of any length, in one pass; mergeable and resumable.

    The value is the expected discounted sum of rewards of a session in which the policy makes all decisions. It is
    right where the next state depends on what was seen and done before, which a value per decision is not.

    Steps come in the order of time within a session, sessions mixed as they like. Of a session that goes on its weight,
    step and time are kept. Sessions still going on count with what they have so far.

    Args:
        estimators: of `NAMES`.
        gamma: discount factor of a step, in (0, 1].
        timeout_s: silence after which a session is over, seconds of event time.
        buckets: hash buckets of sessions that intervals are made from.
        step_buckets: the same for `weighted_pdis`, which keeps sums by step (24 bytes a bucket and step).
        reward_range: (least, most) the discounted sum of a session can be; values outside are flagged.
    """

    def __init__(
        self,
        estimators: Sequence[str],
        gamma: float = 1.0,
        timeout_s: float = 1800.0,
        buckets: int = 4096,
        step_buckets: int = 1024,
        reward_range: tuple[float, float] | None = None,
    ) -> None:
        unknown = [name for name in estimators if name not in NAMES]
        if unknown:
            raise ValueError(f"unknown estimators {', '.join(unknown)}: expected some of {', '.join(NAMES)}")
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma is {gamma:g}: expected above 0 and at most 1")
        self.names, self.gamma, self.reward_range = list(dict.fromkeys(estimators)), gamma, reward_range
        self._settings = (tuple(self.names), gamma, timeout_s, buckets, step_buckets, reward_range)
        self.estimators = {"logged": _logged()} | {name: _MAKERS[name]() for name in self.names if name in _MAKERS}
        self._columns: dict[str, Callable[[Steps], Floats]] = {}
        for of in self.estimators.values():
            self._columns |= of.columns
        self.sums, self.live = Sums(list(self._columns), buckets), LiveSessions(timeout_s)
        self.weighted = WeightedPdis(gamma, step_buckets) if "weighted_pdis" in self.names else None
        self._ended: Floats = np.zeros((2, buckets))  # weights of ended sequences, and their squares
        self._logs = [-math.inf] * 3  # of the sum of ended weights, of the sum of their squares, of the largest

    def add(
        self,
        reward: ArrayLike,
        propensity: ArrayLike | None,
        target: ArrayLike,
        session: Keys,
        time: ArrayLike,
        q: ArrayLike | None = None,
        v: ArrayLike | None = None,
    ) -> None:
        """Add a batch of steps, [n] each; columns as in `Accumulator.add`, q and v values of all that follows.

        Raises:
            Refused: `no_propensity`, `bad_propensity`, `bad_target`, `bad_reward`, `no_model`.
            ValueError: shapes that do not fit, or a time that is not finite.
        """
        columns = [None if one is None else np.asarray(one, dtype=np.float64) for one in (propensity, target, q, v)]
        rows, when = Rows(np.asarray(reward, dtype=np.float64), *columns), np.asarray(time, dtype=np.float64)
        ratio = _log_ratio(rows)
        if when.shape != ratio.shape or not np.isfinite(when).all():
            raise ValueError(f"time has shape {when.shape}: expected {ratio.shape}, seconds, all of them finite")
        if "sequential_dr" in self.names and (rows.q is None or rows.v is None):
            Steps(rows.reward, ratio, ratio, np.zeros(0, dtype=np.int64), self.gamma).modelled()
        mixed = self.sums.keys(session, len(rows))
        walked, ended = self.live.walk(mixed, ratio, when)
        kept = walked.kept
        q_kept, v_kept = (None if column is None else column[kept] for column in (rows.q, rows.v))
        steps = Steps(rows.reward[kept], walked.log, walked.before, walked.step, self.gamma, q_kept, v_kept)
        self.sums.add({name: column(steps) for name, column in self._columns.items()}, mixed[kept])
        if self.weighted is not None:
            self.weighted.add(steps, mixed[kept])
        self._end(ended)

    def _end(self, ended: Ended) -> None:
        self._ended += self._whole(ended)
        self._logs = _log_sums(self._logs, ended)
        if self.weighted is not None:
            self.weighted.end(ended)

    def _whole(self, ended: Ended) -> Floats:
        """[2, buckets] sums of the sequences' weights and of their squares."""
        bucket, weight = (ended.key % np.uint64(self.sums.buckets)).astype(np.intp), grown(ended.log)
        squares = np.bincount(bucket, weight**2, self.sums.buckets)
        return np.stack([np.bincount(bucket, weight, self.sums.buckets), squares])

    @property
    def sequences(self) -> int:
        """Sequences begun so far."""
        return round(float(self.sums.total()["n"]))

    def result(self, alpha: float = 0.05, interval: ClusterInterval = "session") -> dict[str, Estimate]:
        """Every estimator's estimate, the mean of the log first; `n` counts sequences.

        Raises:
            Refused: `empty_log`.
            ValueError: an alpha outside (0, 1), or an unknown interval.
        """
        check(alpha, interval)
        if self.sums.rows == 0:
            raise Refused(EMPTY_LOG, "no step was added")
        live = self.live.so_far()
        weights = (self._ended + self._whole(live))[:, self.sums.occupied]
        by_bucket = self.sums.by_bucket() | {"w": weights[0], "w^2": weights[1]}
        logs = _log_sums(self._logs, live)
        found = {}
        for name in ("logged", *(name for name in self.names if name != "logged")):
            if name == "weighted_pdis" and self.weighted is not None:
                estimate = self._weighted(self.weighted, live, logs, by_bucket, alpha, interval)
            else:
                of, max_w = self.estimators[name], None if name == "logged" else float(grown(np.array(logs[2])))
                sessions = self.sums.sessions
                estimate = valued(of, by_bucket, sessions, True, max_w, self.reward_range, alpha, interval)
            if self.live.late:
                text = f"{self.live.late} steps older than their session's last were left out"
                estimate.warnings.append(Warned.of(DROPPED_ROWS, text))
            found[name] = estimate
        return found

    def _weighted(
        self,
        weighted: WeightedPdis,
        live: Ended,
        logs: list[float],
        by_bucket: dict[str, Floats],
        alpha: float,
        interval: ClusterInterval,
    ) -> Estimate:
        n, sessions, max_w = self.sequences, self.sums.sessions, float(grown(np.array(logs[2])))
        found = weighted.value(live)
        if found is None:
            refused = Refused(NO_SUPPORT, "from some step on all weights are 0")
            why = Warned(refused.code, str(refused))
            return Estimate(None, None, None, None, n, sessions, 0.0, max_w, refused=why)
        value, residuals = found
        used = weighted.begun > 0
        if interval == "session":
            ends = by_session(value, residuals[used], alpha)
        else:
            ends = percentile(weighted.drawn(live, draws=2000, seed=0), alpha)
        ess, largest = math.exp(2 * logs[0] - logs[1]), math.exp(logs[2] - logs[0])
        warnings = judging.sessions(sessions, known=True) + judging.weights(ess, largest, 1.0, n)
        warnings += judging.mean_weight(by_bucket, {name: part.sum() for name, part in by_bucket.items()})
        warnings += judging.reach(value, self.reward_range)
        warnings += judging.heaviness(value, residuals[used], weighted.begun[used] / n)
        return Estimate(value, ends.low, ends.high, ends.se, n, sessions, ess, max_w, warnings=warnings)

    def __add__(self, other: SequenceAccumulator) -> SequenceAccumulator:
        """The accumulator of two logs that share no session.

        Raises:
            ValueError: different settings, or a session that goes on in both.
        """
        if self._settings != other._settings:
            raise ValueError(f"accumulators differ in their settings, {self._settings} and {other._settings}")
        names, gamma, timeout_s, buckets, step_buckets, reward_range = self._settings
        both = SequenceAccumulator(names, gamma, timeout_s, buckets, step_buckets, reward_range)
        both.sums, both.live = self.sums + other.sums, self.live + other.live
        both._ended = self._ended + other._ended
        sums, largest = np.logaddexp(self._logs[:2], other._logs[:2]), max(self._logs[2], other._logs[2])
        both._logs = [*sums.tolist(), largest]
        if self.weighted is not None and other.weighted is not None:
            both.weighted = self.weighted + other.weighted
        return both

    def state_dict(self) -> dict[str, Any]:
        """Everything but the settings: tensors and JSON values."""
        return {
            "sums": self.sums.state_dict(),
            "live": self.live.state_dict(),
            "weighted": None if self.weighted is None else self.weighted.state_dict(),
            "ended": packed(self._ended),
            "logs": list(self._logs),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a `state_dict()` of an accumulator with the same settings.

        Raises:
            ValueError: other estimators or buckets.
        """
        self.sums.load_state_dict(state["sums"])
        self.live.load_state_dict(state["live"])
        if self.weighted is not None:
            self.weighted.load_state_dict(state["weighted"])
        self._ended, self._logs = floats(state["ended"]), list(state["logs"])


def _log_ratio(rows: Rows) -> Floats:
    if rows.propensity is None:
        raise Refused(NO_PROPENSITY, "a weight is target / propensity and the log has no propensity column")
    with np.errstate(divide="ignore"):  # a choice the policy never makes has weight 0, logarithm -inf
        ratio: Floats = np.log(rows.chosen) - np.log(rows.propensity)
    return ratio


def _logged() -> Estimator[Steps]:
    return Estimator("logged", {"n": begun, "r": lambda steps: steps.discount * steps.reward}, (("r", "n"),))


def _log_sums(logs: list[float], more: Ended) -> list[float]:
    """Logarithms of the sum of weights, of the sum of their squares, and of the largest, with those of `more`."""
    if len(more.log) == 0:
        return list(logs)
    both = (np.logaddexp(logs[at], np.logaddexp.reduce((at + 1) * more.log)) for at in (0, 1))
    return [*(float(one) for one in both), max(logs[2], float(more.log.max()))]
