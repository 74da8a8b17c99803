"""DQN: the target by hand, what looking ahead is worth, candidates, exploration, the target network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from agents.dqn import DQN
from agents.popular import Popular
from agents.random import Random
from agents.rules import SequentialRules
from streamrec.catalog import Catalog
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.records import Decision, History, Kind, Transition
from tests.histories import catalog, clicked, history, window


def agent(of: Catalog, slate: int = 1, candidates: Any = None, **settings: Any) -> DQN:
    encoder = GRU4Rec(of, dim=8, length=1)
    proposes = candidates or Popular(of, len(of))
    quiet = {"epsilon": 0.0, "epsilon_start": 0.0, "batch": 64, "memory": 4_000, "extra": 0}
    return DQN(encoder, proposes, of, slate, **quiet | settings)


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
    class Remembers(GRU4Rec):
        def __init__(self, of: Catalog) -> None:
            super().__init__(of, dim=8)
            self.of = of

    items = catalog(4)
    made = DQN(Remembers(items), Popular(items, 4), items, 1)
    assert made.target.encoder.of is items  # type: ignore[attr-defined]
    assert made.target.encoder.items is not made.online.encoder.items


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


def test_refuses_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="epsilon_start must be between 0 and 1, got 2"):
        agent(catalog(4), epsilon_start=2.0)
    with pytest.raises(ValueError, match="target_every must be at least 1"):
        agent(catalog(4), target_every=0)
    with pytest.raises(ValueError, match="extra and epsilon_decay"):
        agent(catalog(4), extra=-1)
