"""The Kafka world against a real broker process over TCP."""

from __future__ import annotations

import json
import logging
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers import wire
from consumers.broker import EmbeddedBroker, create_topics
from consumers.held import Batch, merged
from consumers.kafka import KafkaWorld, connect_consumer
from consumers.topic import EventTopic
from streamrec.catalog import Catalog
from streamrec.mixing import keys_of
from streamrec.ports import State, World
from streamrec.records import Decision, Events, Kind
from streamrec.sessions import SessionStore
from tests.consumers.kafka_topics import Open, drain, end, read_all, send

pytestmark = pytest.mark.kafka

both = pytest.mark.parametrize("open_world", ["kafka-python", "confluent"], indirect=True)
"""Whoever reads."""

both_slow = pytest.mark.parametrize(
    "open_world", ["kafka-python", pytest.param("confluent", marks=pytest.mark.slow)], indirect=True
)
"""The same for groups, which take seconds to form."""

CLICK = b'{"user":"u","kind":"click","item":"i"}'


def clicks(count: int, users: int = 20, items: int = 50, seed: int = 0) -> list[wire.Event]:
    draw = random.Random(seed)
    return [
        wire.Event("click", f"u{draw.randrange(users)}", item=f"i{draw.randrange(items)}", time=1000.0 + at)
        for at in range(count)
    ]


def rows(events: Events, world: KafkaWorld) -> list[tuple[object, ...]]:
    """What happened, by id: comparable between worlds with catalogues of their own."""
    users = world.sessions.user_ids(events.user)
    columns = (events.kind, events.time, events.value, events.decision, events.slot, events.session)
    items = [world.catalog.ids[row] for row in events.item.tolist()]
    return list(zip(users, items, *(column.tolist() for column in columns), strict=True))


