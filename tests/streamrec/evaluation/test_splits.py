"""Splits by time: nobody's future is in the training part, sessions stay whole, dropped rows have causes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.evaluation.splits import by_time, filtered, k_core

SESSION = np.array([1, 1, 2, 2, 2, 3, 3, 4])
TIME = np.array([0.0, 1.0, 8.0, 9.0, 11.0, 10.0, 12.0, 25.0])


def test_a_session_belongs_to_the_side_of_its_start_or_to_none() -> None:
    split = by_time(SESSION, TIME, [10.0, 20.0])
    assert split.part.tolist() == [0, 0, -1, -1, -1, 1, 1, 2]
    assert (split.dropped, split.late) == ({"straddling": 3}, 0)
    kept = by_time(SESSION, TIME, [10.0, 20.0], keep_straddling=True)
    assert kept.part.tolist() == [0, 0, 0, 0, 0, 1, 1, 2]
    assert (kept.dropped, kept.late) == ({"straddling": 0}, 1)
    assert kept.rows(1).tolist() == [False] * 5 + [True, True, False]


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 50)), min_size=1, max_size=80),
    st.lists(st.integers(1, 49), min_size=1, max_size=3, unique=True),
    st.booleans(),
)
def test_sessions_are_whole_and_parts_follow_each_other(
    rows: list[tuple[int, int]], cuts: list[int], keep: bool
) -> None:
    session, time = (np.array(column) for column in zip(*rows, strict=True))
    edges = np.array(sorted(cuts), dtype=float)
    split = by_time(session, time.astype(float), edges.tolist(), keep_straddling=keep)
    for one in np.unique(session):
        mine = split.part[session == one]
        start = time[session == one].min()
        assert len(set(mine.tolist())) == 1
        assert mine[0] in (-1, (edges <= start).sum())
    late = 0
    for at in np.flatnonzero(split.part >= 0):
        later = time[split.part > split.part[at]]
        late += int(len(later) > 0 and time[at] >= later.min())
    assert split.late == late
    assert keep or late == 0
    assert split.dropped["straddling"] == (split.part < 0).sum()


def test_a_core_is_the_largest_set_without_rare_values() -> None:
    session, item = np.array([1, 1, 2, 2, 3, 3, 4]), np.array([1, 2, 1, 2, 2, 9, 1])
    assert k_core([session, item], [2, 2]).tolist() == [True, True, True, True, False, False, False]
    assert not k_core([session, item], [3, 3]).any()
    assert k_core([session, item], [1, 1]).all()
    assert k_core([session[:0], item[:0]], [2, 2]).tolist() == []
    with pytest.raises(ValueError, match="least"):
        k_core([session], [0])


def test_filters_look_at_the_training_part_alone() -> None:
    session = np.array([1, 1, 2, 2, 3, 5, 5, 6, 6, 7, 7])
    item = np.array([1, 2, 1, 9, 2, 1, 2, 1, 8, 8, 8])
    time = np.array([0, 1, 2, 3, 4, 11, 12, 13, 14, 15, 16], dtype=float)
    split = filtered(by_time(session, time, [10.0]), session, item, time)
    # Session 3 has one row; item 8 is in the test part alone, however often; session 6 is then too short.
    assert split.part.tolist() == [0, 0, 0, 0, -1, 1, 1, -1, -1, -1, -1]
    assert split.dropped == {"straddling": 0, "rare": 1, "cold": 3, "short": 1}
    kept = filtered(by_time(session, time, [10.0]), session, item, time, keep_cold=True)
    assert kept.part.tolist() == [0, 0, 0, 0, -1, 1, 1, 1, 1, 1, 1]
    strict = filtered(by_time(session, time, [10.0]), session, item, time, least_item=2)
    assert strict.dropped["rare"] == 5
    assert strict.dropped["cold"] == 6


@pytest.mark.parametrize(
    ("time", "cuts", "text"),
    [
        ([0.0, np.nan], [1.0], "finite"),
        ([0.0, 1.0], [], "cuts"),
        ([0.0, 1.0], [2.0, 2.0], "cuts"),
        ([0.0], [1.0], r"\[n\]"),
    ],
)
def test_what_cannot_be_split_is_refused(time: list[float], cuts: list[float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        by_time(np.array([1, 2]), np.array(time), cuts)
