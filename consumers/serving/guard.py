"""Is the model that is served now clearly worse than those before it?"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Span:
    """Decisions in a row: mean reward, variance of the mean, how many, and the last version that made one of them."""

    mean: float
    variance: float
    decisions: int
    version: str


class Guard:
    """Cuts the closed decisions of served versions into spans and compares each with those before it.

    A span is bad if its mean reward lies below `1 - drop` times that of the spans before by more than `z` standard
    errors. Decisions of one user are dependent, so the variance is that of a ratio of sums per user. What is compared
    is now with a while ago: a guard cannot tell a worse model from a worse day.

    Args:
        decisions: of a span; 0 = nothing is ever bad.
        drop: share of the reward that may be lost.
        z: standard errors.
        spans: how many good spans are looked back on.
    """

    def __init__(self, decisions: int, drop: float, z: float, spans: int) -> None:
        self.decisions, self.drop, self.z = decisions, drop, z
        self.good: deque[Span] = deque(maxlen=spans)
        self._begin()

    def _begin(self) -> None:
        self._sums: defaultdict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._count, self._version = 0, ""

    def note(self, versions: Sequence[str], users: Sequence[int], rewards: Sequence[float]) -> Span | None:
        """Take in closed decisions; the span that they complete, None while it goes on."""
        if not self.decisions:
            return None
        for version, user, reward in zip(versions, users, rewards, strict=True):
            mine = self._sums[user]
            mine[0] += reward
            mine[1] += 1
            self._count += 1
            self._version = version
        if self._count < self.decisions:
            return None
        span = self._summed()
        self._begin()
        return span

    def judge(self, span: Span) -> str | None:
        """The reason why `span` is bad; None = it is good, and later ones are compared with it too."""
        reason = self._fault(span)
        if reason is None:
            self.good.append(span)
        return reason

    def restart(self) -> None:
        """The versions served from now on are others: what was counted of this span is not theirs."""
        self._begin()

    def _summed(self) -> Span:
        sums = np.array(list(self._sums.values()))
        mean = float(sums[:, 0].sum() / self._count)
        variance = float(((sums[:, 0] - mean * sums[:, 1]) ** 2).sum() / self._count**2)
        return Span(mean, variance, self._count, self._version)

    def _fault(self, span: Span) -> str | None:
        if not self.good:
            return None
        count = sum(one.decisions for one in self.good)
        mean = sum(one.mean * one.decisions for one in self.good) / count
        variance = sum(one.variance * one.decisions**2 for one in self.good) / count**2
        floor = mean - self.drop * abs(mean)
        noise = self.z * (span.variance + (1 - self.drop) ** 2 * variance) ** 0.5
        if span.mean + noise >= floor:
            return None
        return (
            f"reward per decision fell to {span.mean:.4g} over {span.decisions} decisions, from {mean:.4g} over the "
            f"{count} before; {self.z:g} standard errors are {noise:.2g}"
        )
