"""Rejection: acceptance at the right rate, and a sample that is the policy's."""

from __future__ import annotations

import pytest
import torch

from streamrec.replay.rejection import Rejecting
from tests.streamrec.replay.test_learning import Notes, closed


def test_decisions_are_accepted_in_proportion_to_their_weight() -> None:
    agent = Rejecting(Notes(), bound=4.0, seed=3)
    weight = torch.tensor([0.0, 1.0, 2.0, 4.0], dtype=torch.float64).repeat(5000)
    rate = agent.judge(weight).view(5000, 4).double().mean(0)
    torch.testing.assert_close(rate, torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64), atol=0.025, rtol=0)
    assert agent.asked == 20_000
    assert agent.beyond == 0


def test_on_a_uniform_log_a_greedy_policy_accepts_what_it_would_have_shown() -> None:
    """The replay of Li et al.: weight 1 / (1 / C) = C on a match, else 0, and the bound is C."""
    agent = Rejecting(Notes(), bound=10.0)
    match = torch.tensor([True, False, True, False])
    assert torch.equal(agent.judge(torch.where(match, 10.0, 0.0).double()), match)


def test_accepted_decisions_are_a_sample_of_the_policy() -> None:
    """Rewards of accepted rows average to the policy's value, those of the log do not."""
    draw = torch.Generator().manual_seed(0)
    logger, policy = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.3, 0.6])
    reward = torch.tensor([0.0, 0.5, 1.0])
    item = torch.multinomial(logger, 40_000, replacement=True, generator=draw)
    accepted = Rejecting(Notes(), bound=10.0, seed=1).judge((policy / logger)[item].double())
    assert float(reward[item][accepted].mean()) == pytest.approx(float((policy * reward).sum()), abs=0.02)


def test_weights_beyond_the_bound_and_unknown_ones_are_told_apart() -> None:
    agent = Rejecting(Notes(), bound=2.0)
    accepted = agent.judge(torch.tensor([3.0, torch.nan], dtype=torch.float64))
    assert accepted.tolist() == [True, False]
    assert (agent.asked, agent.beyond) == (1, 1)


def test_updates_follow_accepted_decisions_only() -> None:
    notes = Notes()
    agent = Rejecting(notes, bound=2.0, every=3)
    agent.update()
    agent.observe(closed(1.0, 2.0))
    assert notes.updates == 0
    agent.observe(closed(3.0, 4.0, 5.0, 6.0, 7.0))
    assert notes.updates == 2
    assert agent.read()["learned"] == 7
    other = Rejecting(Notes(), bound=2.0, every=3)
    other.load_state_dict(agent.state_dict())
    assert other.read() == agent.read()
    assert torch.equal(other.judge(torch.ones(9).double()), agent.judge(torch.ones(9).double()))


@pytest.mark.parametrize("bound", [0.5, float("nan")])
def test_a_bound_below_one_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Rejecting(Notes(), bound=bound)
