"""A value with all that must be read beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from streamrec.ope.codes import Warned
from streamrec.ope.estimator import Kind


@dataclass(frozen=True)
class Estimate:
    """What an estimator says of a policy.

    Args:
        value: the estimate, in the unit of the reward; None where it was refused.
        low: lower end of the interval; None where there is no honest one.
        high: upper end.
        se: standard error; None where the interval is not made of one.
        n: rows (sessions for sequences).
        sessions: independent units.
        ess: effective sample size of the weights, (sum w)**2 / sum w**2 (Kish, Survey Sampling, 1965); None without
            weights.
        max_w: largest weight; None without weights.
        kind: "model-free" or "model-based".
        warnings: what to know before believing it.
        refused: why there is no value.
    """

    value: float | None
    low: float | None
    high: float | None
    se: float | None
    n: int
    sessions: int
    ess: float | None = None
    max_w: float | None = None
    kind: Kind = "model-free"
    warnings: list[Warned] = field(default_factory=list)
    refused: Warned | None = None

    def as_json(self) -> dict[str, Any]:
        """The figures as JSON values; warnings as {code: message}."""
        figures = {name: getattr(self, name) for name in ("value", "low", "high", "se", "n", "sessions", "ess")}
        texts = {warned.code: warned.message for warned in self.warnings}
        refused = None if self.refused is None else {self.refused.code: self.refused.message}
        return figures | {"max_w": self.max_w, "kind": self.kind, "warnings": texts, "refused": refused}


@dataclass(frozen=True)
class WindowEstimate:
    """An estimator's value in one window of time.

    Args:
        start: seconds since the epoch; the window ends `width` later.
        width: seconds.
        value: the estimate on the window's rows alone; None without support.
        se: standard error from the spread between 64 groups of sessions; None with fewer than 2 of them.
        n: rows.
    """

    start: float
    width: float
    value: float | None
    se: float | None
    n: int
