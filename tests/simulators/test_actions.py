"""Actions become slates: by hand, for each mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from simulators.actions import Actions, repair
from simulators.feed import Feed

CORE = Feed(users=1, items=40, topics=4, slate=3)
CANDIDATES = torch.tensor([[11, 12, 13, 14, 15], [21, 0, 23, 0, 0]])


def actions(mode: str, **settings: Any) -> Actions:
    return Actions(mode, CORE, 5, **settings)


def test_spaces() -> None:
    assert Actions("item", CORE, 5).space == spaces.Discrete(5)
    assert actions("slate").space == actions("page").space == spaces.MultiDiscrete([5, 5, 5])
    assert actions("rank").space == spaces.Box(-1.0, 1.0, (4,), np.float32)
    assert actions("score").space == spaces.Box(-1.0, 1.0, (5,), np.float32)


@pytest.mark.parametrize("mode", ["slate", "page"])
def test_places_name_candidates(mode: str) -> None:
    slates, again = actions(mode).decode(np.array([[4, 0, 2], [0, 2, 2]]), CANDIDATES)
    assert slates.tolist() == [[15, 11, 13], [21, 23, 0]]
    assert again.tolist() == [0, 1]


def test_one_item_leaves_the_other_slots_empty() -> None:
    slates, again = actions("item").decode(np.array([3, 1]), CANDIDATES)
    assert slates.tolist() == [[14, 0, 0], [23, 0, 0]]
    assert not again.any()


def test_the_highest_scores_are_shown_best_first() -> None:
    scores = np.array([[0.1, -1.0, 0.9, 0.1, -0.5], [-1.0, 1.0, -0.5, 1.0, 1.0]], dtype=np.float32)
    slates, again = actions("score").decode(scores, CANDIDATES)
    assert slates.tolist() == [[13, 11, 14], [23, 21, 0]]
    assert not again.any()


def test_a_point_among_the_features_shows_what_is_nearest() -> None:
    core = Feed(users=1, items=40, topics=4, slate=3)
    core.features = torch.zeros(41, 2)
    core.features[11:16] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0], [0.8, 0.6]])
    slates, _ = Actions("rank", core, 5).decode(np.array([[0.5, 0.4], [0.5, 0.5]], dtype=np.float32), CANDIDATES)
    assert slates.tolist() == [[15, 13, 11], [21, 23, 0]]  # inner products .64, .62, .5


def test_repair_takes_the_next_free_place() -> None:
    candidates = torch.tensor([[11, 12, 13, 0, 15], [21, 0, 0, 0, 0]])
    slates = repair(candidates, torch.tensor([[1, 1, 3], [4, 0, 2]]))
    assert slates.tolist() == [[12, 13, 15], [21, 0, 0]]


def test_repeats_are_refused_on_demand() -> None:
    strict = actions("slate", on_duplicate="raise")
    assert strict.decode(np.array([[4, 0, 2], [0, 2, 1]]), CANDIDATES)[0].tolist() == [[15, 11, 13], [21, 23, 0]]
    with pytest.raises(ValueError, match=r"places \[3, 1, 3\] name a candidate twice"):
        strict.decode(np.array([[4, 0, 2], [3, 1, 3]]), CANDIDATES)


def test_masks_are_one_per_slot_and_place() -> None:
    there = [True, False, True, False, False]
    assert actions("slate").masks(CANDIDATES).tolist() == [[True] * 15, there * 3]
    with pytest.raises(ValueError, match="nothing to mask"):
        actions("score").masks(CANDIDATES)


@pytest.mark.parametrize(
    ("mode", "given", "said"),
    [
        ("slate", np.full((2, 3), 5), r"shape \(2, 3\) in 0..4, got shape \(2, 3\) in 0..5"),
        ("slate", np.full((2, 3), -1), "in 0..4"),
        ("slate", np.zeros((2, 4), dtype=int), r"got shape \(2, 4\)"),
        ("item", np.zeros((2, 1), dtype=int), r"expected actions of shape \(2,\)"),
        ("score", np.zeros((2, 4)), r"finite actions of shape \(2, 5\)"),
        ("score", np.full((2, 5), np.nan), "finite"),
        ("rank", np.full((2, 4), np.inf), "finite"),
    ],
)
def test_wrong_actions_are_named(mode: str, given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        actions(mode).decode(given, CANDIDATES)


def test_nobody_to_decide_for_is_fine() -> None:
    nobody = {
        "item": np.zeros(0, int),
        "slate": np.zeros((0, 3), int),
        "rank": np.zeros((0, 4)),
        "score": np.zeros((0, 5)),
    }
    for mode, nothing in nobody.items():
        slates, _ = actions(mode).decode(nothing, CANDIDATES[:0])
        assert slates.shape == (0, 3)
