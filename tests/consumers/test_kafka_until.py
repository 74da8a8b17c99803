"""A topic that is read up to an offset, and no further, whatever comes later."""

from __future__ import annotations

import json

import pytest

from consumers import wire
from consumers.broker import EmbeddedBroker
from streamrec.records import Events
from tests.consumers.kafka_topics import Open, drain, read_all, send

pytestmark = pytest.mark.kafka


def clicks(first: int, count: int) -> list[bytes | wire.Event]:
    return [wire.Event("click", f"u{at % 7}", item=f"i{at}", time=1000.0 + at) for at in range(first, first + count)]


def times(parts: list[Events]) -> list[float]:
    return [time for part in parts for time in part.time.tolist()]


def test_latest_is_what_the_topic_held_when_it_was_opened(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    send(broker.address, topic, clicks(0, 100))
    world = open_world(until="latest", batch=30)
    first = drain(world, 30)
    place = json.loads(json.dumps(world.position()))
    send(broker.address, topic, clicks(100, 50))
    assert times([first, *read_all(world)]) == [1000.0 + at for at in range(100)]
    again = open_world(until="latest", batch=30)  # knows 150 events now, and a checkpoint that ends at 100
    again.seek(place)
    assert times(read_all(again)) == [1000.0 + at for at in range(30, 100)]


def test_a_number_is_an_offset_and_the_topic_may_be_shorter(
    broker: EmbeddedBroker, topic: str, open_world: Open
) -> None:
    send(broker.address, topic, clicks(0, 60))
    assert times(read_all(open_world(until="40"))) == [1000.0 + at for at in range(40)]
    assert len(times(read_all(open_world(until="500")))) == 60
    world = open_world(until="40")
    world.seek(world.position() | {"offsets": {"0": 25}})
    assert times(read_all(world)) == [1000.0 + at for at in range(25, 40)]


def test_every_partition_has_its_end(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    send(broker.address, topic, clicks(0, 90), partitions=3)
    assert sorted(times(read_all(open_world(until="latest", partitions=3)))) == [1000.0 + at for at in range(90)]


def test_anything_else_is_refused(open_world: Open) -> None:
    with pytest.raises(ValueError, match=r'"end", "latest" or an offset'):
        open_world(until="soon")