def values(broker: EmbeddedBroker, topic: str, count: int) -> list[tuple[bytes | None, bytes]]:
    """Key and value of the first `count` records of a topic."""
    consumer = connect_consumer(broker.address)
    try:
        consumer.subscribe([topic])
        places = [kafka_place(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
        consumer.unsubscribe()
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        found: list[tuple[bytes | None, bytes]] = []
        deadline = time.monotonic() + 10
        while len(found) < count and time.monotonic() < deadline:
            for records in consumer.poll(100).values():
                found += [(record.key, record.value) for record in records]
        return found
    finally:
        consumer.close()


def kafka_place(topic: str, partition: int) -> object:
    from kafka import TopicPartition

    return TopicPartition(topic, partition)


# --- source ----------------------------------------------------------------------------------------------------------


@both
def test_every_kind_of_event_comes_through(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    before = time.time()
    kinds = [name for name in wire.NAMES.values()]
    sent = [
        wire.Event(kind, f"u{at}", item=f"i{at}", time=10.0 + at, value=2.0, session=f"s{at}", decision=at, slot=at)
        for at, kind in enumerate(kinds)
    ]
    send(broker.address, topic, [*sent])
    world = open_world()
    assert isinstance(world, World)
    events = drain(world, len(sent))
    expected = [
        (e.user, e.item, wire.CODES[e.kind], e.time, 2.0, e.decision, e.slot, *keys_of([e.session]).tolist())
        for e in sent
    ]
    assert rows(events, world) == expected
    assert bool(((events.sent > before - 1) & (events.sent < time.time() + 1)).all())
    assert world.events_consumed == len(sent)
    assert len(world.poll(0.0) or ()) == 0


@both
@pytest.mark.parametrize("partitions", [1, 3])
def test_a_recorded_topic_is_cut_into_the_same_batches_after_any_restart(
    broker: EmbeddedBroker, topic: str, open_world: Open, partitions: int
) -> None:
    send(broker.address, topic, [*clicks(1000)], partitions)
    end(broker.address, topic)
    world = open_world(batch=70, linger_s=3.0)
    whole: list[list[tuple[object, ...]]] = []
    places: list[State] = []
    while (events := world.poll(0.1)) is not None:
        whole.append(rows(events, world))
        places.append(world.position())
    sizes = [len(batch) for batch in whole]
    assert sizes[:14] == [70] * 14
    assert sum(sizes) == 1000
    for at, place in enumerate(places[::2]):
        again = open_world(batch=70, linger_s=3.0)
        again.seek(json.loads(json.dumps(place)))  # as a checkpoint would keep it
        assert [rows(events, again) for events in read_all(again)] == [batch for batch in whole[2 * at + 1 :] if batch]
        assert again.events_consumed == 1000
        again.close()


@both
def test_another_thread_may_wait_for_what_is_taken_here(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    """As a service reads: also a position told meanwhile is one to go on from."""
    sent = clicks(240)
    world = open_world(batch=50, follow=True)
    got: list[tuple[object, ...]] = []
    places: dict[int, State] = {}
    with ThreadPoolExecutor(1) as reading:
        fetching = reading.submit(world.fetch, 10.0)
        for first in range(0, len(sent), 80):
            send(broker.address, topic, sent[first : first + 80])
            while len(got) < first + 80:
                places[len(got)] = copy_of(world.position())
                fetching.result(20.0)
                events = world.take()
                got += [] if events is None else rows(events, world)
                fetching = reading.submit(world.fetch, 0.1)
        fetching.result(20.0)
    assert [row[2:4] for row in got] == [(int(Kind.CLICK), event.time) for event in sent]
    for count, place in list(places.items())[::2]:
        again = open_world(batch=50, follow=True)
        again.seek(place)
        assert rows(drain(again, len(sent) - count), again) == got[count:]
        again.close()


@both
def test_a_poll_that_gathers_brings_what_comes_meanwhile(
    broker: EmbeddedBroker, topic: str, open_world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(broker.address, topic, clicks(3))
    world = open_world(batch=70, gather_s=0.5)
    slept: list[float] = []

    def meanwhile(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 1:
            send(broker.address, topic, clicks(4))
        pause(0.3)  # less than was asked for, and enough for them to arrive

    pause = time.sleep
    monkeypatch.setattr("consumers.partitions.time.sleep", meanwhile)
    first = world.poll(1.0)
    assert first is not None
    assert len(first) == 7
    assert slept[0] == 0.5
    send(broker.address, topic, clicks(200))
    end(broker.address, topic)
    assert sum(map(len, read_all(world))) == 207 - len(first)
    assert len(slept) < 8, "whole batches do not wait"


@both
def test_the_position_is_what_was_handed_out_not_what_was_fetched(
    broker: EmbeddedBroker, topic: str, open_world: Open
) -> None:
    send(broker.address, topic, [*clicks(500)])
    world = open_world(batch=10)
    assert world.position()["offsets"] == {"0": 0}
    for polls in range(1, 6):
        assert len(world.poll(1.0) or ()) == 10
        assert world.position()["offsets"] == {"0": 10 * polls}
        assert len(world.places.buffers[0]) > 100
        assert world.lag == 500 - 10 * polls


@both
def test_a_user_stays_in_order_over_partitions_and_restarts(
    broker: EmbeddedBroker, topic: str, open_world: Open
) -> None:
    sent = clicks(600)
    send(broker.address, topic, [*sent], partitions=4)
    end(broker.address, topic)
    got: list[tuple[object, ...]] = []
    place = None
    while True:  # a new process for every other batch
        world = open_world(batch=101)
        if place is not None:
            world.seek(place)
        for _ in range(2):
            events = world.poll(1.0)
            got += [] if events is None else rows(events, world)
        place = world.position()
        world.close()
        if events is None:
            break
    for user in {event.user for event in sent}:
        assert [row[3] for row in got if row[0] == user] == [event.time for event in sent if event.user == user]
    assert len(got) == len(sent)


@both
def test_the_stream_is_over_when_every_partition_says_so(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    create_topics(broker.address, {topic: 2})
    send(broker.address, topic, [CLICK, b'{"kind":"end"}'], partition=0)
    world = open_world()
    drain(world, 1)
    for _ in range(3):
        assert len(world.poll(0.05) or []) == 0
        assert world.poll(0.0) is not None
    send(broker.address, topic, [CLICK, CLICK, b'{"kind":"end"}'], partition=1)
    assert sum(map(len, read_all(world))) == 2
    assert world.poll(1.0) is None
    assert world.events_consumed == 3
    resumed = open_world(linger_s=30.0)
    resumed.seek(world.position())
    start = time.monotonic()
    while resumed.poll(1.0) is not None:
        pass
    assert time.monotonic() - start < 15, "behind the last record there is nothing to linger for"


def test_what_comes_after_an_end_counts_and_needs_another_end(
    broker: EmbeddedBroker, topic: str, open_world: Open
) -> None:
    send(broker.address, topic, [CLICK, b'{"kind":"end"}', CLICK])
    world = open_world(batch=2)
    drain(world, 2)
    assert world.poll(0.1) is not None
    end(broker.address, topic)
    assert read_all(world) == []


@both
def test_following_does_not_stop_at_an_end(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    send(broker.address, topic, [CLICK, b'{"kind":"end"}'])
    world = open_world(follow=True)
    drain(world, 1)
    assert len(world.poll(0.1) or []) == 0
    assert world.poll(0.0) is not None
    send(broker.address, topic, [CLICK])
    drain(world, 1)


def test_an_empty_topic_has_nothing_yet(open_world: Open) -> None:
    world = open_world()
    start = time.monotonic()
    events = world.poll(0.2)
    assert events is not None
    assert len(events) == 0
    assert 0.1 < time.monotonic() - start < 2
    assert world.lag == 0


def test_partitions_merge_by_timestamp_and_keep_their_own_order() -> None:
    def batch(stamps: list[int]) -> Batch:
        places = list(range(len(stamps)))
        return Batch(places, stamps, [""] * len(stamps), np.zeros(len(stamps), dtype=np.int64), places)

    draw = np.random.default_rng(0)
    for _ in range(50):
        ages = {p: draw.integers(0, 20, draw.integers(1, 12)).tolist() for p in range(draw.integers(1, 4))}
        left = {p: list(enumerate(column)) for p, column in ages.items()}
        count = int(draw.integers(1, 30))
        found = merged({p: batch(column[:count]) for p, column in ages.items()}, count)
        expected = []
        while len(expected) < count and any(left.values()):  # again and again the oldest of the heads
            at = min((p for p in left if left[p]), key=lambda p: (left[p][0][1], p))
            expected.append((at, *left[at].pop(0)))
        assert list(zip(found.partitions.tolist(), found.offsets, found.stamps, strict=True)) == expected
        assert found.raw == found.offsets


def test_one_partition_far_ahead_does_not_fill_the_memory(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    create_topics(broker.address, {topic: 2})
    noise = random.Random(0)  # or compression would put all of it into one fetch
    padded = [CLICK[:-1] + b',"note":"' + noise.randbytes(200).hex().encode() + b'"}' for _ in range(8000)]
    for partition in (0, 1):  # all of partition 0 is older than anything in partition 1
        send(broker.address, topic, [*padded], partition=partition)
    world = open_world(batch=1000)
    for _ in range(8):
        drain(world, 1000)
        assert world.position()["offsets"]["1"] == 0
        assert len(world.places.buffers[1]) < 4000
    drain(world, 8000)
    assert world.lag == 0


# --- dead letters ----------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_goes_to_the_dead_letters_and_the_rest_passes(
    broker: EmbeddedBroker, topic: str, open_world: Open
) -> None:
    bad = [b"", b"\xff\xfe", b"{}", b'{"user":"u","kind":"click"}', b'{"user":1,"kind":"request"}', b"x" * 70_000]
    mixed = [value for message in bad for value in (message, CLICK)]
    send(broker.address, topic, [*mixed])
    world = open_world()
    drain(world, len(bad))
    world.flush()
    assert (world.events_consumed, world.dead_letters) == (len(bad), len(bad))
    letters = [wire.decode_dead_letter(value) for _, value in values(broker, f"{topic}-dead", len(bad))]
    assert [letter.offset for letter in letters] == [0, 2, 4, 6, 8, 10]
    assert all(letter.topic == topic and letter.partition == 0 for letter in letters)
    assert letters[4].reason == "Expected `str`, got `int` - at `$.user`"
    assert letters[4].value == '{"user":1,"kind":"request"}'
    assert letters[1].value64 == "//4="
    assert world.position()["dead_letters"] == len(bad)


def test_items_beyond_the_catalogue_go_to_the_dead_letters(
    broker: EmbeddedBroker, topic: str, open_world: Open
) -> None:
    send(broker.address, topic, [wire.Event("click", f"u{at}", item=f"i{at}") for at in range(5)])
    world = open_world(catalog=Catalog(3))
    drain(world, 3)
    world.flush()
    assert world.dead_letters == 2
    key, value = values(broker, f"{topic}-dead", 2)[0]
    letter = wire.decode_dead_letter(value)
    assert (key, letter.key, letter.offset) == (b"u3", "u3", 3)
    assert "catalog.capacity = 3" in letter.reason


@pytest.fixture
def open_stream(broker: EmbeddedBroker, topic: str, open_world: Open) -> tuple[EmbeddedBroker, str, KafkaWorld]:
    return broker, topic, open_world(batch=37)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.binary(max_size=200) | st.just(CLICK) | st.just(b'{"user":"u","kind":"leave"}'), max_size=60))
def test_no_bytes_stop_a_partition(open_stream: tuple[EmbeddedBroker, str, KafkaWorld], garbage: list[bytes]) -> None:
    broker, topic, world = open_stream
    before, dead = world.events_consumed, world.dead_letters
    good = sum(isinstance(wire.decode_event(value), wire.Event) for value in garbage)
    send(broker.address, topic, [*garbage, CLICK])
    drain(world, good + 1)
    assert world.events_consumed - before == good + 1
    assert world.dead_letters - dead == len(garbage) - good


# --- sink ------------------------------------------------------------------------------------------------------------


def test_decisions_are_published_with_the_id_of_their_request(
    broker: EmbeddedBroker, topic: str, open_world: Open
) -> None:
    asks = [wire.Event("request", user, time=5.0, id=f"r-{user}-{at}") for at in range(2) for user in ("a", "b")]
    send(broker.address, topic, [*asks, wire.Event("request", "c", time=5.0)])
    world = open_world(policies=["random", "dqn"])
    world.catalog.rows(["x", "y"])
    number = 0
    for wave in drain(world, 5).waves():
        wanted = Decision.of(wave.user, torch.tensor([[2, 1]]).repeat(len(wave), 1), torch.full((len(wave), 2), -1.0))
        wanted.id = torch.arange(number, number + len(wave))
        wanted.policy += 1
        number += len(wave)
        assert world.send(wanted, wave) is wanted
    world.flush()
    sent = values(broker, f"{topic}-decisions", 5)
    answers = [wire.decode_decision(value) for _, value in sent]
    assert [key for key, _ in sent] == [answer.user.encode() for answer in answers]
    assert [answer.decision for answer in answers] == [0, 1, 2, 3, 4]
    assert [answer.request for answer in answers] == ["r-a-0", "r-b-0", "", "r-a-1", "r-b-1"]
    assert all((answer.items, answer.policy, answer.logp) == (["y", "x"], "dqn", -2.0) for answer in answers)


def test_a_stream_of_clicks_asks_before_each_and_answers_from_the_past(
    broker: EmbeddedBroker, topic: str, open_world: Open
) -> None:
    send(broker.address, topic, [*clicks(4)])
    world = open_world(ask=True)
    events = drain(world, 8)
    assert events.kind.tolist() == [Kind.REQUEST, Kind.CLICK] * 4
    assert events.shown.shape == (8, 10)
    assert events.decision.tolist() == [-1, -1, -2, -2, -3, -3, -4, -4]
    asked = next(events.waves())[:1]
    wanted = Decision.of(asked.user, torch.tensor([[7, 8, 9]]))
    wanted.id += 99
    shown = world.send(wanted, asked)
    assert shown.slate[0, 0] == events.item[1]
    assert shown.id.tolist() == [99]
    assert world.events_consumed == 4
    send(broker.address, topic, [*clicks(1)])
    assert drain(world, 2).decision.tolist() == [-5, -5]
    world.flush()
    assert values_now(broker, f"{topic}-decisions") == []


def values_now(broker: EmbeddedBroker, topic: str) -> list[object]:
    consumer = connect_consumer(broker.address)
    try:
        consumer.assign([kafka_place(topic, 0)])
        return [record for records in consumer.poll(300).values() for record in records]
    finally:
        consumer.close()


def test_a_broker_that_is_gone_is_an_error_that_says_how_to_go_on() -> None:
    """In a process of its own: kafka-python leaves a socket unclosed whenever it is refused."""
    code = """
import torch
from consumers.broker import BrokerUnavailable, EmbeddedBroker
from consumers.kafka import KafkaWorld
from streamrec.catalog import Catalog
from streamrec.records import Decision, Events, Kind
from streamrec.sessions import SessionStore

with EmbeddedBroker() as broker:
    sessions = SessionStore(users=10)
    world = KafkaWorld(broker.address, Catalog(10), sessions, 10, send_timeout_s=1.0)
user = sessions.rows(["a"])
world.send(Decision.of(user, torch.zeros(1, 1, dtype=torch.int64)), Events.of(user, Kind.REQUEST, torch.ones(1)))
try:
    world.flush()
except BrokerUnavailable as error:
    print(error)
world.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "did not take what was sent to it for 1 s" in done.stdout
    assert "--resume" in done.stdout
    assert done.returncode == 0


# --- positions -------------------------------------------------------------------------------------------------------


def test_a_broker_that_lost_everything_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    def open_at(broker: EmbeddedBroker) -> KafkaWorld:
        return KafkaWorld(broker.address, Catalog(10), SessionStore(users=10), 10)

    with EmbeddedBroker() as first:
        send(first.address, "streamrec.events", [CLICK] * 9)
        world = open_at(first)
        drain(world, 9)
        place = world.position()
        world.close()
    with EmbeddedBroker(port=int(first.address.rpartition(":")[2])) as second:
        send(second.address, "streamrec.events", [CLICK] * 20)  # more than before: the offset exists again
        world = open_at(second)
        with caplog.at_level(logging.WARNING, logger="consumers.kafka"):
            world.seek(place)
        assert world.wiped == 1
        assert "reading it from the beginning" in caplog.text
        drain(world, 20)
        assert world.events_consumed == 29
        again = open_at(second)
        again.seek(world.position())
        assert (again.wiped, again.lag or 0) == (0, 0)
        again.close()
        world.close()


@both
def test_a_position_behind_the_end_of_the_log_starts_over(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    send(broker.address, topic, [CLICK] * 5)
    world = open_world()
    drain(world, 5)
    place = world.position()
    place["offsets"]["0"] = 500
    again = open_world()
    again.seek(place)
    drain(again, 5)
    assert again.wiped == 1


@both
def test_the_loop_killed_anywhere_and_resumed_equals_the_loop_never_killed(
    broker: EmbeddedBroker, topic: str, open_world: Open
) -> None:
    from streamrec.loop import Loop
    from tests.worlds import Counter as CountingAgent

    send(broker.address, topic, [*clicks(400), b"garbage", *clicks(200, seed=1)], partitions=2)
    end(broker.address, topic)

    def start() -> Loop:
        catalog, sessions = Catalog(1000), SessionStore(users=1000, slate=10)
        world = open_world(catalog=catalog, sessions=sessions, batch=61, ask=True)
        return Loop(world, sessions, catalog, CountingAgent(catalog, 10), update_every=50)

    torch.manual_seed(0)
    never, kept = start(), []
    while never.step():
        kept.append(copy_of(never.state_dict()))
    assert never.counts["decisions"] == 600
    assert never.read()["dead_letters"] == 1
    for state in kept[:-1]:
        resumed = start()
        resumed.load_state_dict(copy_of(state))
        while resumed.step():
            pass
        assert_same(resumed.state_dict(), never.state_dict())
        resumed.world.close()


def copy_of(state: State) -> State:
    """As if written to disk and read again: later changes in place must not reach it."""
    if isinstance(state, dict):
        return {key: copy_of(value) for key, value in state.items()}
    return state.clone() if isinstance(state, torch.Tensor) else json.loads(json.dumps(state))  # type: ignore[no-any-return]


def assert_same(left: object, right: object, where: str = "state") -> None:
    if isinstance(left, dict) and isinstance(right, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        assert torch.equal(left, right) or torch.allclose(left, right, rtol=0, atol=0, equal_nan=True), where
    else:
        assert left == right, where


# --- groups ----------------------------------------------------------------------------------------------------------


@both_slow
def test_a_group_starts_where_it_left_off_or_where_the_checkpoint_says_if_that_is_later(
    broker: EmbeddedBroker, topic: str, open_world: Open
) -> None:
    send(broker.address, topic, [*clicks(30)])
    world = open_world(group=f"{topic}-group", batch=10)
    assert world.position()["offsets"] == {}
    drain(world, 10)
    world.commit(world.position())
    drain(world, 10)
    saved = world.position()
    world.close()

    behind = open_world(group=f"{topic}-group", batch=10)
    assert drain(behind, 10).time.tolist() == [1010.0 + at for at in range(10)]
    behind.close()
    ahead = open_world(group=f"{topic}-group", batch=10)
    ahead.seek(saved)
    assert ahead.position()["offsets"] == {"0": 20}  # even before the group has formed
    assert drain(ahead, 10).time.tolist() == [1020.0 + at for at in range(10)]


@both_slow
def test_a_rebalance_loses_nothing(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    create_topics(broker.address, {topic: 4})
    stop, theirs, errors = threading.Event(), [], []
    sent: list[float] = []

    def second_member() -> None:
        try:
            world = open_world(group=f"{topic}-group", batch=50)
            while not stop.is_set():
                theirs.extend(times_of(world))
        except BaseException as error:
            errors.append(error)

    first = open_world(group=f"{topic}-group", batch=50)
    revoked: list[int] = []
    assigned: list[int] = []
    first.on_revoked, first.on_assigned = revoked.extend, assigned.extend
    seen: list[float] = []
    target = EventTopic(broker.address, topic)
    member = threading.Thread(target=second_member)
    deadline = time.monotonic() + 40
    try:
        while time.monotonic() < deadline and (len(theirs) < 100 or len(seen) + len(theirs) < len(sent)):
            if len(theirs) < 100:  # more is being written all the time while the group forms anew
                for at in range(len(sent), len(sent) + 40):
                    event = wire.Event("click", f"u{at % 97}", item="i", time=float(at))
                    target.send(event.user.encode(), wire.encode(event))
                    sent.append(float(at))
            seen += times_of(first)
            if seen and not member.is_alive() and not errors:
                member.start()
    finally:
        stop.set()
        member.join(20)
        target.close()
    assert not errors
    assert sorted(revoked) == [0, 1, 2, 3]
    assert len(assigned) == 4 + 2
    assert Counter(seen + theirs) == Counter(sent)


def times_of(world: KafkaWorld) -> list[float]:
    events = world.poll(0.05)
    assert events is not None
    return events.time.tolist()  # type: ignore[no-any-return]


# --- other clients ---------------------------------------------------------------------------------------------------


def kcat(broker: EmbeddedBroker, *arguments: str, line: str = "") -> str:
    """What kcat prints; skips the test where there is no kcat that can talk to the embedded broker."""
    if shutil.which("kcat") is None:
        pytest.skip("kcat is not installed")
    command = ["kcat", "-b", broker.address, "-m", "1"]
    probe = subprocess.run([*command, "-L"], capture_output=True, text=True, timeout=30)
    if "ApiVersionRequest failed: Local: Read underflow" in probe.stderr:
        pytest.skip("this kcat's librdkafka (2.0.2 is one) cannot read the embedded broker's list of versions")
    done = subprocess.run([*command, *arguments], input=line, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answer_one(world: KafkaWorld) -> None:
    """Take one request by u1 and show i1."""
    asked = drain(world, 1)
    assert world.sessions.user_ids(asked.user) == ["u1"]
    assert abs(float(asked.time[0]) - time.time()) < 60
    row = world.catalog.rows(["i1"])
    world.send(Decision.of(asked.user, row.unsqueeze(0)), asked)
    world.flush()


def test_kcat_produces_events_and_reads_decisions(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    world = open_world()
    kcat(broker, "-P", "-t", topic, "-K:", line='u1:{"v":1,"user":"u1","kind":"request","id":"r1"}\n')
    answer_one(world)
    out = kcat(broker, "-C", "-t", f"{topic}-decisions", "-o", "beginning", "-e", "-K:")
    key, _, value = out.partition(":")
    assert key == "u1"
    assert json.loads(value)["items"] == ["i1"]
    assert json.loads(value)["request"] == "r1"


def test_kafka_pythons_console_produces_events_and_reads_decisions(
    broker: EmbeddedBroker, topic: str, open_world: Open
) -> None:
    world = open_world()
    client = [sys.executable, "-W", "ignore", "-m"]
    produce = [*client, "kafka.producer", "-b", broker.address, "-t", topic, "-l", "ERROR"]
    line = '{"v":1,"user":"u1","kind":"request","id":"r1"}\n'
    subprocess.run(produce, input=line, text=True, check=True, timeout=30)
    answer_one(world)
    consume = [*client, "kafka.consumer", "-b", broker.address, "-t", f"{topic}-decisions", "-l", "ERROR"]
    settings = ["-C", "auto_offset_reset=earliest", "-C", "consumer_timeout_ms=500"]
    out = subprocess.run([*consume, *settings], capture_output=True, text=True, check=True, timeout=30).stdout
    assert json.loads(out)["items"] == ["i1"]
    assert json.loads(out)["request"] == "r1"


@both
def test_closing_leaves_no_thread_and_twice_is_fine(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    before = set(threading.enumerate())
    world = open_world()
    world.poll(0.2)
    assert len(threading.enumerate()) > len(before)
    world.close()
    world.close()
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before
    assert world.lag == 0
