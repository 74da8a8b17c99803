from __future__ import annotations

import pytest
import torch

from streamrec.evaluation.reward import Reward
from tests.transitions import transition


def test_figures_by_policy_with_golden_interval() -> None:
    meter = Reward(["a", "b"])
    # By hand: user sums of policy a are 3 (of 2 decisions) and 1 (of 2), mean 1; residuals 1 and -1.
    rewards = torch.tensor([1.0, 2.0, 0.0, 1.0, 5.0])
    keys = torch.tensor([1, 1, 2, 2, 3])
    policy = torch.tensor([0, 0, 0, 0, 1])
    meter.see(transition(rewards=rewards, key=keys, policy=policy))
    figures = meter.read()["policies"]
    half = 1.96 * 2**0.5 / 4
    assert figures["a"]["reward"] == 1.0
    assert (figures["a"]["low"], figures["a"]["high"]) == pytest.approx((1 - half, 1 + half))
    assert figures["b"]["decisions"] == 1


def test_recent_follows_a_change_whatever_the_batching() -> None:
    whole, parts = Reward(["a"], recent=100), Reward(["a"], recent=100)
    rewards = torch.cat([torch.zeros(400), torch.ones(400)])
    whole.see(transition(rewards=rewards))
    for part in rewards.split(37):
        parts.see(transition(rewards=part))
    recent = whole.read()["policies"]["a"]["recent"]
    assert recent == pytest.approx(parts.read()["policies"]["a"]["recent"])
    assert recent > 0.99
    assert whole.read()["policies"]["a"]["reward"] == 0.5


def test_interval_covers_the_truth_when_decisions_of_a_user_depend() -> None:
    """200 users with 1-20 dependent decisions each; nominal 95 %, 400 runs: binomial 95 % band is 92.6 to 97.0 %.

    The band is widened to 91.5 % below, because 200 clusters make a ratio interval slightly narrow.
    """
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        taste = torch.rand(200, generator=generator)
        sizes = torch.randint(1, 21, (200,), generator=generator)
        keys = torch.repeat_interleave(torch.arange(200), sizes)
        rewards = (torch.rand(len(keys), generator=generator) < taste[keys]).float()
        meter = Reward(["a"])
        meter.see(transition(rewards=rewards, key=keys))
        row = meter.read()["policies"]["a"]
        covered += row["low"] <= 0.5 <= row["high"]
    assert 0.915 <= covered / 400 <= 0.975


def test_what_the_world_did_not_show_is_credited_to_nobody_of_ours() -> None:
    """A log shows what it showed: its clicks say nothing about the slate we wanted, unless it is the same slate."""
    meter = Reward(["a"])
    seen = transition(rewards=torch.tensor([1.0, 0.0, 1.0]))
    seen.wanted.slate = seen.wanted.slate.clone()
    seen.wanted.slate[:2] += 1
    meter.see(seen)
    figures = meter.read()["policies"]
    assert figures["a"] == figures["a"] | {"reward": 1.0, "decisions": 1}
    assert figures["logged"] == figures["logged"] | {"reward": 0.5, "decisions": 2}


def test_state_round_trip() -> None:
    meter, other = Reward(["a"]), Reward(["a"])
    meter.see(transition(rewards=torch.tensor([1.0, 0.0])))
    other.load_state_dict(meter.state_dict())
    assert other.read() == meter.read()
