from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrec.catalog import Catalog


def test_ids_keep_their_rows_and_new_ones_are_appended() -> None:
    catalog = Catalog(capacity=10)
    assert catalog.rows(["a", "b", "a", ""]).tolist() == [1, 2, 1, 0]
    assert catalog.rows(["c", "a"]).tolist() == [3, 1]
    assert (len(catalog), catalog.size) == (3, 4)


def test_an_item_can_be_recommended_only_once_seen() -> None:
    catalog = Catalog(capacity=4)
    rows = catalog.rows(["a", "b"])
    assert not catalog.available.any()
    catalog.see(torch.tensor([0, int(rows[1])]))
    assert catalog.available.tolist() == [False, False, True, False, False]
    catalog.retire(rows)
    assert not catalog.available.any()


def test_a_full_catalogue_gives_row_zero_and_goes_on() -> None:
    catalog = Catalog(capacity=2)
    assert catalog.rows(["a", "b", "c", "a"]).tolist() == [1, 2, 0, 1]


def test_state_round_trip_and_a_checkpoint_that_is_too_large() -> None:
    catalog = Catalog(capacity=4)
    catalog.see(catalog.rows(["a", "b", "c"])[1:])
    other = Catalog(capacity=4)
    other.load_state_dict(catalog.state_dict())
    assert other.rows(["c", "d"]).tolist() == [3, 4]
    assert other.available.tolist() == catalog.available.tolist()
    with pytest.raises(ValueError, match=r"holds 3 items but catalog.capacity is 2: raise"):
        Catalog(capacity=2).load_state_dict(catalog.state_dict())


# --- items that expire -------------------------------------------------------------------------------------------

HOUR = 3600.0


def test_rows_of_idle_items_are_emptied_and_go_to_new_items_with_nothing_left_in_them() -> None:
    catalog = Catalog(capacity=3, ttl_s=HOUR)
    catalog.reserve(2)
    old = catalog.rows(["a", "b", "c"])
    catalog.describe(old, torch.tensor([4, 5, 6]), torch.ones(3, 2), torch.tensor([1.0, 2.0, 3.0]))
    catalog.see(old)
    assert catalog.full
    assert catalog.rows(["d"]).tolist() == [0]
    for now in (0.0, 0.5 * HOUR):
        catalog.rows(["b"])
        assert catalog.expire(now).tolist() == []
        catalog.see(old)  # that we recommend something keeps nothing alive
    for now in (1.0 * HOUR, 1.3 * HOUR):
        gone = catalog.expire(now)
    assert gone.tolist() == []
    assert catalog.expire(1.4 * HOUR).tolist() == [1, 3]
    assert (len(catalog), catalog.size, catalog.ids, catalog.full) == (1, 4, ["", "", "b", ""], False)
    assert catalog.available.tolist() == [False, False, True, False]
    assert catalog.rows(["d", "b", "e", "a"]).tolist() == [1, 2, 3, 0]
    assert catalog.category.tolist() == [0, 0, 5, 0]
    assert catalog.features[[1, 3]].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert catalog.born.isnan().tolist() == [True, True, False, True]
    assert not catalog.available[[1, 3]].any()


def test_without_a_time_to_live_nothing_expires() -> None:
    catalog = Catalog(capacity=2)
    catalog.rows(["a", "b"])
    for now in (0.0, 1e9, 2e9):
        assert catalog.expire(now).tolist() == []
    assert catalog.rows(["c", "a"]).tolist() == [0, 1]


def test_one_clock_that_is_years_ahead_empties_nothing() -> None:
    catalog = Catalog(capacity=9, ttl_s=HOUR)
    catalog.rows(["a"])
    for minute in range(50):
        assert catalog.expire(60.0 * minute if minute != 20 else 4e9).tolist() == []
    assert catalog.rows(["a"]).tolist() == [1]
    catalog.expire(4e9)
    catalog.rows(["b"])
    assert catalog.expire(4e9 + 1).tolist() == [], "a pause is over: what is mentioned now is not old"
    catalog.expire(4e9 + 0.6 * HOUR)
    assert catalog.expire(4e9 + 1.3 * HOUR).tolist() == []
    assert catalog.expire(4e9 + 1.4 * HOUR).tolist() == [1, 2]


def test_an_id_gets_a_row_at_its_nth_occurrence() -> None:
    catalog = Catalog(capacity=9, admit=3)
    assert catalog.rows(["a", "b", "a", "a", "a", ""]).tolist() == [0, 0, 0, 1, 1, 0]
    assert catalog.rows(["b"]).tolist() == [0]
    assert catalog.rows(["b", "a"]).tolist() == [2, 1]
    assert not catalog.full


