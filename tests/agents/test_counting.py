"""Counting: what a model knows nothing about comes last, by popularity. The shared properties: tests/contracts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from agents.counting import Counting
from streamrec.models.vsknn import VSKNN
from tests.histories import catalog, clicked, history


def made(exclude_seen: bool = False) -> Counting:
    items = catalog(9)
    return Counting(VSKNN(items), items, slate=4, exclude_seen=exclude_seen)


def play(agent: Counting, row: list[int], user: int) -> None:
    for step in range(len(row)):
        before = replace(history([row[:step]]), user=torch.tensor([user]), key=torch.tensor([user]))
        agent.observe(clicked(before, torch.tensor([row[step]])))


def test_neighbours_come_first_and_popular_items_fill_the_slate() -> None:
    agent = made()
    for user, row in enumerate(([1, 2], [1, 2], [1, 3], [5, 6], [5, 7], [5])):
        play(agent, row, user)
    asked = replace(history([[1], []]), key=torch.tensor([70, 71]))
    assert agent.act(asked).slate[0].tolist() == [1, 2, 3, 5]
    assert agent.act(asked).slate[1, :2].tolist() in ([1, 5], [5, 1])


def test_seen_items_and_those_not_offered_are_left_out() -> None:
    agent = made(exclude_seen=True)
    play(agent, [1, 2], 0)
    asked = replace(history([[1]]), key=torch.tensor([70]))
    assert agent.act(asked).slate[0, 0] == 2
    assert not (agent.act(asked).slate == 1).any()
    offer = torch.tensor([[4, 2, 1, 0]])
    assert agent.act(replace(asked, offer=offer)).slate[0].tolist() == [2, 4, 0, 0]


def test_items_that_expired_are_forgotten() -> None:
    agent = made()
    play(agent, [1, 2, 3], 0)
    agent.recycle(torch.tensor([2]))
    scores = agent.model.score(replace(history([[1]]), key=torch.tensor([70])))
    assert (scores[0] > 0).nonzero().squeeze(1).tolist() == [1, 3]
    assert agent.clicks[2] == 0


def test_epsilon_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="epsilon"):
        Counting(VSKNN(catalog(3)), catalog(3), 2, epsilon=1.5)
