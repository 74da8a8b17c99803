"""A2C: its propensities, its advantages, and that its gradient is the one of the expected reward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from agents.a2c import A2C
from agents.popular import Popular
from streamrec.catalog import Catalog
from streamrec.memory import Replay, Sample
from streamrec.records import Decision, History, Kind, Transition
from streamrec.sessions import SessionStore
from tests.histories import catalog


def featured(items: int, seed: int = 0) -> Catalog:
    made = catalog(items)
    made.reserve(2)
    features = torch.randn(items, 2, generator=Generator().manual_seed(seed))
    made.describe(torch.arange(1, items + 1), features=features)
    return made


def build(items: Catalog, slate: int = 2, **settings: Any) -> A2C:
    sessions = SessionStore(users=64, length=4, skips=4, slate=slate)
    sessions.reserve(context=2)
    return A2C(items, sessions, slate, **settings)


def asking(n: int, seed: int = 0) -> History:
    users = torch.arange(n)
    context = torch.randn(n, 2, generator=Generator().manual_seed(seed))
    return History.of(user=users, key=users, items=torch.zeros(n, 4, dtype=torch.int32), context=context)


def closed(history: History, shown: Decision, rewards: Tensor) -> Transition:
    return Transition(
        history=history,
        shown=shown,
        wanted=shown,
        feedback=torch.where(rewards > 0, int(Kind.CLICK), int(Kind.SKIP)).to(torch.int8),
        rewards=rewards,
        next=history,
        time=history.time + 1,
        done=torch.zeros(len(rewards), dtype=torch.bool),
        sent=history.time,
    )


def _sample(first: Transition, after: History) -> Sample:
    """As a memory gives it whose chains are one step long."""
    memory = Replay(len(first), device="cpu")
    memory.add(replace(first, next=after))
    return memory.at(torch.arange(len(first)))


def test_knows_the_propensities_it_recorded() -> None:
    agent = build(featured(9), slate=3)
    for history in (asking(50), replace(asking(50), offer=torch.tensor([[7, 0, 2, 9, 4]]).repeat(50, 1))):
        decision = agent.act(history)
        logp, uniform, entropy = agent.log_propensity(agent.net.state(history), history, decision.slate)
        torch.testing.assert_close(logp, decision.slot_logp)
        assert (entropy >= 0).all()
        filled = decision.slate > 0
        assert (uniform[filled] <= 0).all()
    # All nine items: slots choose from 9, 8 and 7.
    decision = agent.act(asking(5))
    uniform = agent.log_propensity(agent.net.state(asking(5)), asking(5), decision.slate)[1]
    torch.testing.assert_close(uniform.exp(), torch.tensor([1 / 9, 1 / 8, 1 / 7]).expand(5, -1))


def test_what_was_shown_has_a_propensity_though_it_is_gone() -> None:
    items = featured(6)
    agent, history = build(items), asking(4)
    decision = agent.act(history)
    items.retire(torch.arange(1, 7))
    logp, uniform, _ = agent.log_propensity(agent.net.state(history), history, decision.slate)
    assert (logp[:, 0] < 0).all()
    assert (logp[:, 1] == 0).all(), "nothing else was left to choose"
    torch.testing.assert_close(uniform.exp(), torch.tensor([0.5, 1.0]).expand(4, -1))


@pytest.mark.parametrize("credit", ["slot", "slate"])
def test_advantage_by_hand(credit: str) -> None:
    """Two slots filled of three, rewards 1 and 0, later 0.4 and V(s) 1: slot parts 1 - 0.3 and -0.3, slate 0.4."""
    agent = build(featured(5), slate=3, credit=credit)
    history = asking(1)
    first = closed(history, Decision.of(history.user, torch.tensor([[1, 2, 0]])), torch.tensor([[1.0, 0.0, 0.0]]))
    gain = agent._advantage(first, torch.tensor([0.4]), torch.tensor([1.0]))
    expected = [[0.7, -0.3, 0.0]] if credit == "slot" else [[0.4, 0.4, 0.0]]
    torch.testing.assert_close(gain, torch.tensor(expected))


def test_later_value_is_the_critic_at_the_end_of_the_chain() -> None:
    agent, history = build(featured(5)), asking(3)
    first = closed(history, agent.act(history), torch.zeros(3, 2))
    sample = replace(_sample(first, history), later=torch.ones(3), discount=torch.tensor([0.0, 0.5, 1.0]))
    value = agent.net.value(agent.net.state(history))
    torch.testing.assert_close(agent._later(sample), 1.0 + torch.tensor([0.0, 0.5, 1.0]) * value)


def test_weights_are_truncated_and_by_slot_or_slate() -> None:
    logp, behaviour = torch.tensor([[0.5, 0.1]]).log(), torch.tensor([[0.25, 0.4]]).log()
    by_slot = build(featured(5), clip=1.5)._weight(logp, behaviour)
    torch.testing.assert_close(by_slot, torch.tensor([[1.5, 0.25]]))
    by_slate = build(featured(5), clip=1.5, credit="slate")._weight(logp, behaviour)
    torch.testing.assert_close(by_slate, torch.tensor([[0.5, 0.5]]))


@pytest.mark.parametrize(("credit", "slate"), [("slot", 1), ("slate", 2)])
def test_gradient_is_that_of_the_expected_reward_whoever_showed_the_slates(credit: str, slate: int) -> None:
    """Every slate of one or two of four items once, weighted by a logger's propensities: enumeration, no sampling."""
    agent = build(featured(4), slate=slate, credit=credit, clip=1e9)
    slates = torch.cartesian_prod(*[torch.arange(1, 5)] * slate).view(-1, slate)
    slates = slates[slates[:, 0] != slates[:, -1]] if slate > 1 else slates
    n = len(slates)
    history = asking(1)[torch.zeros(n, dtype=torch.int64)]
    rewards = torch.tensor([0.0, 1.0, 0.3, -0.5, 2.0])[slates] * torch.tensor([1.0, 0.5])[:slate]
    logger = torch.tensor([0.1, 0.2, 0.3, 0.4])[slates - 1]
    behaviour = logger / torch.cat([torch.ones(n, 1), 1 - logger[:, :-1]], dim=1)
    weights = [agent.net.query, agent.net.weight]

    logp, _, _ = agent.log_propensity(agent.net.state(history), history, slates)
    wanted = torch.autograd.grad((logp.sum(1).exp() * rewards.sum(1)).sum(), weights)

    logp, _, _ = agent.log_propensity(agent.net.state(history), history, slates)
    transition = closed(history, Decision.of(history.user, slates, behaviour.log()), rewards)
    gain = agent._advantage(transition, torch.zeros(n), torch.full((n,), 0.7))
    weight = agent._weight(logp.detach(), behaviour.log())
    got = torch.autograd.grad((behaviour.prod(1, keepdim=True) * weight * gain * logp).sum(), weights)
    torch.testing.assert_close(got, wanted)


