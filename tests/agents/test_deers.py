"""DEERS: competitors by hand and by search, the two lists, the regulariser, towers, ablations, what skips teach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from agents.deers import DEERS, follow, regularise, rerank
from agents.deers_pairs import Competitors
from agents.popular import Popular
from streamrec.catalog import Catalog
from streamrec.memory import Replay
from streamrec.records import Decision, Events, History, Kind, Transition
from streamrec.sessions import SessionStore
from tests.histories import catalog, history, window

CLICK, SKIP, ORDER, SILENCE = (int(kind) for kind in (Kind.CLICK, Kind.SKIP, Kind.PURCHASE, Kind.IMPRESSION))


def agent(of: Catalog, slate: int = 1, **settings: Any) -> DEERS:
    small = {"dim": 8, "hidden": 12, "towers": (12, 8), "joint": 8, "batch": 64, "memory": 4_000, "extra": 6}
    quiet = {"epsilon": 0.0, "epsilon_start": 0.0, "neighbours": 3}
    sessions = SessionStore(users=64, length=6, skips=4, slate=slate)
    return DEERS(of, sessions, slate, **small | quiet | settings)


def seen(
    user: Tensor,
    shown: Tensor,
    kinds: Tensor,
    time: Tensor,
    done: Tensor | None = None,
    in_session: Tensor | None = None,
) -> Transition:
    """`shown` [B, K] at `time` [B] with feedback `kinds` [B, K]; click 1, order 5."""
    n = len(user)
    before = History.of(user=user, key=user + 7, time=time.double(), items=torch.zeros(n, 4, dtype=torch.int32))
    before.in_session = torch.zeros(n, dtype=torch.int64) if in_session is None else in_session
    decision = Decision.of(user, shown)
    return Transition(
        history=before,
        shown=decision,
        wanted=decision,
        feedback=kinds.to(torch.int8),
        rewards=(kinds == CLICK).float() + 5.0 * (kinds == ORDER),
        next=before,
        time=time.double() + 1,
        done=torch.zeros(n, dtype=torch.bool) if done is None else done,
        sent=torch.zeros(n, dtype=torch.float64),
    )


# --- competitors -------------------------------------------------------------------------------------------------

A, B = 1, 2
Step = tuple[float, int, int]
"""Time, item, feedback of one decision of user 0."""


def found(steps: Sequence[Step], categories: Sequence[int], window: int = 20, ends: int = -1) -> list[int]:
    """The competitor of each step in the end, 0 = none; item i has category `categories[i - 1]`."""
    items = catalog(len(categories))
    items.describe(torch.arange(1, len(categories) + 1), torch.tensor(categories))
    replay = Replay(64, 1, 0.9, ("items",))
    competitors = Competitors(replay, items, window, gap_s=100.0)
    for number, (time, item, kind) in enumerate(steps):
        row = torch.tensor([[item]]), torch.tensor([[kind]]), torch.tensor([time])
        one = seen(torch.tensor([0]), *row, done=torch.tensor([number == ends]))
        replay.add(one)
        competitors.note(one)
    return competitors.of(torch.arange(len(steps)))[0][:, 0].tolist()


def test_competitors_of_a_session_worked_out_by_hand() -> None:
    steps = [(0.0, 1, CLICK), (10.0, 2, SKIP), (20.0, 3, SKIP), (30.0, 4, CLICK), (45.0, 5, SKIP)]
    # 1: the later skip 3, not 5. 2: alone in its category. 3: click 4 (10 s), not 1 (20 s). 4: skip 3 (10 s), not 5.
    assert found(steps, [A, B, A, A, A]) == [3, 0, 4, 3, 4]


def test_an_order_competes_with_a_click_and_silence_with_nothing() -> None:
    assert found([(0.0, 1, CLICK), (1.0, 2, ORDER)], [A, A]) == [2, 1]
    assert found([(0.0, 1, CLICK), (1.0, 2, CLICK)], [A, A]) == [0, 0]
    assert found([(0.0, 1, CLICK), (1.0, 2, SILENCE)], [A, A]) == [0, 0]


def test_items_without_category_and_the_item_itself_do_not_compete() -> None:
    assert found([(0.0, 1, CLICK), (1.0, 2, SKIP)], [0, 0]) == [0, 0]
    assert found([(0.0, 1, CLICK), (1.0, 1, SKIP)], [A]) == [0, 0]


def test_a_visit_ends_competition() -> None:
    steps = [(0.0, 1, CLICK), (1.0, 2, SKIP)]
    assert found(steps, [A, A], ends=0) == [0, 0]
    assert found([(0.0, 1, CLICK), (101.0, 2, SKIP)], [A, A]) == [0, 0], "a pause"


def test_the_window_is_bounded() -> None:
    steps = [(0.0, 1, CLICK), *((float(t), 2, SKIP) for t in (1, 2, 3)), (4.0, 3, SKIP)]
    assert found(steps, [A, B, A], window=5) == [3, 0, 0, 0, 1]
    assert found(steps, [A, B, A], window=4) == [0, 0, 0, 0, 0]


def expected(user: Tensor, items: Tensor, kinds: Tensor, time: Tensor, category: Tensor) -> Tensor:
    """Distance of the closest competitor of each slot, by the three rules, one pair after the other."""
    away = torch.full(items.shape, torch.inf, dtype=torch.float64)
    slots = [(i, k) for i in range(len(items)) for k in range(items.shape[1])]
    for i, k in slots:
        for j, m in slots:
            same = user[i] == user[j] and category[items[i, k]] == category[items[j, m]] > 0
            acts = all(int(kind) in (CLICK, SKIP, ORDER) for kind in (kinds[i, k], kinds[j, m]))
            if same and acts and kinds[i, k] != kinds[j, m] and items[i, k] != items[j, m]:
                away[i, k] = min(away[i, k], abs(time[i] - time[j]).double())
    return away


def test_competitors_are_those_of_a_search_over_all_pairs() -> None:
    random = Generator().manual_seed(1)
    items = catalog(12)
    items.describe(torch.arange(1, 13), torch.arange(1, 13) % 4)
    replay = Replay(200, 1, 0.9, ("items",))
    competitors = Competitors(replay, items, 50, gap_s=1e9)
    parts = []
    for at in range(12):  # users 0..4, the first of them twice in a batch
        user = torch.tensor([0, 1, 2, 3, 4, 0])
        shown = torch.rand(6, 12, generator=random).topk(2).indices + 1
        kinds = torch.tensor([SKIP, CLICK, ORDER, SILENCE])[torch.randint(0, 4, (6, 2), generator=random)]
        time = at * 10 + torch.arange(6) * 1.5
        part = seen(user, shown, kinds, time)
        replay.add(part)
        competitors.note(part)
        parts.append(part)
    every = Transition.cat(parts)
    want = expected(every.history.user, every.shown.slate, every.feedback, every.history.time, items.category)
    other, reward = competitors.of(torch.arange(72))
    assert torch.equal(other > 0, want < torch.inf)
    assert (want < torch.inf).double().mean() > 0.3
    assert competitors._table is not None
    torch.testing.assert_close(competitors._table[2][:72], want)
    for i, k in torch.nonzero(other).tolist():
        there = (every.history.user == every.history.user[i]) & (
            (every.history.time - every.history.time[i]).abs() == want[i, k]
        )
        match = there.unsqueeze(1) & (every.shown.slate == other[i, k]) & (every.feedback != every.feedback[i, k])
        assert bool(match.any())
        assert reward[i, k] in every.rewards[match]


def test_what_was_overwritten_does_not_compete() -> None:
    items = catalog(3)
    items.describe(torch.arange(1, 4), torch.full((3,), A))
    replay = Replay(2, 1, 0.9, ("items",))
    competitors = Competitors(replay, items, 20, 100.0)
    for time, item, kind in ((0.0, 1, CLICK), (1.0, 2, SKIP), (2.0, 3, SKIP)):
        one = seen(torch.tensor([0]), torch.tensor([[item]]), torch.tensor([[kind]]), torch.tensor([time]))
        replay.add(one)
        competitors.note(one)
    assert competitors.of(torch.tensor([1, 2]))[0].tolist() == [[1], [0]]


# --- the two lists -----------------------------------------------------------------------------------------------


def test_a_reward_enters_one_list_a_skip_the_other_and_silence_none() -> None:
    before = history([[1, 2]] * 4, length=3)
    before.skipped = torch.tensor([[0, 0, 3, 4]] * 4, dtype=torch.int32)
    after = follow(before, torch.tensor([7, 7, 7, 7]), torch.tensor([CLICK, ORDER, SKIP, SILENCE]))
    assert after.items.tolist() == [[1, 2, 7], [1, 2, 7], [0, 1, 2], [0, 1, 2]]
    assert after.skipped.tolist() == [[0, 0, 3, 4], [0, 0, 3, 4], [0, 3, 4, 7], [0, 0, 3, 4]]


def test_the_session_store_moves_the_lists_by_the_same_rule() -> None:
    sessions = SessionStore(users=1, length=3, skips=3, slate=1)
    rows = sessions.rows(["u"])
    state = sessions.read(rows, torch.zeros(1, dtype=torch.float64))
    for at, (item, kind) in enumerate([(5, CLICK), (6, SKIP), (7, ORDER), (8, SKIP), (9, SKIP), (4, SKIP)]):
        time = torch.tensor([float(at + 1)])
        sessions.take(Events.of(rows, Kind(kind), time, item=torch.tensor([item])))
        state = follow(state, torch.tensor([item]), torch.tensor([kind]))
        now = sessions.read(rows, time.double())
        assert torch.equal(now.items, state.items)
        assert torch.equal(now.skipped, state.skipped)
    assert state.skipped.tolist() == [[8, 9, 4]]


# --- regulariser -------------------------------------------------------------------------------------------------


def test_the_regulariser_of_the_paper_is_blind_to_the_sign_and_stops_at_the_margin() -> None:
    gap = torch.tensor([0.5, -0.5, 5.0, -5.0], requires_grad=True)
    term = regularise(gap, torch.ones(4), "paper", 2.0)
    assert term.tolist() == [-0.25, -0.25, -4.0, -4.0]
    (slope,) = torch.autograd.grad(term.sum(), gap)
    assert slope.tolist() == [-1.0, 1.0, 0.0, 0.0], "less loss for a wider gap, either way, and none beyond"


def test_the_signed_regulariser_wants_the_better_one_on_top() -> None:
    gap = torch.tensor([0.5, 0.5, 3.0, -3.0, 1.0], requires_grad=True)
    order = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.0])
    term = regularise(gap, order, "signed", 2.0)
    assert term.tolist() == [2.25, 6.25, 0.0, 0.0, 0.0]
    (slope,) = torch.autograd.grad(term.sum(), gap)
    assert slope.tolist() == [-3.0, 5.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("regulariser", ["paper", "signed"])
def test_pairs_widen_the_gap(regulariser: str) -> None:
    """Item 1 is clicked, item 2 of its category skipped in the same state: values end further apart than rewards."""

    def gap(alpha: float) -> float:
        items = catalog(2)
        items.describe(torch.tensor([1, 2]), torch.tensor([A, A]))
        learner = agent(items, gamma=0.0, alpha=alpha, regulariser=regulariser, extra=2, learning_rate=0.02)
        users = torch.arange(40)
        for at, (item, kind) in enumerate(((1, CLICK), (2, SKIP))):
            shown, kinds = torch.full((40, 1), item), torch.full((40, 1), kind)
            learner.observe(seen(users, shown, kinds, torch.full((40,), 10.0 * at)))
        for _ in range(80):
            said = learner.update()
        assert said["paired"] == (1.0 if alpha else 0.0)
        one, two = learner.online(history([[0]], 4), torch.tensor([[1, 2]]))[0].tolist()
        return float(one - two)

    assert gap(0.0) == pytest.approx(1.0, abs=0.1)
    # (1 - q1)^2 + q2^2 - 2 a g^2 is least at g = 1 / (1 - 4 a); signed: + 2 a (2 - g)^2 at g = (1 + 8 a) / (1 + 4 a).
    assert gap(0.1) == pytest.approx({"paper": 1 / 0.6, "signed": 1.8 / 1.4}[regulariser], abs=0.15)


# --- network -----------------------------------------------------------------------------------------------------


def some(n: int = 5) -> History:
    random = Generator().manual_seed(2)
    made = window(torch.randint(1, 10, (n, 6), generator=random))
    made.skipped = torch.randint(1, 10, (n, 4), generator=random).int()
    return made


def test_the_item_enters_both_towers_and_each_list_only_its_own() -> None:
    net = agent(catalog(9)).online
    assert net.right is not None
    state, items = some(), torch.arange(1, 10).expand(5, -1)
    net(state, items).sum().backward()
    assert float(net.left.item.grad.abs().sum()) > 0
    assert float(net.right.item.grad.abs().sum()) > 0
    with torch.no_grad():
        other = replace(state, skipped=torch.zeros_like(state.skipped))
        for tower in (net.right, net.left):
            tower.rest[-1].weight.zero_()
            same = torch.equal(net(state, items), net(other, items))
            assert same == (tower is net.right), "skips pass through the right tower"
            torch.nn.init.uniform_(tower.rest[-1].weight, generator=Generator().manual_seed(1))


def test_the_newest_items_of_a_list_are_read() -> None:
    net, items = agent(catalog(9), length=3).online, torch.arange(1, 10).expand(5, -1)
    state = some()
    older = replace(state, items=state.items.clone(), skipped=state.skipped.clone())
    older.items[:, :3], older.skipped[:, :1] = 0, 0
    assert torch.equal(net(state, items), net(older, items))
    older.items[:, 3] = 0
    assert not torch.equal(net(state, items), net(older, items))


def test_ablations_take_parameters_away() -> None:
    items = catalog(9)
    whole = dict(agent(items).online.named_parameters())
    without = {
        "p": dict(agent(items, negatives=False).online.named_parameters()),
        "f": dict(agent(items, split=False).online.named_parameters()),
        "t": dict(agent(items, recurrent=False).online.named_parameters()),
    }
    assert not [n for n in without["p"] if n.startswith(("skipped", "right"))]
    assert not [n for n in without["f"] if n.startswith("right")]
    assert [n for n in without["f"] if n.startswith("skipped")]
    assert not [n for n in without["t"] if "hidden" in n or "input" in n]
    assert sum("hidden" in n or "input" in n for n in whole) == 8
    assert whole["left.state"].shape == (12, 12)
    assert without["f"]["left.state"].shape == (24, 24), "both states, in layers of twice the width"
    assert without["t"]["left.state"].shape == (12, 8)
    assert agent(items, alpha=0.0).competitors is None


def test_without_negatives_skips_are_not_read() -> None:
    learner, items = agent(catalog(9), negatives=False), torch.arange(1, 10).expand(5, -1)
    state = some()
    blind = replace(state, skipped=torch.zeros_like(state.skipped))
    assert torch.equal(learner.online(state, items), learner.online(blind, items))
    assert learner.reads is not None
    assert "skipped" not in learner.reads


# --- candidates --------------------------------------------------------------------------------------------------


def test_neighbours_of_what_was_taken_are_recalled() -> None:
    learner = agent(catalog(30), neighbours=2, extra=1, target_every=1)
    with torch.no_grad():
        angle = torch.arange(30) * 0.1
        learner.online.items.weight[1:31] = 0.0
        learner.online.items.weight[1:31, :2] = torch.stack([angle.cos(), angle.sin()], dim=1) * (1 + angle).unsqueeze(
            1
        )
    learner._look_up()
    assert sorted(learner.near[10].tolist()) == [9, 11], "by direction, not by length"
    items, mask = learner._recall(history([[10, 20], []], length=4))
    assert {9, 10, 11, 19, 20, 21} <= set(items[0][mask[0]].tolist())
    assert int(mask[0].sum()) <= 7
    assert int(mask[1].sum()) == 1, "who took nothing yet gets random items"
    for row, there in zip(items, mask, strict=True):
        assert len(row[there].unique()) == int(there.sum())


def test_another_agent_may_propose_too() -> None:
    items = catalog(30)
    popular = Popular(items, slate=4)
    learner = agent(items, candidates=popular, extra=1)
    for _ in range(3):
        learner.observe(
            seen(torch.arange(4), torch.tensor([[5], [6], [7], [8]]), torch.full((4, 1), CLICK), torch.zeros(4))
        )
    drawn, mask = learner._recall(history([[]], length=4))
    assert {5, 6, 7, 8} <= set(drawn[0][mask[0]].tolist())


# --- learning ----------------------------------------------------------------------------------------------------


def test_the_target_is_reward_and_the_discounted_best_of_the_target_network() -> None:
    items = catalog(6)
    learner = agent(items, gamma=0.5, batch=2, extra=6)
    with torch.no_grad():
        learner.target.left.item.mul_(3.0)
    done = torch.tensor([False, True])
    shown, kinds = torch.tensor([[1], [2]]), torch.tensor([[CLICK], [SKIP]])
    learner.observe(seen(torch.arange(2), shown, kinds, torch.zeros(2), done))
    sample = learner.replay.at(torch.tensor([0, 1]))
    best = learner.target(sample.next, torch.arange(1, 7).expand(2, -1)).max(1).values
    torch.testing.assert_close(learner._target(sample)[:, 0], torch.stack([1 + 0.5 * best[0], torch.zeros(())]))


def test_errors_become_priorities() -> None:
    learner = agent(catalog(6), batch=8, extra=6)
    kinds = torch.where(torch.arange(64).unsqueeze(1) % 2 == 0, CLICK, SKIP)
    learner.observe(seen(torch.arange(64), torch.full((64, 1), 3), kinds, torch.zeros(64)))
    before = learner.replay._mass.clone()
    learner.update()
    moved = (learner.replay._mass != before)[:64]
    assert 0 < int(moved.sum()) <= 8


PER_CATEGORY, CATEGORIES = 4, 4


def tired(n: int, random: Generator) -> Transition:
    """Four categories of four items; each skip of a category among the last four halves its chance of a click."""
    before = window(torch.zeros(n, 4, dtype=torch.int64))
    category = torch.randint(0, CATEGORIES, (n, 5), generator=random)
    category *= torch.rand(n, 5, generator=random) < 0.5  # the first is shown most, so that it is skipped in a row
    items = 1 + category * PER_CATEGORY + torch.randint(0, PER_CATEGORY, (n, 5), generator=random)
    before.skipped, item = items[:, :4].int(), items[:, 4:]
    alike = ((before.skipped - 1) // PER_CATEGORY == (item - 1) // PER_CATEGORY).sum(1)
    click = torch.rand(n, generator=random) < 0.8 * 0.5**alike
    made = seen(torch.arange(n), item, torch.where(click, CLICK, SKIP).unsqueeze(1), torch.zeros(n))
    return replace(made, history=before, next=before)


def test_each_skip_of_a_category_lowers_its_value() -> None:
    items = catalog(PER_CATEGORY * CATEGORIES)
    random = Generator().manual_seed(3)
    learner = agent(items, gamma=0.0, alpha=0.0, extra=16, batch=256, learning_rate=0.005, item_learning_rate=0.1)
    for _ in range(120):
        learner.observe(tired(256, random))
        learner.update()
    # k skips of the first category, the rest of the second; values of the items of the first.
    state = window(torch.zeros(5, 4, dtype=torch.int64))
    state.skipped = torch.tensor([[5 if at < 4 - k else 1 + at for at in range(4)] for k in range(5)]).int()
    values = learner.online(state, torch.arange(1, 5).expand(5, -1)).mean(1)
    assert (values[1:] < values[:-1]).all()
    assert values[0] > 3 * values[4]


# --- offline test of the paper -----------------------------------------------------------------------------------


def test_reranking_takes_the_best_of_what_is_left_and_moves_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = agent(catalog(9))

    def values(state: History, items: Tensor) -> Tensor:
        """The item number, or its negative once the newest skip was item 9."""
        return items * torch.where(state.skipped[:, -1:] == 9, -1.0, 1.0)

    monkeypatch.setattr(learner, "online", values)
    items = torch.tensor([[3, 9, 5, 0], [3, 9, 5, 0]])
    kinds = torch.tensor([[SKIP, SKIP, CLICK, 0], [SKIP, CLICK, CLICK, 0]])
    order = rerank(learner, history([[], []], length=4), items, kinds)
    assert items.gather(1, order).tolist() == [[9, 3, 5, 0], [9, 5, 3, 0]]
    assert order.sort(1).values.tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"regulariser": "both"}, 'regulariser must be "paper" or "signed"'),
        ({"extra": 0}, "extra must be at least 1"),
        ({"alpha": -0.1}, "alpha must be at least 0"),
        ({"towers": ()}, "towers need a layer"),
        ({"length": 0}, "length must be at least 1"),
        ({"epsilon": 1.5}, "epsilon must be between 0 and 1"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        agent(catalog(5), **settings)
