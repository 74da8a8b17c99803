"""What the stream says beside events: answered requests, ids that come twice, and instructions, at their place."""

from __future__ import annotations

import pytest
import torch

from consumers import wire
from consumers.broker import EmbeddedBroker
from consumers.kafka import KafkaWorld
from streamrec.catalog import Catalog
from streamrec.loop import Loop
from streamrec.ports import State
from streamrec.records import Decision, Events, Kind
from streamrec.sessions import SessionStore
from tests.consumers.kafka_topics import Open, drain, end, read_all, send
from tests.consumers.test_kafka import assert_same, copy_of, values, values_now
from tests.worlds import Counter as CountingAgent

pytestmark = pytest.mark.kafka


def ask(user: str, slate: list[str] | None = None, **fields: object) -> wire.Event:
    return wire.Event("request", user, slate=slate or (), **fields)  # type: ignore[arg-type]


def wanted_for(wave: Events) -> Decision:
    wanted = Decision.of(wave.user, torch.full((len(wave), 3), 1), torch.full((len(wave), 3), -1.0))
    wanted.id = torch.arange(1, len(wave) + 1)
    wanted.policy += 1
    return wanted


@pytest.mark.parametrize("asks", [False, True])
def test_a_request_with_a_slate_is_answered_by_the_past_and_not_published(
    broker: EmbeddedBroker, topic: str, open_world: Open, asks: bool
) -> None:
    told = {"slot_logp": [-0.5, -0.25], "model": "000001", "decision": -77}
    sent = [
        ask("a", ["x", "y"], policy="dqn", id="r1", **told),
        ask("b", id="r2"),
        ask("c", ["y", "x"], policy="nobody", **told),
    ]
    send(broker.address, topic, [*sent])
    world = open_world(ask=asks, slate=3, policies=["random", "popular", "dqn"])
    (wave,) = drain(world, 3).waves()
    wanted = wanted_for(wave)
    shown = world.send(wanted, wave)
    row = {item: world.catalog.ids.index(item) for item in "xy"}
    assert shown.slate[0].tolist() == [row["x"], row["y"], 0]
    assert shown.slate[2].tolist() == [row["y"], row["x"], 0]
    assert shown.logp[[0, 2]].tolist() == [-0.75, -0.75]
    assert shown.policy[[0, 2]].tolist() == [2, 0]
    assert shown.id.tolist() == [1, 2, 3]
    world.flush()
    if asks:
        assert shown.slate[1].tolist() == [0, 0, 0]
        assert values_now(broker, f"{topic}-decisions") == []
        return
    assert (shown.slate[1].tolist(), int(shown.policy[1])) == ([1, 1, 1], 1)
    messages = [wire.decode_decision(value) for _, value in values(broker, f"{topic}-decisions", 1)]
    assert [(m.user, m.request, m.policy) for m in messages] == [("b", "r2", "popular")]


def test_policies_stay_with_their_requests_among_questions_before_clicks(
    broker: EmbeddedBroker, topic: str, open_world: Open
) -> None:
    click = wire.Event("click", "a", item="z")
    send(broker.address, topic, [click, ask("a", ["x"], policy="dqn"), click, ask("a", ["y"], policy="random")])
    world = open_world(ask=True, slate=2, policies=["popular", "random", "dqn"])
    seen = []
    for wave in drain(world, 6).waves():
        asked = wave.only(Kind.REQUEST)
        if len(asked):
            shown = world.send(wanted_for(asked), asked)
            seen.append((world.catalog.ids[int(shown.slate[0, 0])], int(shown.policy[0])))
    assert seen == [("z", 0), ("x", 2), ("z", 0), ("y", 1)]


def test_an_event_whose_id_came_before_is_dropped_whatever_its_kind(
    broker: EmbeddedBroker, topic: str, open_world: Open
) -> None:
    sent = [
        wire.Event("click", "a", item="x", id="e1"),
        wire.Event("click", "a", item="x", id="e1"),
        wire.Event("click", "a", item="x"),
        wire.Event("click", "a", item="x"),
        wire.Event("click", "b", item="y", id="e2"),
        ask("b", id="e2"),
        wire.Event("erase", "b", id="e3"),
        wire.Event("click", "b", item="y", id="e4"),
        wire.Event("erase", "b", id="e3"),
        wire.Event("click", "c", item="n" * 9, id="full"),
    ]
    send(broker.address, topic, sent)
    end(broker.address, topic)
    world = open_world(catalog=Catalog(2))
    read_all(world)
    assert (world.events_consumed, world.repeated, world.dead_letters) == (5, 3, 1)
    assert world.sessions.find("b") is not None
    # What was refused was not taken in: sent again by `dlq retry`, it is no repetition.
    _, known = world.remembered.again(["full", "e4"], torch.zeros(2, dtype=torch.int64).numpy())
    assert known.tolist() == [False, True]


