"""Algorithm R: after t clicks each of them is in the reservoir with chance n / t."""

from __future__ import annotations

import pytest
import torch

from streamrec.schedules.reservoir import Reservoir
from tests.histories import history


def after(clicks: int, memory: int, seed: int, chunk: int) -> list[int]:
    made = Reservoir(memory=memory, batch=chunk, seed=seed, replay_ratio=0.0)
    for start in range(0, clicks, chunk):
        targets = torch.arange(start, min(start + chunk, clicks)) + 1
        made.add(None, history([[1]] * len(targets), length=1), targets)
        made.draw()
    assert made.kept is not None
    return made.kept.target[: made.filled].tolist()


@pytest.mark.parametrize(("chunk", "clicks", "memory", "runs"), [(1, 12, 4, 100), (9, 60, 12, 150), (60, 60, 12, 300)])
def test_every_click_is_kept_with_the_same_chance(chunk: int, clicks: int, memory: int, runs: int) -> None:
    counts = torch.zeros(clicks + 1)
    for seed in range(runs):
        kept = after(clicks, memory, seed, chunk)
        assert len(set(kept)) == memory
        counts[kept] += 1
    expected, variance = runs * memory / clicks, runs * memory / clicks * (1 - memory / clicks)
    chi_square = ((counts[1:] - expected) ** 2 / variance).sum().item()
    freedom = clicks - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5  # above this less than once in a thousand
    assert counts[0] == 0


def test_everything_is_kept_until_it_is_full() -> None:
    assert sorted(after(10, 12, 0, 3)) == list(range(1, 11))


def test_new_clicks_come_once_and_then_from_the_reservoir() -> None:
    made = Reservoir(memory=5, batch=4, replay_ratio=1.0)
    assert made.draw() is None
    made.add(None, history([[1]] * 6), torch.arange(1, 7))
    first, second = made.draw(), made.draw()
    assert first is not None
    assert second is not None
    assert first.target.tolist() == [1, 2, 3, 4, 5, 6]
    assert len(second) == 4
    assert set(second.target.tolist()) <= {1, 2, 3, 4, 5, 6}


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="memory=5"):
        Reservoir(memory=6).load_state_dict(Reservoir(memory=5).state_dict())
    with pytest.raises(ValueError, match="memory"):
        Reservoir(memory=0)
