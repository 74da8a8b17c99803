"""The default schedule: what is new, and a uniform sample of what is not."""

from __future__ import annotations

import pytest
import torch

from streamrec.schedules.replay import Replay
from tests.histories import history


def made(batch: int, replay_ratio: float = 0.0, memory: int = 100) -> Replay:
    return Replay(memory, batch, replay_ratio)


def add(schedule: Replay, targets: range) -> None:
    schedule.add(None, history([[1]] * len(targets)), torch.tensor(list(targets)))


def drawn(schedule: Replay) -> list[int]:
    some = schedule.draw()
    return [] if some is None else some.target.tolist()


def test_new_clicks_come_first_and_once_then_replays() -> None:
    small = made(2)
    assert drawn(small) == []
    add(small, range(1, 11))
    assert drawn(small) == [1, 2, 3, 4, 5, 6, 7, 8]
    rest = drawn(small)
    assert rest == [9, 10]
    add(small, range(11, 12))
    filled = drawn(small)
    assert filled[0] == 11
    assert len(filled) == 2
    assert filled[1] in range(1, 11)
    only_old = drawn(small)
    assert len(only_old) == 2
    assert set(only_old) <= set(range(1, 12))


def test_old_clicks_go_with_new_ones_in_the_ratio_asked_for() -> None:
    double = made(1, replay_ratio=2.0)
    add(double, range(1, 5))
    drawn(double)
    add(double, range(10, 13))
    some = drawn(double)
    assert some[:3] == [10, 11, 12]
    assert len(some) == 3 + 4, "no more than there are"
    assert set(some[3:]) <= set(range(1, 5))


def test_memory_must_hold_a_batch() -> None:
    with pytest.raises(ValueError, match="memory"):
        Replay(memory=10, batch=11)