def test_without_ids_a_position_says_nothing_of_them(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    send(broker.address, topic, [wire.Event("click", "a", item="x")])
    world = open_world()
    drain(world, 1)
    assert "remembered" not in world.position()


def follow(world: KafkaWorld) -> Loop:
    return Loop(world, world.sessions, world.catalog, CountingAgent(world.catalog, 1), update_every=5)


def test_an_erased_user_leaves_nothing_and_comes_back_as_somebody_new(
    broker: EmbeddedBroker, topic: str, open_world: Open
) -> None:
    before = [
        ask("a", ["x", "y"], decision=-5, session="s"),
        wire.Event("click", "a", item="x", decision=-5, time=10.0),
        wire.Event("skip", "a", item="y", time=11.0),
    ]
    send(broker.address, topic, [*before, wire.Event("erase", "a"), wire.Event("erase", "nobody")])
    end(broker.address, topic)
    loop = follow(open_world())
    while loop.step():
        pass
    sessions = loop.sessions
    assert sessions.find("a") is None
    assert sessions.users.ids == [None]
    for name, table in sessions._tables().items():
        assert not table.any(), name
    assert int(sessions.rows(["b"])[0]) == 0  # somebody else gets the row
    assert loop.world.position()["events_consumed"] == 3


def test_instructions_take_effect_at_their_place(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    sent = [
        wire.Event("item", item="new", category="shoes"),
        wire.Event("item", item="later", category="hats", available=False),
        wire.Event("click", "a", item="old"),
        wire.Event("click", "a", item="old"),
        wire.Event("retire", item="old"),
        wire.Event("retire", item="nothing"),
        wire.Event("click", "a", item="old"),
        wire.Event("click", "a", item="later"),
        wire.Event("item", item="later"),
    ]
    send(broker.address, topic, sent)
    end(broker.address, topic)
    loop = follow(open_world(batch=5))
    available = []
    catalog = loop.catalog
    while loop.step():
        available.append({item for item, can in zip(catalog.ids, catalog.available.tolist(), strict=False) if can})
    assert available[0] == {"new", "old"}
    assert {"new"} in available  # retired, and clicked on after that
    assert available[-1] == {"new", "later"}
    assert [catalog.categories[number] for number in catalog.category[:4].tolist()] == ["", "shoes", "hats", ""]
    assert "nothing" not in catalog.ids


def test_an_item_that_has_no_room_is_a_dead_letter(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    send(broker.address, topic, [wire.Event("item", item="x"), wire.Event("item", item="y"), ask("a")])
    world = open_world(catalog=Catalog(1))
    drain(world, 1)
    assert world.dead_letters == 1
    assert "catalog.capacity = 1" in world.letters[0].reason


@pytest.mark.parametrize("open_world", ["kafka-python", "confluent"], indirect=True)
def test_killed_anywhere_and_resumed_it_drops_and_obeys_as_if_never_killed(
    broker: EmbeddedBroker, topic: str, open_world: Open
) -> None:
    draw = torch.Generator().manual_seed(0)

    def one(at: int) -> wire.Event:
        user, item = (f"{name}{int(torch.randint(9, (1,), generator=draw))}" for name in "ui")
        name = f"e{int(torch.randint(200, (1,), generator=draw))}"  # half of them came before
        match int(torch.randint(12, (1,), generator=draw)):
            case 0:
                return wire.Event("erase", user, id=name)
            case 1:
                return wire.Event("retire", item=item, id=name)
            case 2:
                return wire.Event("item", item=item, id=name, category=f"c{at % 3}")
            case 3 | 4:
                return ask(user, [item, "i0"], policy="random", id=name, decision=-at - 1, time=at)
            case _:
                return wire.Event("click", user, item=item, id=name, time=float(at))

    send(broker.address, topic, [one(at) for at in range(400)], partitions=2)
    end(broker.address, topic)

    def start() -> Loop:
        torch.manual_seed(0)
        world = open_world(batch=23, ask=True, remember=100, policies=["random"], linger_s=20.0)
        return follow(world)

    never, kept = start(), list[State]()
    while never.step():
        kept.append(copy_of(never.state_dict()))
    world = never.world
    assert isinstance(world, KafkaWorld)
    assert world.repeated > 50
    for state in kept[2:-1:6]:
        resumed = start()
        resumed.load_state_dict(copy_of(state))
        while resumed.step():
            pass
        assert_same(resumed.state_dict(), never.state_dict())
        resumed.world.close()


def test_read_all_of_instructions_alone_ends(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    send(broker.address, topic, [wire.Event("erase", "a"), wire.Event("item", item="x")])
    end(broker.address, topic)
    world = open_world(sessions=SessionStore(users=3))
    assert read_all(world) == []
    assert world.catalog.available[1]
