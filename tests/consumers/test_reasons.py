"""Whatever the decoder says has a code, and a code says nothing of the message's contents."""

from __future__ import annotations

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers import columns, wire
from consumers.reasons import FIELDS, reason_of
from streamrec.catalog import Catalog
from streamrec.sessions import SessionStore

SAMPLES = {
    None: "no_value",
    b"": "cut_short",
    b'{"user":"u': "cut_short",
    b"x" * 70_000: "too_long",
    b"nope": "malformed_json",
    b"\xff\xfe": "malformed_json",
    b'{"user":"\xff","kind":"leave"}': "not_utf8",
    b'{"a":' * 5000: "too_deep",
    b"[]": "not_an_object",
    b"3": "not_an_object",
    b"{}": "missing_field:kind",
    b'{"kind":"click"}': "missing_field:user",
    b'{"user":"u","kind":"click"}': "missing_field:item",
    b'{"user":1,"kind":"leave"}': "wrong_type:user",
    b'{"user":"u","kind":"leave","time":"noon"}': "wrong_type:time",
    b'{"user":"u","kind":"leave","slot":1.5}': "wrong_type:slot",
    b'{"user":"u","kind":"request","slate":["a",7]}': "wrong_type:slate",
    b'{"user":"u","kind":"clik"}': "unknown_value:kind",
    b'{"v":2,"user":"u","kind":"leave"}': "unknown_value:v",
    b'{"user":"u","kind":"leave","time":-1}': "out_of_range:time",
    b'{"user":"u","kind":"leave","time":1e999}': "out_of_range:time",
    b'{"user":"' + b"u" * 129 + b'","kind":"leave"}': "out_of_range:user",
    b'{"user":"u","kind":"request","slate":["a"],"slot_logp":[1]}': "out_of_range:slot_logp",
    b'{"user":"u","kind":"request","slate":["a"],"slot_logp":[0,0]}': "unequal_lengths:slot_logp",
}


@pytest.mark.parametrize("value", SAMPLES, ids=list(SAMPLES.values()))
def test_what_the_decoder_says_has_a_code(value: bytes | None) -> None:
    said = wire.decode_event(value)
    assert isinstance(said, str)
    reason = reason_of(said)
    assert reason.name == SAMPLES[value]
    assert reason.expected


def test_what_a_run_refuses_has_a_code() -> None:
    catalog = Catalog(1)
    catalog.rows(["a"])
    messages = [
        wire.Event("click", "u", item="new"),
        wire.Event("request", "u", slate=["new"]),
        wire.Event("request", "u", slate=["a", "a"]),
    ]
    refused = columns.to_events(messages, [0.0] * 3, catalog, SessionStore(users=3), 1).refused
    assert [reason_of(said).name for _, said in refused] == [
        "catalogue_full:item",
        "catalogue_full:slate",
        "wide_slate:slate",
    ]
    assert torch.equal(catalog.rows(["a"]), torch.tensor([1]))


def test_every_field_of_a_message_has_words() -> None:
    assert set(FIELDS) == {field.name for field in msgspec.structs.fields(wire.Event)}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: b'{"user":"u","kind":"%s"}' % text.encode()))
def test_a_code_is_one_of_a_few_whatever_the_bytes_are(value: bytes) -> None:
    said = wire.decode_event(value)
    if isinstance(said, str):
        reason = reason_of(said)
        assert reason.code.isidentifier(), said
        assert reason.field in {"", *FIELDS}


def test_words_nobody_knows_stand_for_themselves_without_what_they_quote() -> None:
    assert reason_of("user 'bob' came 12 days late").name == "user … came … days late"
