"""LIRD: states, the mapping from weight vectors to lists, and what actor and critic learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from agents.lird import LIRD, _value
from streamrec.catalog import Catalog
from streamrec.records import Decision, History, Kind, Transition
from streamrec.sessions import SessionStore
from tests.histories import catalog

NEVER = {"epsilon": 0.0, "epsilon_start": 0.0}


def build(items: Catalog, slate: int = 3, context: int = 0, **settings: Any) -> LIRD:
    sessions = SessionStore(users=64, length=4, skips=4, slate=slate)
    sessions.reserve(context=context)
    return LIRD(items, sessions, slate, **{"dim": 6, "hidden": 16, "window": 3, **NEVER, **settings})


def asking(items: Tensor) -> History:
    users = torch.arange(len(items))
    return History.of(user=users, key=users, items=items.int())


def shown(slate: Tensor, rewards: Tensor, done: bool = True) -> Transition:
    history = asking(torch.zeros(len(slate), 4))
    decision = Decision.of(history.user, slate)
    return Transition(
        history=history,
        shown=decision,
        wanted=decision,
        feedback=torch.where(rewards > 0, int(Kind.CLICK), int(Kind.SKIP)).to(torch.int8),
        rewards=rewards,
        next=history,
        time=history.time + 1,
        done=torch.full((len(slate),), done),
        sent=history.time,
    )


def test_state_is_the_newest_positives_in_order_and_the_context() -> None:
    agent = build(catalog(9), context=2)
    history = replace(
        asking(torch.tensor([[5, 2, 0, 7], [0, 0, 0, 4]])), context=torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    )
    state = agent.net.state(history)
    vectors = agent.net.vectors(torch.tensor([[2, 0, 7], [0, 0, 4]]))
    torch.testing.assert_close(state, torch.cat([vectors.flatten(1), history.context], dim=1))
    assert (state[1, :12] == 0).all()
    torch.testing.assert_close(vectors[0, 0].norm(), torch.tensor(1.0))


def test_features_are_half_of_a_vector() -> None:
    items = catalog(4)
    items.reserve(2)
    items.describe(torch.tensor([1, 2, 3, 4]), features=torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0], [0.0, 0.0]]))
    vectors = build(items).net.vectors(torch.tensor([1, 2, 4]))
    torch.testing.assert_close(vectors[:2, -2:], torch.tensor([[0.6, 0.8], [0.0, 1.0]]) / 2**0.5)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert (vectors[2, -2:] == 0).all(), "nothing is told of item 4"


def test_each_slot_takes_its_own_best_and_removes_it() -> None:
    """Weight vectors that are item vectors: 5, then 5 again (gone, so the next best), then 2."""
    agent = build(catalog(8))
    vectors = agent.net.vectors(torch.arange(1, 9))
    weights = vectors[[4, 4, 1]].unsqueeze(0)
    slate, logp = agent._map(weights, asking(torch.zeros(1, 4)), 0.0)
    near = (vectors @ vectors[4]).masked_fill(torch.arange(8) == 4, -2.0)
    expected = [5, int(near.argmax()) + 1]
    assert slate[0, :2].tolist() == expected
    assert 2 in slate[0].tolist()
    assert (logp == 0).all()


def test_slots_that_nothing_is_left_for_stay_empty() -> None:
    agent = build(catalog(8))
    history = replace(asking(torch.zeros(2, 4)), offer=torch.tensor([[3, 0, 0], [0, 6, 2]]))
    decision = agent.act(history)
    assert decision.slate[0].tolist() == [3, 0, 0]
    assert sorted(decision.slate[1].tolist()) == [0, 2, 6]


def test_propensities_of_exploring_are_those_of_epsilon_greedy_slot_by_slot() -> None:
    agent = build(catalog(5), epsilon=0.4, epsilon_start=0.4)
    history = asking(torch.zeros(4000, 4))
    decision = agent.act(history)
    best = agent._map(agent.net.weights(agent.net.state(history), 3), history, 0.0)[0]
    first = decision.slate[:, 0] == best[:, 0]
    assert float(first.float().mean()) == pytest.approx(0.6 + 0.4 / 5, abs=0.03)
    propensity = torch.where(first, 0.6 + 0.4 / 5, 0.4 / 5)
    torch.testing.assert_close(decision.slot_logp[:, 0].exp(), propensity)
    third = decision.slot_logp[:, 2].exp()
    assert torch.isclose(third, torch.tensor([0.6 + 0.4 / 3, 0.4 / 3]).unsqueeze(1)).any(0).all()


def test_critic_learns_the_discounted_reward_of_the_list_shown() -> None:
    """Two lists of the same user, whose visit ends: Q = sum of Gamma^(k-1) reward_k with Gamma = 0.5."""
    agent = build(catalog(6), position_decay=0.5, batch=64, memory=64, learning_rate=0.01, align=0.0)
    slate = torch.tensor([[1, 2, 3], [3, 2, 1]]).repeat(32, 1)
    rewards = torch.tensor([[1.0, 0.0, 1.0], [0.0, 5.0, 0.0]]).repeat(32, 1)
    agent.observe(shown(slate, rewards))
    for _ in range(150):
        agent.update()
    state = agent.net.state(asking(torch.zeros(2, 4)))
    value = _value(agent.critic, state, agent.net.vectors(slate[:2]))
    torch.testing.assert_close(value, torch.tensor([1.25, 2.5]), rtol=0, atol=0.1)


def test_critic_bootstraps_from_the_list_of_the_target_actor() -> None:
    agent = build(catalog(6), gamma=0.75, batch=8, memory=8)
    agent.observe(shown(torch.tensor([[1, 2, 3]]).repeat(8, 1), torch.zeros(8, 3), done=False))
    state = agent.net.state(asking(torch.zeros(8, 4)))
    slate, _ = agent._map(agent.net.weights(state, 3, agent.later_actor), asking(torch.zeros(8, 4)), 0.0)
    target = 0.75 * _value(agent.later_critic, state, agent.net.vectors(slate))
    now = _value(agent.critic, state, agent.net.vectors(torch.tensor([[1, 2, 3]]).repeat(8, 1)))
    said = agent._judge(agent.replay.at(torch.arange(8)))
    assert said["critic"] == pytest.approx(float((now - target).square().mean().detach()), rel=1e-5)


def test_actor_climbs_the_critic_and_leaves_it_as_it_is() -> None:
    agent = build(catalog(6), align=0.0, batch=8, memory=8)
    agent.observe(shown(torch.tensor([[1, 2, 3]]).repeat(8, 1), torch.ones(8, 3)))
    sample = agent.replay.at(torch.arange(8))
    critic = [p.detach().clone() for p in agent.critic.parameters()]
    table = agent.net.table.weight.detach().clone()
    worth = [agent._improve(sample)["actor"] for _ in range(20)]
    assert worth[-1] > worth[0]
    assert all(torch.equal(a, b) for a, b in zip(critic, agent.critic.parameters(), strict=True))
    assert torch.equal(table, agent.net.table.weight), "item vectors learn from clicks only"


def test_alignment_puts_what_was_liked_where_it_was_liked() -> None:
    agent = build(catalog(12), batch=32, memory=32, actor_learning_rate=0.01)
    slate = torch.tensor([[4, 9, 7]]).repeat(32, 1)
    agent.observe(shown(slate, torch.tensor([[1.0, 0.0, 1.0]]).repeat(32, 1)))
    before = _alignment(agent)
    for _ in range(60):
        agent.update()
    assert _alignment(agent) < 0.2 * before
    assert agent.act(asking(torch.zeros(1, 4))).slate[0, [0, 2]].tolist() == [4, 7]


@torch.no_grad()
def _alignment(agent: LIRD) -> float:
    first = agent.replay.at(torch.arange(4)).first
    return float(agent._alignment(agent.net.weights(agent.net.state(first.history), 3), first))


def test_users_without_clicks_have_finite_gradients_from_the_start() -> None:
    agent = build(catalog(6), batch=8, memory=8)
    agent.observe(shown(torch.tensor([[1, 2, 3]]).repeat(8, 1), torch.ones(8, 3)))
    agent._improve(agent.replay.at(torch.arange(8)))
    assert max(float(p.grad.abs().max()) for p in agent.net.actor.parameters() if p.grad is not None) < 1e3


@torch.no_grad()
def test_alignment_with_drawn_items_is_close_to_that_with_all() -> None:
    items = catalog(60)
    whole, drawn = build(items), build(items, n_sample=40)
    first = shown(torch.randint(1, 61, (400, 3), generator=Generator().manual_seed(2)), torch.ones(400, 3))
    weights = whole.net.weights(whole.net.state(first.history), 3)
    exact = float(whole._alignment(weights, first))
    assert len(drawn._columns()[0]) == 40
    guesses = [float(drawn._alignment(weights, first)) for _ in range(30)]
    assert sum(guesses) / 30 == pytest.approx(exact, rel=0.1)


def test_one_weight_vector_makes_a_list_of_its_nearest_items() -> None:
    agent = build(catalog(8), listwise=False)
    history = asking(torch.tensor([[1, 2, 3, 4]]))
    scores = agent.net.vectors(torch.arange(1, 9)) @ agent.net.weights(agent.net.state(history), 3)[0, 0]
    assert torch.equal(agent.act(history).slate[0], scores.topk(3).indices + 1)


@pytest.mark.parametrize("slate", [1, 3])
def test_list_wise_and_item_wise_are_the_same_with_one_slot_only(slate: int) -> None:
    made = [build(catalog(8), slate, listwise=listwise, batch=16) for listwise in (True, False)]
    items = torch.randint(1, 9, (32, slate), generator=Generator().manual_seed(1))
    rewards = torch.rand(32, slate, generator=Generator().manual_seed(2))
    for agent in made:
        agent.observe(shown(items, rewards))
        for _ in range(5):
            agent.update()
    one, other = (agent.net.weights(torch.ones(2, agent.net.state_dim), slate) for agent in made)
    assert torch.equal(one, other) == (slate == 1)


def test_targets_follow_softly() -> None:
    agent = build(catalog(6), tau=0.25)
    start = agent.later_critic.shifts[0].clone()
    with torch.no_grad():
        agent.critic.shifts[0].fill_(1.0)
    agent._follow()
    torch.testing.assert_close(agent.later_critic.shifts[0], 0.75 * start + 0.25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 2.0}, "epsilon"),
        ({"position_decay": 1.5}, "position_decay"),
        ({"window": 0}, "window"),
        ({"batch": 0}, "batch"),
        ({"align": -1.0}, "align"),
        ({"temperature": 0.0}, "temperature"),
        ({"tau": 0.0}, "tau"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(catalog(5), **settings)
