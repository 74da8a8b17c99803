from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrec.catalog import Catalog
from streamrec.data import logs
from streamrec.data.events import BadLog, read, write
from streamrec.data.logs import LogWorld, answer_from_past
from streamrec.ports import World
from streamrec.records import Decision, Events, Kind
from streamrec.sessions import SessionStore

Rows = list[dict[str, Any]]


def event(user: str, item: str, kind: str, time: float, **more: Any) -> dict[str, Any]:
    return {"user": user, "item": item, "kind": kind, "time": time, **more}


def shown(user: str, slate: str, items: str, time: float, p: float = 0.25) -> Rows:
    return [
        event(user, item, "impression", time, slate=slate, slot=slot, propensity=p * (slot + 1))
        for slot, item in enumerate(items)
    ]


def make(path: Path, rows: Rows, **options: Any) -> LogWorld:
    name = path / "log.parquet"
    write(name, [pd.DataFrame(rows)])
    return world(name, **options)


def world(path: Path, capacity: int = 100, **options: Any) -> LogWorld:
    catalog, sessions = Catalog(capacity), SessionStore(users=100, slate=options.get("slate", 2))
    return LogWorld(path, catalog, sessions, **{"slate": 2, **options})


def told(world: LogWorld, events: Events) -> list[tuple[Any, ...]]:
    """Events in words: user, kind, item, time, slot, shown."""
    ids = world.catalog.ids
    return [
        (user, Kind(kind).name, ids[item], time, slot, [ids[i] for i in row])
        for user, kind, item, time, slot, row in zip(
            world.sessions.user_ids(events.user),
            events.kind.tolist(),
            events.item.tolist(),
            events.time.tolist(),
            events.slot.tolist(),
            events.shown.tolist(),
            strict=True,
        )
    ]


def everything(world: LogWorld) -> list[Events]:
    polls = []
    while (events := world.poll()) is not None:
        polls.append(events)
    return polls


def same(a: Events, b: Events) -> bool:
    pairs = zip(a.columns(), b.columns(), strict=True)
    return all(torch.equal(x.nan_to_num(9.0), y.nan_to_num(9.0)) for (_, x), (_, y) in pairs)


def test_a_slate_becomes_one_request_and_its_reactions(tmp_path: Path) -> None:
    rows = [
        *shown("u", "s1", "ab", 1.0),
        event("u", "b", "click", 2.0, slate="s1", slot=1, value=3.0),
        event("u", "a", "skip", 2.5, slate="s1"),
        event("u", "", "leave", 3.0),
    ]
    log = make(tmp_path, rows)
    assert isinstance(log, World)
    events = log.poll()
    assert events is not None
    assert told(log, events) == [
        ("u", "REQUEST", "", 1.0, -1, ["a", "b"]),
        ("u", "CLICK", "b", 2.0, 1, ["", ""]),
        ("u", "SKIP", "a", 2.5, -1, ["", ""]),
        ("u", "LEAVE", "", 3.0, -1, ["", ""]),
    ]
    assert events.value.tolist() == [1.0, 3.0, 1.0, 1.0]
    torch.testing.assert_close(events.slot_logp[0], torch.tensor([math.log(0.25), math.log(0.5)]))
    assert events.slot_logp[1:].isnan().all()
    ticket = events.decision[0]
    assert -(1 << 53) < ticket <= -(1 << 52)
    assert events.decision.tolist() == [ticket, ticket, ticket, 0]
    assert log.poll() is None


def test_slots_say_the_order_and_gaps_stay_empty(tmp_path: Path) -> None:
    first, second = shown("u", "s", "ab", 1.0)
    log = make(tmp_path, [second | {"slot": 2, "propensity": None}, first], slate=4)
    events = log.poll()
    assert events is not None
    assert told(log, events)[0][-1] == ["a", "", "b", ""]
    assert events.slot_logp[0].isnan().tolist() == [False, True, True, True]


