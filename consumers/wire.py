"""What travels over Kafka: JSON messages, one object per record, typed and versioned.

An event, on the topic `streamrec.events`; the record's key is the user id, so that a user's events keep their order:

    {"v":1,"user":"u1","kind":"click","item":"i7","time":1700000000.0,"value":1.0,"session":"s3","decision":123,"slot":2}

| field | | meaning |
|---|---|---|
| `kind` | needed | request, impression, click, skip, purchase, rating, leave, return, or one of the kinds below |
| `user` | needed, except for `end`, `item`, `retire` | id of the user, text of 1 to 128 characters |
| `item` | needed for impression, click, skip, purchase, rating, item, retire | id of the item, of 1 to 128 characters |
| `v` | 1 | version of this format |
| `time` | the record's timestamp | event time, seconds since the epoch, before the year 2100 |
| `value` | 1 | strength of the event (stars, price, seconds), between -1e9 and 1e9 |
| `session` | none | id of the session where the stream has one, up to 128 characters |
| `decision` | 0 | the decision this event answers, as its message gave it; 0 = none; logs number theirs below 0 |
| `slot` | -1 | slot of the slate it speaks about, from 0; -1 = unknown |
| `slate` | none | requests that were answered already: the items shown then, by slot, "" = an empty slot |
| `slot_logp` | none | natural log of the propensity of each item of `slate`, null = unknown |
| `context` | none | requests: up to 256 numbers that say what is known of the user and the moment, -1e9 to 1e9 |
| `candidates` | none | requests: ids of the items that may be shown, up to 1000; none = whatever is available |
| `policy` | none | with `slate`: name of the policy that decided |
| `model` | none | with `slate`: version of the model that decided |
| `id` | none | id of the event, up to 128 characters; of a request it comes back in the decision as `request` |
| `category` | none | `item`: what the item is, up to 128 characters |
| `available` | true | `item`: it may be recommended |

Fields that are not listed are ignored. A message is at most 64 KiB.

A request without `slate` waits for an answer; one with a `slate` says what was shown, and is never answered again. The
second event with an `id` that came before is dropped, as long as the reader remembers the first (`world.remember`).

`context` and `candidates` are for readers that keep room for them (`world.context`, `world.candidates`: how many). A
reader without room ignores them. With room, a `context` has just as many numbers, and a request without one is one of
which nothing is known, zeros. More `candidates` than there is room for are ignored where the request was answered
already; a request that waits for an answer is refused then, since others would be shown, and also if the catalogue
has none of them. An item named as a candidate may be recommended from there on, unless it was retired.

Four kinds are no events but instructions, which take effect at their place in the partition:

| kind | |
|---|---|
| `end` | no more will come in this partition |
| `erase` | forget the user: all that is kept of them, and the decision they have not answered |
| `item` | an item with what is known of it; it may be recommended from here on, unless `available` is false |
| `retire` | the item is not recommended any more until an `item` message brings it back, whoever clicks on it |

A decision, on the topic `streamrec.decisions`, keyed by the user id too:

    {"v":1,"decision":123,"user":"u1","time":1700000000.0,"items":["i1","i4"],"logp":-1.2,"slot_logp":[-0.5,-0.7],
     "policy":"dqn","request":"r1"}

`logp` and `slot_logp` are null where the policy does not know its propensity; `request` is there if the request had an
`id`. A decision may arrive twice after a crash, with the same number in `decision`. What cannot be read goes to
`streamrec.dead-letters` with the original key and value:

    {"v":1,"reason":"Expected `str`, got `int` - at `$.user`","topic":"streamrec.events","partition":0,"offset":42,
     "key":"u1","value":"{\\"user\\":1}"}

Its header `streamrec-sent` has the timestamp of the original in milliseconds. `streamrec dlq retry` sends what can be
read by now again, with a header `streamrec-retry`, and remembers in the topic `streamrec.dead-letters.retried` what it
sent.

Bytes that are no UTF-8 stand there in base64, under `key64` and `value64` instead of `key` and `value`.

With a standard client:

    echo 'u1:{"v":1,"user":"u1","kind":"request","id":"r1"}' | kcat -P -b 127.0.0.1:9092 -t streamrec.events -K:
    kcat -C -b 127.0.0.1:9092 -t streamrec.decisions -o beginning -e

or with the one that comes with kafka-python. It sends no keys, which is fine as long as the topic has one partition:

    echo '{"v":1,"user":"u1","kind":"request"}' | python -m kafka.producer -b 127.0.0.1:9092 -t streamrec.events
    python -m kafka.consumer -b 127.0.0.1:9092 -t streamrec.decisions -C auto_offset_reset=earliest

With the embedded broker kcat works on librdkafka 2.16 and not on the 2.0.2 of Debian 12, which cannot read its list of
versions.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal, get_args

import msgspec
from msgspec import Meta

from streamrec.records import Kind

MAX_BYTES = 65_536
"""Longest message."""

MAX_DEPTH = 256
"""Deepest JSON: without a bound of ours, what can be read would depend on how deep the reader's own stack is."""

