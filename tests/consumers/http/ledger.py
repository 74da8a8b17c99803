"""The books: what lies in the topic, and what became of it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from kafka import KafkaConsumer, TopicPartition

from consumers import wire
from consumers.serving.engine import Engine


@dataclass
class Books:
    """A topic against its dead letters, record by record.

    Attributes:
        records: by what they are: event, order, end, unreadable.
        buried: by the same names.
        reasons: of the dead letters.
        ids: of the readable records.
        odd: what does not fit together, in words.
    """

    records: Counter[str] = field(default_factory=Counter)
    buried: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    ids: Counter[str] = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.records.total()


def read_topic(servers: str, topic: str) -> list[tuple[int, int, bytes | None]]:
    """(partition, offset, value) of every record that lies there now."""
    consumer = KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False, check_crcs=False)
    try:
        places = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(places)
        ends = consumer.end_offsets(places)
        consumer.seek_to_beginning(*places)
        found: list[tuple[int, int, bytes | None]] = []
        deadline = time.monotonic() + 60.0
        while any(consumer.position(place) < ends[place] for place in places):
            assert time.monotonic() < deadline
            for records in consumer.poll(timeout_ms=200, max_records=5000).values():
                found += [(record.partition, record.offset, record.value) for record in records]
        return found
    finally:
        consumer.close()


def audit(engine: Engine) -> Books:
    """Every record of the engine's topic against the dead letters that name it."""
    world = engine.follower.world
    letters: dict[tuple[int, int], wire.DeadLetter] = {}
    books = Books()
    for _, _, value in read_topic(engine.servers, world.dead_letter_topic):
        letter = wire.decode_dead_letter(value or b"")
        place = (letter.partition, letter.offset)
        if place in letters:
            books.odd.append(f"{place} is buried twice")
        if not letter.reason or letter.topic != world.topic:
            books.odd.append(f"the letter of {place} says neither why nor whence")
        letters[place] = letter
        books.reasons[letter.reason] += 1
    for partition, offset, value in read_topic(engine.servers, world.topic):
        event = wire.decode_event(value)
        name = _name(event)
        books.records[name] += 1
        if isinstance(event, wire.Event) and event.id:
            books.ids[event.id] += 1
        letter_here = letters.pop((partition, offset), None)
        if letter_here is not None:
            books.buried[name] += 1
        if isinstance(event, str) and (letter_here is None or not _same(letter_here.reason, event)):
            found = letter_here and letter_here.reason
            books.odd.append(f"{(partition, offset)} cannot be read ({event}) and is not buried for that: {found}")
    books.odd += [f"a letter names {place}, where nothing lies" for place in letters]
    return books


def _same(buried: str, read: str) -> bool:
    """Where two faults are nested, the depth of the stack says which is met first; hypothesis changes its limit."""
    return buried == read or "JSON is nested too deeply" in (buried, read)


def _name(event: wire.Event | str) -> str:
    if isinstance(event, str):
        return "unreadable"
    if event.kind == wire.END:
        return "end"
    return "order" if event.kind in wire.ORDERS else "event"
