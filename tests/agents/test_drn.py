"""DRN: activeness by hand, interleaving by enumeration, minor and major clocks, what V may see."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from agents.drn import DRN
from agents.drn_activeness import Activeness
from agents.drn_features import WINDOWS, ClickCounts, Values
from agents.drn_interleaving import credit, interleave, shares
from streamrec.catalog import Catalog
from streamrec.records import Decision, History, Kind, Transition
from streamrec.sessions import SessionStore
from tests.histories import catalog, history

HOUR, DAY = 3600.0, 86_400.0


def agent(of: Catalog | None = None, slate: int = 3, **settings: Any) -> DRN:
    items = catalog(12) if of is None else of
    small = {"memory": 256, "batch": 32, "dim": 4, "hidden": 8, "candidates": 4}
    return DRN(items, SessionStore(users=64, length=6, skips=2, slate=slate), slate, **small | settings)


def at(before: History, time: float) -> History:
    return replace(before, time=torch.full_like(before.time, time))


def answered(made: DRN, before: History, clicks: Tensor, seconds: float = 30.0) -> Transition:
    """What the agent shows, with these clicks [B, K]."""
    shown = made.act(before)
    return Transition(
        history=before,
        shown=shown,
        wanted=shown,
        feedback=torch.where(clicks, int(Kind.CLICK), int(Kind.IMPRESSION)).to(torch.int8),
        rewards=clicks.float(),
        next=replace(before, time=before.time + seconds),
        time=before.time + seconds,
        done=torch.zeros(len(before), dtype=torch.bool),
        sent=before.time,
    )


# --- activeness --------------------------------------------------------------------------------------------------

USER, KEY = torch.tensor([3]), torch.tensor([77])


def ask(tracker: Activeness, time: float, key: int = 77) -> tuple[float, int]:
    level, visit = tracker.request(USER, torch.tensor([key]), torch.tensor([time], dtype=torch.float64))
    return float(level), int(visit)


def test_activeness_falls_to_1773_in_a_day_and_a_return_brings_it_back() -> None:
    """The paper's numbers: S0 = .5, T0 = 24 h, hazard 1.2e-5 per second, Sa = .32."""
    tracker = Activeness(users=8, visits=16)
    assert ask(tracker, 0.0) == (0.5, 0)
    now = torch.tensor(DAY, dtype=torch.float64)
    assert float(tracker.led_to(torch.tensor([0]), now)) == pytest.approx(0.1773, abs=1e-4)
    level, visit = ask(tracker, DAY)
    assert level == pytest.approx(0.5, abs=0.003)  # .1773 + .32: Sa is rounded in the paper
    assert visit == 1
    assert float(tracker.led_to(torch.tensor([0]), now)) == pytest.approx(level)


def test_requests_of_one_visit_are_no_returns_and_activeness_ends_at_1() -> None:
    tracker = Activeness(users=8, visits=16, away_s=1800.0)
    first, _ = ask(tracker, 0.0)
    second, visit = ask(tracker, 1000.0)
    assert visit == 0
    assert second == pytest.approx(first * math.exp(-1.2e-5 * 1000), rel=1e-5)
    for at_hour in range(1, 30):
        level, _ = ask(tracker, 1000.0 + at_hour * HOUR)
    assert level == 1.0


def test_who_does_not_return_is_worth_less_and_less() -> None:
    tracker = Activeness(users=8, visits=16)
    ask(tracker, 0.0)
    days = torch.arange(1, 5, dtype=torch.float64) * DAY
    led = torch.cat([tracker.led_to(torch.tensor([0]), now) for now in days])
    torch.testing.assert_close(led, (0.5 * torch.exp(-1.2e-5 * days)).float())


def test_a_row_with_another_user_starts_anew_and_the_visit_before_keeps_its_outcome() -> None:
    tracker = Activeness(users=8, visits=16)
    ask(tracker, 0.0)
    assert ask(tracker, DAY, key=5) == (0.5, 1)
    later = torch.tensor(9 * DAY, dtype=torch.float64)
    assert float(tracker.led_to(torch.tensor([0]), later)) == pytest.approx(0.1773, abs=1e-4)
    level = tracker.at(USER, KEY, torch.tensor([2 * DAY], dtype=torch.float64))
    assert float(level) == 0.5


