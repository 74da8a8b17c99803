"""Fitted Q evaluation with linear features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from streamrec.ope import judging
from streamrec.ope.arrays import floats, packed
from streamrec.ope.codes import EMPTY_LOG, NOT_CONVERGED, Refused, Warned
from streamrec.ope.estimate import Estimate
from streamrec.ope.rows import Floats, check_finite, same_shape


@dataclass(frozen=True)
class Convergence:
    """How the iterations went.

    Args:
        changes: change of the value from one iteration to the next, absolute.
        held_out: mean squared Bellman error on rows kept from the fit, after each iteration; empty where none are.
        converged: the last changes were within the tolerance.
        factor: factor by which an iteration shrinks an error in the end (spectral radius); None where not known. From 1
            on the iteration does not settle, whatever their number.
        unseen: directions of the features that no step of the log showed; their weight is 0.
    """

    changes: list[float]
    held_out: list[float]
    converged: bool
    factor: float | None = None
    unseen: int = 0

    def warnings(self) -> list[Warned]:
        """`not_converged`, with how far it was."""
        if self.converged:
            return []
        last = f"{self.changes[-1]:.3g}" if self.changes else "nothing"
        text = f"after {len(self.changes)} iterations the value still changed by {last}"
        if self.factor is not None and self.factor >= 1:
            text += f", and an iteration multiplies errors by {self.factor:.3g}"
        return [Warned.of(NOT_CONVERGED, text)]


class LinearFqe:
    """Q of the policy as q(s, a) = f(s, a) . theta, by repeated regression on r + gamma E_policy q(s', a').

    Le, Voloshin, Yue, ICML 2019, algorithm 3, with least squares on fixed features; each iteration is exact on all rows
    at once, because it needs only sum f f', sum f g' and sum f r with g = E_policy f(s', a'). With one feature a
    state-action pair (one-hot) it is the value of the policy in the estimated decision process.

    Args:
        dim: features.
        gamma: discount factor of a step, in (0, 1].
        ridge: added to the diagonal of sum f f', in rows.
        iterations: most that are made.
        tolerance: largest change of a weight, relative to the largest weight, at which they stop.
    """

    def __init__(
        self, dim: int, gamma: float, ridge: float = 0.0, iterations: int = 10_000, tolerance: float = 1e-12
    ) -> None:
        if dim < 1 or not 0 < gamma <= 1 or ridge < 0 or iterations < 1:
            text = f"dim={dim}, gamma={gamma:g}, ridge={ridge:g}, iterations={iterations}"
            raise ValueError(f"{text}: expected dim >= 1, gamma in (0, 1], ridge >= 0, iterations >= 1")
        self.dim, self.gamma, self.ridge = dim, gamma, ridge
        self.iterations, self.tolerance = iterations, tolerance
        self.own: Floats = np.zeros((dim, dim))
        self.next: Floats = np.zeros((dim, dim))
        self.earned: Floats = np.zeros(dim)
        self.starts: Floats = np.zeros(dim)
        self.rows, self.begun = 0, 0

    def add(self, features: ArrayLike, reward: ArrayLike, following: ArrayLike) -> None:
        """Add steps: [n, dim] f(s, a), [n] rewards, [n, dim] sum over a' of target(a' | s') f(s', a'), 0 at the end.

        Raises:
            Refused: `bad_reward`.
            ValueError: shapes that do not fit.
        """
        f, after = np.asarray(features, dtype=np.float64), np.asarray(following, dtype=np.float64)
        r = np.asarray(reward, dtype=np.float64)
        if f.shape != (len(r), self.dim):
            raise ValueError(f"features have shape {f.shape}: expected ({len(r)}, {self.dim})")
        same_shape("following", after, f)
        for name, values in (("reward", r), ("features", f), ("following", after)):
            check_finite(name, values)
        self.own += f.T @ f
        self.next += f.T @ after
        self.earned += f.T @ r
        self.rows += len(r)

    def begin(self, features: ArrayLike) -> None:
        """Add beginnings of sessions: [m, dim] sum over a of target(a | s_0) f(s_0, a)."""
        f = np.asarray(features, dtype=np.float64)
        check_finite("features", f)
        self.starts += f.sum(0)
        self.begun += len(f)

    def fit(self) -> tuple[Floats, Convergence]:
        """Weights theta [dim], and how the iterations went.

        Raises:
            Refused: `empty_log`.
        """
        if self.rows == 0 or self.begun == 0:
            raise Refused(EMPTY_LOG, f"{self.rows} steps and {self.begun} beginnings of sessions")
        gram = self.own + self.ridge * np.eye(self.dim)
        inverse, rank = np.linalg.pinv(gram, hermitian=True), int(np.linalg.matrix_rank(gram, hermitian=True))
        move, base = self.gamma * inverse @ self.next, inverse @ self.earned
        start, theta, changes, settled = self.starts / self.begun, np.zeros(self.dim), list[float](), False
        with np.errstate(over="ignore", invalid="ignore"):
            while len(changes) < self.iterations and not settled:
                fresh = base + move @ theta
                if not np.isfinite(fresh).all():
                    return fresh, Convergence(changes, [], False, _factor(move), self.dim - rank)
                changes.append(abs(float(start @ (fresh - theta))))
                settled = float(np.abs(fresh - theta).max()) <= self.tolerance * max(1.0, float(np.abs(fresh).max()))
                theta = fresh
        return theta, Convergence(changes, [], settled, _factor(move), self.dim - rank)

    def result(self, reward_range: tuple[float, float] | None = None) -> tuple[Estimate, Convergence]:
        """The value of a session, without interval, and the convergence report.

        Args:
            reward_range: (least, most) a session can earn; a value outside is flagged.

        Raises:
            Refused: `empty_log`.
        """
        theta, report = self.fit()
        value = float(self.starts / self.begun @ theta)
        return valued_by_model(value, self.begun, report, reward_range), report

    def __add__(self, other: LinearFqe) -> LinearFqe:
        if (self.dim, self.gamma, self.ridge) != (other.dim, other.gamma, other.ridge):
            raise ValueError("different features, gamma or ridge cannot be added: make both alike")
        both = LinearFqe(self.dim, self.gamma, self.ridge, self.iterations, self.tolerance)
        both.own, both.next = self.own + other.own, self.next + other.next
        both.earned, both.starts = self.earned + other.earned, self.starts + other.starts
        both.rows, both.begun = self.rows + other.rows, self.begun + other.begun
        return both

    def state_dict(self) -> dict[str, Any]:
        columns = {name: getattr(self, name) for name in ("own", "next", "earned", "starts", "rows", "begun")}
        state: dict[str, Any] = packed(columns)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a `state_dict()` of an object with the same settings."""
        self.own, self.next = floats(state["own"]), floats(state["next"])
        self.earned, self.starts = floats(state["earned"]), floats(state["starts"])
        self.rows, self.begun = int(state["rows"]), int(state["begun"])


def _factor(move: Floats) -> float:
    return float(np.abs(np.linalg.eigvals(move)).max())


def valued_by_model(
    value: float, begun: int, report: Convergence, reward_range: tuple[float, float] | None
) -> Estimate:
    """The estimate of a fitted model; no value where the iterations left the numbers."""
    warnings = judging.model_based("model-based") + report.warnings()
    if not np.isfinite(value):
        why = report.warnings()[0]
        return Estimate(None, None, None, None, begun, begun, kind="model-based", warnings=warnings, refused=why)
    warnings += judging.reach(value, reward_range)
    return Estimate(value, None, None, None, begun, begun, kind="model-based", warnings=warnings)
