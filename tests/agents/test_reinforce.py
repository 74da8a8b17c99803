"""Top-K off-policy REINFORCE: the closed-form limits of the paper's two examples, and its parts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from agents.reinforce import Reinforce, log_softmax
from streamrec.catalog import Catalog
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.records import Decision, History, Kind, Transition
from streamrec.sessions import SessionStore
from tests.histories import catalog


def build(items: Catalog, slate: int = 1, **settings: Any) -> Reinforce:
    """No encoder: the state is the context, one number that is always 1."""
    sessions = SessionStore(users=64, length=4, skips=4, slate=slate)
    sessions.reserve(context=1)
    items.reserve(1)
    return Reinforce(items, sessions, slate, **settings)


def asking(n: int) -> History:
    users = torch.arange(n)
    return History.of(user=users, key=users, items=torch.zeros(n, 4, dtype=torch.int32), context=torch.ones(n, 1))


def log(slate: Tensor, rewards: Tensor, slot_logp: Tensor | None = None) -> Transition:
    history = asking(len(slate))
    unknown = torch.full(slate.shape, torch.nan)
    shown = Decision.of(history.user, slate, unknown if slot_logp is None else slot_logp)
    return Transition(
        history=history,
        shown=shown,
        wanted=shown,
        feedback=torch.where(rewards > 0, int(Kind.CLICK), int(Kind.SKIP)).to(torch.int8),
        rewards=rewards.float(),
        next=history,
        time=history.time + 1,
        done=torch.ones(len(slate), dtype=torch.bool),
        sent=history.time,
    )


def limit(counts: Tensor, worth: Tensor, slate: int = 1, steps: int = 350, **settings: Any) -> Tensor:
    """pi [items] after learning from a log that showed item a counts[a] times, always with reward worth[a]."""
    shown = torch.repeat_interleave(torch.arange(len(counts)), counts)
    settings = {"memory": len(shown), "batch": 192, "horizon": 1, "cap": 1e9, "item_learning_rate": 0.5} | settings
    agent = build(catalog(len(counts)), slate, **settings)
    empty = torch.zeros(len(shown), slate - 1)
    propensity = (counts[shown] / counts.sum()).log().unsqueeze(1)
    known = torch.cat([propensity, empty], dim=1)
    slates = torch.cat([shown.unsqueeze(1) + 1, empty.long()], dim=1)
    agent.observe(log(slates, torch.cat([worth[shown].unsqueeze(1), empty], dim=1), known))
    for _ in range(steps):
        agent.update()
    items = torch.arange(1, len(counts) + 1)
    logits: Tensor = agent.net.pi(torch.ones(1, 1), items)
    return logits.softmax(1)[0].detach()


WORTH = torch.arange(1.0, 11.0)
BIASED = torch.arange(10, 0, -1) * 10
"""The paper's first example: r(a_i) = i, beta(a_i) = (11 - i) / 55."""


def test_without_correction_the_policy_becomes_reward_times_behaviour() -> None:
    policy = limit(BIASED, WORTH, correction="none")
    torch.testing.assert_close(policy, WORTH * BIASED / (WORTH * BIASED).sum(), rtol=0, atol=0.04)


@pytest.mark.parametrize("beta", ["learned", "logged"])
def test_with_correction_the_policy_becomes_the_best_item(beta: str) -> None:
    policy = limit(BIASED, WORTH, correction="plain", beta=beta)
    assert int(policy.argmax()) == 9
    assert float(policy[9]) > 0.5
    assert float(policy[:8].sum()) < 0.1


def test_top_k_correction_shares_its_mass_among_the_best() -> None:
    """Rewards 10, 9, 1 x 8, uniform logger, K = 2. The expected reward of a set of two draws, sum_a r_a (1 - (1 -
    pi_a)^2), is largest where 10 (1 - pi_1) = 9 (1 - pi_2) and pi_1 + pi_2 = 1: pi = 10/19 and 9/19.
    """
    worth, uniform = torch.tensor([10.0, 9.0, *[1.0] * 8]), torch.full((10,), 40)
    both = limit(uniform, worth, slate=2, correction="topk")
    torch.testing.assert_close(both[:2], torch.tensor([10 / 19, 9 / 19]), rtol=0, atol=0.05)
    assert float(both[0]) > float(both[1])


def test_plain_correction_leaves_the_second_best_nothing() -> None:
    worth, uniform = torch.tensor([10.0, 9.0, *[1.0] * 8]), torch.full((10,), 40)
    alone = limit(uniform, worth, correction="plain")
    assert float(alone[0]) > 0.8
    assert float(alone[1]) < 0.2


def test_on_its_own_decisions_nothing_is_corrected() -> None:
    log_pi = torch.tensor([[0.5, 0.2, 0.01]]).log()
    plain = build(catalog(5), 3, correction="plain").weight(log_pi, log_pi)
    assert torch.equal(plain, build(catalog(5), 3, correction="none").weight(log_pi, log_pi))
    assert torch.equal(plain, torch.ones(1, 3))


