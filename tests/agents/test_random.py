"""Random: uniform over ordered slates of what is available."""

from __future__ import annotations

import itertools
from collections import Counter

import torch

from agents.random import Random
from tests.histories import catalog, history


def test_every_ordered_slate_of_available_items_is_equally_likely() -> None:
    items = catalog(6)
    items.retire(torch.tensor([2, 5]))
    decision = Random(items, 2, seed=1).act(history([[]] * 24_000))
    seen = Counter(map(tuple, decision.slate.tolist()))
    orders = list(itertools.permutations((1, 3, 4, 6), 2))
    assert set(seen) == set(orders)
    assert all(abs(seen[order] - 2000) < 5 * (24_000 / 12 * 11 / 12) ** 0.5 for order in orders)
    torch.testing.assert_close(decision.logp, torch.full((24_000,), 1 / 12).log())


def test_what_was_seen_is_neither_shown_nor_counted() -> None:
    items = catalog(6)
    items.retire(torch.tensor([2]))
    agent = Random(items, 2, exclude_seen=True, seed=1)
    decision = agent.act(history([[3, 3, 2], [], [1, 3, 4, 5, 6]] * 3_000))
    slates = decision.slate.view(3_000, 3, 2)
    assert set(slates[:, 0].flatten().tolist()) == {1, 4, 5, 6}
    assert set(slates[:, 1].flatten().tolist()) == {1, 3, 4, 5, 6}
    assert slates[:, 2].unique().tolist() == [0]
    expected = torch.tensor([[4.0, 3.0], [5.0, 4.0], [1.0, 1.0]])
    torch.testing.assert_close(decision.slot_logp[:3], -expected.log())


def test_a_catalogue_smaller_than_the_slate_leaves_slots_empty() -> None:
    decision = Random(catalog(2), 4).act(history([[], []]))
    assert decision.slate.sort(1).values.tolist() == [[0, 0, 1, 2]] * 2
    assert (decision.slate[:, 2:] == 0).all()
    assert Random(catalog(0), 3).act(history([[]])).slate.tolist() == [[0, 0, 0]]