def test_activeness_of_a_batch_with_a_user_twice_is_that_of_two_batches() -> None:
    one, two = Activeness(users=8, visits=16), Activeness(users=8, visits=16)
    users, times = torch.tensor([3, 4, 3]), torch.tensor([0.0, 5.0, DAY], dtype=torch.float64)
    level, visit = one.request(users, users, times)
    apart = [two.request(users[part], users[part], times[part]) for part in (slice(0, 2), slice(2, 3))]
    torch.testing.assert_close(level, torch.cat([a for a, _ in apart]))
    assert visit.tolist() == torch.cat([v for _, v in apart]).tolist() == [0, 1, 2]


def test_forgotten_visits_say_so() -> None:
    tracker = Activeness(users=8, visits=2)
    for day in range(4):
        ask(tracker, day * DAY)
    led = tracker.led_to(torch.arange(4), torch.tensor(4 * DAY, dtype=torch.float64))
    assert led.isnan().tolist() == [True, True, False, False]


# --- interleaving ------------------------------------------------------------------------------------------------

LISTS = torch.tensor([[[1, 2, 3], [3, 1, 4]]])


def by_hand(order: tuple[int, ...], tau: float) -> list[float]:
    """Propensity of each slot of `order`, from the definition."""
    found = []
    for slot, item in enumerate(order):
        chance = 0.0
        for ranking in LISTS[0].tolist():
            weight = {d: (r + 1) ** -tau for r, d in enumerate(ranking) if d not in order[:slot]}
            chance += 0.5 * weight.get(item, 0.0) / sum(weight.values())
        found.append(chance)
    return found


def test_interleaving_has_the_propensities_of_its_definition() -> None:
    n = 40_000
    slate, slot_logp = interleave(LISTS.expand(n, -1, -1), 1.0, Generator().manual_seed(1))
    total = 0.0
    for order in itertools.permutations((1, 2, 3, 4), 3):
        expected = by_hand(order, 1.0)
        total += math.prod(expected)
        rows = (slate == torch.tensor(order)).all(1)
        assert abs(float(rows.double().mean()) - math.prod(expected)) < 0.01
        if rows.any():
            torch.testing.assert_close(slot_logp[rows][0].exp(), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert total == pytest.approx(1.0)


def test_shares_sum_to_one_until_a_list_is_used_up() -> None:
    p = shares(LISTS, torch.tensor([[3, 1]]), 3.0)
    assert p.sum(2).tolist() == [[1.0, 1.0]]
    assert p[0].tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert shares(LISTS, torch.tensor([[1, 2, 3]]), 3.0)[0, 0].tolist() == [0.0, 0.0, 0.0]


def test_equal_lists_of_fewer_items_than_slots_leave_the_rest_empty() -> None:
    lists = torch.tensor([[[5, 6, 0], [6, 5, 0]]]).expand(50, -1, -1)
    slate, slot_logp = interleave(lists, 3.0, Generator().manual_seed(1))
    assert (slate[:, 2] == 0).all()
    assert (slot_logp[:, 1:] == 0).all()  # the last item left is certain, and so is an empty slot
    assert (slate[:, :2].sort(1).values == torch.tensor([5, 6])).all()


def test_credit_goes_to_each_list_by_what_it_would_have_contributed() -> None:
    slate, every = torch.tensor([[3, 2, 4]]), torch.ones(1, 3, dtype=torch.bool)
    weights = [1.0, 2**-3, 3**-3]
    third = weights[2] / sum(weights)  # item 3 is last in the first list and first in the second
    first = weights[0] / sum(weights)
    expected = torch.tensor([[third / (third + first) + 1.0, first / (third + first) + 1.0]], dtype=torch.float64)
    torch.testing.assert_close(credit(LISTS, slate, every, 3.0), expected)
    assert credit(LISTS, slate, ~every, 3.0).tolist() == [[0.0, 0.0]]
    alien = torch.tensor([[9, 8, 7]])
    assert credit(LISTS, alien, every, 3.0).tolist() == [[0.0, 0.0]]


# --- exploration in weight space ---------------------------------------------------------------------------------


def test_perturbation_is_relative_per_weight_and_belongs_to_its_duel() -> None:
    made = agent(alpha=0.1)
    moved, again, other = made._perturbed(5), agent(alpha=0.1)._perturbed(5), made._perturbed(6)
    for name, p in made.online.named_parameters():
        ratio = ((moved[name] - p) / p)[p != 0].detach()
        assert float(ratio.abs().max() if len(ratio) else torch.zeros(())) <= 0.1 + 1e-5
        assert torch.equal(moved[name], again[name])
    assert not torch.equal(moved["cross"], other["cross"])
    ratio = (moved["cross"] / made.online.cross - 1).detach()
    assert float(ratio.std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.1)


def test_minor_update_moves_eta_of_the_way_and_only_if_the_explorer_won() -> None:
    for explorer, moves in ((3.0, True), (1.0, False), (2.0, False)):
        made = agent(eta=0.05, minor_s=60.0)
        before = {name: p.detach().clone() for name, p in made.online.named_parameters()}
        toward = {name: p.clone() for name, p in made._perturbed(4).items()}
        made._duel[4], made._won[4] = 4, torch.tensor([2.0, explorer])
        made.now = torch.tensor(6 * 60.0 + 1, dtype=torch.float64)
        made._minor()
        for name, p in made.online.named_parameters():
            expected = before[name] + 0.05 * (toward[name] - before[name]) * moves
            torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=1e-7)
        assert made.wins == moves


