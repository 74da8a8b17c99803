"""Filling topics and reading them to the end, for the tests of this folder."""

from __future__ import annotations

import time
from collections.abc import Callable

from consumers import wire
from consumers.kafka import KafkaWorld
from consumers.topic import EventTopic
from streamrec.records import Events

Open = Callable[..., KafkaWorld]


def send(
    servers: str, topic: str, values: list[bytes | wire.Event], partitions: int = 1, partition: int | None = None
) -> None:
    """Send raw bytes, or events keyed by their user, in order."""
    target = EventTopic(servers, topic, partitions=partitions)
    for value in values:
        raw = value if isinstance(value, bytes) else wire.encode(value)
        key = None if isinstance(value, bytes) else value.user.encode()
        target._producer.send(topic, raw, key=key, partition=partition)
    target.flush()
    target.close()


def end(servers: str, topic: str) -> None:
    target = EventTopic(servers, topic)
    target.end()
    target.close()


def drain(world: KafkaWorld, at_least: int, seconds: float = 20.0) -> Events:
    """Poll until `at_least` events have come."""
    parts = [Events.empty()]
    deadline = time.monotonic() + seconds
    while sum(map(len, parts)) < at_least:
        assert time.monotonic() < deadline, f"{sum(map(len, parts))} of {at_least} events after {seconds} s"
        events = world.poll(0.1)
        assert events is not None, f"the stream ended after {sum(map(len, parts))} of {at_least} events"
        parts.append(events)
    return Events.cat([part for part in parts if len(part)] or parts[:1])


def read_all(world: KafkaWorld, seconds: float = 30.0) -> list[Events]:
    """Poll until the stream is over."""
    parts: list[Events] = []
    deadline = time.monotonic() + seconds
    while (events := world.poll(0.1)) is not None:
        assert time.monotonic() < deadline, "the stream did not end"
        if len(events):
            parts.append(events)
    return parts
