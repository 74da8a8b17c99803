"""Advantages, rollouts and the fence around global randomness."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")

from agents.sb3_buffers import Rollout, generalised_advantages, own_randomness


def test_advantages_follow_each_user() -> None:
    """Against the recursion, one user after the other."""
    generator = torch.Generator().manual_seed(0)
    users = torch.randint(0, 7, (60,), generator=generator)
    errors = torch.randn(60, generator=generator)
    decay = 0.8 * (torch.rand(60, generator=generator) < 0.7)
    expected = torch.zeros(60)
    for user in range(7):
        after = 0.0
        for row in reversed((users == user).nonzero().squeeze(1).tolist()):
            after = float(errors[row] + decay[row] * after)
            expected[row] = after
    torch.testing.assert_close(generalised_advantages(errors, decay, users), expected)


def test_advantages_by_hand() -> None:
    advantages = generalised_advantages(
        torch.tensor([1.0, 5.0, 2.0]), torch.tensor([0.5, 0.5, 0.5]), torch.tensor([3, 1, 3])
    )
    assert advantages.tolist() == [2.0, 5.0, 2.0]


def test_a_rollout_hands_out_every_decision_once() -> None:
    numbers = torch.arange(10.0)
    rollout = Rollout({"seen": numbers.unsqueeze(1)}, numbers.long().unsqueeze(1), numbers, -numbers, 2 * numbers)
    np.testing.assert_array_equal(rollout.returns, 3 * numbers)
    for size, count in ((4, 3), (None, 1)):
        parts = list(rollout.get(size))
        assert len(parts) == count
        assert sorted(torch.cat([part.old_values for part in parts]).tolist()) == numbers.tolist()
        for part in parts:
            assert torch.equal(part.observations["seen"].squeeze(1), part.old_values)
            assert torch.equal(part.returns, 3 * part.old_values)
            assert torch.equal(part.old_log_prob, -part.old_values)


def test_randomness_inside_is_ours_and_outside_untouched() -> None:
    def draws(seed: int) -> list[float]:
        generator = torch.Generator().manual_seed(seed)
        out = []
        for _ in range(2):
            with own_randomness(generator):
                out += [float(torch.rand(())), float(np.random.rand())]
        return out

    before, numpy = torch.get_rng_state(), np.random.get_state()[2]
    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert len(set(draws(1))) == 4
    assert torch.equal(before, torch.get_rng_state())
    assert np.random.get_state()[2] == numpy
