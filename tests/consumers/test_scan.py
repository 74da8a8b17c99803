"""A scan reads a topic to its end, which the embedded broker, asked for it, tells wrongly."""

from __future__ import annotations

import pytest

from consumers.broker import BrokerUnavailable, EmbeddedBroker, create_topics
from consumers.scan import NoTopic, bounds, scan, topics
from tests.consumers.kafka_topics import send

pytestmark = pytest.mark.kafka


def read(servers: str, topic: str, start: dict[int, int] | None = None) -> list[tuple[int, int, bytes]]:
    return [(r.partition, r.offset, r.value) for records in scan(servers, topic, start) for r in records]


def test_every_record_comes_once_and_partitions_keep_their_order(broker: EmbeddedBroker, topic: str) -> None:
    create_topics(broker.address, {topic: 3})  # partition 2 stays empty
    for partition in (0, 1):
        send(broker.address, topic, [b"%d" % at for at in range(1500)], partition=partition)
    found = read(broker.address, topic)
    for partition in (0, 1):
        mine = [(offset, value) for p, offset, value in found if p == partition]
        assert mine == [(at, b"%d" % at) for at in range(1500)]
    assert len(found) == 3000


def test_a_scan_starts_where_it_is_told_and_a_start_behind_the_end_is_the_end(
    broker: EmbeddedBroker, topic: str
) -> None:
    send(broker.address, topic, [b"%d" % at for at in range(50)])
    assert [offset for _, offset, _ in read(broker.address, topic, {0: 48})] == [48, 49]
    assert read(broker.address, topic, {0: 5000}) == []


def test_an_empty_topic_is_over_at_once(broker: EmbeddedBroker, topic: str) -> None:
    create_topics(broker.address, {topic: 2})
    assert read(broker.address, topic) == []


def test_what_arrives_during_the_scan_is_left_out(broker: EmbeddedBroker, topic: str) -> None:
    send(broker.address, topic, [b"x"] * 10)
    found = 0
    for records in scan(broker.address, topic):
        found += len(records)
        send(broker.address, topic, [b"y"] * 10)
    assert found == 10


def test_the_end_that_bounds_tell_is_not_behind_the_real_one(broker: EmbeddedBroker, topic: str) -> None:
    send(broker.address, topic, [b"x"] * 40)
    begins, ends = bounds(broker.address, topic)
    assert begins == {0: 0}
    assert 0 < ends[0] <= 40


def test_a_topic_that_is_not_there_is_not_made(broker: EmbeddedBroker, topic: str) -> None:
    send(broker.address, topic, [b"x"])
    with pytest.raises(NoTopic, match=r"expected a topic of .*, got 'nowhere'; it has "):
        read(broker.address, "nowhere")
    assert "nowhere" not in topics(broker.address)


def test_nobody_there_is_said_so() -> None:
    with pytest.raises(BrokerUnavailable, match="no Kafka broker answers"):
        read("127.0.0.1:1", "events")
