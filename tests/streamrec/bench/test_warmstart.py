"""The verdict of the gate on curves made by hand, and one small gate from end to end."""

from __future__ import annotations

import pytest
import torch

from streamrec.bench.warmstart import POINTS, Returns, difference, gate, judge
from tests.transitions import transition

FLAT = [1.0] * POINTS


def rising(start: float, end: float) -> list[float]:
    return [start + (end - start) * at / (POINTS - 1) for at in range(POINTS)]


def runs(warm: list[float], cold: list[float]) -> list[dict[str, list[float]]]:
    """Two seeds that differ by a little."""
    return [{"teacher": FLAT, "warm": [x + d for x in warm], "cold": [x + d for x in cold]} for d in (0.0, 0.001)]


def test_a_good_warm_start_passes() -> None:
    verdict = judge(runs(rising(1.0, 2.0), rising(0.0, 2.0)), decisions=1000)
    assert verdict["passed"]
    assert verdict["not_worse_at_first"]["holds"]
    assert verdict["speed"]["warm"] == [10, 10]
    # 0 + 2 at / 99 over five pieces is at least 1 from at = 48 on: piece 49.
    assert verdict["speed"]["cold"] == [490, 490]
    assert verdict["speed"]["ratio"] == pytest.approx(10 / 490)
    assert verdict["better_at_the_end"]["mean"] == pytest.approx(sum(rising(1.0, 2.0)[-10:]) / 10 - 1 + 0.0005)


def test_each_condition_can_fail_alone() -> None:
    bad_start = judge(runs([0.5] * 2 + rising(1.0, 2.0)[2:], rising(0.0, 2.0)), 1000)
    assert not bad_start["passed"]
    assert not bad_start["not_worse_at_first"]["holds"]
    assert bad_start["better_at_the_end"]["holds"]
    bad_end = judge(runs(rising(1.1, 0.9), rising(0.0, 2.0)), 1000)
    assert bad_end["not_worse_at_first"]["holds"]
    assert not bad_end["better_at_the_end"]["holds"]
    assert not bad_end["passed"]
    quick_cold = judge(runs(rising(1.0, 2.0), rising(1.0, 2.0)), 1000)
    assert quick_cold["speed"]["ratio"] == 1.0
    assert not quick_cold["speed"]["holds"]
    assert not quick_cold["passed"]


def test_an_interval_is_students() -> None:
    """Three differences 1, 2, 3: mean 2, standard error 1 / sqrt 3, t of two degrees of freedom 4.3027."""
    found = difference(torch.tensor([1.0, 2.0, 3.0]))
    assert found["low"] == pytest.approx(2 - 4.3027 / 3**0.5, abs=1e-4)
    assert found["high"] == pytest.approx(2 + 4.3027 / 3**0.5, abs=1e-4)


def test_returns_are_means_over_pieces() -> None:
    meter = Returns(2 * POINTS)
    meter.see(transition(torch.arange(4.0)))
    meter.see(transition(torch.full((3 * POINTS,), 7.0)))
    assert meter.read()["points"][:3] == [0.5, 2.5, 7.0]
    assert meter.read()["points"][-1] == 7.0


def test_a_small_gate_runs_from_end_to_end() -> None:
    encoder = {"use": "streamrec.encoders.gru4rec.GRU4Rec", "dim": 8, "scope": "user"}
    model = {"use": "streamrec.models.next_item.NextItem", "encoder": encoder}
    verdict = gate(
        seeds=(0, 1),
        decisions=400,
        logged=600,
        passes=2,
        parts=["items", "encoder"],
        teacher={"use": "agents.supervised.Supervised", "model": model},
        student={"use": "agents.dqn.DQN", "encoder": encoder, "gamma": 0.5, "epsilon": 0.0, "epsilon_start": 0.0},
        world={"items": 20, "base": -1.0, "gap_s": 60.0, "new_items_per_hour": 0.0},
        users=64,
    )
    assert [found["encoder"]["same_lists"] for found in verdict["checks"]] == [1.0, 1.0]
    assert set(verdict["returns"]) == {"teacher", "warm", "cold"}
    assert verdict["returns"]["warm"][0] == pytest.approx(verdict["returns"]["teacher"][0])
