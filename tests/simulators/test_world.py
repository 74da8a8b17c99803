"""The event source: order, subsets, clocks, arrivals, and bit-exact resumption in mid-stream."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from simulators.feed import Feed
from simulators.world import SimulatorWorld
from streamrec.catalog import Catalog
from streamrec.loop import Loop
from streamrec.ports import State, World
from streamrec.records import Decision, Events, History, Kind, Transition
from streamrec.sessions import SessionStore

START = 1_700_000_000.0


class Sampler:
    """An agent that shows the items `1 + (decision + slot * 7) % items` of a user: deterministic, without repeats."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.seen: list[Transition] = []

    def act(self, history: History) -> Decision:
        there = torch.nonzero(self.catalog.available).squeeze(1)
        first = (history.time * 1000).long() + history.user
        places = (first.unsqueeze(1) + torch.arange(5) * 7) % len(there)
        return Decision.of(history.user, there[places])

    def observe(self, transition: Transition) -> None:
        self.seen.append(transition)

    def update(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None: ...


def world(users: int = 40, capacity: int = 60, **settings: Any) -> SimulatorWorld:
    of_world = {key: settings.pop(key) for key in ("decisions", "clock", "tick_s") if key in settings}
    core = Feed(**{"users": users, "items": 50, "topics": 6, "leave": 1.0, "gap_s": 60.0, **settings})
    return SimulatorWorld(core, Catalog(1000), SessionStore(users=capacity, slate=5), **of_world)


def loop(**settings: Any) -> Loop:
    made = world(**settings)
    sessions = SessionStore(users=60, slate=5)
    agent = Sampler(made.catalog)
    made = SimulatorWorld(made.core, made.catalog, sessions, decisions=made.limit)
    return Loop(made, sessions, made.catalog, agent, update_every=64)


def answer(made: SimulatorWorld, events: Events, ids: itertools.count[int]) -> Decision:
    """Different items for everybody who asks."""
    asked = events.only(Kind.REQUEST)
    rows = torch.nonzero(made.catalog.available).squeeze(1)
    places = torch.arange(len(asked)).unsqueeze(1) + torch.arange(5)
    wanted = Decision.of(asked.user, rows[places % len(rows)])
    wanted.id = torch.tensor([next(ids) for _ in range(len(asked))], dtype=torch.int64)
    return made.send(wanted, asked)


def play(made: SimulatorWorld, polls: int) -> Events:
    """All events of `polls` polls, every request answered at once."""
    parts, ids = [], itertools.count(1)
    for _ in range(polls):
        events = made.poll()
        assert events is not None
        parts.append(events)
        answer(made, events, ids)
    return Events.cat(parts)


def same(one: Events, two: Events) -> bool:
    pairs = zip(one.columns(), two.columns(), strict=True)
    return all(torch.equal(a.nan_to_num(-1.0), b.nan_to_num(-1.0)) for (_, a), (_, b) in pairs)


def test_it_is_a_world() -> None:
    assert isinstance(world(), World)


def test_every_user_asks_reacts_leaves_and_returns_in_order() -> None:
    events = play(world(), 400)
    kinds = {Kind(kind) for kind in events.kind.unique().tolist()}
    assert kinds == {Kind.REQUEST, Kind.CLICK, Kind.SKIP, Kind.LEAVE, Kind.RETURN}
    for user in range(40):
        mine = events[events.user == user]
        assert (mine.time.diff() >= 0).all()
        before, after = mine.kind[:-1], mine.kind[1:]
        left = before == int(Kind.LEAVE)
        assert (after[left] == int(Kind.RETURN)).all()
        assert (after[before == int(Kind.RETURN)] == int(Kind.REQUEST)).all()
    assert len(events.only(Kind.LEAVE)) > 20


def test_reactions_name_decision_slot_and_item() -> None:
    made = world(base=0.0)
    first = made.poll()
    assert first is not None
    sent: dict[int, Tensor] = {}
    ids = itertools.count(100)
    events, seen = first, 0
    for _ in range(60):
        shown = answer(made, events, ids)
        sent |= dict(zip(shown.id.tolist(), shown.slate, strict=True))
        polled = made.poll()
        assert polled is not None
        events = polled
        acts = events.only(Kind.CLICK, Kind.SKIP)
        for decision, slot, item in zip(acts.decision.tolist(), acts.slot.tolist(), acts.item.tolist(), strict=True):
            assert int(sent[decision][slot]) == item
            seen += 1
    assert seen > 100


def test_users_who_wait_for_an_answer_do_not_ask_again() -> None:
    made = world()
    asked = torch.cat([e.user for e in (made.poll() for _ in range(200)) if e is not None])
    assert sorted(asked.tolist()) == list(range(40))


def test_answers_may_come_for_any_part_in_any_order_and_twice() -> None:
    whole, parts = world(tick_s=1000.0), world(tick_s=1000.0)
    events, twin = whole.poll(), parts.poll()
    assert events is not None
    assert twin is not None
    assert len(events) == 40
    slates = torch.arange(40).unsqueeze(1) + torch.arange(1, 6)
    wanted = Decision.of(events.user, slates)
    wanted.id = torch.arange(1, 41)
    assert whole.send(wanted, events) is wanted
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for part in order.split(7):
        parts.send(wanted[part], twin[part])
        parts.send(wanted[part], twin[part])
    one, two = whole.poll(), parts.poll()
    assert one is not None
    assert two is not None
    key_one = torch.argsort(one.user * 100 + one.slot, stable=True)
    key_two = torch.argsort(two.user * 100 + two.slot, stable=True)
    assert same(one[key_one], two[key_two])
    assert whole.core.state_dict()["steps"].eq(parts.core.state_dict()["steps"]).all()


def test_rows_of_the_store_need_not_be_numbers_of_users() -> None:
    sessions, catalog = SessionStore(users=10, slate=5), Catalog(100)
    sessions.rows(["somebody", "else"])
    catalog.rows(["another item"])
    made = SimulatorWorld(Feed(users=8, items=20, new_items_per_hour=0.0), catalog, sessions, tick_s=1e4)
    events = made.poll()
    assert events is not None
    assert sorted(events.user.tolist()) == list(range(2, 10))
    assert catalog.available.nonzero().squeeze(1).tolist() == list(range(2, 22))
    wanted = Decision.of(events.user, torch.arange(2, 7).expand(8, -1))
    made.send(wanted, events)
    after = made.poll()
    assert after is not None
    assert set(after.only(Kind.CLICK, Kind.SKIP).item.tolist()) <= set(range(2, 7))


def test_items_are_announced_when_they_arrive_and_retired_when_they_go() -> None:
    made = world(items=50, new_items_per_hour=600.0, life_hours=0.05, max_items=900, gap_s=10.0)
    assert made.catalog.size == 51
    play(made, 300)
    oldest, newest = made.core.alive(torch.tensor([made.now], dtype=torch.float64))
    assert newest > 60
    assert made.catalog.ids[-1] == f"i{int(newest)}"
    there = made.catalog.available.nonzero().squeeze(1)
    assert (int(there.min()), int(there.max())) == (int(oldest), int(newest))


def test_mid_stream_resumption_is_exact_to_the_bit() -> None:
    settings: dict[str, Any] = {"new_items_per_hour": 300.0, "shift_at": 100.0}
    straight = world(**settings)
    play(straight, 50)
    events = straight.poll()
    assert events is not None
    asked = events.only(Kind.REQUEST)
    half = Decision.of(asked.user[::2], torch.arange(1, 6).expand(len(asked.user[::2]), -1))
    half.id = torch.arange(len(half)) + 5000
    straight.send(half, asked[::2])  # some requests stay open, some reactions are pending
    position, items = straight.position(), straight.catalog.state_dict()
    resumed = world(**settings)
    resumed.catalog.load_state_dict(items)
    resumed.seek(position)
    assert same(play(straight, 80), play(resumed, 80))
    assert straight.catalog.ids == resumed.catalog.ids


def test_the_loop_killed_and_resumed_is_the_loop_never_killed() -> None:
    straight, killed = loop(), loop()
    for _ in range(30):
        straight.step()
        killed.step()
    state = killed.state_dict()
    resumed = loop()
    resumed.load_state_dict(state)
    for _ in range(30):
        assert straight.step()
        assert resumed.step()
    assert straight.read()["decisions"] == resumed.read()["decisions"] > 100
    a, b = straight.world.position(), resumed.world.position()
    assert torch.equal(a["due"], b["due"])
    assert all(torch.equal(a["core"][k], b["core"][k]) for k in a["core"] if isinstance(a["core"][k], Tensor))


def test_in_the_loop_no_reaction_is_lost() -> None:
    made = loop(decisions=600)
    while made.step():
        pass
    figures = made.read()
    assert figures["requests"] == 600
    assert (figures["late"], figures["duplicate"], figures["unknown"]) == (0, 0, 0)
    assert isinstance(made.agent, Sampler)
    closed = Transition.cat(made.agent.seen)
    steps = made.world.position()["core"]["steps"]
    assert int(steps.sum()) == 600
    still_open = 600 - len(closed)
    assert 0 <= still_open <= 40
    assert closed.rewards.sum() > 20


def test_with_a_clock_only_what_is_due_is_handed_out() -> None:
    now = [START]
    made = world(clock=lambda: now[0], think_s=10.0)
    due = made.core.time.clone()
    first = made.poll()
    assert first is not None
    assert len(first) == 0
    now[0] = START + 5.0
    asking = made.poll()
    assert asking is not None
    assert sorted(asking.user.tolist()) == torch.nonzero(due <= 5.0).squeeze(1).tolist()
    torch.testing.assert_close(asking.time, due[asking.user] + START)


def test_with_a_clock_a_late_answer_is_reacted_to_late() -> None:
    now = [START + 20.0]
    made = world(clock=lambda: now[0], base=3.0)
    asked = made.poll()
    assert asked is not None
    now[0] = START + 50.0
    answer(made, asked, itertools.count(1))
    now[0] = START + 1000.0
    events = made.poll()
    assert events is not None
    assert (events.only(Kind.CLICK).time > START + 50.0).all()
    assert len(events.only(Kind.CLICK)) > 10


def test_with_a_clock_an_empty_poll_waits_no_longer_than_asked() -> None:
    ticks = itertools.count()
    made = world(clock=lambda: START + 0.0 * next(ticks))
    events = made.poll(timeout_s=0.02)
    assert events is not None
    assert len(events) == 0
    assert next(ticks) > 2


def test_shift_passes_through() -> None:
    made = world(shift_fraction=1.0)
    before = made.core.state_dict()["taste"]
    made.shift()
    assert not torch.equal(made.core.state_dict()["taste"], before)


def test_scale_places_policies_between_random_and_oracle() -> None:
    made = world()
    before = made.core.state_dict()
    ends = made.scale({"mine": {"reward": 0.7}}, users=60, horizon=20)
    assert ends["random"] < ends["myopic"] <= ends["oracle"]
    expected = (0.7 - ends["random"]) / (ends["oracle"] - ends["random"])
    assert ends["fractions"]["mine"] == pytest.approx(expected)
    assert torch.equal(made.core.state_dict()["time"], before["time"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"capacity": 39}, "40 simulated users do not fit into sessions.users = 39"),
        ({"slate": 4}, "slates have 5 slots in this run but 4 in the simulator"),
        ({"clock": "wall"}, "clock must be"),
        ({"tick_s": 0.0}, "tick_s must be above 0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        world(**settings)