def test_organic_clicks_are_asked_before_unless_told_otherwise(tmp_path: Path) -> None:
    rows = [event("u", "a", "click", 1.0), event("u", "b", "skip", 2.0), event("v", "c", "purchase", 3.0)]
    log = make(tmp_path, rows, batch=2)
    first, second = everything(log)
    assert told(log, first) == [
        ("u", "REQUEST", "", 1.0, -1, ["a", ""]),
        ("u", "CLICK", "a", 1.0, 0, ["", ""]),
        ("u", "SKIP", "b", 2.0, -1, ["", ""]),
    ]
    assert (first.decision.tolist(), second.decision.tolist()) == ([-1, -1, 0], [-3, -3])
    quiet = everything(world(tmp_path / "log.parquet", ask=False))[0]
    assert quiet.kind.tolist() == [Kind.CLICK, Kind.SKIP, Kind.PURCHASE]
    assert quiet.decision.tolist() == [0, 0, 0]


def test_requests_that_repeat_a_slate_are_left_out(tmp_path: Path) -> None:
    rows = [event("u", "", "request", 1.0, slate="s"), *shown("u", "s", "a", 1.0), event("v", "", "request", 2.0)]
    events = everything(make(tmp_path, rows))[0]
    assert events.kind.tolist() == [Kind.REQUEST, Kind.REQUEST]
    assert events.time.tolist() == [1.0, 2.0]
    assert (events.decision[0] < 0, events.decision[1]) == (True, 0)


def test_sessions_are_hashed_the_same_in_every_batch(tmp_path: Path) -> None:
    names = ["x", "", "y", "x", "x", "y"]
    rows = [event("u", "a", "skip", 1.0, session=name) for name in names]
    log = make(tmp_path, rows, batch=1)
    numbers = torch.cat([events.session for events in everything(log)])
    x, none, y = numbers[:3].tolist()
    assert none == 0
    assert 0 < x != y > 0
    assert numbers.tolist() == [x, 0, y, x, x, y]
    assert x == 3_934_676_578_701_144_158  # in every process and on every machine: recorded with this code


def test_longer_slates_are_cut_and_their_other_clicks_organic(tmp_path: Path) -> None:
    rows = [
        *shown("u", "s", "abcd", 1.0),
        event("u", "d", "click", 2.0, slate="s", slot=3),
        event("u", "a", "click", 3.0, slate="s", slot=0),
    ]
    log = make(tmp_path, rows)
    events = log.poll()
    assert events is not None
    assert told(log, events) == [
        ("u", "REQUEST", "", 1.0, -1, ["a", "b"]),
        ("u", "CLICK", "d", 2.0, -1, ["", ""]),
        ("u", "CLICK", "a", 3.0, 0, ["", ""]),
    ]
    ticket = int(events.decision[0])
    assert events.decision.tolist() == [ticket, 0, ticket]
    assert log.position() == {"row": 6, "skipped": 0, "cut": 1}


def test_items_beyond_the_catalogue_are_skipped_and_counted(tmp_path: Path) -> None:
    rows = [
        *shown("u", "s", "xab", 1.0),
        event("w", "y", "click", 2.0),
        event("u", "b", "click", 3.0, slate="s", slot=2),
        event("u", "", "leave", 4.0),
    ]
    log = make(tmp_path, [event("t", "a", "skip", 0.0), event("t", "b", "skip", 0.0), *rows], slate=3, capacity=2)
    events = log.poll()
    assert events is not None
    assert told(log, events)[2:] == [
        ("u", "REQUEST", "", 1.0, -1, ["", "a", "b"]),
        ("u", "CLICK", "b", 3.0, 2, ["", "", ""]),
        ("u", "LEAVE", "", 4.0, -1, ["", "", ""]),
    ]
    assert log.skipped == 2
    assert "w" not in log.sessions.users.ids


def test_a_batch_of_nothing_but_skipped_rows_is_not_the_end(tmp_path: Path) -> None:
    log = make(tmp_path, [event("u", item, "click", 1.0) for item in "aba"], capacity=1, batch=1)
    assert [len(events) for events in everything(log)] == [2, 0, 2]


def test_until_ends_the_log_before_the_first_later_row(tmp_path: Path) -> None:
    late = shown("u", "s", "ab", 4.0)
    late[1]["time"] = 6.0  # the rest of a slate that began in time belongs to it
    rows = [event("u", "a", "skip", 1.0), *late, event("u", "b", "skip", 5.0), event("u", "c", "skip", 2.0)]
    for batch in (1, 2, 3, 9):
        log = make(tmp_path, rows, until=5.0, batch=batch)
        assert torch.cat([events.time for events in everything(log)]).tolist() == [1.0, 4.0]
        assert log.poll() is None
        log.seek(log.position())
        assert log.poll() is None


