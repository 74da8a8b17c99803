"""Herding against a search through all candidates, and places by frequency."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from streamrec.schedules.herding import herd, quotas


def by_search(features: Tensor, count: int) -> list[int]:
    """Of all candidates not chosen yet, the one with which the mean of the chosen is nearest to the mean of all."""
    unit = F.normalize(features.double(), dim=1)
    mean, chosen = unit.mean(0), []
    for k in range(1, count + 1):
        left = [i for i in range(len(unit)) if i not in chosen]
        near = [float((mean - unit[[*chosen, i]].sum(0) / k).norm()) for i in left]
        chosen.append(left[near.index(min(near))])
    return chosen


def test_each_exemplar_brings_the_mean_nearest_to_that_of_its_group() -> None:
    draws = Generator().manual_seed(0)
    features = torch.randn(60, 5, generator=draws)
    group = torch.randint(1, 5, (60,), generator=draws)
    quota = torch.tensor([0, 7, 3, 0, 100])
    rows = herd(features, group, quota)
    for item in range(1, 5):
        members = torch.nonzero(group == item).squeeze(1)
        count = min(int(quota[item]), len(members))
        expected = members[by_search(features[members], count)].tolist() if count else []
        assert rows[group[rows] == item].tolist() == expected


def test_herding_is_nearer_to_the_mean_than_chance() -> None:
    draws = Generator().manual_seed(1)
    features = torch.randn(200, 8, generator=draws) + 1.0
    unit = F.normalize(features, dim=1)
    rows = herd(features, torch.ones(200, dtype=torch.int64), torch.tensor([0, 10]))
    distance = (unit[rows].mean(0) - unit.mean(0)).norm()
    by_chance = [
        (unit[torch.randperm(200, generator=draws)[:10]].mean(0) - unit.mean(0)).norm().item() for _ in range(50)
    ]
    assert distance < 0.7 * min(by_chance)


def test_no_places_no_exemplars_and_equals_go_by_order() -> None:
    same = torch.ones(4, 3)
    group = torch.tensor([2, 1, 2, 1])
    assert herd(same, group, torch.zeros(3, dtype=torch.int64)).tolist() == []
    assert herd(same, group, torch.tensor([0, 1, 2])).tolist() == [1, 0, 2]
    assert herd(same[:0], group[:0], torch.tensor([0, 5])).tolist() == []


def test_places_are_proportional_to_frequency_and_never_more_than_there_are() -> None:
    counts = torch.tensor([0, 10_000, 40_000, 50_000, 3])
    drawn = quotas(counts, 30_000, Generator().manual_seed(0))
    expected = 30_000 * counts / counts.sum()
    assert drawn[0] == 0
    assert ((drawn - expected).abs() <= 4 * expected.sqrt()).all()
    assert int(drawn.sum()) == 30_000
    few = quotas(torch.tensor([0, 5, 1]), 1_000, Generator().manual_seed(0))
    assert few.tolist() == [0, 5, 1]
    assert quotas(torch.zeros(3, dtype=torch.int64), 10, Generator()).tolist() == [0, 0, 0]
