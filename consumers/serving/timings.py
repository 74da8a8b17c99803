"""Durations of the newest events of a kind, and their quantiles."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

import numpy as np


class Timings:
    """The newest `size` durations.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int = 4000) -> None:
        self._seconds: deque[float] = deque(maxlen=size)

    def note(self, seconds: Iterable[float]) -> None:
        self._seconds.extend(seconds)

    def read(self, *percent: int) -> dict[str, float | None]:
        """{"p50": milliseconds, ...}; None where nothing was noted yet."""
        if not self._seconds:
            return {f"p{q}": None for q in percent}
        values = np.percentile(np.fromiter(self._seconds, float), percent) * 1000
        return {f"p{q}": float(value) for q, value in zip(percent, values, strict=True)}


class Rate:
    """How fast a counter grows, over the last `span_s` seconds of looking at it."""

    def __init__(self, span_s: float = 5.0) -> None:
        self._span = span_s
        self._seen: deque[tuple[float, float]] = deque()

    def read(self, count: float) -> float:
        now = time.monotonic()
        self._seen.append((now, count))
        while len(self._seen) > 2 and self._seen[0][0] < now - self._span:
            self._seen.popleft()
        before, then = self._seen[0]
        return (count - then) / (now - before) if now > before else 0.0