def test_the_newest_rare_ids_are_remembered_and_no_more_of_them() -> None:
    catalog = Catalog(capacity=20, admit=2)
    for start in range(0, 5000, 50):
        ids = [f"once{i}" for i in range(start, start + 50)]
        assert catalog.rows(ids).tolist() == [0] * 50
        assert sum(map(len, catalog._rare)) <= 20
    assert catalog.rows([f"once{i}" for i in range(4990, 5000)]).tolist() == list(range(1, 11))
    assert catalog.rows(["once4000"]).tolist() == [0], "so long ago that it counts as new"


events = st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 30), max_size=6)), max_size=40)


@settings(max_examples=80, deadline=None)
@given(events, st.integers(1, 3), st.integers(0, 40))
def test_no_two_items_share_a_row_and_a_resumed_catalogue_goes_on_alike(
    life: list[tuple[int, list[int]]], admit: int, stop: int
) -> None:
    catalog = Catalog(capacity=8, admit=admit, ttl_s=4.0)
    alive: dict[str, int] = {}
    now = 0.0
    for at, (pause, items) in enumerate(life):
        if at == stop:
            state = catalog.state_dict()
            catalog = Catalog(capacity=8, admit=admit, ttl_s=4.0)
            catalog.load_state_dict(json.loads(json.dumps(state, default=torch.Tensor.tolist)) | _tensors(state))
        now += pause
        rows = catalog.rows([f"i{item}" for item in items]).tolist()
        for item, row in zip(items, rows, strict=True):
            if row:
                assert alive.setdefault(f"i{item}", row) == row, "an item keeps its row while it lives"
        gone = set(catalog.expire(now).tolist())
        assert not gone & {0, *rows}, "what has just occurred lives"
        alive = {item: row for item, row in alive.items() if row not in gone}
        assert len(set(alive.values())) == len(alive) == len(catalog) <= 8


def _tensors(state: dict[str, Any]) -> dict[str, Any]:
    life = {**state["life"], **{name: x.clone() for name, x in state["life"].items() if isinstance(x, torch.Tensor)}}
    return {"life": life} | {name: x.clone() for name, x in state.items() if isinstance(x, torch.Tensor)}


def test_a_time_to_live_that_comes_later_begins_then() -> None:
    before = Catalog(capacity=4)
    before.rows(["a", "b"])
    catalog = Catalog(capacity=4, ttl_s=10.0)
    catalog.load_state_dict(before.state_dict())
    assert [catalog.expire(now).tolist() for now in (1e9, 1e9 + 5, 1e9 + 9, 1e9 + 15, 1e9 + 30)] == [
        [],
        [],
        [],
        [],
        [1, 2],
    ]


@pytest.mark.parametrize("setting", [{"capacity": 0}, {"admit": 0}, {"ttl_s": 0.0}])
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"catalog.{next(iter(setting))} must be"):
        Catalog(**setting)


def test_a_withdrawn_item_stays_away_until_it_is_brought_back() -> None:
    catalog = Catalog(5)
    rows = catalog.rows(["a", "b"])
    catalog.see(rows)
    catalog.withdraw(rows[:1])
    catalog.see(rows)
    assert catalog.available[:3].tolist() == [False, False, True]
    again = Catalog(5)
    again.load_state_dict(catalog.state_dict())
    again.see(rows)
    assert again.available[:3].tolist() == [False, False, True]
    assert again.upsert("a") == 1
    again.see(rows)
    assert again.available[:3].tolist() == [False, True, True]


def test_an_item_that_is_told_has_a_row_at_once_and_a_category_that_is_kept() -> None:
    catalog = Catalog(2, admit=3)
    assert catalog.rows(["a"]).tolist() == [0]
    assert catalog.upsert("a", "shoes") == 1
    assert catalog.upsert("b", "hats", available=False) == 2
    assert catalog.upsert("c", "hats") == 0  # no room
    assert catalog.upsert("b") == 2
    assert [catalog.categories[number] for number in catalog.category.tolist()] == ["", "shoes", "hats"]
    again = Catalog(2, admit=3)
    again.load_state_dict(catalog.state_dict())
    assert again.upsert("a", "hats") == 1
    assert again.category.tolist() == [0, 2, 2]
    assert again.available.tolist() == [False, True, True]


def test_an_expired_row_is_not_withdrawn_for_the_next_item() -> None:
    catalog = Catalog(3, ttl_s=10.0)
    catalog.withdraw(catalog.rows(["a"]))
    for now in (0.0, 0.0, 100.0, 100.0):
        catalog.expire(now)
    assert catalog.rows(["b"]).tolist() == [1]
    catalog.see(torch.tensor([1]))
    assert bool(catalog.available[1])
