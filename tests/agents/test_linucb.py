"""LinUCB: against ridge regressions solved whole, and what the paper says of its models."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from agents.linucb import LinUCB
from streamrec.catalog import Catalog
from streamrec.records import Decision, History, Kind, Transition
from streamrec.sessions import SessionStore
from tests.histories import catalog

CONTEXT = 3


def build(items: Catalog, context: int = CONTEXT, slate: int = 1, **settings: Any) -> LinUCB:
    sessions = SessionStore(users=64, length=4, skips=4, slate=slate)
    sessions.reserve(context=context)
    return LinUCB(items, sessions, slate, **settings)


def featured(features: Tensor) -> Catalog:
    """A catalogue whose rows 1..n have `features` [n, F]."""
    made = catalog(len(features))
    made.reserve(features.shape[1])
    made.describe(torch.arange(1, len(features) + 1), features=features)
    return made


def asking(context: Tensor, items: Tensor | None = None) -> History:
    n = len(context)
    empty = torch.zeros(n, 4, dtype=torch.int32) if items is None else items.int()
    users = torch.arange(n)
    return History.of(user=users, key=users, items=empty, context=context.float())


def shown(history: History, slate: Tensor, rewards: Tensor) -> Transition:
    decision = Decision.of(history.user, slate)
    return Transition(
        history=history,
        shown=decision,
        wanted=decision,
        feedback=torch.where(rewards > 0, int(Kind.CLICK), int(Kind.SKIP)).to(torch.int8),
        rewards=rewards.float(),
        next=history,
        time=history.time + 1,
        done=torch.zeros(len(slate), dtype=torch.bool),
        sent=history.time,
    )


def taught(agent: LinUCB, items: int, batches: int = 5, n: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Random trials given to the agent: contexts [T, C], items [T] and rewards [T]."""
    draw = Generator().manual_seed(1)
    trials = []
    for _ in range(batches):
        context = torch.randn(n, CONTEXT, generator=draw)
        item = torch.randint(1, items + 1, (n, 1), generator=draw)
        reward = torch.rand(n, 1, generator=draw)
        agent.observe(shown(asking(context), item, reward))
        agent.update()
        trials.append((context, item[:, 0], reward[:, 0]))
    context, item, reward = (torch.cat(parts) for parts in zip(*trials, strict=True))
    return context, item, reward


def bounds(agent: LinUCB, context: Tensor, items: int) -> Tensor:
    return agent.score(asking(context), torch.arange(1, items + 1))


def test_disjoint_scores_are_those_of_a_ridge_regression_per_arm() -> None:
    """Algorithm 1, with its inverse taken of all trials of an arm at once."""
    agent = build(catalog(6), alpha=0.7)
    context, item, reward = taught(agent, 5)  # the sixth has no trials
    x, probe = agent.users(asking(context)), torch.randn(9, CONTEXT, generator=Generator().manual_seed(2))
    at = agent.users(asking(probe))
    for arm in range(1, 7):
        mine = item == arm
        inverse = torch.linalg.inv(torch.eye(x.shape[1], dtype=torch.float64) + x[mine].t() @ x[mine])
        theta = inverse @ (x[mine].t() @ reward[mine].double())
        expected = at @ theta + 0.7 * ((at @ inverse) * at).sum(1).sqrt()
        torch.testing.assert_close(bounds(agent, probe, 6)[:, arm - 1], expected, rtol=0, atol=1e-8)


def test_hybrid_scores_are_those_of_one_ridge_regression_over_stacked_features() -> None:
    """Algorithm 2 is a ridge regression on [z, 0 .. x .. 0] with unit penalty; one of the arms has no trials."""
    features = torch.randn(5, 2, generator=Generator().manual_seed(3))
    agent = build(featured(features), alpha=0.7, model="hybrid")
    context, item, reward = taught(agent, 4)
    probe = torch.randn(9, CONTEXT, generator=Generator().manual_seed(2))
    vectors = torch.cat([torch.zeros(1, 3), torch.cat([features, torch.ones(5, 1)], dim=1)]).double()

    def stacked(x: Tensor, arm: Tensor) -> Tensor:
        z = (x.unsqueeze(2) * vectors[arm].unsqueeze(1)).flatten(1)
        own = x.new_zeros(len(x), 6, x.shape[1])
        own[torch.arange(len(x)), arm] = x
        return torch.cat([z, own.flatten(1)], dim=1)

    phi = stacked(agent.users(asking(context)), item)
    inverse = torch.linalg.inv(torch.eye(phi.shape[1], dtype=torch.float64) + phi.t() @ phi)
    weights = inverse @ (phi.t() @ reward.double())
    at = agent.users(asking(probe))
    for arm in range(1, 6):
        here = stacked(at, torch.full((9,), arm))
        expected = here @ weights + 0.7 * ((here @ inverse) * here).sum(1).sqrt()
        torch.testing.assert_close(bounds(agent, probe, 5)[:, arm - 1], expected, rtol=0, atol=1e-8)


