"""Lists and ranks from scores of the whole catalogue: ties are resolved against the model, exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from streamrec.evaluation.lists import ListMetrics
from streamrec.evaluation.lists.chunk import Relevant
from streamrec.evaluation.lists.ties import worst_lists, worst_rank


def scores_of(seed: int, n: int, items: int) -> np.ndarray:
    """Few levels, so that ties are everywhere, with some scores that are no numbers."""
    draw = np.random.default_rng(seed)
    scores = draw.integers(0, 3, (n, items + 1)).astype(np.float32)
    scores[draw.random(scores.shape) < 0.1] = np.nan
    scores[draw.random(scores.shape) < 0.1] = -np.inf
    return scores


@pytest.mark.parametrize("metric", ["recall", "mrr", "ndcg", "map"])
@pytest.mark.parametrize("k", [2, 5])
def test_no_order_of_equal_scores_is_worse(metric: str, k: int) -> None:
    """Of all orders that sort the scores, each list of five items gets the one with the lowest figure."""
    scores = scores_of(0, 60, 5)
    truth = Relevant.of(60, 5, np.tile([2, 4], 60), np.arange(0, 121, 2), None)
    lists = worst_lists(scores, k, truth)
    for at in range(60):
        there = [i for i in range(1, 6) if scores[at, i] > -np.inf]
        orders = [p for p in itertools.permutations(there) if all(np.diff(scores[at, list(p)]) <= 0)]
        figures = [figure(metric, [*order, 0, 0, 0, 0, 0][:k]) for order in orders]
        assert figure(metric, lists[at].tolist()) == pytest.approx(min(figures)), (scores[at], lists[at])


def figure(metric: str, ranked: list[int]) -> float:
    metrics = ListMetrics([len(ranked)], [metric], 5)
    metrics.add(np.array([ranked]), np.array([2, 4]), offsets=np.array([0, 2]))
    value = metrics.result()[f"{metric}@{len(ranked)}"].value
    assert value is not None
    return value


def test_a_target_ranks_behind_all_that_is_not_scored_below_it() -> None:
    scores = scores_of(1, 200, 9)
    ranked = np.ones(10, dtype=np.bool_)
    ranked[[0, 7]] = False
    target = np.random.default_rng(2).integers(1, 10, 200)
    found = worst_rank(scores, target, ranked)
    for at in range(200):
        own = scores[at, target[at]]
        if target[at] == 7 or not own > -np.inf:
            assert found[at] == 10
        else:
            assert found[at] == sum(not scores[at, i] < own for i in range(1, 10) if i != 7)


def test_lists_hold_only_what_may_be_listed() -> None:
    ranked = np.ones(10, dtype=np.bool_)
    ranked[3] = False
    lists = worst_lists(np.ones((1, 10)), 12, Relevant.of(1, 9, np.array([5]), None, None), ranked)
    assert sorted(lists[0].tolist()) == [0, 0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert lists[0, 7] == 5
