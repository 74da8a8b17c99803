"""Robust DQN: the benchmark group, what drift leaves of a reward, strata, and the switches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from agents.popular import Popular
from agents.robust_dqn import Baseline, RegrettedReplay, RobustDQN
from streamrec.catalog import Catalog
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.records import Decision, History, Kind, Transition
from streamrec.sessions import SessionStore
from tests.histories import catalog

START = 1_700_000_000.0


def agent(of: Catalog, groups: int = 0, slate: int = 1, **settings: Any) -> RobustDQN:
    sessions = SessionStore(users=4096, length=4, skips=4, slate=slate)
    sessions.reserve(context=groups)
    quiet: dict[str, Any] = {"epsilon": 0.0, "epsilon_start": 0.0, "batch": 64, "memory": 4_000, "extra": 0}
    encoder = GRU4Rec(of, dim=8, length=1)
    return RobustDQN(of, sessions, slate, Popular(of, slate), encoder, Popular(of, len(of)), **quiet | settings)


def people(n: int, time: float | Tensor = START, group: Tensor | None = None, groups: int = 0) -> History:
    """`n` users with random window and hash, always the same."""
    generator = Generator().manual_seed(8)
    at = torch.as_tensor(time, dtype=torch.float64).expand(n).clone()
    told = torch.zeros(n, groups)
    if group is not None:
        told[torch.arange(n), group] = 1.0
    key = torch.randint(-(2**62), 2**62, (n,), generator=generator)
    items = torch.randint(1, 4, (n, 4), generator=generator).int()
    return History.of(user=torch.arange(n), key=key, time=at, items=items, context=told)


def paid(before: History, reward: Tensor, item: int = 1) -> Transition:
    """One slot per decision, with `item` in it."""
    shown = Decision.of(before.user, torch.full((len(before), 1), item))
    return Transition(
        history=before,
        shown=shown,
        wanted=shown,
        feedback=torch.full((len(before), 1), int(Kind.CLICK), dtype=torch.int8),
        rewards=reward.float().view(-1, 1),
        next=before,
        time=before.time + 1,
        done=torch.zeros(len(before), dtype=torch.bool),
        sent=torch.zeros(len(before), dtype=torch.float64),
    )


# --- the benchmark group -----------------------------------------------------------------------------------------


def test_a_share_of_the_users_is_served_by_the_benchmark_policy_for_good() -> None:
    made, before = agent(catalog(3), share=0.2), people(4_000)
    apart = made.in_benchmark(before.key)
    assert abs(float(apart.float().mean()) - 0.2) < 5 * math.sqrt(0.2 * 0.8 / 4_000)
    made.benchmark.agent.observe(paid(people(1), torch.ones(1), item=3))
    with torch.no_grad():
        made.online.bias[2] = 100.0
    decision = made.act(before)
    assert torch.equal(decision.user, before.user)
    assert (decision.slate[apart] == 3).all(), "the most popular item"
    assert (decision.slate[~apart] == 2).all(), "the item of the highest value"
    alone = people(4_000)[torch.tensor([17])]
    assert made.in_benchmark(alone.key).item() == apart[17].item()


def test_the_benchmark_policy_learns_from_its_own_group_in_the_beginning_and_then_never_again() -> None:
    made = agent(catalog(3), share=0.2, benchmark_s=100.0)
    before = people(400)
    apart = made.in_benchmark(before.key)
    made.observe(paid(before[~apart], torch.ones(400)[~apart], item=2))
    counts = made.benchmark.agent.counts  # type: ignore[attr-defined]
    assert counts.sum() == 0
    made.observe(paid(before[apart], torch.ones(400)[apart], item=1))
    learned = counts.clone()
    assert learned[1] == pytest.approx(int(apart.sum()), rel=0.01)
    assert learned[2:].sum() == 0
    made.observe(paid(people(400, START + 101.0), torch.ones(400), item=3))
    made.update()
    assert torch.equal(learned, counts)


def test_only_users_outside_the_benchmark_group_are_learned_from() -> None:
    made, before = agent(catalog(3), share=0.2), people(400)
    made.observe(paid(before, torch.ones(400)))
    assert len(made.replay) == made.observed == int((~made.in_benchmark(before.key)).sum())
    assert made.baseline.total[0, 1] == 400 - made.observed


def test_whom_the_agent_may_not_show_seen_items_the_benchmark_policy_may_not_either() -> None:
    made, before = agent(catalog(8), share=0.5, exclude_seen=True), people(300)
    slate = made.act(before).slate
    assert (slate > 0).all()
    assert not (slate == before.items).any()


def test_whom_nothing_is_left_for_gets_nothing_whoever_answers() -> None:
    made, before = agent(catalog(8), share=0.5, exclude_seen=True), people(300)
    before.items = torch.arange(1, 9, dtype=before.items.dtype).expand(300, -1)
    decision = made.act(before)
    assert bool(made.in_benchmark(before.key).any())
    assert not decision.slate.any()
    assert not decision.slot_logp.any()


# --- the benchmark reward ----------------------------------------------------------------------------------------


def add(baseline: Baseline, time: float, reward: float, slots: int, stratum: int = 0) -> None:
    one = torch.tensor([stratum])
    baseline.add(torch.tensor([START + time]).double(), one, torch.tensor([reward]), torch.tensor([slots]))


def at(baseline: Baseline, time: float, stratum: int = 0) -> float:
    return baseline.at(torch.tensor([START + time]).double(), torch.tensor([stratum])).item()


def test_benchmark_reward_is_the_mean_per_slot_in_the_window_drawn_towards_that_of_all() -> None:
    exact, drawn = (Baseline(1, 600.0, prior, torch.device("cpu")) for prior in (0.0, 10.0))
    for baseline in (exact, drawn):
        add(baseline, 0.0, 3.0, 5)
        add(baseline, 250.0, 1.0, 5)
        add(baseline, 5_000.0, 0.0, 10)
    assert at(exact, 100.0) == pytest.approx(4 / 10)
    assert at(exact, -250.0) == pytest.approx(3 / 5)
    assert at(exact, 5_100.0) == pytest.approx(0.0)
    assert at(drawn, 100.0) == pytest.approx((4 + 10 * 4 / 20) / (10 + 10))
    assert at(drawn, 2_500.0) == pytest.approx(4 / 20), "nobody is near"
    assert drawn.mean == pytest.approx(4 / 20)


def test_benchmark_rewards_are_kept_apart_by_stratum_and_forgotten_in_the_end() -> None:
    baseline = Baseline(2, 600.0, 0.0, torch.device("cpu"))
    add(baseline, 0.0, 1.0, 1, stratum=0)
    add(baseline, 0.0, 5.0, 1, stratum=1)
    assert (at(baseline, 0.0, 0), at(baseline, 0.0, 1)) == (1.0, 5.0)
    later = 100.0 * Baseline.CELLS
    add(baseline, later, 2.0, 1)
    add(baseline, 0.0, 77.0, 1)  # too late: its place is taken
    assert at(baseline, later) == 2.0
    assert at(baseline, 0.0) == pytest.approx(80 / 3), "the mean of all: nothing near is kept"


# --- what drift leaves of a reward -------------------------------------------------------------------------------


def stream(made: RobustDQN, gain: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """A day of rewards that a wave common to everybody carries; halfway the treated users get `gain` more.

    Returns the wave, raw and regretted rewards of what the memory holds.
    """
    generator, steps = Generator().manual_seed(2), 200
    for step in range(steps):
        now = START + 86_400.0 * step / steps
        before = people(400, now)
        better = gain * (step >= steps // 2) * (~made.in_benchmark(before.key))
        noise = torch.randn(400, generator=generator) * 0.3
        made.observe(paid(before, 1.0 + wave(before.time) + better + noise))
    rows = torch.arange(len(made.replay))
    assert made.replay.ring is not None
    time = made.replay.ring.history.time[rows]
    return wave(time), made.replay.ring.rewards[rows, 0], made.replay.rewards(rows)[:, 0]


def wave(time: Tensor) -> Tensor:
    return 0.8 * torch.sin(2 * math.pi * (time - START) / 86_400.0)


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1])


def test_regretted_rewards_do_not_follow_the_drift_and_raw_ones_do() -> None:
    drift, raw, regretted = stream(agent(catalog(3), memory=100_000, prior=0.0))
    assert correlation(raw, drift) > 0.8
    assert abs(correlation(regretted, drift)) < 0.05
    assert float(regretted.var()) < 0.4 * float(raw.var())


def test_what_the_policy_gains_stays_visible_in_regretted_rewards() -> None:
    drift, raw, regretted = stream(agent(catalog(3), memory=100_000, prior=0.0), gain=0.5)
    half = len(drift) // 2
    assert float(regretted[half:].mean() - regretted[:half].mean()) == pytest.approx(0.5, abs=0.03)
    # The wave is up in the first half of the day: in raw rewards it hides the gain.
    assert float(raw[half:].mean() - raw[:half].mean()) < 0.0


def test_raw_rewards_and_times_are_what_is_kept() -> None:
    """A benchmark reward that becomes known later counts for what was stored before."""
    made, before = agent(catalog(3), share=0.3, prior=0.0), people(50)
    apart = made.in_benchmark(before.key)
    made.observe(paid(before[~apart], torch.ones(50)[~apart]))
    number = torch.tensor([0])
    assert made.replay.at(number).first.rewards.item() == 1.0
    made.observe(paid(people(50, START + 60.0)[apart], torch.full((50,), 0.25)[apart]))
    assert made.replay.at(number).first.rewards.item() == 0.75


def test_later_rewards_of_a_chain_are_regretted_and_empty_slots_are_not() -> None:
    baseline = Baseline(1, 600.0, 0.0, torch.device("cpu"))
    add(baseline, 0.0, 1.0, 4)
    replay = RegrettedReplay(baseline, 10, 2, 0.5)
    for _ in range(2):
        one = paid(people(1), torch.ones(1))
        one.shown = Decision.of(one.history.user, torch.tensor([[1, 0]]))
        one.wanted, one.rewards, one.feedback = one.shown, torch.tensor([[1.0, 0.0]]), one.feedback.expand(1, 2)
        replay.add(one)
    sample = replay.at(torch.tensor([0]))
    assert sample.first.rewards.tolist() == [[0.75, 0.0]]
    assert sample.later.item() == 0.5 * 0.75


def test_values_move_less_over_a_day_of_drift() -> None:
    spread = {}
    for regretted in (True, False):
        made = agent(catalog(3), regretted=regretted, gamma=0.0, memory=500, learning_rate=0.01, prior=0.0)
        said = []
        for step in range(240):
            before = people(100, START + 720.0 * step)
            made.observe(paid(before, 1.0 + wave(before.time)))
            said.append(made.update())
        values = torch.tensor([one["value"] for one in said[120:]])
        spread[regretted] = float(values.std())
        assert said[-1]["value_std"] == pytest.approx(spread[regretted], rel=0.25)
    assert spread[True] < 0.3 * spread[False]


# --- strata ------------------------------------------------------------------------------------------------------


def test_strata_come_from_the_context_and_keep_their_share_when_the_mix_of_users_moves() -> None:
    made = agent(catalog(3), groups=2, regretted=False, memory=2_000)
    for step, lot in enumerate([0.5] * 20 + [0.95] * 5):
        group = (torch.rand(200, generator=Generator().manual_seed(step)) < lot).long()
        made.observe(paid(people(200, START + step, group, 2), group.float()))
    drawn = made.replay.sample(1_000, Generator()).first
    # 59 % of all that ever came, where the newest 1000 are nearly all of one group.
    assert float(drawn.rewards.mean()) == pytest.approx((0.5 * 20 + 0.95 * 5) / 25, abs=0.02)


def test_without_a_group_in_the_context_there_is_one_stratum() -> None:
    assert agent(catalog(3)).strata == 1
    assert agent(catalog(3), groups=4).strata == 4
    assert agent(catalog(3), groups=4, strata=3).strata == 3
    assert agent(catalog(3), groups=4, stratified=False).strata == 1


def test_benchmark_rewards_by_stratum() -> None:
    made = agent(catalog(3), groups=2, share=0.5, by_stratum=True, prior=0.0)
    group = torch.arange(400) % 2
    made.observe(paid(people(400, START, group, 2), 1.0 + 2.0 * group))
    sample = made.replay.sample(100, Generator())
    assert sample.first.rewards.abs().max() < 1e-6
    common = agent(catalog(3), groups=2, share=0.5, prior=0.0)
    common.observe(paid(people(400, START, group, 2), 1.0 + 2.0 * group))
    assert common.replay.sample(100, Generator()).first.rewards.abs().mean() > 0.9


# --- switches ----------------------------------------------------------------------------------------------------


def test_without_regret_nobody_is_set_apart_and_rewards_stay_what_they_are() -> None:
    made, before = agent(catalog(3), regretted=False), people(500)
    assert not made.in_benchmark(before.key).any()
    made.observe(paid(before, torch.arange(500.0)))
    assert made.observed == 500
    assert made.replay.at(torch.arange(500)).first.rewards[:, 0].tolist() == list(range(500))


def test_goes_on_from_a_state_with_groups_and_a_benchmark() -> None:
    one, other = agent(catalog(3), groups=3), agent(catalog(3), groups=3, seed=5)
    group = torch.arange(300) % 3
    one.observe(paid(people(300, START, group, 3), torch.rand(300, generator=Generator().manual_seed(0))))
    one.update()
    other.load_state_dict(one.state_dict())
    assert one.update() == other.update()


def test_refuses_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="share must be between 0 and 1, window_s above 0"):
        agent(catalog(3), share=0.0)
    with pytest.raises(ValueError, match="strata must be between 1 and the 2 columns of the context, got 3"):
        agent(catalog(3), groups=2, strata=3)
