"""Older clicks are drawn less, by half every half-life."""

from __future__ import annotations

import pytest
import torch

from streamrec.schedules.decay import Decay
from tests.histories import history


def ages(half_life: float, clicks: int, draws: int, memory: int = 1_000) -> torch.Tensor:
    made = Decay(half_life_clicks=half_life, memory=memory, batch=512)
    made.add(None, history([[1]] * clicks, length=1), torch.arange(1, clicks + 1))
    made.draw()
    drawn = []
    for _ in range(draws):
        some = made.draw()
        assert some is not None
        drawn.append(clicks - some.target)
    return torch.cat(drawn)


def test_the_chance_halves_every_half_life() -> None:
    drawn = ages(100.0, 1_000, 40)
    counts = torch.bincount(torch.div(drawn, 100, rounding_mode="floor"), minlength=10).double()
    chance = 0.5 ** torch.arange(10) / (0.5 ** torch.arange(10)).sum()
    expected = len(drawn) * chance
    assert ((counts - expected) ** 2 / expected).sum() < 34  # 9 degrees of freedom: above this once in ten thousand


def test_a_long_half_life_is_uniform_and_nothing_overwritten_is_drawn() -> None:
    drawn = ages(1e9, 1_500, 40)
    assert int(drawn.max()) < 1_000
    counts = torch.bincount(torch.div(drawn, 100, rounding_mode="floor"), minlength=10).double()
    assert ((counts - len(drawn) / 10) ** 2 / (len(drawn) / 10)).sum() < 34


def test_new_clicks_come_first_and_once() -> None:
    made = Decay(memory=20, batch=5, replay_ratio=0.0)
    assert made.draw() is None
    made.add(None, history([[1]] * 7), torch.arange(1, 8))
    first = made.draw()
    assert first is not None
    assert first.target.tolist() == list(range(1, 8))
    with pytest.raises(ValueError, match="half_life_clicks"):
        Decay(half_life_clicks=0.0)
