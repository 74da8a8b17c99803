"""What is read, and what is refused before anybody spends time on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.http import reading
from consumers.http.bodies import RecommendBody
from consumers.http.overload import Overload
from consumers.http.problems import Refusal
from consumers.http.settings import Limits

texts = st.text(alphabet=st.sampled_from('[]{}"\\a é\n'), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


def outcome(read: Callable[[], Any]) -> Any:
    """What was read, or the status of its refusal."""
    try:
        return read()
    except Refusal as refusal:
        return refusal.status


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(values, st.integers(1, 6), st.booleans())
def test_depth_is_that_of_the_parsed_value(value: Any, limit: int, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert reading.is_deep(body, limit) == (depth_of(value) > limit)


@pytest.mark.parametrize(
    "bomb", [b"[" * 500_000, b'{"a":' * 100_000, b'{"user":' + b"[" * 100_000 + b"]" * 100_000 + b"}"]
)
def test_a_bomb_of_brackets_is_refused_at_once(bomb: bytes) -> None:
    with pytest.raises(Refusal) as refusal:
        reading.decode(bomb, msgspec.json.Decoder(RecommendBody), 8)
    assert refusal.value.status in (400, 422)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_body_or_a_refusal(body: bytes) -> None:
    read = outcome(lambda: reading.decode(body, msgspec.json.Decoder(RecommendBody), 8))
    assert isinstance(read, RecommendBody) or read in (400, 422)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_split_or_refused(body: bytes, lines: bool) -> None:
    parts = outcome(lambda: reading.split_events(body, lines, 10, 8))
    assert parts in (400, 413, 422) if isinstance(parts, int) else all(part.strip() for part in parts)


def test_lines_and_arrays_give_the_same_events() -> None:
    events: list[dict[str, Any]] = [{"kind": "click", "user": "a\n[", "item": "i"}, {"kind": "leave", "user": "b"}]
    array = reading.split_events(json.dumps(events).encode(), False, 10, 8)
    lines = reading.split_events("\n".join(map(json.dumps, events)).encode(), True, 10, 8)
    assert [json.loads(part) for part in array] == [json.loads(part) for part in lines] == events
    with pytest.raises(Refusal, match="at most 1 events"):
        reading.split_events(json.dumps(events).encode(), False, 1, 8)


def test_bodies_share_their_memory_and_give_it_back() -> None:
    overload = Overload(Limits(body_bytes=100, memory_bytes=150))
    with overload.memory() as first:
        first.take(100)
        with pytest.raises(Refusal) as too_long:
            first.take(1)
        with overload.memory() as second, pytest.raises(Refusal) as too_many:
            second.take(51)
    assert (too_long.value.status, too_many.value.status) == (413, 503)
    assert too_many.value.headers["Retry-After"] == "1"
    assert overload.held_bytes == 0


def test_places_are_counted_by_client_and_in_all() -> None:
    overload = Overload(Limits(in_flight=3, in_flight_per_client=2))
    with overload.slot("a"), overload.slot("a"):
        with pytest.raises(Refusal) as mine, overload.slot("a"):
            pass
        with overload.slot("b"), pytest.raises(Refusal) as everybody, overload.slot("c"):
            pass
    assert (mine.value.status, everybody.value.status) == (429, 503)
    assert "Retry-After" in mine.value.headers
    assert overload.in_flight == 0
    with overload.slot("a"):
        assert overload.in_flight == 1