def test_duels_are_decided_by_event_time_once_and_not_before_their_clicks_are_in() -> None:
    made = agent(minor_s=60.0, major_s=1e9)
    start = at(history([[1], [2]]), 100.0)  # duel 1
    made.observe(answered(made, start, torch.ones(2, 3, dtype=torch.bool), seconds=1.0))
    made.update()
    assert made.duels == 0
    made.observe(answered(made, at(start, 170.0), torch.zeros(2, 3, dtype=torch.bool), seconds=1.0))
    made.update()
    assert made.duels == 0
    made.observe(answered(made, at(start, 185.0), torch.zeros(2, 3, dtype=torch.bool), seconds=1.0))
    made.update()
    made.update()
    assert (made.duels, made.decided) == (1, 1)
    late = answered(made, start, torch.ones(2, 3, dtype=torch.bool), seconds=1.0)
    made.observe(late)
    assert not (made._duel == 1).any() or float(made._won[1].sum()) == 6.0  # nothing is added to a decided duel


def test_what_was_not_shown_as_wanted_cannot_win_a_duel() -> None:
    made = agent(minor_s=60.0)
    step = answered(made, at(history([[1], [2]]), 100.0), torch.ones(2, 3, dtype=torch.bool))
    other = replace(step, shown=replace(step.shown, slate=step.shown.slate.flip(1)))
    made.observe(other)
    assert float(made._won.sum()) == 0.0
    made.observe(step)
    assert float(made._won.sum()) == pytest.approx(6.0)


def test_lists_lost_on_the_way_are_made_again() -> None:
    one, other = agent(minor_s=60.0), agent(minor_s=60.0)
    step = answered(one, at(history([[1], [2]]), 100.0), torch.tensor([[True, False, False]] * 2))
    wanted = replace(step.wanted, shadow=step.wanted.shadow[:, :0])
    one.observe(step)
    other.observe(replace(step, wanted=wanted))
    torch.testing.assert_close(one._won, other._won)


def test_explorers_win_half_of_their_duels_when_they_hardly_differ() -> None:
    made, generator = agent(alpha=1e-6, eta=0.0, minor_s=60.0, major_s=1e9), Generator().manual_seed(2)
    users, won = history([[1 + i % 12] for i in range(32)]), torch.zeros(2, dtype=torch.float64)
    for duel in range(200):
        before = at(users, 60.0 * duel + 1)
        made.observe(answered(made, before, torch.rand(32, 3, generator=generator) < 0.3, seconds=1.0))
        won += made._won[duel % 64]
    share = float(won[1] / won.sum())
    assert share == pytest.approx(0.5, abs=0.02)


def test_a_batch_that_spans_duels_uses_the_perturbation_of_each() -> None:
    made = agent(minor_s=60.0, alpha=0.9)
    users = history([[1], [2], [3], [4]])
    mixed = replace(users, time=torch.tensor([10.0, 70.0, 10.0, 70.0], dtype=torch.float64))
    together = made._lists(mixed)
    apart = torch.cat([made._lists(mixed[row : row + 1]) for row in range(4)])
    assert torch.equal(together, apart)


# --- values ------------------------------------------------------------------------------------------------------


def described(items: int = 12) -> Catalog:
    made = Catalog(64)
    made.reserve(2)
    rows = made.rows([f"i{i}" for i in range(items)])
    born = torch.arange(items, dtype=torch.float64)
    features = torch.stack([rows % 2, rows % 3], 1).float()
    made.describe(rows, category=rows % 4 + 1, features=features, born=born)
    made.see(rows)
    return made


def test_v_sees_user_and_context_and_nothing_of_the_news() -> None:
    items = described()
    made, users = agent(items), history([[1, 2], [3]])
    level = torch.tensor([0.5, 0.7])
    before = made.online.value(users, level)
    clicked_only = torch.tensor([4, 5, 6])
    items.features[clicked_only] += 1.0
    items.category[clicked_only] = 9
    items.born[:] = -1e6
    made.counts.table += 7.0
    with torch.no_grad():
        made.online.items.weight[4:7] += 1.0
    assert torch.equal(made.online.value(users, level), before)
    assert not torch.equal(made.online.value(users, level + 0.1), before)
    assert not torch.equal(made.online.value(at(users, 9 * HOUR), level), before)


