"""Our DQN against its peer: that both are measured on the same thing, in a form too short to mean anything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from simulators.vector import Arrays
from streamrec.bench import dqn


def interesting(observed: Arrays) -> NDArray[np.intp]:
    """The document of the topic one likes most: what is clicked, not what lengthens the visit."""
    topics = observed["candidate_features"].reshape(len(observed["context"]), 10, -1)
    best: NDArray[np.intp] = np.einsum("ncf,nf->nc", topics, observed["context"]).argmax(1)
    return best


def test_visits_are_measured_from_beginning_to_end_on_the_same_people() -> None:
    assert dqn.returns(interesting) == dqn.returns(interesting)
    chance = np.random.default_rng(0)
    random = dqn.returns(lambda observed: chance.integers(10, size=dqn.TEST_USERS))
    assert 125 < random < 145 < dqn.returns(interesting) < 170  # 135.8 and 158.0 when this was written


def test_both_train_in_that_world_and_the_figures_are_those_of_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"PEER_STEPS": 2_048, "OUR_STEPS": 3_000, "CHECK": 1_024, "SEEDS": (0,), "TEST_USERS": 64}
    for name, value in small.items():
        monkeypatch.setattr(dqn, name, value)
    figures = dqn.measure(0.1)
    (only,) = figures["seeds"]
    assert figures["sb3_return"] == only["sb3_return"] > 50.0
    assert figures["ratio"] == only["our_seconds_to_reach"] / only["sb3_seconds"]
    assert only["sb3_updates_per_s"] == pytest.approx(only["sb3_steps_per_s"] / 16, rel=0.6)
    assert only["our_updates_per_s"] == pytest.approx(only["our_steps_per_s"] / 64, rel=0.2)


def test_ours_learns_from_the_rewards_of_the_world_in_its_own_scale() -> None:
    ours = dqn.Ours(0)
    ours.train(512 * 4)
    ring = ours.agent.replay.ring
    assert ring is not None
    seen = ring.rewards[: len(ours.agent.replay)]
    assert torch.allclose(seen[seen > 0], torch.tensor(4.0 * dqn.SCALE)), "four minutes watched"
    assert len(ours.agent.replay) == ours.steps == 2_048
    assert ours.agent.learned > 0
