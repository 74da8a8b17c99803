"""Contexts and candidates over the wire: what a request says reaches the agent, and the agent keeps to it."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.linucb import LinUCB
from consumers import wire
from consumers.broker import EmbeddedBroker
from consumers.columns import Received, to_events
from consumers.messages import from_events
from consumers.players import Players
from simulators.interest import Interest
from simulators.world import SimulatorWorld
from streamrec.catalog import Catalog
from streamrec.loop import Loop
from streamrec.records import Decision, Events, History, Kind
from streamrec.sessions import SessionStore
from tests.consumers.kafka_topics import Open, drain, send

WIDE, ROOM = 3, 5


def stores(context: int = WIDE, offer: int = ROOM) -> tuple[Catalog, SessionStore]:
    sessions = SessionStore(users=50, slate=4)
    sessions.reserve(context=context, offer=offer)
    return Catalog(100), sessions


def received(messages: list[wire.Event], catalog: Catalog, sessions: SessionStore) -> Received:
    return to_events(messages, [1.0] * len(messages), catalog, sessions, 4)


def request(**said: object) -> wire.Event:
    return wire.Event("request", "u", **said)  # type: ignore[arg-type]


numbers = st.floats(-1e9, 1e9, width=32)
asked = st.tuples(
    st.sampled_from([Kind.REQUEST, Kind.CLICK, Kind.LEAVE]),
    st.lists(numbers, min_size=WIDE, max_size=WIDE),
    st.lists(st.integers(1, 20), max_size=ROOM, unique=True),
)


@settings(deadline=None)
@given(st.lists(asked, min_size=1, max_size=20))
def test_what_requests_say_survives_the_way_there_and_back(rows: list[tuple[Kind, list[float], list[int]]]) -> None:
    catalog, sessions = stores()
    catalog.rows([f"i{at}" for at in range(1, 21)])
    kinds = torch.tensor([int(kind) for kind, _, _ in rows])
    asks = (kinds == int(Kind.REQUEST)).unsqueeze(1)
    offer = torch.tensor([[*items, *[0] * (ROOM - len(items))] for _, _, items in rows])
    events = Events.of(
        sessions.rows([f"u{at}" for at in range(len(rows))]),
        kinds,
        torch.arange(len(rows)).double(),
        item=torch.where(kinds == int(Kind.CLICK), 1, 0),
        sent=torch.ones(len(rows), dtype=torch.float64),
        context=torch.tensor([context for _, context, _ in rows]) * asks,
        offer=offer * asks,
    )
    messages = [wire.decode_event(value) for _, value in from_events(events, catalog, sessions)]
    back = received([m for m in messages if isinstance(m, wire.Event)], catalog, sessions)
    assert not back.refused
    widths = {"context": WIDE, "offer": ROOM} if bool(asks.any()) else {"context": 0, "offer": 0}
    for (name, was), (_, now) in zip(events.columns(), back.events.columns(), strict=True):
        was = was[:, : widths[name]] if name in widths else was
        torch.testing.assert_close(now, was, rtol=0, atol=0, equal_nan=True, msg=name)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"context": [1.0, 2.0]}, r"Expected 3 numbers as in world.context, got 2 - at `$.context`"),
        ({"candidates": list("abcdef")}, r"Expected at most 5 items as in world.candidates, got 6 - at `$.candidates`"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_rest_passes(fields: dict[str, object], says: str) -> None:
    catalog, sessions = stores()
    fits = request(context=[1.0, 2.0, 3.0], candidates=["a", "b", "a", "c", "d", "e"])
    out = received([request(), request(**fields), fits], catalog, sessions)
    assert out.refused == [(1, says)]
    assert out.kept.tolist() == [0, 2]
    assert out.events.context.tolist() == [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]
    assert [[catalog.ids[row] for row in offer] for offer in out.events.offer.tolist()] == [[""] * 5, list("abcde")]
    assert bool(catalog.available[catalog.find(list("abcde"))].all())
    assert len(catalog) == 5, "what is refused leaves no items behind"


@pytest.mark.parametrize(
    "fields",
    [{"context": [0.0] * 257}, {"context": [1e10]}, {"candidates": ["a"] * 1001}, {"candidates": [""]}],
)
def test_out_of_bounds_is_no_message(fields: dict[str, object]) -> None:
    said = wire.decode_event(wire.encode(request(**fields)))
    assert isinstance(said, str)
    assert next(iter(fields)) in said


def test_without_room_only_an_open_request_among_candidates_is_refused() -> None:
    catalog, sessions = stores(0, 0)
    known = {"context": [1.0], "candidates": ["a"]}
    out = received([request(**known), request(**known, slate=["b"]), request(context=[1.0])], catalog, sessions)
    assert [at for at, _ in out.refused] == [0]
    assert "world.candidates = 0" in out.refused[0][1]
    assert (out.events.context.shape[1], out.events.offer.shape[1]) == (0, 0)
    assert len(catalog) == 1, "candidates nobody has room for are not looked at"


def test_a_request_none_of_whose_candidates_has_a_row_is_refused() -> None:
    _, sessions = stores()
    catalog = Catalog(2)
    catalog.rows(["a", "b"])
    asked = [request(candidates=["x", "y"]), request(candidates=["x", "b"]), request(candidates=["x"], slate=["a"])]
    out = received(asked, catalog, sessions)
    assert [at for at, _ in out.refused] == [0]
    assert "none of the candidates" in out.refused[0][1]
    assert [sorted(set(offer)) for offer in out.events.offer.tolist()] == [[0, 2], [0]]


def test_what_was_retired_does_not_come_back_as_a_candidate() -> None:
    catalog, sessions = stores()
    catalog.withdraw(catalog.rows(["gone"]))
    received([request(candidates=["gone", "there"])], catalog, sessions)
    assert catalog.available[catalog.find(["gone", "there"])].tolist() == [False, True]


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=2, max_size=8), st.integers(1, 7))
def test_what_a_request_means_does_not_depend_on_where_a_batch_is_cut(says: list[bool], cut: int) -> None:
    said = {"context": [1.0, 2.0, 3.0], "candidates": ["a", "b"]}
    messages = [wire.Event("request", "u", time=float(at), **(said if yes else {})) for at, yes in enumerate(says)]  # type: ignore[arg-type]

    def last(parts: list[list[wire.Event]]) -> History:
        catalog, sessions = stores()
        for part in filter(None, parts):
            for wave in received(part, catalog, sessions).events.waves():
                sessions.take(wave)
        return sessions.read(torch.tensor([0]), torch.tensor([9.0]))

    whole, cuts = last([messages]), last([messages[:cut], messages[cut:]])
    for name in ("context", "offer"):
        assert torch.equal(getattr(whole, name), getattr(cuts, name))
        assert bool(getattr(whole, name).any()) == says[-1]


@pytest.mark.parametrize(("name", "value"), [("context", 257), ("candidates", 1001), ("candidates", -1)])
def test_room_has_bounds(open_world: Open, name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"world.{name}"):
        open_world(**{name: value})


def test_a_world_that_keeps_room_buries_what_does_not_fit(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    world = open_world(context=2, candidates=3)
    assert (world.sessions.context_width, world.sessions.offer_width) == (2, 3)
    send(broker.address, topic, [request(context=[1.0]), request(context=[1.0, 2.0], candidates=["a"])])
    events = drain(world, 1)
    assert events.context.tolist() == [[1.0, 2.0]]
    assert world.dead_letters == 1
    assert "world.context" in world.letters[0].reason


class Noting(LinUCB):
    """Notes what it is asked with and what it wants to show, by the event time of the request."""

    def act(self, history: History) -> Decision:
        decision = super().act(history)
        for at, time in enumerate(history.time.tolist()):
            ids = self.catalog.ids
            offer = frozenset(ids[row] for row in history.offer[at].tolist() if row)
            slate = [ids[row] for row in decision.slate[at].tolist() if row]
            NOTED[time] = (tuple(history.context[at].tolist()), offer, slate)
        return decision


NOTED: dict[float, tuple[tuple[float, ...], frozenset[str], list[str]]] = {}


class Recorded(SimulatorWorld):
    """Notes what its users say when they ask."""

    def poll(self, timeout_s: float = 0.0) -> Events | None:
        events = super().poll(timeout_s)
        for one in range(0 if events is None else len(events)):
            assert events is not None
            if int(events.kind[one]) == int(Kind.REQUEST):
                offer = frozenset(self.catalog.ids[row] for row in events.offer[one].tolist() if row)
                SAID[float(events.time[one])] = (tuple(events.context[one].tolist()), offer)
        return events


SAID: dict[float, tuple[tuple[float, ...], frozenset[str]]] = {}


def test_players_of_a_world_with_contexts_are_served_over_kafka(
    broker: EmbeddedBroker, topic: str, open_world: Open
) -> None:
    NOTED.clear()
    SAID.clear()
    live = open_world(sessions=SessionStore(users=100, slate=3), slate=3, context=20, candidates=10)
    agent = Noting(live.catalog, live.sessions, slate=3, epsilon=0.3)
    loop = Loop(live, live.sessions, live.catalog, agent, update_every=50)
    ended = threading.Thread(target=lambda: [None for _ in iter(loop.step, False)])
    catalog, sessions = Catalog(300), SessionStore(users=100, slate=3)
    world = Recorded(Interest(users=12, slate=3, seed=1), catalog, sessions, decisions=150)
    players = Players(world, catalog, sessions, 3, broker.address, topic, f"{topic}-decisions")
    ended.start()
    try:
        while players.step():
            pass
        players.finish()
        ended.join(10)
    finally:
        players.close()
    assert (players.report()["answered"], players.report()["unanswered"]) == (150, 0)
    assert live.dead_letters == 0
    assert {time: said[:2] for time, said in NOTED.items()} == SAID
    assert all(len(said[1]) == 10 and any(said[0]) for said in SAID.values())
    for _, offer, slate in NOTED.values():
        assert len(set(slate)) == 3
        assert set(slate) <= offer
    assert sum(loop.counts[name] for name in ("decisions", "updates")) > 100
