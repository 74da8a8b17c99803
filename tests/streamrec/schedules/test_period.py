"""Periods of event time, and draws from the running one."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Generator

from streamrec.schedules.period import Periods, RunningPeriod
from tests.histories import history


def pieces(periods: Periods, *times: float) -> list[tuple[bool, int, int]]:
    made = periods.pieces(torch.tensor(times, dtype=torch.float64))
    return [(ended, part.start, part.stop) for ended, part in made]


def test_a_stream_is_cut_where_a_period_is_over() -> None:
    periods = Periods(10.0)
    assert pieces(periods) == [(False, 0, 0)]
    assert pieces(periods, 3.0, 9.9) == [(False, 0, 2)]
    assert pieces(periods, 9.0, 10.0, 12.0, 35.0) == [(False, 0, 1), (True, 1, 3), (True, 3, 4)]
    assert pieces(periods, 2.0, 36.0) == [(False, 0, 2)], "late clicks belong to the running period"
    assert pieces(periods, 40.0) == [(True, 0, 1)]


def test_periods_ended_by_hand_are_never_cut() -> None:
    assert pieces(Periods(None), 0.0, 1e12) == [(False, 0, 2)]
    with pytest.raises(ValueError, match="period_s"):
        Periods(0.0)


def running(period_s: float | None = None) -> RunningPeriod:
    return RunningPeriod(period_s, 50, 8, 1.0, Generator().manual_seed(0), "cpu")


def test_only_the_running_period_is_drawn_again() -> None:
    period = running()
    assert period.draw() is None
    period.clicks.add(history([[1]] * 20), torch.arange(1, 21))
    first = period.draw()
    assert first is not None
    assert first.target.tolist() == list(range(1, 21))
    period.end()
    assert period.draw() is None, "the new period has no clicks yet"
    period.clicks.add(history([[1]] * 3), torch.arange(31, 34))
    period.draw()
    seen: Counter[int] = Counter()
    for _ in range(50):
        some = period.draw()
        assert some is not None
        seen.update(some.target.tolist())
    assert set(seen) == {31, 32, 33}
    held = period.held()
    assert held is not None
    assert held.target.tolist() == [31, 32, 33]


def test_the_size_of_a_running_period_is_what_it_brought_or_what_the_last_one_did() -> None:
    for period_s, expected in ((None, 3), (10.0, 20)):
        period = running(period_s)
        period.clicks.add(history([[1]] * 20), torch.arange(1, 21))
        period.end()
        period.clicks.add(history([[1]] * 3), torch.arange(1, 4))
        assert period.size == expected