def busy(count: int = 40) -> Rows:
    """Slates of several lengths, late reactions, organic events, some of them between slates."""
    rows: Rows = []
    for n in range(count):
        user = f"u{n % 5}"
        rows += shown(user, f"s{n}", "abcdef"[n % 4 :][: 1 + n % 3], n)
        if n % 2:
            rows.append(event(user, "abcdef"[n % 4], "click", n + 0.5, slate=f"s{n}", slot=0))
        if n % 3 == 0:
            rows.append(event(f"w{n}", "x", "click", n + 0.6, session=f"v{n}"))
    return rows


@pytest.mark.parametrize("batch", [1, 2, 5, 7, 1000])
def test_seek_at_every_batch_boundary(tmp_path: Path, batch: int) -> None:
    log = make(tmp_path, busy(), batch=batch)
    positions, polls = [log.position()], []
    while (events := log.poll()) is not None:
        polls.append(events)
        positions.append(log.position())
    catalog, sessions = log.catalog, log.sessions
    for n, position in enumerate(positions):
        resumed = LogWorld(tmp_path / "log.parquet", catalog, sessions, slate=2, batch=batch)
        resumed.seek(position)
        rest = everything(resumed)
        assert len(rest) == len(polls) - n
        assert all(same(a, b) for a, b in zip(rest, polls[n:], strict=True))
        assert resumed.position() == positions[-1]
    log.seek(positions[1])  # the same object may go back too
    assert len(everything(log)) == len(polls) - 1


@pytest.mark.parametrize("chunk", [1, 3, 10])
def test_polls_do_not_depend_on_how_the_file_is_read(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = everything(make(tmp_path, busy(), batch=6))
    monkeypatch.setattr(logs, "read", functools.partial(read, chunk=chunk))
    found = everything(world(tmp_path / "log.parquet", batch=6))
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=12), batch=st.integers(1, 9))
def test_a_batch_never_cuts_a_slate(tmp_path_factory: pytest.TempPathFactory, lengths: list[int], batch: int) -> None:
    rows = [row for n, size in enumerate(lengths) for row in shown("u", f"s{n}", "abcdef"[:size], float(n), p=0.1)]
    log = make(tmp_path_factory.mktemp("log"), rows, slate=6, batch=batch)
    events = Events.cat(everything(log))
    assert (events.shown > 0).sum(1).tolist() == lengths
    assert events.time.tolist() == list(range(len(lengths)))


def test_the_log_is_refused_at_once_when_columns_are_missing(tmp_path: Path) -> None:
    with pytest.raises(BadLog, match="column 'user'"):
        make(tmp_path, busy(), columns={"user": "who"})
    with pytest.raises(ValueError, match=r"at least 1, got slate=2 and batch=0"):
        make(tmp_path, busy(), batch=0)


def test_close_twice_and_then_nothing(tmp_path: Path) -> None:
    log = make(tmp_path, busy())
    log.flush()
    log.commit(log.position())
    log.close()
    log.close()
    assert log.poll() is None


def test_the_answer_is_what_the_past_showed() -> None:
    nan = float("nan")
    asked = Events.of(
        torch.tensor([4, 5, 6]),
        Kind.REQUEST,
        torch.zeros(3),
        shown=torch.tensor([[7, 8, 0], [9, 0, 3], [0, 0, 0]]),
        slot_logp=torch.tensor([[-1.0, -0.5, nan], [-1.0, nan, nan], [nan, nan, nan]]),
    )
    wanted = Decision.of(asked.user, torch.tensor([[1], [2], [3]]))
    wanted.id = torch.tensor([11, 12, 13])
    wanted.policy = torch.tensor([1, 0, 1])
    past = answer_from_past(wanted, asked)
    assert past.user.tolist() == [4, 5, 6]
    assert past.id.tolist() == [11, 12, 13]
    assert torch.equal(past.slate, asked.shown)
    assert past.logp.nan_to_num(9.0).tolist() == [-1.5, 9.0, 9.0]
    assert torch.equal(past.slot_logp.isnan(), asked.slot_logp.isnan())
    assert past.policy.tolist() == [0, 0, 0]
    assert past.shadow.shape == (3, 0, 3)
    assert len(past[torch.tensor([True, False, True])]) == 2