def test_hybrid_shared_part_follows_lines_17_to_24_of_the_paper_event_by_event() -> None:
    """A_0 and b_0 as printed, with B_a, one trial at a time."""
    features = torch.randn(4, 2, generator=Generator().manual_seed(3))
    agent = build(featured(features), model="hybrid")
    context, item, reward = taught(agent, 4, batches=3, n=20)
    x = agent.users(asking(context))
    z = (x.unsqueeze(2) * agent.vectors(item).unsqueeze(1)).flatten(1)
    d, k = x.shape[1], z.shape[1]
    eye, dtype = torch.eye(d, dtype=torch.float64), torch.float64
    a0, b0 = torch.eye(k, dtype=dtype), torch.zeros(k, dtype=dtype)
    gram = {arm: eye.clone() for arm in range(1, 5)}
    cross = {arm: torch.zeros(d, k, dtype=dtype) for arm in gram}
    target = {arm: torch.zeros(d, dtype=dtype) for arm in gram}
    for at, arm in enumerate(item.tolist()):
        inverse, r = torch.linalg.inv(gram[arm]), float(reward[at])
        a0 += cross[arm].t() @ inverse @ cross[arm]
        b0 += cross[arm].t() @ inverse @ target[arm]
        gram[arm] += torch.outer(x[at], x[at])
        cross[arm] += torch.outer(x[at], z[at])
        target[arm] += r * x[at]
        inverse = torch.linalg.inv(gram[arm])
        a0 += torch.outer(z[at], z[at]) - cross[arm].t() @ inverse @ cross[arm]
        b0 += r * z[at] - cross[arm].t() @ inverse @ target[arm]
    torch.testing.assert_close(agent.shared_gram, a0, rtol=0, atol=1e-8)
    torch.testing.assert_close(agent.shared_target, b0, rtol=0, atol=1e-8)


def test_one_number_by_hand() -> None:
    """An empty window: x = [0, 1]. Two trials of reward 1 and 0: A = 3, b = 1, score 1/3 + 2 / sqrt(3)."""
    agent = build(catalog(1), context=0, alpha=2.0, dim=1)
    history = asking(torch.zeros(2, 0))
    agent.observe(shown(history, torch.ones(2, 1, dtype=torch.int64), torch.tensor([[1.0], [0.0]])))
    agent.update()
    assert float(agent.score(history[:1], torch.tensor([1]))) == pytest.approx(1 / 3 + 2 / math.sqrt(3), abs=1e-9)