MAX_ID = 128
"""Longest id, in characters."""

MAX_SLOTS = 1000
"""Most slots of a slate."""

MAX_CANDIDATES = 1000
"""Most candidates of a request."""

MAX_NUMBERS = 256
"""Most numbers of a context."""

END: Final = "end"
"""Kind of the message that says: no more will come in this partition."""

Name = Literal[
    "request", "impression", "click", "skip", "purchase", "rating", "leave", "return", "end", "erase", "item", "retire"
]
Id = Annotated[str, Meta(max_length=MAX_ID)]
Time = Annotated[float, Meta(ge=0, lt=4_102_444_800)]  # a time in milliseconds is refused by the upper bound
Value = Annotated[float, Meta(ge=-1e9, le=1e9)]
Number = Annotated[int, Meta(ge=-(1 << 53), le=1 << 53)]  # beyond that JSON readers round
Slot = Annotated[int, Meta(ge=-1, lt=MAX_SLOTS)]
Candidate = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]
LogP = Annotated[float, Meta(ge=-1e6, le=0)]

FIRST_ORDER: Final = 100
"""Codes from here up are no events but instructions to the reader."""

ORDERS: Final[tuple[Name, ...]] = ("end", "erase", "item", "retire")
"""Kinds that are instructions."""

CODES: dict[str, int] = {kind.name.lower(): int(kind) for kind in Kind} | {
    name: FIRST_ORDER + at for at, name in enumerate(ORDERS)
}
"""Numbers by the names on the wire: of the `Kind`, or of an instruction."""

NAMES: dict[int, Name] = {CODES[name]: name for name in get_args(Name) if CODES[name] < FIRST_ORDER}
"""Names on the wire by the number of the `Kind`."""
_ITEMLESS = frozenset({"request", "leave", "return", "erase", END})
_USERLESS = frozenset({"item", "retire", END})


class Event(msgspec.Struct, omit_defaults=True, gc=False):
    """One event message; see the module's page for the fields."""

    kind: Name
    user: Id = ""
    v: Literal[1] = 1
    item: Id = ""
    time: Time | None = None
    value: Value = 1.0
    session: Id = ""
    decision: Number = 0
    slot: Slot = -1
    slate: Annotated[Sequence[Id], Meta(max_length=MAX_SLOTS)] = ()  # not []: two new lists per event cost eight times
    slot_logp: Annotated[Sequence[LogP | None], Meta(max_length=MAX_SLOTS)] = ()  # of it, in garbage collection
    id: Id = ""
    policy: Id = ""
    model: Id = ""
    category: Id = ""
    available: bool = True
    context: Annotated[Sequence[Value], Meta(max_length=MAX_NUMBERS)] = ()
    candidates: Annotated[Sequence[Candidate], Meta(max_length=MAX_CANDIDATES)] = ()


class DecisionMessage(msgspec.Struct, omit_defaults=True):
    """One decision message; see the module's page for the fields."""

    decision: Annotated[int, Meta(ge=0, le=1 << 53)]
    user: Id
    time: float
    items: Annotated[list[Id], Meta(max_length=MAX_SLOTS)]
    logp: float | None = None
    slot_logp: Annotated[list[float | None], Meta(max_length=MAX_SLOTS)] = []
    policy: str = ""
    request: Id = ""
    v: Literal[1] = 1


