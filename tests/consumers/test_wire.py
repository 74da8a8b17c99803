"""The wire format: what is written is what is read, and no bytes whatever raise."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from consumers import columns, wire
from consumers.messages import from_decisions, from_events
from streamrec.catalog import Catalog
from streamrec.mixing import keys_of
from streamrec.records import Decision, Events, Kind
from streamrec.sessions import SessionStore


def stores(items: int = 100) -> tuple[Catalog, SessionStore]:
    return Catalog(items), SessionStore(users=100)


def raw(**fields: object) -> bytes:
    return json.dumps({"user": "u1", "kind": "click", "item": "i1", **fields}).encode()


ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=wire.MAX_ID)
events = st.builds(
    wire.Event,
    kind=st.sampled_from([kind.name.lower() for kind in Kind if kind is not Kind.NONE]),
    user=ids,
    item=ids,
    time=st.none() | st.floats(0, 4e9),
    value=st.floats(-1e9, 1e9),
    session=ids | st.just(""),
    decision=st.integers(-(2**53), 2**53),
    slot=st.integers(-1, 999),
    slate=st.lists(ids, max_size=20),
    id=ids | st.just(""),
)


@given(events)
def test_what_is_written_is_what_is_read(event: wire.Event) -> None:
    data = wire.encode(event)
    assert data.startswith(b'{"v":1,')
    if len(data) <= wire.MAX_BYTES:
        assert wire.decode_event(data) == event


def test_the_documented_message_is_read() -> None:
    data = (
        b'{"v":1,"user":"u1","kind":"click","item":"i7","time":1700000000.0,"value":1.0,'
        b'"session":"s3","decision":123,"slot":2}'
    )
    expected = wire.Event("click", "u1", 1, "i7", 1.7e9, 1.0, "s3", 123, 2)
    assert wire.decode_event(data) == expected
    assert data.decode() in wire.__doc__  # type: ignore[operator]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "without value"),
        (b"", "truncated"),
        (b"\xff\xfe", "malformed"),
        (b'{"user":"u","kind":"request"', "truncated"),
        (b'{"user":"\xff","kind":"request"}', "utf-8"),
        (b'{"user":"\\ud800","kind":"request"}', ""),
        (b"[]", "Expected `object`"),
        (b'{"user":"u"}', "`kind`"),
        (b'{"kind":"request"}', "`user`"),
        (b'{"kind":"click","user":"u"}', "`item`"),
        (raw(kind="none"), "`$.kind`"),
        (raw(user=7), "`$.user`"),
        (raw(user="u" * 129), "`$.user`"),
        (raw(item="i" * 129), "`$.item`"),
        (raw(time=1.7e12), "`$.time`"),
        (raw(time=-1), "`$.time`"),
        (raw(time="now"), "`$.time`"),
        (raw(value=1e10), "`$.value`"),
        (b'{"user":"u","kind":"request","value":1e999}', "`$.value`"),
        (b'{"user":"u","kind":"request","value":NaN}', "malformed"),
        (raw(slot=1000), "`$.slot`"),
        (raw(slot=-2), "`$.slot`"),
        (raw(slot=1.5), "`$.slot`"),
        (raw(decision=2**53 + 1), "`$.decision`"),
        (raw(v=2), "`$.v`"),
        (raw(slate=["a", 1]), "`$.slate[1]`"),
        (raw(slate=["a"], slot_logp=[-1.0, -1.0]), "`$.slot_logp`"),
        (raw(slate=["a"], slot_logp=[0.5]), "`$.slot_logp[0]`"),
        (raw(note="x" * 70_000), "65536 bytes"),
        (b'{"user":"u","kind":"request","x":' + b"[" * 60_000, "deeply"),
        (b'{"user":"u","kind":"request","x":' + b"[" * 256 + b"]" * 256 + b"}", "deeply"),
    ],
)
def test_a_message_out_of_bounds_says_which_field(data: bytes | None, says: str) -> None:
    reason = wire.decode_event(data)
    assert isinstance(reason, str)
    assert reason
    assert says in reason


@given(st.binary(max_size=300))
def test_no_bytes_raise(data: bytes) -> None:
    assert isinstance(wire.decode_event(data), wire.Event | str)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["v", "user", "kind", "item", "time", "slot", "slate", "id", "x"]), json_values))
def test_no_json_raises_and_what_passes_becomes_events(fields: dict[str, object]) -> None:
    data = json.dumps({"user": "u", "kind": "request", **fields}).encode()
    message = wire.decode_event(data)
    if isinstance(message, wire.Event) and message.kind != "end":
        catalog, sessions = stores()
        received = columns.to_events([message], [5.0], catalog, sessions, 3)
        assert len(received.events) + len(received.refused) == 1
        assert bool(torch.isfinite(received.events.time).all())


def test_unknown_fields_are_ignored() -> None:
    assert wire.decode_event(raw(colour="red")) == wire.Event("click", "u1", item="i1")


def test_columns_come_out_in_order_with_defaults() -> None:
    catalog, sessions = stores()
    messages = [
        wire.Event("request", "b", time=10.0, id="r9"),
        wire.Event("click", "a", item="x", session="s", decision=7, slot=1, value=2.5),
        wire.Event("leave", "b"),
    ]
    received = columns.to_events(messages, [100.0, 101.0, 102.0], catalog, sessions, 4)
    events = received.events
    assert sessions.user_ids(events.user) == ["b", "a", "b"]
    assert events.kind.tolist() == [Kind.REQUEST, Kind.CLICK, Kind.LEAVE]
    assert [catalog.ids[row] for row in events.item] == ["", "x", ""]
    assert events.time.tolist() == [10.0, 101.0, 102.0]  # no time: that of the record
    assert events.sent.tolist() == [100.0, 101.0, 102.0]
    assert events.value.tolist() == [1.0, 2.5, 1.0]
    assert (events.decision.tolist(), events.slot.tolist()) == ([0, 7, 0], [-1, 1, -1])
    assert events.session.tolist() == [0, *keys_of(["s"]).tolist(), 0]
    assert events.shown.shape == (3, 0)
    assert [message.id for message in received.messages] == ["r9", "", ""]
    assert received.kept.tolist() == [0, 1, 2]


def test_a_logs_slate_comes_out_padded() -> None:
    catalog, sessions = stores()
    ask = wire.Event("request", "a", slate=["x", "", "y"], slot_logp=[-0.5, None, None], decision=-3)
    events = columns.to_events([ask], [1.0], catalog, sessions, 4).events
    assert events.shown.tolist() == [[1, 0, 2, 0]]
    assert events.slot_logp[0, 0] == -0.5
    assert events.slot_logp[0, 1:].isnan().all()
    assert events.decision.tolist() == [-3]


def test_a_slate_wider_than_the_runs_is_refused() -> None:
    catalog, sessions = stores()
    received = columns.to_events([wire.Event("request", "a", slate=["x", "y"])], [1.0], catalog, sessions, 1)
    assert len(received.events) == 0
    assert "run.slate" in received.refused[0][1]


def test_items_beyond_the_catalogue_are_refused_and_their_users_get_no_row() -> None:
    catalog, sessions = stores(items=2)
    messages = [wire.Event("click", f"u{i}", item=f"i{i}") for i in range(4)]
    messages.append(wire.Event("request", "u9", slate=["i0", "i3"]))
    received = columns.to_events(messages, [1.0] * 5, catalog, sessions, 5)
    assert [at for at, _ in received.refused] == [2, 3, 4]
    assert "catalog.capacity = 2" in received.refused[0][1]
    assert sessions.user_ids(received.events.user) == ["u0", "u1"]
    assert len(sessions.users.ids) == 2


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.NONE])
def test_events_survive_the_way_there_and_back(kind: Kind) -> None:
    catalog, sessions = stores()
    events = Events.of(
        sessions.rows(["a", "b"]),
        kind,
        torch.tensor([1.5, 2.5]),
        item=catalog.rows(["x", "y"]),
        value=torch.tensor([3.0, 1.0]),
        decision=torch.tensor([5, -6]),
        slot=torch.tensor([0, -1]),
        shown=torch.tensor([[1, 2], [0, 0]]),
        slot_logp=torch.tensor([[-1.0, math.nan], [math.nan, math.nan]]),
    )
    sent = list(from_events(events, catalog, sessions, {1: "r1"}))
    assert [key for key, _ in sent] == [b"a", b"b"]
    messages = [wire.decode_event(value) for _, value in sent]
    assert all(isinstance(message, wire.Event) for message in messages)
    back = columns.to_events([m for m in messages if isinstance(m, wire.Event)], [0.0, 0.0], catalog, sessions, 2)
    for (name, was), (_, now) in zip(events.columns(), back.events.columns(), strict=True):
        torch.testing.assert_close(now, was, rtol=0, atol=0, equal_nan=True, msg=name)


def test_decisions_carry_everything_a_front_end_needs() -> None:
    catalog, sessions = stores()
    catalog.rows(["x", "y", "z"])
    user = sessions.rows(["a", "b"])
    wanted = Decision.of(user, torch.tensor([[2, 3, 0], [1, 0, 3]]), torch.tensor([[-1.0, -2.0, 0], [math.nan] * 3]))
    wanted.id, wanted.policy = torch.tensor([2**53, 8]), torch.tensor([1, 0])
    asked = Events.of(user, Kind.REQUEST, torch.tensor([10.0, 20.0]))
    sent = list(from_decisions(wanted, asked, catalog, sessions, ["random", "dqn"], ["r1", ""]))
    assert [key for key, _ in sent] == [b"a", b"b"]
    assert json.loads(sent[0][1]) == {
        "v": 1,
        "decision": 2**53,
        "user": "a",
        "time": 10.0,
        "items": ["y", "z"],
        "logp": -3.0,
        "slot_logp": [-1.0, -2.0],
        "policy": "dqn",
        "request": "r1",
    }
    second = wire.decode_decision(sent[1][1])
    assert (second.items, second.logp, second.slot_logp) == (["x", "", "z"], None, [None] * 3)
    assert (second.policy, second.request) == ("random", "")


@given(st.none() | st.binary(max_size=50), st.none() | st.binary(max_size=50))
def test_dead_letters_keep_the_original_bytes(key: bytes | None, value: bytes | None) -> None:
    import base64

    letter = wire.decode_dead_letter(wire.encode(wire.dead_letter("why", "t", 3, 42, key, value)))
    assert (letter.reason, letter.topic, letter.partition, letter.offset) == ("why", "t", 3, 42)
    for text, coded, original in ((letter.key, letter.key64, key), (letter.value, letter.value64, value)):
        kept = base64.b64decode(coded) if coded is not None else None if text is None else text.encode()
        assert kept == original


def test_an_item_that_is_too_rare_yet_is_none_and_only_a_full_catalogue_refuses() -> None:
    catalog, sessions = Catalog(1, admit=2), SessionStore(users=9)
    messages = [wire.Event("click", "u1", item="i1"), wire.Event("skip", "u2", item="i2")]
    received = columns.to_events(messages, [1.0, 2.0], catalog, sessions, slate=2)
    assert received.refused == []
    assert received.events.item.tolist() == [0, 0]
    received = columns.to_events(messages, [3.0, 4.0], catalog, sessions, slate=2)
    assert received.events.item.tolist() == [1]
    assert [at for at, _ in received.refused] == [1]
    assert "the catalogue is full" in received.refused[0][1]


def test_depth_is_counted_outside_of_texts_and_the_same_for_one_and_for_many() -> None:
    deep = b'{"user":"u","kind":"request","x":' + b"[" * 255 + b"]" * 255 + b"}"
    text = raw(note="[{" * 400 + '\\"')
    assert all(isinstance(message, wire.Event) for message in wire.decode_events([deep, text]))
    assert isinstance(wire.decode_event(deep), wire.Event)


@given(st.lists(st.binary(max_size=40) | events.map(wire.encode) | st.just(None), max_size=30))
def test_many_are_decoded_as_one_by_one(values: list[bytes | None]) -> None:
    assert wire.decode_events(values) == [wire.decode_event(value) for value in values]