def test_q_is_v_plus_advantage_and_is_not_centred() -> None:
    made, users = agent(described()), history([[1, 2], [3]])
    items, level = torch.arange(1, 7).unsqueeze(0), torch.full((2,), 0.5)
    q = torch.add(*made.online(users, items, made.counts.read(items), level))
    with torch.no_grad():
        made.online.value_shift3.add_(1.0)
        raised = torch.add(*made.online(users, items, made.counts.read(items), level))
        torch.testing.assert_close(raised, q + 1.0)
        made.online.shift3.add_(1.0)
        both = torch.add(*made.online(users, items, made.counts.read(items), level))
        torch.testing.assert_close(both, q + 2.0)


@pytest.mark.parametrize("column", ["features", "category", "born"])
def test_every_group_of_news_features_is_read(column: str) -> None:
    items = described()
    made, users = agent(items), at(history([[1, 2], [3]]), HOUR)
    shown, level = torch.tensor([[4, 5]]), torch.full((2,), 0.5)
    counts = torch.zeros(1, 2, len(WINDOWS))
    _, before = made.online(users, shown, counts, level)
    assert not torch.equal(made.online(users, shown, counts + 3.0, level)[1], before)
    table = getattr(items, column)
    table[4] = table[4] + 1
    _, after = made.online(users, shown, counts, level)
    assert not torch.equal(after[:, 0], before[:, 0])
    assert torch.equal(after[:, 1], before[:, 1])


def test_windows_of_a_user_hold_what_was_clicked_inside_them() -> None:
    values = Values(described(), SessionStore(users=4, slate=1), (10.0, 100.0), 4, 8, Generator().manual_seed(1))
    user = history([[1, 2, 3]], length=3)
    user.time[:] = 1000.0
    user.times[:] = torch.tensor([[850.0, 950.0, 995.0]])
    inside, _ = values._clicked(user)
    assert inside.tolist() == [[[0.0, 0.0, 1.0], [0.0, 0.5, 0.5]]]


# --- click counts ------------------------------------------------------------------------------------------------


def test_click_counts_forget_with_their_windows() -> None:
    counts = ClickCounts(catalog(4), (6.0, 60.0), "cpu")
    clock = torch.tensor(1000.0, dtype=torch.float64)
    counts.add(torch.tensor([1, 1, 2]), torch.tensor([999.5, 999.9, 900.0]).double(), clock)
    none = torch.zeros(0, dtype=torch.int64)
    assert counts.read(torch.tensor([1, 2])).tolist() == [[2.0, 2.0], [0.0, 0.0]]
    for later, short, long in ((1004.0, 2.0, 2.0), (1007.0, 0.0, 2.0), (1075.0, 0.0, 0.0)):
        counts.add(none, none.double(), torch.tensor(later, dtype=torch.float64))
        assert counts.read(torch.tensor(1)).tolist() == [short, long], later


def test_counts_follow_a_steady_rate_to_a_sixth_of_a_window() -> None:
    counts = ClickCounts(catalog(4), (60.0, 600.0), "cpu")
    for second in range(0, 900):
        time = torch.tensor([float(second)], dtype=torch.float64)
        counts.add(torch.tensor([3]), time, time[0])
    assert counts.read(torch.tensor(3)).tolist() == pytest.approx([60.0, 600.0], rel=0.02)


# --- rewards and the major clock ---------------------------------------------------------------------------------


def test_target_is_click_plus_gain_in_activeness_plus_the_double_dqn_value() -> None:
    made = agent(slate=2, gamma=0.4, beta=0.05, candidates=12)
    with torch.no_grad():
        for p in made.target.parameters():  # two networks that disagree
            p.add_(0.3 * torch.randn(p.shape, generator=Generator().manual_seed(3)))
    users = at(history([[1], [2]]), 1000.0)
    made.observe(answered(made, users, torch.tensor([[True, False], [False, False]])))
    made.observe(answered(made, at(users, 1000.0 + DAY)[:1], torch.zeros(1, 2, dtype=torch.bool)))
    sample = made.replay.at(torch.arange(2))
    only = torch.full((2, 4), 7)
    made._some = lambda history: (only, only > 0)  # type: ignore[method-assign]
    target = made._target(sample, torch.arange(2))
    returned = 0.5 * math.exp(-1.2e-5 * DAY) + 0.32
    away = 0.5 * math.exp(-1.2e-5 * (DAY + 30))
    later = torch.add(*made.target(sample.next, only, made.counts.read(only), made._active[:2, 1]))[:, :1].detach()
    gain, loss = returned - 0.5, away - 0.5
    expected = torch.tensor([[[1.0, gain], [0.0, gain]], [[0.0, loss], [0.0, loss]]]) + 0.4 * later
    torch.testing.assert_close(target, expected)
    total = expected[..., 0] + 0.05 * expected[..., 1]
    torch.testing.assert_close(made._total(target), total)