class DeadLetter(msgspec.Struct, omit_defaults=True):
    """One record that could not be used, with where it came from and why."""

    reason: str
    topic: str
    partition: int
    offset: int
    key: str | None = None
    value: str | None = None
    key64: str | None = None
    value64: str | None = None
    v: Literal[1] = 1


_encoder = msgspec.json.Encoder()
_SIGNS = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)
"""Texts, which may hold brackets of their own, and brackets."""

_event_decoder = msgspec.json.Decoder(Event)
_decision_decoder = msgspec.json.Decoder(DecisionMessage)
_dead_letter_decoder = msgspec.json.Decoder(DeadLetter)


def encode(message: Event | DecisionMessage | DeadLetter) -> bytes:
    """The message as JSON, with its version in front so that a reader can choose by it."""
    return b'{"v":1,' + _encoder.encode(message)[1:]


def decode_event(value: bytes | None) -> Event | str:
    """The event in `value`, or the reason why there is none. Never raises, whatever the bytes are."""
    if value is None:
        return "Expected a JSON object, got a record without value"
    if len(value) > MAX_BYTES:
        return f"Expected at most {MAX_BYTES} bytes, got {len(value)}"
    if len(value) > 2 * MAX_DEPTH and _too_deep(value):
        return "JSON is nested too deeply"
    try:
        event = _event_decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return str(error)
    except RecursionError:
        return "JSON is nested too deeply"
    return _fault(event) or event


def decode_events(values: Sequence[bytes | None]) -> list[Event | str]:
    """`decode_event` of each value; many of them cost little more than their decoding as long as all are good."""
    try:
        if len(max(values, key=len, default=b"")) > 2 * MAX_DEPTH:  # type: ignore[arg-type]
            return [decode_event(value) for value in values]
        decoded: list[Event] = list(map(_event_decoder.decode, values))  # type: ignore[arg-type]
    except (TypeError, ValueError, RecursionError):  # no value at all, bad JSON, no UTF-8, nested too deeply
        return [decode_event(value) for value in values]
    events: list[Event | str] = list(decoded)
    for at, event in enumerate(decoded):
        if not event.item or not event.user or event.slot_logp:
            events[at] = _fault(event) or event
    return events


def _too_deep(value: bytes) -> bool:
    if value.count(b"[") + value.count(b"{") <= MAX_DEPTH:
        return False
    depth = deepest = 0
    for sign in _SIGNS.findall(value):
        depth += (sign in b"[{") - (sign in b"]}")
        deepest = max(deepest, depth)
    return deepest > MAX_DEPTH


def _fault(event: Event) -> str:
    """What is wrong with an event that has the right types, "" = nothing."""
    if not event.user and event.kind not in _USERLESS:
        return "Object missing required field `user`"
    if not event.item and event.kind not in _ITEMLESS:
        return f"Object missing required field `item`, which kind {event.kind!r} needs"
    if event.slot_logp and len(event.slot_logp) != len(event.slate):
        return f"Expected {len(event.slate)} values as in `$.slate`, got {len(event.slot_logp)} - at `$.slot_logp`"
    return ""


def decode_decision(value: bytes) -> DecisionMessage:
    """The decision in `value`.

    Raises:
        msgspec.MsgspecError: the bytes are no decision message.
    """
    return _decision_decoder.decode(value)


def decode_dead_letter(value: bytes) -> DeadLetter:
    """The dead letter in `value`.

    Raises:
        msgspec.MsgspecError: the bytes are no dead letter.
    """
    return _dead_letter_decoder.decode(value)


def dead_letter(
    reason: str, topic: str, partition: int, offset: int, key: bytes | None, value: bytes | None
) -> DeadLetter:
    """A dead letter that keeps the original key and value, cut to 64 KiB each."""
    letter = DeadLetter(reason, topic, partition, offset)
    letter.key, letter.key64 = _readable(key)
    letter.value, letter.value64 = _readable(value)
    return letter


def _readable(original: bytes | None) -> tuple[str | None, str | None]:
    if original is None:
        return None, None
    original = original[:MAX_BYTES]
    try:
        return original.decode(), None
    except UnicodeDecodeError:
        return None, base64.b64encode(original).decode()
