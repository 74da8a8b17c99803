"""Remembered ids: a set with a bound, the same however its ids were cut into batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from consumers.remembered import Remembered

IDS = st.lists(st.integers(0, 60).map(lambda n: f"e{n}" if n else ""), max_size=150)


def told(window: Remembered, ids: list[str], sizes: list[int]) -> list[bool]:
    """Which of `ids` came before, asked in batches of `sizes`, again and again."""
    again: list[bool] = []
    at = 0
    while at < len(ids):
        for size in sizes:
            part = ids[at : at + size]
            partitions = np.zeros(len(part), dtype=np.int64)
            keys, known = window.again(part, partitions)
            window.add(keys[~known], partitions[~known])
            again += known.tolist()
            at += size
    return again


@given(IDS, st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_with_room_for_all_it_is_a_set(ids: list[str], sizes: list[int]) -> None:
    seen: set[str] = set()
    expected = []
    for name in ids:
        expected.append(name in seen)
        seen |= {name} - {""}
    assert told(Remembered(1000), ids, sizes) == expected


@given(st.lists(st.integers(1, 400), unique=True, max_size=300), st.integers(2, 40), st.integers(1, 30))
def test_at_least_half_and_at_most_all_of_the_bound_is_known(numbers: list[int], bound: int, size: int) -> None:
    window = Remembered(bound)
    ids = [f"e{n}" for n in numbers]
    assert not any(told(window, ids, [size]))
    _, known = window.again(ids, np.zeros(len(ids), dtype=np.int64))
    assert known[max(0, len(ids) - bound // 2) :].all()
    assert known.sum() <= bound


@given(IDS, st.integers(2, 30), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_what_is_known_does_not_depend_on_the_batches(ids: list[str], bound: int, sizes: list[int]) -> None:
    ids = list(dict.fromkeys(ids))
    one, many = Remembered(bound), Remembered(bound)
    told(one, ids, [1])
    told(many, ids, sizes)
    assert_same(one, many)


@given(IDS, st.integers(2, 30), st.integers(0, 150))
def test_saved_and_loaded_it_goes_on_as_if_never_stopped(ids: list[str], bound: int, cut: int) -> None:
    never, first, second = Remembered(bound), Remembered(bound), Remembered(bound)
    expected = told(never, ids, [5])
    cut -= cut % 5
    before = told(first, ids[:cut], [5])
    second.load_state_dict(first.state_dict())
    assert before + told(second, ids[cut:], [5]) == expected
    assert_same(second, never)


def assert_same(left: Remembered, right: Remembered) -> None:
    one, other = left.state_dict(), right.state_dict()
    assert one.keys() == other.keys()
    for partition in one:
        for name in ("newer", "older"):
            assert torch.equal(one[partition][name], other[partition][name])


def test_many_ids_in_one_small_table() -> None:
    window = Remembered(1 << 18)
    ids = [f"event-{n}" for n in range(100_000)]
    assert not any(told(window, ids, [5000]))
    _, known = window.again(ids, np.zeros(len(ids), dtype=np.int64))
    assert known.all()
    _, known = window.again([f"other-{n}" for n in range(100_000)], np.zeros(100_000, dtype=np.int64))
    assert not known.any()


def test_partitions_are_apart_and_move_by_themselves() -> None:
    window, other = Remembered(100), Remembered(100)
    partitions = np.array([0, 1, 0])
    keys, known = window.again(["a", "a", "a"], partitions)
    assert known.tolist() == [False, False, True]
    window.add(keys[~known], partitions[~known])
    other.take(1, window.export(1))
    _, known = other.again(["a", "a"], np.array([0, 1]))
    assert known.tolist() == [False, True]
    other.take(1, {})
    assert other.state_dict() == {}


def test_without_room_nothing_is_remembered_and_less_is_refused() -> None:
    window = Remembered(0)
    assert told(window, ["a", "a"], [2]) == [False, False]
    with pytest.raises(ValueError, match=r"world\.remember"):
        Remembered(-1)
