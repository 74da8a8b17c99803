"""The running counter against a recount of everything strictly before each row."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from streamrec import checkpoint
from streamrec.evaluation.lists import ListMetrics, Popularity, PopularityCounter
from streamrec.evaluation.lists.popularity import deciles, dense_rank, head
from streamrec.evaluation.lists.segments import SEGMENTS, new, popularity, position, repeat
from streamrec.ope.codes import Refused

ITEMS = 12


class Stream:
    """Interactions and questions with many equal times, in batches whose times interleave."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.item = draw.integers(1, ITEMS + 1, 500)
        self.time = np.sort(draw.integers(0, 60, 500)).astype(float)
        self.asked = np.sort(draw.integers(0, 60, 300)).astype(float)
        self.lists = draw.integers(0, ITEMS + 1, (300, 4))

    def answers(self, counter: PopularityCounter, start: int = 0, stop: int = 60, step: int = 7) -> list[Popularity]:
        found = []
        for low in range(start, stop, step):
            mine, theirs = ((t >= low) & (t < min(low + step, stop)) for t in (self.time, self.asked))
            counter.observe(self.item[mine], self.time[mine])
            order = np.random.default_rng(low).permutation(np.flatnonzero(theirs))
            found.append(counter.as_of(self.lists[order], self.asked[order]))
            for row, at in enumerate(order):
                before = self.time < self.asked[at]
                counts = np.bincount(self.item[before], minlength=ITEMS + 1)
                assert found[-1].count[row].tolist() == counts[self.lists[at]].tolist()
                assert found[-1].total[row] == before.sum()
        return found


def test_counts_are_those_strictly_before_each_row() -> None:
    Stream(0).answers(PopularityCounter(ITEMS))


def test_going_back_behind_what_was_counted_is_refused() -> None:
    counter = PopularityCounter(3)
    counter.observe(np.array([1, 2]), np.array([5.0, 6.0]))
    assert counter.as_of(np.array([[1, 2]]), np.array([6.0])).count.tolist() == [[1, 0]]
    with pytest.raises(Refused, match="future_leak") as caught:
        counter.as_of(np.array([[1, 2]]), np.array([5.0]))
    assert caught.value.code == "future_leak"
    assert counter.as_of(np.array([[1, 2]]), np.array([5.5])).count.tolist() == [[1, 0]]
    with pytest.raises(ValueError, match="catalogue rows 1 to 3"):
        counter.observe(np.array([4]), np.array([9.0]))


def test_killed_and_resumed_is_never_killed(tmp_path: Path) -> None:
    stream, counter = Stream(1), PopularityCounter(ITEMS)
    stream.answers(counter, 0, 28)
    checkpoint.save(tmp_path, {"counter": counter.state_dict()}, 1)
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    other = PopularityCounter(ITEMS)
    other.load_state_dict(loaded[0]["counter"])
    for one, two in zip(stream.answers(counter, 28), stream.answers(other, 28), strict=True):
        for name in ("count", "total", "rank", "tail"):
            assert np.array_equal(getattr(one, name), getattr(two, name))
    assert np.array_equal(counter.decile, other.decile)
    with pytest.raises(ValueError, match="saved for 12 items"):
        PopularityCounter(5).load_state_dict(loaded[0]["counter"])


def test_ranks_head_and_deciles_follow_at_most_a_hundredth_behind() -> None:
    draw = np.random.default_rng(2)
    counter, items = PopularityCounter(30), draw.geometric(0.2, 4000).clip(1, 30)
    for start in range(0, 4000, 10):
        counter.observe(items[start : start + 10], np.arange(start, start + 10.0))
        known = counter.as_of(np.array([[1]]), np.array([start + 10.0]))
        renewed = counter.state_dict()["at_renewal"].numpy()
        assert counter.total <= 1.01 * renewed.sum()
        assert np.array_equal(known.rank, dense_rank(renewed))
        assert np.array_equal(known.tail, ~head(renewed))
        assert np.array_equal(counter.decile, deciles(renewed))


def test_ranks_head_and_deciles_of_given_counts() -> None:
    counts = np.array([0, 5, 80, 5, 0, 10])
    assert dense_rank(counts).tolist() == [0, 3, 1, 3, 0, 2]
    assert np.flatnonzero(head(counts)).tolist() == [2]
    assert np.flatnonzero(head(np.array([0, 5, 79, 5, 0, 11]))).tolist() == [2, 5]
    assert deciles(np.arange(21)).tolist() == [0, *np.repeat(np.arange(1, 11), 2).tolist()]
    assert not head(np.zeros(3, dtype=np.int64)).any()
    assert deciles(np.zeros(3, dtype=np.int64)).tolist() == [0, 0, 0]


def test_novelty_golden_value() -> None:
    """Example of RecTools' MeanInvUserFreq (docs, 0.19): users with items 1, 2 are 3, 1 of 3; item 3 is cold."""
    lists, counts = np.array([[3, 0], [2, 3], [1, 2]]), np.array([0, 3, 1, 0])
    known = Popularity.of(lists, counts)
    users = Popularity(known.count, np.full(3, 3), known.rank, known.tail)
    metrics = ListMetrics([1, 3], ["novelty"], 3)
    metrics.add(lists, np.array([1, 1, 1]), popularity=users)
    assert metrics.result()["novelty@1"].value == pytest.approx((1.5849625 + 1.5849625 + 0.0) / 3, abs=1e-7)
    assert metrics.result()["novelty@3"].value == pytest.approx((1.5849625 + 1.5849625 + 0.79248125) / 3, abs=1e-7)
    assert math.log2(3) == pytest.approx(1.5849625)


def test_labels_of_segments() -> None:
    assert position(np.array([0, 1, 2, 3, 4, 5, 6, 10, 11, 20, 21, 999])).tolist() == [
        -1,
        0,
        1,
        2,
        3,
        3,
        4,
        4,
        5,
        5,
        6,
        6,
    ]
    assert repeat(np.array([[0, 1, 2], [0, 0, 3]]), np.array([2, 1])).tolist() == [1, 0]
    assert new(np.array([0, 1, 7])).tolist() == [0, 1, 1]
    assert popularity(np.array([0, 10, 3]), np.array([2, 1])).tolist() == [3, 10]
    assert [len(labels) for labels in SEGMENTS.values()] == [2, 2, 2, 7, 7, 11]
