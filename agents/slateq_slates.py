"""The best slate under the conditional logit model: the paper's three ways to find it."""

from __future__ import annotations

import math
from functools import cache
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

Search = Literal["topk", "greedy", "exact"]

_ENUMERABLE = 10_000  # slates that are simply all tried
_ROUNDS = 12  # of Dinkelbach's iteration, which converges faster than linearly


def slate_scores(odds: Tensor, gain: Tensor, mask: Tensor, k: int, optimiser: Search) -> Tensor:
    """Scores whose k largest are the slate, best first.

    With odds o_i = v(s, i) / v(s, nothing) and gains g_i = Q(s, i) - Q(s, nothing), a slate A is worth
    Q(s, nothing) + sum over A of o_i g_i / (1 + sum over A of o_i): the paper's objective, with the value of nothing
    taken out. With gains over 0 instead (nothing is worth 0) it is the objective as published.

    * "topk": the k largest o_i g_i.
    * "greedy": one after the other, what adds most to the slate so far.
    * "exact": the best slate of exactly k. The paper solves the linear program of Charnes and Cooper (which may leave
      slots empty); here all slates are tried where there are at most 10,000, else Dinkelbach's iteration (Management
      Science 1967) is run: the k largest o_i (g_i - value of the slate before), until nothing changes.

    Args:
        odds: [B, C] float32, at least 0.
        gain: [B, C] float32.
        mask: [B, C] bool, which may be shown.
        k: slots.
        optimiser: see above.

    Returns:
        [B, C] float32, -inf where `mask` is false.
    """
    odds = odds * mask
    if optimiser == "topk":
        scores = odds * gain
    elif optimiser == "greedy":
        scores = _greedy(odds, gain, mask, k)
    else:
        few = math.comb(odds.shape[1], min(k, odds.shape[1])) <= _ENUMERABLE
        value = (best_by_trying if few else best_by_iterating)(odds, gain, mask, k)
        scores = odds * (gain - value.unsqueeze(1))
    return scores.masked_fill(~mask, -torch.inf)


def slate_gain(odds: Tensor, gain: Tensor) -> Tensor:
    """What slates gain over showing nothing: odds and gains of their items [B, K] -> [B]. Empty slots have odds 0."""
    return (odds * gain).sum(1) / (1 + odds.sum(1))


def _greedy(odds: Tensor, gain: Tensor, mask: Tensor, k: int) -> Tensor:
    rank = torch.full_like(odds, -1.0)
    free = mask.clone()
    top, bottom = torch.zeros_like(odds[:, :1]), torch.ones_like(odds[:, :1])
    for slot in range(min(k, odds.shape[1])):
        value = (odds * gain + top) / (odds + bottom)
        item = value.masked_fill(~free, -torch.inf).argmax(1, keepdim=True)
        rank.scatter_(1, item, float(k - slot))
        free = free.scatter(1, item, False)
        top, bottom = top + (odds * gain).gather(1, item), bottom + odds.gather(1, item)
    return rank


def best_by_trying(odds: Tensor, gain: Tensor, mask: Tensor, k: int) -> Tensor:
    """What the best slate gains, [B]: every slate is tried. Rows with fewer than k items show what there is."""
    if odds.shape[1] == 0:
        return odds.new_zeros(len(odds))
    members = _slates(odds.shape[1], min(k, odds.shape[1])).to(odds.device, odds.dtype)  # [C, A]
    value = (odds * gain) @ members / (1 + odds @ members)
    missing = (~mask).to(odds.dtype) @ members
    fewest = (k - mask.sum(1, keepdim=True)).clamp_min(0) - (k - min(k, odds.shape[1]))
    return value.masked_fill(missing > fewest + 0.5, -torch.inf).amax(1)


@cache
def _slates(candidates: int, k: int) -> Tensor:
    """[candidates, A] float32: column a holds ones for the members of slate a."""
    members = torch.tensor(list(combinations(range(candidates), k))).T  # [k, A]
    return torch.zeros(candidates, members.shape[1]).scatter_(0, members, 1.0)


def best_by_iterating(odds: Tensor, gain: Tensor, mask: Tensor, k: int) -> Tensor:
    """What the best slate gains, [B], for any number of candidates."""
    value = odds.new_zeros(len(odds))
    for _ in range(_ROUNDS):
        scores = (odds * (gain - value.unsqueeze(1))).masked_fill(~mask, -torch.inf)
        slate = scores.topk(min(k, odds.shape[1]), dim=1).indices
        value = slate_gain(odds.gather(1, slate), gain.gather(1, slate))
    return value
