"""Members of a real group in one process: users go where their partition goes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from agents.random import Random
from consumers import wire
from consumers.broker import EmbeddedBroker, create_topics
from streamrec.bench.crash_group import portrait
from streamrec.catalog import Catalog
from streamrec.loop import Loop
from streamrec.sessions import SessionStore
from tests.consumers.kafka_topics import Open, send

pytestmark = pytest.mark.kafka

PARTITIONS = 4
Member = Callable[..., Loop]


@pytest.fixture
def member(broker: EmbeddedBroker, topic: str, open_world: Open) -> Member:
    create_topics(broker.address, {topic: PARTITIONS})

    def make(**settings: object) -> Loop:
        catalog, sessions = Catalog(500), SessionStore(users=500, length=8, skips=4, slate=3, patience_s=1e9)
        client = {"session_timeout_ms": 1000, "heartbeat_interval_ms": 200, **settings.pop("client", {})}  # type: ignore[dict-item]
        defaults = {"group": f"{topic}-group", "ask": True, "slate": 3, "batch": 50, "client": client, "follow": True}
        world = open_world(catalog=catalog, sessions=sessions, **{**defaults, **settings})
        return Loop(world, sessions, catalog, Random(catalog, 3))

    return make


def clicks(first: int, count: int) -> list[wire.Event]:
    draw = random.Random(first)
    return [
        wire.Event("click", f"u{draw.randrange(60)}", item=f"i{draw.randrange(90)}", time=1000.0 + at, id=f"e{at}")
        for at in range(first, first + count)
    ]


def until(done: Callable[[], bool], *loops: Loop, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, [loop.read()["world"] for loop in loops]
        for loop in loops:
            assert loop.step(0.02)


def checkpoint(loop: Loop) -> None:
    loop.world.commit(loop.state_dict()["position"])


def has(loop: Loop) -> int:
    return int(loop.world.figures()["partitions"])  # type: ignore[attr-defined]


def test_users_go_along_when_members_come_go_and_lose_their_partitions(
    broker: EmbeddedBroker, topic: str, member: Member
) -> None:
    send(broker.address, topic, [*clicks(0, 300)])
    first = member()
    until(lambda: first.counts["events"] == 600, first)  # with the questions before clicks
    checkpoint(first)
    second = member()
    until(lambda: has(first) == has(second) == 2, first, second)
    assert len({*named(first)} & {*named(second)}) == 0
    assert len(named(first)) + len(named(second)) == len({event.user for event in clicks(0, 300)})
    send(broker.address, topic, [*clicks(300, 200), *clicks(300, 20)])  # some twice, known by their ids
    until(lambda: first.counts["events"] + second.counts["events"] == 1000, first, second)
    checkpoint(first)
    checkpoint(second)
    second.world.close()
    until(lambda: has(first) == PARTITIONS, first)
    send(broker.address, topic, [*clicks(500, 100), *clicks(300, 20)])
    until(lambda: first.counts["events"] + second.counts["events"] == 1200, first)
    checkpoint(first)
    first.world.places.lost(list(range(PARTITIONS)))  # type: ignore[attr-defined]
    first.step(0.02)
    assert named(first) == []
    first.world.places.assigned(list(range(PARTITIONS)))  # type: ignore[attr-defined]
    until(lambda: has(first) == PARTITIONS, first)
    assert first.counts["events"] + second.counts["events"] == 1200  # nothing was read again
    alone = member(group=None, until="latest", follow=False)
    while alone.step(0.02):
        pass
    assert alone.counts["events"] == 1200
    assert portrait(first.sessions, first.catalog) == portrait(alone.sessions, alone.catalog)
    assert first.world.repeated + second.world.repeated == alone.world.repeated == 40  # type: ignore[attr-defined]


def named(loop: Loop) -> list[str]:
    return [name for name in loop.sessions.users.ids if name is not None]


@pytest.mark.slow
def test_a_slow_learner_keeps_its_place_and_its_memory(broker: EmbeddedBroker, topic: str, member: Member) -> None:
    noise = random.Random(0)  # or compression would put all of it into one fetch
    for event in (stream := clicks(0, 20_000)):
        event.session = noise.randbytes(60).hex()
    send(broker.address, topic, [*stream])
    slow = member(batch=20, client={"max_partition_fetch_bytes": 32_768, "fetch_max_bytes": 131_072})
    until(lambda: has(slow) == PARTITIONS, slow)
    most = 0
    for _ in range(8):
        time.sleep(0.4)  # eight of these are three times as long as the group waits for a silent member
        assert slow.step(0.02)
        most = max(most, *(len(held) for held in slow.world.places.buffers.values()))  # type: ignore[attr-defined]
    assert slow.world.figures()["rebalances"] == 1  # type: ignore[attr-defined]
    assert slow.world.figures()["lost"] == 0  # type: ignore[attr-defined]
    assert most < 3500  # of the 5000 and more in a partition: a fetch or two, and then it waits
    assert slow.read()["lag"] > 19_000
    assert slow.read()["lag_s"] > 0.0


@pytest.mark.slow
def test_who_takes_longer_than_the_group_allows_comes_back_and_nothing_is_doubled(
    broker: EmbeddedBroker, topic: str, member: Member
) -> None:
    send(broker.address, topic, [*clicks(0, 200)])
    slow = member(client={"max_poll_interval_ms": 1200})
    until(lambda: slow.counts["events"] >= 200, slow)
    checkpoint(slow)
    time.sleep(3.0)
    until(lambda: slow.world.figures()["rebalances"] >= 2, slow)  # type: ignore[attr-defined]
    until(lambda: has(slow) == PARTITIONS and slow.read()["lag"] == 0, slow)
    alone = member(group=None, until="latest", follow=False)
    while alone.step(0.02):
        pass
    assert portrait(slow.sessions, slow.catalog) == portrait(alone.sessions, alone.catalog)
