"""The topic of dead letters, read: what is in it by reason, and single letters as they came."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from consumers import wire
from consumers.clients.settings import ClientSettings
from consumers.disguise import disguised, escaped, people, pseudonym, said
from consumers.kafka import RETRY_HEADER, SENT_HEADER
from consumers.reasons import Reason, reason_of
from consumers.scan import bounds, require, scan

TOPIC = "streamrec.dead-letters"

_ALIEN = Reason("not_a_dead_letter", "", "a dead letter as consumers.wire describes it")


@dataclass
class Letter:
    """One dead letter.

    Attributes:
        partition, offset: where it is in the topic of dead letters.
        time: when it was written, seconds since the epoch.
        reason: why the original could not be used.
        said: the same in the words of who refused it.
        topic, origin_partition, origin_offset: where the original was.
        sent: timestamp of the original in seconds; of letters that do not tell, when they were written.
        key, value: of the original, at most their first `wire.MAX_BYTES`.
        again: id of the letter it is a retry of, "" = it is none.
    """

    partition: int
    offset: int
    time: float
    reason: Reason
    said: str
    topic: str
    origin_partition: int
    origin_offset: int
    sent: float
    key: bytes | None
    value: bytes | None
    again: str

    @property
    def place(self) -> str:
        return f"{self.partition}:{self.offset}"

    @property
    def id(self) -> str:
        """32 hexadecimal digits. A letter written twice after a crash has the same; its topic made anew has others."""
        origin = (self.topic, self.origin_partition, self.origin_offset, self.key, self.value)
        return hashlib.blake2b(msgspec.msgpack.encode(origin), digest_size=16).hexdigest()

    @property
    def whole(self) -> bool:
        """Key and value are all of the original, not its first 64 KiB."""
        cut = self.reason.code == "too_long" or len(self.key or b"") >= wire.MAX_BYTES
        return self.reason != _ALIEN and not cut


def letters(
    servers: str,
    topic: str = TOPIC,
    start: Mapping[int, int] | None = None,
    settings: ClientSettings | None = None,
) -> Iterator[Letter]:
    """All dead letters up to where the topic ends now; what is none comes with the reason `not_a_dead_letter`.

    Args:
        servers: host:port[,host:port].
        topic: of the dead letters.
        start: partition -> first offset; the beginning where nothing is said.
        settings: how to connect.

    Raises:
        NoTopic: the topic does not exist.
        BrokerUnavailable: nobody answers at `servers`.
    """
    for records in scan(servers, topic, start, settings=settings):
        yield from map(read_letter, records)


def read_letter(record: Any) -> Letter:
    """The letter in a record; of one that is none, with the record's own key and value."""
    headers = dict(record.headers or ())
    written = max(0, record.timestamp) / 1000
    try:
        found = wire.decode_dead_letter(record.value or b"")
        key, value = _bytes(found.key, found.key64), _bytes(found.value, found.value64)
    except (msgspec.MsgspecError, UnicodeError, binascii.Error, RecursionError) as error:
        own = (record.topic, record.partition, record.offset, written, record.key, record.value, "")
        return Letter(record.partition, record.offset, written, _ALIEN, str(error), *own)
    reason, sent = reason_of(found.reason), _seconds(headers.get(SENT_HEADER), written)
    again = (headers.get(RETRY_HEADER) or b"").decode("ascii", "replace")
    origin = (found.topic, found.partition, found.offset, sent, key, value, again)
    return Letter(record.partition, record.offset, written, reason, found.reason, *origin)


def _bytes(text: str | None, packed: str | None) -> bytes | None:
    if packed is not None:
        return base64.b64decode(packed, validate=True)
    return None if text is None else text.encode()


def _seconds(header: bytes | None, default: float) -> float:
    return int(header) / 1000 if header and header.isdigit() and len(header) < 16 else default


def wanted(letter: Letter, reason: str | None) -> bool:
    """`reason` is the letter's (`wrong_type:user`), or its code without the field (`wrong_type`)."""
    return reason is None or reason in (letter.reason.name, letter.reason.code)


