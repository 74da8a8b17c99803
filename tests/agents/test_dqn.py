"""DQN: the target by hand, what looking ahead is worth, candidates, exploration, the target network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from agents.dqn import DQN, Spread
from agents.popular import Popular
from agents.random import Random
from agents.rules import SequentialRules
from streamrec.catalog import Catalog
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.memory import PrioritisedReplay
from streamrec.records import Decision, History, Kind, Transition
from streamrec.sessions import SessionStore
from tests.histories import catalog, clicked, history, window


def agent(of: Catalog, slate: int = 1, candidates: Any = None, **settings: Any) -> DQN:
    encoder = GRU4Rec(of, dim=8, length=1)
    proposes = candidates or Popular(of, len(of))
    quiet = {"epsilon": 0.0, "epsilon_start": 0.0, "batch": 64, "memory": 4_000, "extra": 0}
    return DQN(of, SessionStore(users=64, length=6, skips=4, slate=slate), slate, encoder, proposes, **quiet | settings)


def step(before: History, shown: Tensor, rewards: Tensor, after: History, done: Tensor | None = None) -> Transition:
    decision = Decision.of(before.user, shown)
    kinds = torch.where(rewards > 0, int(Kind.CLICK), int(Kind.SKIP))
    return Transition(
        history=before,
        shown=decision,
        wanted=decision,
        feedback=torch.where(shown > 0, kinds, 0).to(torch.int8),
        rewards=rewards,
        next=after,
        time=before.time + 1,
        done=torch.zeros(len(shown), dtype=torch.bool) if done is None else done,
        sent=torch.zeros(len(shown), dtype=torch.float64),
    )


# --- looking ahead -----------------------------------------------------------------------------------------------

HOME, BAIT, SEED, FRUIT = 1, 2, 3, 4


def last(state: Tensor) -> History:
    return window(torch.stack([torch.zeros_like(state), state], dim=1))


def farm(n: int, generator: Generator) -> Transition:
    """At home the bait pays .6; a seed pays nothing, but after it, and only then, the fruit pays 2."""
    state = torch.where(torch.rand(n, generator=generator) < 0.5, HOME, SEED)
    shown = torch.randint(1, 5, (n, 1), generator=generator)
    item = shown[:, 0]
    reward = 0.6 * ((state == HOME) & (item == BAIT)) + 2.0 * ((state == SEED) & (item == FRUIT))
    after = torch.where((state == HOME) & (item == SEED), SEED, HOME)
    return step(last(state), shown, reward.unsqueeze(1).float(), last(after))


@pytest.mark.parametrize("double", [True, False])
def test_gives_up_reward_now_for_more_later_only_if_it_looks_ahead(double: bool) -> None:
    chosen, values = {}, {}
    for gamma in (0.0, 0.9):
        made = agent(
            catalog(4),
            gamma=gamma,
            n_step=1,
            double=double,
            target_every=20,
            learning_rate=0.01,
            item_learning_rate=0.2,
        )
        generator = Generator().manual_seed(1)
        for _ in range(40):
            made.observe(farm(100, generator))
        for _ in range(900):
            made.update()
        home = last(torch.tensor([HOME]))
        chosen[gamma] = made.act(home).slate.item()
        values[gamma] = made.online(home, torch.tensor([[BAIT, SEED]])).tolist()[0]
    assert chosen == {0.0: BAIT, 0.9: SEED}
    torch.testing.assert_close(values[0.0], [0.6, 0.0], atol=0.1, rtol=0)
    best = 0.9 * 2 / (1 - 0.9**2)  # of home, by Bellman's equation: a seed now, its fruit next, and home again
    torch.testing.assert_close(values[0.9], [0.6 + 0.9 * best, best], rtol=0.1, atol=0)


# --- the target --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("double", [True, False])
def test_target_is_reward_plus_later_slates_plus_the_best_slate_of_the_state_after(double: bool) -> None:
    items = catalog(9)
    made = agent(items, slate=2, gamma=0.5, n_step=2, double=double, exclude_seen=True)
    with torch.no_grad():
        for p in made.target.parameters():  # two networks that disagree
            p.add_(torch.randn(p.shape, generator=Generator().manual_seed(3)))
    states = [history([[1, 2], [3]]), history([[1, 2, 5], [3]]), history([[2, 5, 6], [3, 7]])]
    slates = [torch.tensor([[5, 4], [8, 0]]), torch.tensor([[6, 9], [7, 1]])]
    rewards = [torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[3.0, 0.0], [1.0, 0.0]])]
    made.observe(step(states[0], slates[0], rewards[0], states[1]))
    made.observe(step(states[1], slates[1], rewards[1], states[2], torch.tensor([False, True])))
    target = made._target(made.replay.at(torch.arange(4)))
    every = torch.arange(1, 10).expand(2, -1)
    judge = (made.online if double else made.target)(states[2], every).detach()
    judge[0, torch.tensor([2, 5, 6]) - 1] = -torch.inf  # seen
    best = judge[0].topk(2).indices
    value = made.target(states[2], every)[0, best].mean()
    expected = torch.stack(
        [
            rewards[0][0] + 0.5 * 3.0 / 2 + 0.25 * value,  # two slots were shown
            rewards[0][1] + 0.5 * 1.0,  # one slot was; then the visit ended
            rewards[1][0] + 0.5 * value,
            rewards[1][1],
        ]
    )
    torch.testing.assert_close(target, expected)


def test_empty_slots_teach_nothing() -> None:
    made = agent(catalog(4), slate=2, batch=1, memory=10, gamma=0.0)
    made.observe(step(history([[1]]), torch.tensor([[2, 0]]), torch.tensor([[1.0, 0.0]]), history([[1, 2]])))
    value = made.online(history([[1]]), torch.tensor([[2]])).item()
    assert made.update()["loss"] == pytest.approx((1.0 - value) ** 2, rel=1e-4)


def test_target_network_follows_in_jumps_new_items_included() -> None:
    items = catalog(4)
    made = agent(items, target_every=5)
    items.see(items.rows(["new"]))
    generator, still = Generator().manual_seed(1), made.target.state_dict()
    still = {name: value.clone() for name, value in still.items()}
    made.observe(farm(200, generator))
    made.observe(clicked(last(torch.tensor([5])), torch.tensor([5])))
    for number in range(1, 11):
        made.update()
        equal = all(torch.equal(a, b) for a, b in zip(made.target.parameters(), made.online.parameters(), strict=True))
        assert equal == (number % 5 == 0)
        if number < 5:
            assert all(torch.equal(p, still[name]) for name, p in made.target.named_parameters())


def test_the_catalogue_is_not_copied_with_the_network() -> None:
    items = catalog(4)
    made = agent(items)
    assert made.online.inputs.catalog is made.target.inputs.catalog is items
    one, other = (dict(net.named_parameters()) for net in (made.online, made.target))
    assert one.keys() == other.keys()
    assert all(one[name].data_ptr() != other[name].data_ptr() for name in one)


# --- candidates and exploration ----------------------------------------------------------------------------------


def test_shows_only_candidates_and_a_few_random_items() -> None:
    items = catalog(50)
    narrow = SequentialRules(items, 4)
    made = agent(items, slate=2, candidates=narrow)
    made.observe(clicked(history([[7], [7], [7], [7]]), torch.tensor([9, 11, 13, 15])))
    every = history([[7]] * 500)
    assert set(made.act(every).slate.flatten().tolist()) <= {9, 11, 13, 15}
    wider = agent(items, slate=2, candidates=narrow, extra=3, epsilon=1.0, epsilon_start=1.0)
    decision = wider.act(every)
    assert len(decision.slate.unique()) == 50
    assert (decision.slate[:, 0] != decision.slate[:, 1]).all()


def test_the_proposing_agent_learns_too() -> None:
    items = catalog(9)
    proposes = SequentialRules(items, 4)
    made = agent(items, candidates=proposes)
    made.observe(clicked(history([[7]]), torch.tensor([9])))
    assert proposes.act(history([[7]])).slate[0, 0] == 9
    inside = agent(items, candidates=agent(items, slate=3))
    inside.observe(farm(64, Generator()))
    assert {"loss", "candidates.loss"} <= inside.update().keys()


def test_propensity_is_the_frequency() -> None:
    items = catalog(5)
    made = agent(items, slate=1, epsilon=0.5, epsilon_start=0.5)
    decision = made.act(history([[2]] * 20_000))
    share = torch.bincount(decision.slate[:, 0], minlength=6) / 20_000
    for item in range(1, 6):
        said = decision.logp[decision.slate[:, 0] == item].exp().unique()
        assert said.numel() == 1
        assert abs(float(said) - float(share[item])) < 0.02


def test_exploration_falls_in_a_straight_line() -> None:
    made = agent(catalog(4), epsilon_start=0.5, epsilon=0.1, epsilon_decay=200)
    seen, generator = [], Generator().manual_seed(1)
    for _ in range(4):
        seen.append(made.exploration)
        made.observe(farm(100, generator))
    assert seen == pytest.approx([0.5, 0.3, 0.1, 0.1])
    assert agent(catalog(4), epsilon_start=0.5, epsilon=0.1, epsilon_decay=0).exploration == pytest.approx(0.1)


def test_remembers_only_the_windows_that_somebody_reads() -> None:
    items = catalog(4)
    narrow, wide = agent(items), agent(items, candidates=Panelist(items))
    for made in (narrow, wide):
        made.observe(clicked(history([[1]]), torch.tensor([2])))
    assert narrow.replay.ring is not None
    assert wide.replay.ring is not None
    assert narrow.replay.ring.history.skipped.shape[1] == 0
    assert narrow.replay.ring.history.items.shape[1] > 0
    assert wide.replay.ring.history.skipped.shape[1] > 0


class Panelist(Random):
    """Does not say what it reads."""

    reads = None  # type: ignore[assignment]

    def __init__(self, of: Catalog) -> None:
        super().__init__(of, 4)


# --- switches ----------------------------------------------------------------------------------------------------


def test_dueling_splits_values_into_what_the_state_is_worth_and_what_items_differ_by() -> None:
    """Q = V + A - mean of A: over the candidates the values have the mean V, whichever of them are asked about."""
    items = catalog(9)
    made = agent(items, dueling=True)
    before, every = history([[1, 2], [3]]), torch.arange(1, 10).expand(2, -1)
    mask = every != torch.tensor([[4], [5]])
    net = made.online
    with torch.no_grad():
        level = net.worth(net.inputs.state(before)).squeeze(1)
        values = net(before, every, among=(every, mask))
        torch.testing.assert_close((values * mask).sum(1) / 8, level)
        few = every[:, [6, 2]]
        torch.testing.assert_close(net(before, few, among=(every, mask)), values[:, [6, 2]])


def test_dueling_looks_ahead_too() -> None:
    made = agent(catalog(4), n_step=1, dueling=True, target_every=20, learning_rate=0.01, item_learning_rate=0.2)
    generator = Generator().manual_seed(1)
    for _ in range(20):
        made.observe(farm(100, generator))
    for _ in range(500):
        made.update()
    assert made.act(last(torch.tensor([HOME, SEED]))).slate.squeeze(1).tolist() == [SEED, FRUIT]


def test_prioritised_replay_is_told_the_error_of_each_transition_and_weighs_the_loss() -> None:
    made = agent(catalog(4), slate=2, batch=4, memory=4, gamma=0.0, prioritised=True)
    shown = torch.tensor([[1, 2], [3, 0], [1, 4], [2, 3]])
    rewards = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    before = history([[1], [2], [3], [4]])
    made.observe(step(before, shown, rewards, before))
    replay = made.replay
    assert isinstance(replay, PrioritisedReplay)
    with torch.no_grad():
        error = ((made.online(before, shown) - rewards) * (shown > 0)).abs()
        sample = replay.sample(4, Generator().set_state(made.generator.get_state()))
    replay.samples -= 1
    seen, filled = error[sample.number], (shown > 0)[sample.number]
    loss = (sample.weight.unsqueeze(1) * seen.square()).sum() / filled.sum()
    assert made.update()["loss"] == pytest.approx(float(loss), rel=1e-4)
    expected = (error.sum(1) / (shown > 0).sum(1) + replay.eps) ** replay.alpha
    torch.testing.assert_close(replay._mass[sample.number], expected[sample.number])


def test_without_anybody_who_proposes_every_available_item_is_a_candidate() -> None:
    items = catalog(6)
    sessions = SessionStore(users=64, length=6, skips=4, slate=2)
    made = DQN(items, sessions, 2, GRU4Rec(items, dim=8), epsilon=1.0, epsilon_start=1.0)
    items.retire(torch.tensor([2]))
    slate = made.act(history([[1]] * 300)).slate
    assert set(slate.flatten().tolist()) == {1, 3, 4, 5, 6}
    assert made.update() == {}


def test_learns_from_what_the_world_says_of_users_and_items_without_an_encoder() -> None:
    """People of two kinds, items with two features: everybody likes the one that goes with the kind."""
    items, sessions = catalog(6), SessionStore(users=64, length=6, skips=4, slate=1)
    items.reserve(2)
    items.describe(torch.arange(1, 7), features=torch.eye(2).repeat(3, 1))
    sessions.reserve(context=2)
    quiet = {"epsilon": 0.0, "epsilon_start": 0.0, "batch": 64, "learning_rate": 0.01, "gamma": 0.0}
    made = DQN(items, sessions, 1, candidates=Popular(items, 6), **quiet)  # type: ignore[arg-type]
    generator = Generator().manual_seed(0)
    for _ in range(60):
        kind = torch.randint(0, 2, (64,), generator=generator)
        shown = torch.randint(1, 7, (64, 1), generator=generator)
        before = replace(history([[]] * 64), context=torch.eye(2)[kind])
        rewards = ((shown[:, 0] - 1) % 2 == kind).float().unsqueeze(1)
        made.observe(step(before, shown, rewards, before))
        made.update()
    slate = made.act(replace(history([[]] * 2), context=torch.eye(2))).slate[:, 0]
    assert ((slate - 1) % 2).tolist() == [0, 1]


def test_spread_of_values_is_that_of_the_last_day() -> None:
    spread = Spread()
    numbers = [(0.0, 9.0), (600.0, 100.0), (86_400.0, 1.0), (86_400.0, 4.0), (87_000.0, 7.0)]
    said = []
    for spread.now, number in numbers:
        said.append(spread.add(number))
    assert said[0] == 0.0
    assert said[1] == pytest.approx(45.5)
    assert said[-1] == pytest.approx(6.0**0.5), "of 1, 4 and 7: what came before is over a day old"
    again = Spread()
    again.load_state_dict(spread.state_dict())
    assert again.add(3.0) == spread.add(3.0)


def test_refuses_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="epsilon_start must be between 0 and 1, got 2"):
        agent(catalog(4), epsilon_start=2.0)
    with pytest.raises(ValueError, match="target_every must be at least 1"):
        agent(catalog(4), target_every=0)
    with pytest.raises(ValueError, match="extra and epsilon_decay"):
        agent(catalog(4), extra=-1)