@pytest.mark.parametrize("double", [True, False])
def test_the_next_article_is_chosen_by_the_online_network_if_double(double: bool) -> None:
    made = agent(slate=2, gamma=0.4, beta=0.5, double=double)
    with torch.no_grad():
        for p in made.target.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=Generator().manual_seed(3)))
    users, every = at(history([[1], [2]]), 1000.0), torch.arange(1, 13).expand(2, -1)
    made.observe(answered(made, users, torch.zeros(2, 2, dtype=torch.bool)))
    made._some = lambda history: (every, every > 0)  # type: ignore[method-assign]
    given = (made.replay.at(torch.arange(2)).next, every, made.counts.read(every), made._active[:2, 1])
    value = torch.add(*made.target(*given)).detach()
    best = made._total(torch.add(*(made.online if double else made.target)(*given))).argmax(1)
    target = made._target(made.replay.at(torch.arange(2)), torch.arange(2))
    torch.testing.assert_close(target[:, 0, 0], 0.4 * value[torch.arange(2), best, 0])


def test_no_article_has_merits_for_returns_before_anything_is_learned() -> None:
    made, users, items = agent(), history([[1], [2]]), torch.arange(1, 13).unsqueeze(0)
    given = (users, items, made.counts.read(items), torch.tensor([0.2, 0.9]))
    value, advantage = (part.detach() for part in made.online(*given))
    assert (advantage[..., 1] == 0).all()
    assert float(advantage[..., 0].std()) > 0
    assert (value != 0).all()


def test_major_updates_follow_event_time_and_catch_up_within_bounds() -> None:
    made = agent(major_s=100.0, minibatches=2, catch_up=3, batch=4)
    users = history([[1], [2], [3], [4]])
    none = torch.zeros(4, 3, dtype=torch.bool)
    learned = []
    for time in (10.0, 60.0, 110.0, 150.0, 990.0):
        made.observe(answered(made, at(users, time), none, seconds=1.0))
        made.update()
        learned.append(made.learned)
    assert learned == [0, 0, 2, 2, 8]


def test_ablations_are_switches() -> None:
    greedy = agent(beta=0.0, exploration="epsilon", epsilon=0.0)
    decision = greedy.act(history([[1], [2]]))
    assert decision.shadow.shape[1] == 0
    assert (decision.logp == 0).all()
    users = at(history([[1], [2]]), 1000.0)
    myopic = agent(gamma=0.0, beta=0.0)
    clicks = torch.tensor([[True, False, False], [False, False, True]])
    myopic.observe(answered(myopic, users, clicks))
    target = myopic._target(myopic.replay.at(torch.arange(2)), torch.arange(2))
    assert torch.equal(myopic._total(target), clicks.float())


def test_memory_keeps_the_counts_of_the_moment() -> None:
    made = agent()
    users = at(history([[1], [2]]), 1000.0)
    first = answered(made, users, torch.ones(2, 3, dtype=torch.bool))
    made.observe(first)
    made.observe(replace(first, history=at(users, 1001.0)))
    assert float(made._counted[:2].sum()) == 0.0
    assert float(made._counted[2:4, :, -1].min()) >= 1.0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gamma": 1.5}, "gamma must be between 0 and 1, got 1.5"),
        ({"beta": -1.0}, "beta must not be negative"),
        ({"minor_s": 0.0}, "minor_s must be above 0"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"exploration": "greedy"}, "exploration must be"),
        ({"windows": []}, "windows must be lengths above 0"),
        ({"away_s": 0.0}, "away_s and decay must be above 0"),
        ({"gain": 2.0}, "start and gain must be between 0 and 1"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        agent(**settings)


def test_decisions_carry_both_lists() -> None:
    made = agent()
    decision: Decision = made.act(history([[1], [2]]))
    assert decision.shadow.shape == (2, 2, 3)
    inside = (decision.slate.unsqueeze(2) == decision.shadow.flatten(1).unsqueeze(1)).any(2)
    assert inside.all()