def test_users_are_a_mean_that_fades_with_age() -> None:
    agent = build(catalog(4), context=0, decay=0.5)
    x = agent.users(asking(torch.zeros(1, 0), torch.tensor([[0, 3, 1, 2]])))[0]
    v = agent.vectors(torch.tensor([1, 2, 3]))[:, :-1]
    torch.testing.assert_close(x[:-1], (v[1] + 0.5 * v[0] + 0.25 * v[2]) / 1.75)
    assert float(x[-1]) == 1.0
    torch.testing.assert_close(v.norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_users_of_one_wave_try_different_untried_arms() -> None:
    decision = build(catalog(50)).act(asking(torch.zeros(200, CONTEXT)))
    assert len(set(decision.slate[:, 0].tolist())) > 40
    assert (decision.logp == 0).all()


def test_what_was_observed_counts_from_the_next_update_on() -> None:
    agent = build(catalog(3))
    history = asking(torch.ones(8, CONTEXT))
    before = agent.score(history, torch.arange(1, 4))
    agent.observe(shown(history, torch.ones(8, 1, dtype=torch.int64), torch.ones(8, 1)))
    assert torch.equal(before, agent.score(history, torch.arange(1, 4)))
    assert agent.update()["reward_per_slot"] == 1.0
    assert not torch.equal(before, agent.score(history, torch.arange(1, 4)))
    assert agent.update() == {}


@pytest.mark.parametrize("model", ["disjoint", "hybrid"])
def test_arms_are_few_and_the_one_unseen_for_longest_goes(model: str) -> None:
    agent = build(catalog(10), arms=3, model=model, dim=4)
    for item in (1, 2, 3, 1, 4):
        agent.observe(shown(asking(torch.ones(2, CONTEXT)), torch.full((2, 1), item), torch.ones(2, 1)))
        agent.update()
    assert sorted(agent.item.tolist()) == [1, 3, 4]
    assert float(agent.gram[agent.place[1]][-1, -1]) == 5.0  # 1 + four trials with the constant 1
    assert float(agent.gram[agent.place[4]][-1, -1]) == 3.0
    prior = agent.tables(torch.tensor([2]))[1]
    if model == "disjoint":
        assert torch.equal(prior[0], torch.eye(agent.width, dtype=torch.float64))
    # More items in one batch than there may be arms: three get one, the others are dropped.
    many = torch.arange(5, 10).unsqueeze(1)
    agent.observe(shown(asking(torch.ones(5, CONTEXT)), many, torch.ones(5, 1)))
    agent.update()
    assert len(agent.item) == 3
    assert (agent.place >= 0).sum() == 3


# --- the paper's findings, in worlds where its assumption holds -------------------------------------------------


class Linear:
    """Rewards context . theta_a + noise. With `shared` the theta of an item is a linear function of its features."""

    def __init__(self, items: int, dim: int, shared: float, seed: int) -> None:
        self.draw = Generator().manual_seed(seed)
        self.features = torch.randn(items, 3, generator=self.draw)
        common = self.features @ torch.randn(3, dim, generator=self.draw) / 3**0.5
        self.theta = shared * common + (1 - shared) * torch.randn(items, dim, generator=self.draw)

    def play(self, agent: LinUCB, decisions: int, n: int = 8) -> Tensor:
        """Regret of each decision, [decisions]."""
        regret = []
        for _ in range(decisions // n):
            history = asking(torch.randn(n, self.theta.shape[1], generator=self.draw))
            worth = history.context @ self.theta.t()
            slate = agent.act(history).slate
            mean = worth.gather(1, slate - 1)
            agent.observe(shown(history, slate, mean + 0.1 * torch.randn(mean.shape, generator=self.draw)))
            agent.update()
            regret.append(worth.max(1).values - mean[:, 0])
        return torch.cat(regret)


def test_regret_grows_more_slowly_than_that_of_epsilon_greedy() -> None:
    late = {}
    policies: dict[str, dict[str, Any]] = {"ucb": {"alpha": 1.0}, "greedy": {"alpha": 0.0, "epsilon": 0.1}}
    for name, settings in policies.items():
        world = Linear(10, 5, 0.0, seed=4)
        agent = build(featured(world.features), context=5, **settings)
        late[name] = float(world.play(agent, 3200)[1600:].mean())
    assert late["ucb"] < 0.2 * late["greedy"]


def test_hybrid_learns_from_less_data_where_items_share_something() -> None:
    """Like the paper's 1 % of the data: fewer trials than items times numbers to learn."""
    gain = []
    for seed in range(3):
        regret = {}
        for model in ("hybrid", "disjoint"):
            world = Linear(60, 5, 0.9, seed=seed)
            agent = build(featured(world.features), context=5, model=model, alpha=0.3)
            regret[model] = float(world.play(agent, 400).mean())
        gain.append(regret["disjoint"] / regret["hybrid"])
    assert min(gain) > 1.5


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "linear"}, "disjoint"),
        ({"alpha": -1.0}, "alpha"),
        ({"epsilon": 1.5}, "epsilon"),
        ({"decay": -0.1}, "decay"),
        ({"dim": 0}, "dim"),
        ({"arms": 0}, "arms"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(catalog(3), **settings)


def test_a_state_of_another_model_is_refused() -> None:
    state = build(catalog(3), model="hybrid", dim=2).state_dict()
    with pytest.raises(ValueError, match="must be the same"):
        build(catalog(3), dim=2).load_state_dict(state)
    agent = build(catalog(9), dim=2)
    taught(agent, 9)
    with pytest.raises(ValueError, match="raise it"):
        build(catalog(9), dim=2, arms=4).load_state_dict(agent.state_dict())


def test_offers_and_windows_work_with_the_hybrid_model_too() -> None:
    agent = build(catalog(12), slate=2, model="hybrid", dim=4)
    taught(agent, 12)
    history = replace(asking(torch.ones(2, CONTEXT)), offer=torch.tensor([[3, 0, 5], [0, 0, 7]]))
    slate = agent.act(history).slate
    assert slate[0].sort().values.tolist() == [3, 5]
    assert slate[1].tolist() == [7, 0]
