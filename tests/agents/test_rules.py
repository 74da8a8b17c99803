"""SequentialRules: directed, from the last item only."""

from __future__ import annotations

import torch

from agents.rules import SequentialRules
from tests.histories import catalog, clicked, history


def learned(rows: list[list[int]], slate: int = 1) -> SequentialRules:
    agent = SequentialRules(catalog(9), slate)
    agent.observe(clicked(history([row[:-1] for row in rows]), torch.tensor([row[-1] for row in rows])))
    return agent


def test_rules_have_a_direction() -> None:
    agent = learned([[1, 2], [1, 2], [2, 3]])
    assert agent.act(history([[1], [2]])).slate.tolist() == [[2], [3]]


def test_only_the_last_item_speaks() -> None:
    agent = learned([[1, 2], [1, 2], [1, 2], [4, 5]])
    assert agent.act(history([[1, 1, 1, 4]])).slate.tolist() == [[5]]


def test_an_item_may_follow_itself() -> None:
    agent = learned([[6, 6], [6, 6], [6, 7]])
    assert agent.act(history([[6]])).slate.tolist() == [[6]]


def test_weight_falls_with_distance() -> None:
    agent = learned([[1, 2, 3, 4]])
    weights = {i: float(agent.weights[i, 0]) for i in (1, 2, 3)}
    torch.testing.assert_close(weights, {1: 1 / 3, 2: 1 / 2, 3: 1.0})
