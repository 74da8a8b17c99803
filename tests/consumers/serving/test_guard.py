"""The guard: what is chance, what is not, and that users' decisions belong together."""

from __future__ import annotations

import numpy as np
import pytest

from consumers.serving.guard import Guard, Span


def fed(guard: Guard, rewards: list[float], version: str = "1", users: list[int] | None = None) -> list[Span]:
    spans = []
    for at, reward in enumerate(rewards):
        span = guard.note([version], [at if users is None else users[at]], [reward])
        if span is not None:
            spans.append(span)
    return spans


def test_a_span_is_the_mean_with_the_variance_of_a_ratio() -> None:
    guard = Guard(4, 0.2, 3.0, 5)
    (span,) = fed(guard, [1.0, 0.0, 1.0, 0.0], "7")
    assert (span.mean, span.decisions, span.version) == (0.5, 4, "7")
    assert span.variance == pytest.approx(4 * 0.25 / 16)
    (same,) = fed(guard, [1.0, 1.0, 0.0, 0.0], users=[1, 1, 2, 2])
    assert same.variance == pytest.approx(2 * 1.0 / 16), "two users say less than four"


def test_without_decisions_nothing_is_ever_judged() -> None:
    assert fed(Guard(0, 0.2, 3.0, 5), [0.0] * 100) == []


@pytest.mark.parametrize(("share", "bad"), [(0.30, False), (0.27, False), (0.10, True)])
def test_only_a_clear_fall_is_bad(share: float, bad: bool) -> None:
    random = np.random.default_rng(0)
    guard = Guard(1000, 0.2, 3.0, 5)
    for _ in range(4):
        (span,) = fed(guard, (random.random(1000) < 0.3).astype(float).tolist())
        assert guard.judge(span) is None
    (span,) = fed(guard, (random.random(1000) < share).astype(float).tolist())
    reason = guard.judge(span)
    assert (reason is not None) == bad
    assert len(guard.good) == (4 if bad else 5)


def test_false_alarms_are_rare() -> None:
    random = np.random.default_rng(1)
    alarms = 0
    for _ in range(300):
        guard = Guard(50, 0.0, 3.0, 3)
        for _ in range(4):
            (span,) = fed(guard, (random.random(50) < 0.3).astype(float).tolist())
            alarms += guard.judge(span) is not None
    assert alarms <= 12, "1 in 740 of 900 would be about 1; a mean of 50 is not quite normal"


def test_starting_over_forgets_the_span_in_hand_and_not_what_was_good() -> None:
    guard = Guard(4, 0.2, 3.0, 5)
    (span,) = fed(guard, [1.0] * 4)
    guard.judge(span)
    fed(guard, [0.0] * 3)
    guard.restart()
    (span,) = fed(guard, [1.0] * 4)
    assert span.mean == 1.0
    assert len(guard.good) == 1
