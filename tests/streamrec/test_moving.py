"""Users who move from store to store: nothing is lost on the way, and life goes on as if they had stayed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from streamrec.catalog import Catalog
from streamrec.loop import Loop
from streamrec.moving import pack, unpack
from streamrec.ports import State
from streamrec.records import Decision, Events, Kind
from streamrec.sessions import SessionStore
from tests.worlds import Counter, EchoWorld


def lived(**settings: int) -> Loop:
    """A store whose users have windows, pages and open decisions."""
    catalog, sessions = Catalog(60), SessionStore(users=40, length=6, skips=4, slate=3, **settings)
    sessions.reserve(pages=2)
    world = EchoWorld(catalog, sessions, users=16, items=30)
    loop = Loop(world, sessions, catalog, Counter(catalog, 3), update_every=20)
    for _ in range(12):
        loop.step()
    return loop


def other_store(items: int = 60, **settings: int) -> tuple[SessionStore, Catalog]:
    """A member with users and items of its own, so that no row means the same."""
    catalog, sessions = Catalog(items), SessionStore(**{"users": 40, "length": 6, "skips": 4, "slate": 3} | settings)
    sessions.reserve(pages=2)
    catalog.rows([f"i{at}" for at in range(29, 9, -1)][:items])
    sessions.rows([f"mine{at}" for at in range(5)])
    return sessions, catalog


def told(sessions: SessionStore, catalog: Catalog, users: list[str]) -> tuple[list[str], State]:
    """What a store knows of users, with items as ids."""
    parcel = pack(sessions, catalog, sessions.rows(users))
    ids = ["", *parcel["items"]]
    tables: State = {}
    for name, table in parcel["tables"].items():
        if name.rpartition(".")[2] in ("items", "skipped", "pages", "offer", "slate", "shadow"):
            tables[name] = [ids[number] for number in table.flatten().tolist()]
        elif not name.endswith(".user"):
            tables[name] = table
    return parcel["users"], tables


def same(left: State, right: State) -> None:
    assert left.keys() == right.keys()
    for name, table in left.items():
        if isinstance(table, Tensor):
            assert torch.allclose(table.double(), right[name].double(), rtol=0, atol=0, equal_nan=True), name
        else:
            assert table == right[name], name


def test_whoever_moves_is_told_apart_by_nobody() -> None:
    loop = lived()
    users = [f"u{at}" for at in range(16)]
    sessions, catalog = other_store()
    before = told(loop.sessions, loop.catalog, users)
    rows = unpack(sessions, catalog, pack(loop.sessions, loop.catalog, loop.sessions.rows(users[3:])))
    unpack(sessions, catalog, pack(loop.sessions, loop.catalog, loop.sessions.rows(users[:3])))
    after = told(sessions, catalog, users)
    assert before[0] == after[0]
    same(before[1], after[1])
    assert sessions.user_ids(rows) == users[3:]
    known = [item for at, item in enumerate(loop.catalog.ids) if at and loop.catalog.available[at]]
    spoken = set(before[1]["items"]) - {""}
    there = {item for at, item in enumerate(catalog.ids) if catalog.available[at]}
    assert spoken <= set(known)
    assert spoken <= there


def test_the_open_decision_is_answered_where_the_user_is_now() -> None:
    loop = lived()
    sessions, catalog = other_store()
    row = loop.sessions.rows(["u1"])
    asked = Events.of(row, Kind.REQUEST, torch.tensor([2e6]))
    loop.sessions.take(asked)
    history = loop.sessions.read(row, asked.time)
    shown = Decision.of(row, loop.catalog.rows(["i4", "i7", "i2"]).unsqueeze(0))
    shown.id = loop.sessions.number(row)
    loop.sessions.open(shown, shown, history, asked)
    here = unpack(sessions, catalog, pack(loop.sessions, loop.catalog, row))
    click = {"item": catalog.rows(["i7"]), "decision": shown.id}
    sessions.take(Events.of(here, Kind.CLICK, torch.tensor([2e6 + 5]), **click))
    closed = sessions.take(Events.of(here, Kind.LEAVE, torch.tensor([2e6 + 9])))
    assert closed is not None
    assert closed.rewards.tolist() == [[0.0, 1.0, 0.0]]
    assert [catalog.ids[at] for at in closed.shown.slate[0].tolist()] == ["i4", "i7", "i2"]
    assert catalog.ids[int(closed.next.items[0, -1])] == "i7"
    assert closed.shown.user.tolist() == here.tolist()
    numbers = copy.deepcopy(loop.sessions).number(row), sessions.number(here)
    assert numbers[0].tolist() == numbers[1].tolist()  # as often asked, so the next decision has the same id


def test_items_that_find_the_catalogue_full_leave_the_windows() -> None:
    loop = lived()
    users = [f"u{at}" for at in range(16)]
    sessions, catalog = other_store(items=20)
    rows = unpack(sessions, catalog, pack(loop.sessions, loop.catalog, loop.sessions.rows(users)))
    kept = sessions.read(rows, torch.zeros(len(rows), dtype=torch.float64)).items
    before = loop.sessions.read(loop.sessions.rows(users), torch.zeros(16, dtype=torch.float64)).items
    mine = set(catalog.ids)
    for at in range(len(users)):
        expected = [loop.catalog.ids[row] for row in before[at].tolist() if loop.catalog.ids[row] in mine - {""}]
        assert [catalog.ids[row] for row in kept[at].tolist() if row] == expected
        assert (kept[at] > 0).tolist() == sorted((kept[at] > 0).tolist())  # no holes


def test_items_are_admitted_at_once() -> None:
    loop = lived()
    sessions, catalog = SessionStore(users=40, length=6, skips=4, slate=3), Catalog(60, admit=3)
    sessions.reserve(pages=2)
    unpack(sessions, catalog, pack(loop.sessions, loop.catalog, loop.sessions.rows(["u1", "u2"])))
    spoken = set(told(loop.sessions, loop.catalog, ["u1", "u2"])[1]["items"]) - {""}
    assert spoken <= set(catalog.ids)


def test_a_store_of_another_shape_is_refused() -> None:
    loop = lived()
    sessions, catalog = other_store(length=7)
    with pytest.raises(ValueError, match=r"items of width \(6,\), this run \(7,\)"):
        unpack(sessions, catalog, pack(loop.sessions, loop.catalog, loop.sessions.rows(["u1"])))
