"""What may arrive: messages and requests that are right, nearly right, or meant to do harm."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from consumers import wire
from consumers.http.bodies import TAKEN

_ids = st.one_of(
    st.integers(0, 300).map(lambda n: f"u{n}"),
    st.text(max_size=12),
    st.sampled_from(["", " ", "x" * 128, "x" * 129, "\x00", "../..", "a/b", "%2F", "\u202e", "🦊" * 32, "null", "-1"]),
)
_numbers = st.one_of(
    st.integers(-5, 30),
    st.integers(),
    st.floats(),
    st.sampled_from([0, 1e308, -1e308, 1 << 53, -(1 << 63), 4_102_444_799, 1_700_000_000.5]),
)
_kinds = st.sampled_from([*TAKEN, *TAKEN, *wire.ORDERS, "dance", "", "CLICK"])
_anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | _numbers | _ids,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_fields: dict[str, st.SearchStrategy[Any]] = {
    "time": _numbers,
    "value": _numbers,
    "decision": st.integers(-(1 << 53), 1 << 53) | _numbers,
    "slot": _numbers,
    "session": _ids,
    "slate": st.lists(_ids, max_size=4) | _anything,
    "slot_logp": st.lists(st.none() | st.floats(-5, 0), max_size=4) | _anything,
    "policy": _ids,
    "model": _ids,
    "category": _ids,
    "available": st.booleans() | _anything,
    "v": st.sampled_from([1, 1, 1, 2, "1"]),
    "unheard": _anything,
    "id": st.integers(0, 500).map(str) | _ids,
}


def _with_id_if_event(value: dict[str, Any]) -> dict[str, Any]:
    """Instructions go without: then whatever was repeated was an event, and the books can be checked."""
    return {name: one for name, one in value.items() if name != "id"} if value["kind"] in wire.ORDERS else value


objects: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"kind": _kinds, "user": _ids, "item": _ids}, optional=_fields
).map(_with_id_if_event)
"""Events, more or less."""


_names = st.integers(0, 300).map(lambda n: f"u{n}")
right: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"kind": st.sampled_from(TAKEN), "user": _names, "item": _names},
    optional={
        "time": st.floats(0, 4e9),
        "value": st.floats(-1e9, 1e9),
        "decision": st.integers(-(1 << 53), 1 << 53),
        "slot": st.integers(-1, 5),
        "session": _names,
        "slate": st.lists(_names, max_size=4),
        "id": st.integers(0, 500).map(str),
    },
)
"""Events that can be read, whatever sense they make."""


def _text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """A message with some bytes cut out, changed or put in."""
    data = bytearray(_text(draw(right | objects)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 6)))
        data[at:end] = draw(st.binary(max_size=6) | st.sampled_from([b'"', b"{", b"]", b"\\u0000", b"1e999", b"\xff"]))
    return bytes(data)


_BOMBS = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"[" * 50_000,
    b'{"kind":' * 5_000,
    b'{"kind":"click","user":"u","item":"i","x":' + b"[" * 3_000 + b"]" * 3_000 + b"}",
    b'{"kind":"click","user":"' + b"u" * 70_000 + b'","item":"i"}',
    b'{"kind":"click","user":"u","item":"i","time":' + b"9" * 5_000 + b"}",
    b'{"kind":"click","user":"\\ud800","item":"i"}',
    b'\xef\xbb\xbf{"kind":"leave","user":"u"}',
    b'{"kind":"leave","user":"u"}{"kind":"leave","user":"u"}',
    b'{"kind":"click","kind":"skip","user":"u","item":"i","item":"j"}',
    b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix",
]


class Message(bytes):
    """Bytes that are not written down in full: hypothesis writes every example down, and some are long."""

    def __repr__(self) -> str:
        return f"{bytes(self[:200])!r} ({len(self)} bytes)"


def mutants(value: bytes, count: int) -> Iterator[bytes]:
    """Cheap variations of a message, always the same: bytes flipped, cut out, doubled."""
    chance = random.Random(value)
    for _ in range(count):
        data = bytearray(value)
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.randrange(5))
        data[at:end] = chance.choice([b"", b'"', b"0", b"}", bytes(data[at:end]) * 2, chance.randbytes(2)])
        yield bytes(data)


_bombs = st.integers(0, len(_BOMBS) - 1).map(lambda at: _BOMBS[at])

messages: st.SearchStrategy[bytes] = st.one_of(
    right.map(_text), right.map(_text), right.map(_text), objects.map(_text), _damaged(), st.binary(max_size=60), _bombs
).map(Message)
"""Values of records, and bodies."""

keys: st.SearchStrategy[bytes | None] = st.none() | st.binary(max_size=8)

_right_asks = st.fixed_dictionaries(
    {"user": _names},
    optional={"k": st.integers(1, 20), "candidates": st.lists(_names, min_size=1, max_size=5), "id": _names},
)
_asks = st.fixed_dictionaries(
    {"user": _ids},
    optional={
        "k": _numbers,
        "candidates": st.lists(_ids, max_size=5) | _anything,
        "exclude": st.lists(_ids, max_size=5) | _anything,
        "decision": _numbers,
        "item": _ids,
        "slot": _numbers,
        "value": _numbers,
        "explain": st.booleans() | _anything,
        "deadline_ms": _numbers,
        "id": _ids,
        "unheard": _anything,
    },
)
_bodies = st.one_of(
    st.lists(right, max_size=3).map(_text),
    st.lists(objects, max_size=3).map(_text),
    _right_asks.map(_text),
    _right_asks.map(_text),
    _asks.map(_text),
    st.lists(messages, max_size=3).map(b"\n".join),
    messages,
)
_quoted = _ids.map(lambda text: quote(text.encode("utf-8", "surrogatepass"), safe=""))
_paths = st.one_of(
    st.sampled_from(
        ["recommend", "rank", "reward", "events", "users", "items", "models", "dead-letters", "models/rollback"]
    ).map(lambda name: f"/v1/{name}".encode()),
    st.tuples(
        st.sampled_from(["users", "items", "models"]), _quoted, st.sampled_from(["", "/state", "/promote", "/shadow"])
    ).map(lambda parts: f"/v1/{parts[0]}/{parts[1]}{parts[2]}".encode()),
    st.sampled_from(
        [
            b"/",
            b"/docs",
            b"/metrics",
            b"/openapi.json",
            b"/healthz",
            b"/v1",
            b"//",
            b"/v1/users/%",
            b"*",
            b"/v1/events/",
        ]
    ),
    st.binary(max_size=20).map(lambda raw: b"/" + raw),
)
_queries = st.one_of(
    st.just(b""),
    st.tuples(st.sampled_from(["limit", "query", "x"]), st.integers().map(str) | _quoted).map(
        lambda p: f"?{p[0]}={p[1]}".encode()
    ),
    st.binary(max_size=12).map(lambda raw: b"?" + raw),
)
_methods = st.sampled_from(
    [b"GET", b"POST", b"POST", b"POST", b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS", b"TRACE", b"BREW", b""]
)
_sensible = st.sampled_from(
    [
        b"POST /v1/recommend",
        b"POST /v1/rank",
        b"POST /v1/reward",
        b"POST /v1/events",
        b"PUT /v1/items",
        b"GET /v1/users",
    ]
)
_calls = st.one_of(_sensible, _sensible, _sensible, st.tuples(_methods, _paths).map(b" ".join))
_headers = st.lists(
    st.tuples(
        st.sampled_from(
            [b"Content-Type", b"Origin", b"X-Request-Id", b"Authorization", b"If-None-Match", b"Content-Encoding"]
        )
        | st.sampled_from(
            [b"Sec-Fetch-Site", b"Last-Event-Id", b"Expect", b"Cookie", b"Range", b"Transfer-Encoding", b"Host"]
        ),
        st.sampled_from(
            [b"application/json", b"application/x-ndjson", b"gzip", b"chunked", b"null", b"Bearer x", b"100-continue"]
        )
        | st.binary(max_size=12),
    ),
    max_size=3,
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request as bytes; most can be read, so that something behind the parser is reached."""
    body = draw(_bodies)
    kind = draw(st.sampled_from([b"application/json", b"application/json", b"application/x-ndjson", b"text/plain"]))
    lines = [
        draw(_calls) + draw(st.just(b"") | _queries) + b" HTTP/1.1",
        b"Host: 127.0.0.1",
        b"Connection: close",
        b"Content-Type: " + kind,
        b"Content-Length: %d" % len(body),
        *(name + b": " + value for name, value in draw(st.just([]) | _headers)),
    ]
    return Message(b"\r\n".join(lines) + b"\r\n\r\n" + body)
