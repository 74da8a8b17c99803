"""No user shows through, what is wrong still does, and no bytes reach a terminal as they are."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.disguise import disguised, escaped, people, pseudonym, said


def look(value: bytes, key: bytes | None = None) -> str:
    return escaped(disguised(value, people(key, value)))


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_what_is_escaped_is_printable(data: bytes) -> None:
    assert escaped(data).isprintable()


def test_escapes_are_as_documented() -> None:
    assert escaped(b"\xff\x1b[2J\\ \xe2\x80\xae \xc3\xa9") == r"\xff\x1b[2J\\ \u202e é"
    assert escaped(b"\n\x00") == r"\n\x00"


def test_what_is_wrong_still_shows() -> None:
    value = b'{"v": 2, "user": "bob", "kind": "clik", "item": "i1", "slate": ["a", 7], "time": 17e11, "session": "s9"}'
    shown = look(value, b"bob")
    assert shown == (
        f'{{"v": 2, "user": "{pseudonym(b"bob")}", "kind": "clik", "item": "i1", "slate": ["a", 7], "time": 17e11, '
        f'"session": "{pseudonym(b"s9")}"}}'
    )


@pytest.mark.parametrize(
    "value",
    [
        b'{"user":"bob","kind":"click","item":"bob"}',
        b'{"userId":"bob"}',
        b'{"user":{"id":"bob"}}',
        b'{"user":["bob"]}',
        b'{"item":{"user":"bob"},"kind":["x",{"a":"bob"}]}',
        b'{"bob":1}',
        b'{"\\u0062ob":1, "user": "bob"}',
        b'{"item":"i","note":"bob"}',
        b'{"user":"bob',
        b'{"user":bob}',
        b'{"user" : bob, "item":"b\\u006fb"}',
        b"bob,click,i1",
        b"bob",
        b'"bob"',
        b'["bob"]',
        b'{"kind":"bob"}',
        b'{"slate":["bob","i1"],"user":"bob"}',
        b"\xffbob\xfe {",
    ],
)
def test_no_user_shows_through(value: bytes) -> None:
    assert "bob" not in look(value, b"bob").replace("\\u006f", "o").replace("\\u0062", "b")


def test_a_number_as_user_does_not_show_through() -> None:
    assert look(b'{"user":4711,"kind":"click","item":"4711"}').count("4711") == 0


def test_the_key_and_the_value_show_the_same_user_alike() -> None:
    assert pseudonym(b"bob") in look(b'{"user":"b\\u006fb","kind":"clik"}')
    assert pseudonym(b"bob") != pseudonym(b"rob")


@settings(max_examples=100)
@given(st.dictionaries(st.text(max_size=5), st.none() | st.text(max_size=5), max_size=5))
def test_json_stays_json_with_as_many_fields(document: dict[str, str | None]) -> None:
    shown = json.loads(disguised(json.dumps(document).encode(), set()), object_pairs_hook=list)
    assert [value is None for _, value in shown] == [value is None for value in document.values()]


@settings(max_examples=200)
@given(st.binary(max_size=100))
def test_no_bytes_are_too_much(value: bytes) -> None:
    assert isinstance(look(value, value[:3]), str)


def test_a_reason_does_not_quote_the_user() -> None:
    assert said("Invalid enum value 'bob' - at `$.kind`", {b"bob"}) == (
        f"Invalid enum value '{pseudonym(b'bob')}' - at `$.kind`"
    )
