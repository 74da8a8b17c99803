"""Quantiles and rates of what was noted last."""

from __future__ import annotations

import pytest

from consumers.serving import timings
from consumers.serving.timings import Rate, Timings


def test_quantiles_are_of_the_newest() -> None:
    noted = Timings(size=100)
    assert noted.read(50) == {"p50": None}
    noted.note([1000.0] * 500)
    noted.note(n / 1000 for n in range(1, 101))
    assert noted.read(50, 99) == {"p50": pytest.approx(50.5), "p99": pytest.approx(99.01)}


def test_a_rate_is_over_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(timings.time, "monotonic", lambda: now[0])
    rate = Rate(span_s=5.0)
    assert rate.read(100) == 0.0
    for second in range(1, 11):
        now[0] = float(second)
        said = rate.read(100 + 10 * second)
    assert said == pytest.approx(10.0)
    for second in range(11, 30):
        now[0] = float(second)
        said = rate.read(200)
    assert said == 0.0
