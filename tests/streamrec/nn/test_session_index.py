"""SessionIndex: the sets and lists that dictionaries would hold, whatever was merged, dropped, saved or recycled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from streamrec.nn.session_index import SessionIndex, short_spans, spans
from tests.histories import catalog

ITEMS = 9
SESSIONS = st.lists(st.lists(st.integers(0, ITEMS), max_size=6), max_size=25)


def flat(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    starts = torch.tensor([0, *[len(row) for row in rows]]).cumsum(0)
    return torch.tensor([item for row in rows for item in row], dtype=torch.int64), starts


def index(capacity: int = 8, length: int = 3, slack: int | None = 5) -> SessionIndex:
    made = SessionIndex(catalog(ITEMS, capacity=12), capacity, length)
    if slack is not None:
        made.slack = slack
        made.postings = made.postings.new_zeros(slack)
    return made


def by_hand(rows: list[list[int]], capacity: int, length: int) -> dict[int, list[int]]:
    """Items by number of the session, sorted."""
    sets = {at: sorted(list(dict.fromkeys(i for i in row if i))[:length]) for at, row in enumerate(rows)}
    return {at: items for at, items in sets.items() if at >= len(rows) - capacity}


def sets_of(found: SessionIndex) -> dict[int, list[int]]:
    place = torch.arange(found.oldest, found.held)
    begin, size = found.sets(place)
    rows = zip((place + found.base).tolist(), begin.tolist(), size.tolist(), strict=True)
    return {number: sorted(found.pool[b : b + n].tolist()) for number, b, n in rows}


def lists_of(found: SessionIndex, most: int = 100) -> Iterator[tuple[int, list[list[int]]]]:
    items = torch.arange(1, ITEMS + 1)
    begin, many = found.lists(items, torch.full_like(items, most))
    for item, b, n in zip(items.tolist(), begin.tolist(), many.tolist(), strict=True):
        yield item, [(found.postings[at : at + k] + found.base).tolist() for at, k in zip(b, n, strict=True)]


def check(found: SessionIndex, expected: dict[int, list[int]]) -> None:
    assert sets_of(found) == expected
    lists: dict[int, list[int]] = defaultdict(list)
    for number in sorted(expected, reverse=True):
        for item in expected[number]:
            lists[item].append(number)
    for item, runs in lists_of(found):
        assert all(run == sorted(run, reverse=True) for run in runs)
        assert sorted(chain(*runs), reverse=True) == lists[item]
        assert found.support[item] == len(lists[item])


@settings(max_examples=60, deadline=None)
@given(SESSIONS, st.integers(1, 12), st.integers(1, 5), st.integers(1, 9))
def test_holds_the_newest_sessions_as_sets(rows: list[list[int]], capacity: int, length: int, slack: int) -> None:
    found = index(capacity, length, slack)
    found.append(*flat(rows))
    check(found, by_hand(rows, capacity, length))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, ITEMS)), max_size=60), st.integers(1, 9))
def test_sessions_grow_side_by_side(clicks: list[tuple[int, int]], slack: int) -> None:
    """Six sessions that are open at the same time, one click after the other."""
    found = index(6, 4, slack)
    found.begin_sessions(min(6, slack))
    if slack < 6:
        found.begin_sessions(min(6 - slack, slack))
    open_now = found.begun
    rows: list[list[int]] = [[] for _ in range(open_now)]
    for session, item in clicks:
        if session < open_now:
            rows[session].append(item)
            found.add(torch.tensor([session]), torch.tensor([item]))
    check(found, by_hand(rows, 6, 4))


@settings(max_examples=40, deadline=None)
@given(SESSIONS, SESSIONS, st.integers(1, 9))
def test_a_restored_index_goes_on_as_the_one_that_was_saved(
    rows: list[list[int]], more: list[list[int]], slack: int
) -> None:
    found = index(8, 3, slack)
    found.append(*flat(rows))
    again = index(8, 3, 2)
    again.load_state_dict(saved(found))
    check(again, sets_of(found))
    for each in (found, again):
        each.append(*flat(more))
    check(again, sets_of(found))


def saved(found: SessionIndex) -> dict[str, Any]:
    return dict(found.state_dict())


def test_the_newest_of_each_run_are_kept() -> None:
    found = index(20, 3, 16)
    found.append(*flat([[1, 2]] * 6 + [[1]] * 3))
    runs = dict(lists_of(found, most=4))
    assert [*chain(*runs[1])] == [8, 7, 6, 5]
    assert [*chain(*runs[2])] == [5, 4, 3, 2]


def test_recycled_rows_are_in_no_session() -> None:
    rows = [[1, 2], [2], [3, 1], [4, 5, 2]]
    found = index(3, 3)
    found.append(*flat(rows))
    found.recycle(torch.tensor([2, 5]))
    check(found, {1: [], 2: [1, 3], 3: [4]})
    found.append(*flat([[2, 7]]))
    check(found, {2: [1, 3], 3: [4], 4: [2, 7]})


def test_memory_does_not_grow_with_the_stream() -> None:
    found = index(50, 3, 16)
    generator = torch.Generator().manual_seed(0)
    sizes = set()
    for _ in range(60):
        items = torch.randint(1, ITEMS + 1, (60,), generator=generator)
        found.append(items, torch.arange(0, 61, 4))
        sizes.add(sum(table.numel() for table in (found.pool, found.extent)))
        assert len(found.keys) <= (50 + 2 * 16) * 3
        assert len(found.tail) <= 16
    assert len(sizes) == 1
    assert found.begun == 900


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 session"):
        SessionIndex(catalog(3), 0)
    with pytest.raises(ValueError, match="length of the session index"):
        SessionIndex(catalog(3), 5, 1 << 16)
    with pytest.raises(ValueError, match="saved with capacity=8 and length=3"):
        index(8, 4).load_state_dict(saved(index(8, 3)))


def test_spans_lay_runs_end_to_end() -> None:
    which, at = spans(torch.tensor([5, 0, 9]), torch.tensor([2, 0, 3]))
    assert which.tolist() == [0, 0, 2, 2, 2]
    assert at.tolist() == [5, 6, 9, 10, 11]
    for runs in ([[5, 2], [3, 1], [9, 3]], []):
        begin, length = torch.tensor(runs, dtype=torch.int64).view(-1, 2).unbind(1)
        for one, other in zip(spans(begin, length), short_spans(begin, length), strict=True):
            assert one.tolist() == other.tolist()
