"""Which clicks stand for all: as many of each item as it is frequent, those whose mean is the mean of all."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


def quotas(counts: Tensor, total: int, generator: Generator) -> Tensor:
    """How many of `total` places each item gets: a multinomial draw with P ~ counts (ADER, section 3.3).

    Args:
        counts: [N] int64, candidates of each item.
        total: places.

    Returns:
        [N] int64, never more than the candidates there are; what an item cannot fill is lost, as in the authors' code.
    """
    if total <= 0 or int(counts.sum()) == 0:
        return torch.zeros_like(counts)
    table = counts.double().cumsum(0)
    point = torch.rand(total, generator=generator, dtype=torch.float64, device=generator.device).to(counts.device)
    drawn = torch.searchsorted(table, point * table[-1], right=True).clamp(max=len(counts) - 1)
    return torch.minimum(torch.bincount(drawn, minlength=len(counts)), counts)


def herd(features: Tensor, group: Tensor, quota: Tensor) -> Tensor:
    """Exemplars of every group at once (Welling 2009, as in iCaRL, Rebuffi et al., CVPR 2017, algorithm 4).

    Features are scaled to length 1. The k-th exemplar of a group is the candidate x, not chosen yet, that brings the
    mean of the chosen nearest to the mean of the group: argmin ||mu - (x + chosen) / k||, which for vectors of equal
    length is argmax x . (k mu - chosen).

    Departure from the authors' code (doublemul/ADER): it may choose a candidate again, which then counts as a step but
    not as an exemplar, and stops after 1.1 m steps; here a candidate is chosen once, as the paper has it.

    Args:
        features: [M, D] of the candidates.
        group: [M] int64, the item each stands for.
        quota: [N] int64, how many of each group.

    Returns:
        Rows of the exemplars, [E] int64, in the order in which they were chosen: first the best of each group.
    """
    unit = F.normalize(features, dim=1)
    size = len(quota)
    member = torch.bincount(group, minlength=size)
    left = torch.minimum(quota, member)
    mean = unit.new_zeros(size, unit.shape[1]).index_add_(0, group, unit) / member.clamp(min=1).unsqueeze(1)
    rows = torch.nonzero(left[group] > 0).squeeze(1)  # candidates of groups that still have a place
    want, chosen = mean.clone(), []
    while len(rows):
        best = _best((unit[rows] * want[group[rows]]).sum(1), rows, group[rows], size)
        chosen.append(best)
        at = group[best]
        want[at] += mean[at] - unit[best]
        left[at] -= 1
        taken = torch.zeros(len(unit), dtype=torch.bool, device=rows.device)
        taken[best] = True
        rows = rows[~taken[rows] & (left[group[rows]] > 0)]
    return torch.cat(chosen) if chosen else rows


def _best(value: Tensor, rows: Tensor, group: Tensor, size: int) -> Tensor:
    """Of each group the row with the highest value, the first of equals; [groups] int64."""
    top = value.new_full((size,), -torch.inf).scatter_reduce_(0, group, value, "amax")
    winner = torch.full((size,), torch.iinfo(torch.int64).max, device=rows.device)
    hit = value == top[group]
    winner.scatter_reduce_(0, group[hit], rows[hit], "amin")
    return winner[torch.unique_consecutive(group.sort().values)]
