"""Probabilistic interleaving of two rankings (Hofmann, Whiteson & de Rijke, CIKM 2011), and whose clicks are whose."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def interleave(lists: Tensor, tau: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Slot after slot one of the two lists by a fair coin, and of it an item with probability ~ rank^-tau.

    Items that stand above already are left out and the rest renormalised.

    Args:
        lists: [B, 2, K] items, best first, 0 = nothing. Both lists of a row have equally many.
        tau: how much better ranks are preferred.
        generator: on the device of `lists`.

    Returns:
        slate [B, K] int64, and slot_logp [B, K] float32: the natural log of the propensity of each slot given those
        above, whichever list it came from.
    """
    n, _, k = lists.shape
    coin, where = torch.rand(2, n, k, generator=generator, device=lists.device, dtype=torch.float64)
    slate, slot_logp = torch.zeros_like(lists[:, 0]), torch.zeros(n, k, device=lists.device)
    for slot in range(k):
        p = shares(lists, slate[:, :slot], tau)  # [B, 2, K]
        source = (coin[:, slot] < 0.5).long().view(-1, 1, 1).expand(-1, 1, k)
        below = p.gather(1, source).squeeze(1).cumsum(1)
        # The last place with any probability bounds the draw: rounding must not lead past it.
        at = (below <= (where[:, slot] * below[:, -1]).unsqueeze(1)).sum(1).clamp(max=k - 1)
        item = lists.gather(1, source).squeeze(1).gather(1, at.unsqueeze(1))
        there = below[:, -1:] > 0
        slate[:, slot : slot + 1] = torch.where(there, item, 0)
        chance = 0.5 * chances(lists, p, slate[:, slot]).sum(1)
        slot_logp[:, slot] = torch.where(there.squeeze(1), chance.log(), 0.0).clamp(max=0.0).float()
    return slate, slot_logp


def shares(lists: Tensor, above: Tensor, tau: float) -> Tensor:
    """[B, 2, K] float64: probability of each place of each list, given the items `above` [B, T]; rows sum to 1 or 0."""
    rank = torch.arange(1, lists.shape[2] + 1, device=lists.device, dtype=torch.float64)
    left = (lists > 0) & ~(lists.unsqueeze(3) == above[:, None, None, :]).any(3)
    weight = rank**-tau * left
    total = weight.sum(2, keepdim=True)
    return weight / torch.where(total > 0, total, 1.0)


def chances(lists: Tensor, p: Tensor, item: Tensor) -> Tensor:
    """[B, 2] float64: the probability with which each list would have contributed `item` [B]."""
    return (p * (lists == item.view(-1, 1, 1))).sum(2)


def credit(lists: Tensor, slate: Tensor, clicked: Tensor, tau: float) -> Tensor:
    """Clicks of each list, marginalised over which list each slot was drawn from.

    Args:
        lists: [B, 2, K], as they were interleaved.
        slate: [B, K], what came of it.
        clicked: [B, K] bool.

    Returns:
        [B, 2] float64; a row sums to the number of its clicks on items of the lists.
    """
    won = torch.zeros(len(slate), 2, dtype=torch.float64, device=slate.device)
    for slot in range(slate.shape[1]):
        chance = chances(lists, shares(lists, slate[:, :slot], tau), slate[:, slot])
        total = chance.sum(1, keepdim=True)
        won += clicked[:, slot : slot + 1] * chance / torch.where(total > 0, total, 1.0)
    return won