def test_learns_on_its_own_slates_and_stays_on_policy() -> None:
    """Contextual bandit: the context says which of two groups of items pays."""
    items = featured(8)
    agent = build(items, memory=128, batch=128, learning_rate=0.02, n_step=1, gamma=0.0)
    draw = Generator().manual_seed(1)
    score = []
    for _ in range(120):
        history = replace(asking(128), context=torch.randn(128, 2, generator=draw))
        decision = agent.act(history)
        pays = (items.features[decision.slate][..., 0] > 0) == (history.context[:, :1] > 0)
        agent.observe(closed(history, decision, pays.float()))
        agent.update()
        score.append(float(pays.float().mean()))
    assert sum(score[:5]) / 5 < 0.65
    assert sum(score[-5:]) / 5 > 0.85


def test_candidates_of_another_agent_bound_what_is_shown() -> None:
    items = featured(9)
    popular = Popular(items, slate=3)
    agent = build(items, candidates=popular, memory=64, batch=16)
    history = asking(20)
    shown = Decision.of(history.user, torch.tensor([[7, 8]]).repeat(20, 1))
    agent.observe(closed(history, shown, torch.ones(20, 2)))
    said = agent.update()
    assert said["value"] == said["value"]
    assert set(agent.act(history).slate.flatten().tolist()) <= {7, 8, *popular.top(3).tolist()}
    assert set(agent.reads or ()) == {"context", "offer"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"credit": "page"}, "slot"),
        ({"clip": 0.0}, "clip"),
        ({"entropy": -1.0}, "entropy"),
        ({"critic": -1.0}, "critic"),
        ({"batch": 0}, "batch"),
        ({"steps": 0}, "steps"),
        ({"hidden": 0}, "hidden"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(catalog(3) if "clip" in settings else featured(3), **settings)