# --- by reason -----------------------------------------------------------------------------------------------------


@dataclass
class Group:
    """The letters of one reason.

    Attributes:
        first, last: when the first and the last were written, seconds since the epoch.
        offsets: partition -> first and last offset.
        places: `partition:offset` of the first few.
    """

    expected: str
    count: int = 0
    first: float = float("inf")
    last: float = 0.0
    offsets: dict[int, list[int]] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)

    def add(self, letter: Letter, examples: int) -> None:
        self.count += 1
        self.first, self.last = min(self.first, letter.time), max(self.last, letter.time)
        self.offsets.setdefault(letter.partition, [letter.offset, letter.offset])[1] = letter.offset
        if len(self.places) < examples:
            self.places.append(letter.place)


def by_reason(
    servers: str, topic: str = TOPIC, examples: int = 5, settings: ClientSettings | None = None
) -> dict[str, Group]:
    """What is in the topic of dead letters, the most frequent reason first. Raises as `letters` does."""
    groups: dict[str, Group] = {}
    for letter in letters(servers, topic, settings=settings):
        groups.setdefault(letter.reason.name, Group(letter.reason.expected)).add(letter, examples)
    return dict(sorted(groups.items(), key=lambda pair: -pair[1].count))


def groups_as_json(topic: str, groups: dict[str, Group]) -> dict[str, Any]:
    return {
        "topic": topic,
        "letters": sum(group.count for group in groups.values()),
        "reasons": {name: asdict(group) for name, group in groups.items()},
    }


# --- single letters ------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """An offset, in one partition or (None) in whichever has it."""

    partition: int | None
    offset: int


def place(text: str) -> Place:
    """`OFFSET` or `PARTITION:OFFSET`.

    Raises:
        ValueError: neither.
    """
    partition, colon, offset = text.rpartition(":")
    if not (offset.isdecimal() and (not colon or partition.isdecimal())):
        raise ValueError(f"expected OFFSET or PARTITION:OFFSET, as `dlq list` prints them, got {text!r}")
    return Place(int(partition) if colon else None, int(offset))


def find(
    servers: str,
    topic: str = TOPIC,
    at: Place | None = None,
    reason: str | None = None,
    limit: int = 10,
    settings: ClientSettings | None = None,
) -> list[Letter]:
    """At most `limit` letters, at a place or of a reason. Raises as `letters` does."""
    start: dict[int, int] = {}
    if at is not None:
        require(servers, topic, settings)
        start = dict.fromkeys(bounds(servers, topic, settings)[0], at.offset)
        limit = min(limit, len(start) if at.partition is None else 1)
    found: list[Letter] = []
    for letter in letters(servers, topic, start, settings):
        here = at is None or (letter.offset == at.offset and at.partition in (None, letter.partition))
        if here and wanted(letter, reason):
            found.append(letter)
        if len(found) >= limit:
            break
    return found


def shown(letter: Letter, raw: bool = False) -> dict[str, Any]:
    """A letter to look at: bytes escaped (`disguise.escaped`), and without `raw`, users as pseudonyms."""
    names = people(letter.key, letter.value)
    key, value = letter.key, letter.value
    if not raw:
        key = pseudonym(key).encode() if key else key
        value = disguised(value, names) if value else value
    return {
        "place": letter.place,
        "time": datetime.fromtimestamp(letter.time, UTC).isoformat(timespec="milliseconds"),
        "reason": letter.reason.name,
        "said": escaped(letter.said.encode("utf-8", "replace")) if raw else said(letter.said, names),
        "expected": letter.reason.expected,
        "origin": f"{letter.topic}:{letter.origin_partition}:{letter.origin_offset}",
        "sent": datetime.fromtimestamp(letter.sent, UTC).isoformat(timespec="milliseconds"),
        "key": None if key is None else escaped(key),
        "value": None if value is None else escaped(value),
        "bytes": len(letter.value or b""),
        "whole": letter.whole,
        "retry_of": letter.again,
    }