def test_weights_by_hand() -> None:
    """K = 3: pi / beta capped, times 3 (1 - pi)^2; with K = 1 top-K is the plain correction."""
    log_pi, log_beta = torch.tensor([[0.5, 0.5, 0.2]]).log(), torch.tensor([[0.25, 0.001, 0.4]]).log()
    agent = build(catalog(5), 3)
    cap = math.exp(3)
    expected = torch.tensor([[2 * 3 * 0.25, cap * 3 * 0.25, 0.5 * 3 * 0.64]])
    torch.testing.assert_close(agent.weight(log_pi, log_beta), expected)
    alone = build(catalog(5), 1).weight(log_pi, log_beta)
    torch.testing.assert_close(alone, build(catalog(5), 1, correction="plain").weight(log_pi, log_beta))


def test_behaviour_is_learned_from_all_slots_and_its_gradient_stops_at_the_state() -> None:
    items = catalog(4)
    sessions = SessionStore(users=64, length=4, skips=4, slate=2)
    encoder = GRU4Rec(items, dim=4)
    agent = Reinforce(items, sessions, 2, encoder=encoder, batch=64, memory=64, item_learning_rate=0.5)
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    history = History.of(user=torch.arange(64), items=torch.full((64, 4), 3, dtype=torch.int32))
    transition = log(torch.tensor([[1, 2]]).repeat(64, 1), torch.zeros(64, 2))
    transition.history = transition.next = history
    agent.observe(transition)
    for _ in range(200):
        said = agent.update()
    assert said["policy"] == 0.0, "nothing was rewarded"
    assert said["behaviour"] == pytest.approx(math.log(2), abs=0.02), "slots hold 1 and 2 equally often, nothing else"
    assert all(torch.equal(before[name], p) for name, p in encoder.named_parameters())


def test_rewards_of_the_horizon_are_added() -> None:
    """One user, two decisions with rewards 1 and 1: R of the first is 1 + gamma."""
    agent = build(catalog(3), memory=2, batch=1, horizon=2, gamma=0.5)
    first = log(torch.tensor([[1]]), torch.tensor([[1.0]]))
    first.done[:] = False
    agent.observe(first)
    agent.observe(log(torch.tensor([[2]]), torch.tensor([[1.0]])))
    sample = agent.replay.at(torch.tensor([0, 1]))
    assert (sample.first.rewards[:, 0] + sample.later).tolist() == [1.5, 1.0]


def test_softmax_over_all_columns_is_exact_and_over_drawn_ones_close() -> None:
    agent = build(catalog(40))
    head, draw = agent.net.pi, Generator().manual_seed(1)
    with torch.no_grad():
        head.bias.copy_(torch.randn(head.bias.shape, generator=draw))
    items, state = torch.tensor([[1, 7, 40]]), torch.ones(1, 1)
    every = torch.arange(1, 41)
    exact = F.log_softmax(head(state, every), dim=1)[:, items[0] - 1]
    torch.testing.assert_close(log_softmax(head, state, items, every, 0.0), exact)
    # What is shown and no longer available counts beside those that are.
    gone = log_softmax(head, state, items, every[1:], 0.0)
    torch.testing.assert_close(gone[:, 0], exact[:, 0])
    drawn = every[torch.randint(40, (20_000,), generator=draw)]
    near = log_softmax(head, state, items, drawn, math.log(40 / 20_000))
    torch.testing.assert_close(near, exact, rtol=0, atol=0.05)


def test_many_items_are_sampled() -> None:
    agent = build(catalog(30), n_sample=8, batch=16, memory=64)
    columns, each = agent._columns()
    assert len(columns) == 8
    assert each == pytest.approx(math.log(30 / 8))
    agent.observe(log(torch.randint(1, 31, (64, 1)), torch.ones(64, 1)))
    said = agent.update()
    assert all(math.isfinite(value) for value in said.values())


def test_serves_the_best_and_draws_the_rest_from_a_pool() -> None:
    agent = build(catalog(20), slate=4, top=2, pool=6)
    with torch.no_grad():
        agent.net.pi.vectors.weight.zero_()
        agent.net.pi.bias[:21, 0] = torch.arange(21.0) * 0.1
    decision = agent.act(asking(500))
    assert (decision.slate[:, :2] == torch.tensor([20, 19])).all()
    assert set(decision.slate[:, 2:].flatten().tolist()) == {18, 17, 16, 15}
    assert (decision.slot_logp[:, :2] == 0).all()
    logits = torch.arange(15.0, 19.0) * 0.1
    expected = logits.softmax(0)
    for item in (15, 18):
        row = decision.slate[:, 2] == item
        torch.testing.assert_close(decision.slot_logp[row, 2].exp(), expected[item - 15].expand(int(row.sum())))
        assert float(row.float().mean()) == pytest.approx(float(expected[item - 15]), abs=0.08)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"correction": "snips"}, "correction"),
        ({"beta": "popularity"}, "beta"),
        ({"cap": 0.0}, "cap"),
        ({"temperature": 0.0}, "temperature"),
        ({"horizon": 0}, "horizon"),
        ({"top": 3}, "top"),
        ({"pool": 1}, "pool"),
        ({"n_sample": 0}, "n_sample"),
        ({"batch": 0}, "batch"),
        ({"steps": 0}, "steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(catalog(5), 2, **settings)
