"""Marginalised importance sampling: weights of states instead of products along the session."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from streamrec.ope import judging
from streamrec.ope.arrays import floats, packed
from streamrec.ope.codes import EMPTY_LOG, MODEL_BASED, NO_SUPPORT, Refused, Warned
from streamrec.ope.estimate import Estimate
from streamrec.ope.intervals import by_session
from streamrec.ope.rows import Floats, Keys, Rows, check_finite
from streamrec.ope.sums import Sums


class Marginalised:
    """Value of a policy from the ratio of how often it and the logger visit states, for sessions of any length.

    With state features f, the ratio of discounted visits is taken as linear, x(s) = f(s) . a, and solves
    E[x(s) (f(s) - gamma w f(s'))] = (1 - gamma) E[f(s_0)], w = target / propensity of the step: the minimax weight
    learning of Uehara, Huang, Jiang (ICML 2020) for states, with the same linear functions on both sides, where it has
    this closed form. With one feature a state (one-hot) it is tabular marginalised importance sampling: the visits of
    the policy in the estimated chain. The value is E[x(s) w r] / (1 - gamma) = b . A^-1 c with A = sum f (f - gamma w
    f')', c = sum f w r, b = mean of f(s_0), which also has a limit at gamma = 1 for sessions that end.

    What it needs: that f tells states apart (reward and next f depend on the past through f alone, the ratio is linear
    in it), the transition (f, w, r, f') of every step, and enough sessions in every direction of f. Variance does not
    grow with the length of sessions as that of products does; a state that f does not see biases it.

    Args:
        dim: features.
        gamma: discount factor of a step, in (0, 1].
        buckets: hash buckets of sessions for the interval; memory is 8 dim**2 bytes a bucket.
        reward_range: (least, most) a session can earn; values outside are flagged.
    """

    def __init__(
        self, dim: int, gamma: float, buckets: int = 512, reward_range: tuple[float, float] | None = None
    ) -> None:
        if dim < 1 or not 0 < gamma <= 1 or buckets < 2:
            raise ValueError(f"dim={dim}, gamma={gamma:g}, buckets={buckets}: expected >= 1, in (0, 1], >= 2")
        self.dim, self.gamma, self.buckets, self.reward_range = dim, gamma, buckets, reward_range
        self.transitions: Floats = np.zeros((buckets, dim, dim))
        self.earned: Floats = np.zeros((buckets, dim))
        self.starts: Floats = np.zeros((buckets, dim))
        self.begun: Floats = np.zeros(buckets)
        self._sums = Sums([], buckets)

    def add(
        self,
        features: ArrayLike,
        reward: ArrayLike,
        propensity: ArrayLike,
        target: ArrayLike,
        following: ArrayLike,
        first: ArrayLike,
        session: Keys,
    ) -> None:
        """Add steps in any order.

        Args:
            features: [n, dim] f of the state in which the step was decided.
            reward: [n] what it earned.
            propensity: [n] probability of the logged choice under the logger.
            target: [n] the same under the policy.
            following: [n, dim] f of the next state; 0 after the last step.
            first: [n] bool, the step began its session.
            session: [n] 64-bit hashes.

        Raises:
            Refused: `no_propensity`, `bad_propensity`, `bad_target`, `bad_reward`.
            ValueError: shapes that do not fit.
        """
        f, after = np.asarray(features, dtype=np.float64), np.asarray(following, dtype=np.float64)
        columns = (np.asarray(one, dtype=np.float64) for one in (reward, propensity, target))
        rows = Rows(*columns)
        if f.shape != (len(rows), self.dim) or after.shape != f.shape:
            raise ValueError(f"features have shape {f.shape} and {after.shape}: expected ({len(rows)}, {self.dim})")
        check_finite("features", f)
        check_finite("following", after)
        weight, begins = rows.weight[:, None], np.asarray(first, dtype=np.float64)
        mixed = self._sums.keys(session, len(rows))
        bucket = (mixed % np.uint64(self.buckets)).astype(np.intp)
        ahead = f - self.gamma * weight * after
        for row in range(self.dim):  # one feature at a time: [n, dim, dim] would not fit for long batches
            np.add.at(self.transitions[:, row], bucket, f[:, row, None] * ahead)
        np.add.at(self.earned, bucket, f * weight * rows.reward[:, None])
        np.add.at(self.starts, bucket, f * begins[:, None])
        np.add.at(self.begun, bucket, begins)
        self._sums.add({}, mixed)

    def result(self, alpha: float = 0.05) -> Estimate:
        """The estimate with its delta-method interval over session buckets; `n` counts sessions begun.

        The interval is that of the estimate given the features: it does not cover what they miss.

        Raises:
            Refused: `empty_log`; `no_support` where the linear system has no solution.
        """
        begun, sessions = float(self.begun.sum()), self._sums.sessions
        if begun == 0:
            raise Refused(EMPTY_LOG, "no session began")
        matrix, start = self.transitions.sum(0), self.starts.sum(0) / begun
        earned = self.earned.sum(0)
        used = (np.abs(matrix).sum(0) + np.abs(matrix).sum(1)) > 0  # features that never occur have no say
        matrix, start, earned = matrix[np.ix_(used, used)], start[used], earned[used]
        if len(matrix) == 0 or np.linalg.matrix_rank(matrix) < len(matrix):
            raise Refused(NO_SUPPORT, "the visits of the policy cannot be solved for: steps or features are too few")
        worth, visits = np.linalg.solve(matrix, earned), np.linalg.solve(matrix.T, start)
        value = float(start @ worth)
        occupied = self._sums.occupied
        own = (self.starts[occupied][:, used] @ worth - value * self.begun[occupied]) / begun
        parts = self.transitions[occupied][:, used][:, :, used]
        residuals = own + self.earned[occupied][:, used] @ visits - (parts @ worth) @ visits
        ends = by_session(value, residuals, alpha)
        text = "it is right where the features tell the states apart, and the interval does not cover what they miss"
        warnings = [Warned.of(MODEL_BASED, text), *judging.sessions(sessions, known=True)]
        warnings += judging.reach(value, self.reward_range)
        n = round(begun)
        return Estimate(value, ends.low, ends.high, ends.se, n, sessions, kind="model-based", warnings=warnings)

    def __add__(self, other: Marginalised) -> Marginalised:
        if (self.dim, self.gamma, self.buckets) != (other.dim, other.gamma, other.buckets):
            raise ValueError("different features, gamma or buckets cannot be added: make both alike")
        both = Marginalised(self.dim, self.gamma, self.buckets, self.reward_range)
        both.transitions, both.earned = self.transitions + other.transitions, self.earned + other.earned
        both.starts, both.begun = self.starts + other.starts, self.begun + other.begun
        both._sums = self._sums + other._sums
        return both

    def state_dict(self) -> dict[str, Any]:
        columns = {name: getattr(self, name) for name in ("transitions", "earned", "starts", "begun")}
        kept: dict[str, Any] = packed(columns)
        return kept | {"sums": self._sums.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a `state_dict()` of an object with the same settings."""
        self.transitions, self.earned = floats(state["transitions"]), floats(state["earned"])
        self.starts, self.begun = floats(state["starts"]), floats(state["begun"])
        self._sums.load_state_dict(state["sums"])
