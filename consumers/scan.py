"""A topic from some offsets to where it ends now, once, without a group: for looking at it, not for living on it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from consumers.broker import BrokerUnavailable, ask
from consumers.clients.settings import ClientSettings
from consumers.kafka import connect_consumer

_ALL = 1 << 30  # records a poll may return: then none is left inside the client when a partition is paused


class NoTopic(ValueError):
    """The broker has no topic of this name; looking must not create it."""


def topics(servers: str, settings: ClientSettings | None = None) -> set[str]:
    """Names of the topics that the broker has.

    Raises:
        BrokerUnavailable: nobody answers at `servers`.
    """
    return ask(servers, lambda client: set(client.list_topics()), settings)


def scan(
    servers: str,
    topic: str,
    start: Mapping[int, int] | None = None,
    patience_s: float = 30.0,
    settings: ClientSettings | None = None,
) -> Iterator[list[Any]]:
    """The records of a topic, some of one partition at a time, each partition in order.

    The end of a partition is its high watermark in the first answer to a fetch. (The embedded broker answers a question
    for the end with less than that.) What comes later is left out, so that the scan of a topic that is written to ends.

    Args:
        servers: host:port[,host:port].
        topic: must exist.
        start: partition -> first offset; the beginning where nothing is said, or where records were deleted since.
        patience_s: how long the broker may stay silent.
        settings: how to connect.

    Raises:
        NoTopic: there is no such topic.
        BrokerUnavailable: nobody answers at `servers`, or not any more.
    """
    require(servers, topic, settings)
    consumer = connect_consumer(servers, settings=settings)
    try:
        yield from _until_end(consumer, servers, topic, start or {}, patience_s)
    except KafkaError as error:
        raise BrokerUnavailable(f"{servers} does not hand out the records of {topic!r}: {error}") from error
    finally:
        consumer.close(autocommit=False, timeout_ms=5000)


def require(servers: str, topic: str, settings: ClientSettings | None = None) -> None:
    """Return if the topic exists.

    Raises:
        NoTopic: it does not.
        BrokerUnavailable: nobody answers at `servers`.
    """
    if topic not in (known := topics(servers, settings)):
        near = ", ".join(sorted(name for name in known if not name.startswith("__"))[:10]) or "no topics at all"
        raise NoTopic(f"expected a topic of {servers}, got {topic!r}; it has {near}")


def bounds(servers: str, topic: str, settings: ClientSettings | None = None) -> tuple[dict[int, int], dict[int, int]]:
    """First offset and an offset not behind the end, by partition.

    Raises:
        BrokerUnavailable: nobody answers at `servers`.
    """
    consumer = connect_consumer(servers, settings=settings)
    try:
        places = _places(consumer, topic)
        begins, ends = consumer.beginning_offsets(places), consumer.end_offsets(places)
    except KafkaError as error:
        raise BrokerUnavailable(f"{servers} does not say where {topic!r} begins and ends: {error}") from error
    finally:
        consumer.close(autocommit=False, timeout_ms=5000)
    return {p.partition: int(at) for p, at in begins.items()}, {p.partition: int(at) for p, at in ends.items()}


def _places(consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
    return [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]


def _until_end(
    consumer: KafkaConsumer, servers: str, topic: str, start: Mapping[int, int], patience_s: float
) -> Iterator[list[Any]]:
    places = _places(consumer, topic)
    consumer.assign(places)
    for place, begin in consumer.beginning_offsets(places).items():
        consumer.seek(place, max(begin, start.get(place.partition, 0)))
    ends: dict[TopicPartition, int] = {}
    left, heard = set(places), time.monotonic()
    while left:
        fetched = consumer.poll(timeout_ms=100, max_records=_ALL)
        for place in left - set(ends):
            end = consumer.highwater(place)
            if end is not None and end >= 0:
                ends[place], heard = int(end), time.monotonic()
        for place, records in fetched.items():
            heard = time.monotonic()
            if wanted := [record for record in records if record.offset < ends.get(place, record.offset + 1)]:
                yield wanted
        # The position passes offsets without a record, too.
        over = {place for place in left & set(ends) if (consumer.position(place, timeout_ms=0) or 0) >= ends[place]}
        if over:
            consumer.pause(*over)
            left -= over
        if left and time.monotonic() - heard > patience_s:
            raise BrokerUnavailable(f"{servers} handed out nothing of {topic!r} for {patience_s:.0f} s: is it up?")
