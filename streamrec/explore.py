"""Slates with exact propensities: what a policy must record so that others can learn from its log.

Everywhere here `scores` is [B, C]; a candidate with score -inf is not valid and never chosen. Rows with fewer than k
valid candidates end in index -1 with log-propensity 0: an empty slot is certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from streamrec.records import History

FEW = 32
"""Rows that are sooner explored one by one."""

NOTHING = 1 << 30
"""Rank that no candidate has."""


@runtime_checkable
class Probabilistic(Protocol):
    """An agent that knows how likely it is to choose each candidate: what importance weights are made of."""

    def probabilities(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """How likely each candidate is to be chosen for the next slot; no change of weights, nothing drawn.

        Args:
            history: of who asks, B rows.
            items: [B, C] int64 catalogue rows, each once per row.
            mask: [B, C] bool, what may be chosen: slots above have taken the rest.

        Returns:
            [B, C] float64, 0 outside the mask; a row sums to 1, or to 0 where nothing may be chosen.

        Raises:
            streamrec.ope.codes.Refused: `policy_not_probabilistic`, there is no exact answer.
        """


@runtime_checkable
class Scoring(Protocol):
    """An agent that gives every candidate a score, from which wrappers make probabilities."""

    def scores(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """[B, C], -inf outside the mask; arguments as of `Probabilistic.probabilities`."""


def choose(scores: Tensor, k: int, epsilon: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Epsilon-greedy per slot: with probability 1 - epsilon the best candidate left, else any one left, uniformly.

    Args:
        scores: [B, C].
        k: slots.
        epsilon: share of exploration per slot. With 0 nothing is drawn from `generator`.
        generator: on the device of `scores`.

    Returns:
        index [B, k] int64 of the candidates, and slot_logp [B, k] float32, the natural log of the probability of each
        choice given the slots above it. The best one can also be drawn by exploring; its propensity contains both.

    Raises:
        ValueError: if `epsilon` is not a probability.
    """
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"epsilon must be between 0 and 1, got {epsilon}")
    best = _best(scores, k)
    if epsilon == 0.0 or scores.shape[1] == 0:
        return best, torch.zeros(best.shape, device=scores.device)
    coin, where = torch.rand(2, len(scores), k, generator=generator, device=scores.device, dtype=torch.float64)
    few = len(scores) <= FEW and scores.is_cpu
    gone = [np.flatnonzero(~(row > -np.inf)) for row in scores.detach().numpy()] if few else []  # not valid, by row
    count = (
        torch.tensor([scores.shape[1] - len(row) for row in gone], dtype=torch.int32)
        if few
        else (scores > -torch.inf).sum(1, dtype=torch.int32)
    )
    left = count.unsqueeze(1) - torch.arange(k, dtype=torch.int32, device=scores.device)  # [B, k]
    index, greedy = best, torch.ones_like(coin, dtype=torch.bool)
    explores = coin < epsilon
    who = explores.any(1).nonzero().squeeze(1)
    if len(who):
        mine = (best[who], left[who], explores[who], where[who])
        index[who], greedy[who] = (
            _few_explored([gone[at] for at in who.tolist()], *mine) if few else _explored(scores[who], *mine)
        )
    share = epsilon / left.clamp(min=1)
    propensity = torch.where(greedy, 1.0 - epsilon + share, share)
    return index, torch.where(left > 0, propensity.log(), 0.0)


def _few_explored(
    gone: Sequence[NDArray[np.int64]], best: Tensor, left: Tensor, explores: Tensor, where: Tensor
) -> tuple[Tensor, Tensor]:
    """The choices [B, k], and whether each is the best one left, when `explores` says who draws, and `where` which.

    `gone` are the columns that are not valid. They are few, so a column's rank among the valid ones is counted by them.
    """
    index, greedy = [], []
    columns = (best.numpy(), left.tolist(), explores.tolist(), where.tolist())
    for out, order, free, draws, place in zip(gone, *columns, strict=True):
        ranks = (order - np.searchsorted(out, order)).tolist()
        picks: list[int] = []  # ranks
        firsts = []
        for slot in range(min(free[0], len(draws))):
            firsts.append(next(rank for rank in ranks if rank not in picks))
            if not draws[slot]:
                picks.append(firsts[-1])
                continue
            pick = int(place[slot] * free[slot])
            for rank in sorted(picks):
                pick += rank <= pick
            picks.append(pick)
        none = len(draws) - len(picks)
        valid = np.array(picks, dtype=np.int64)
        valid += np.searchsorted(out - np.arange(len(out)), valid, side="right")  # those gone before each
        index.append([*valid.tolist(), *[-1] * none])
        greedy.append([pick == first for pick, first in zip(picks, firsts, strict=True)] + [True] * none)
    return torch.tensor(index), torch.tensor(greedy)


def _explored(scores: Tensor, best: Tensor, left: Tensor, explores: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """`_few_explored` for many rows at once.

    Only draws need one slot after the other. What is the best one left follows from them: of `best`, in order, what was
    not drawn above, and so many further down as slots above did not draw.
    """
    place = torch.arange(best.shape[1], device=best.device)
    count = (scores > -torch.inf).cumsum(1, dtype=torch.int32)  # [n, C] valid candidates up to and with this one
    ranks = torch.where(best >= 0, count.gather(1, best.clamp(min=0)) - 1, -1)  # of the best, among the valid ones
    wanted = (where * left).long()
    drawn = torch.full_like(best, NOTHING)  # rank of what each slot has drawn
    until = torch.full_like(best, best.shape[1])  # the slot that has drawn each of the best
    for slot in explores.any(0).nonzero().squeeze(1).tolist():
        free, chosen = until >= slot, slot - (drawn[:, :slot] < NOTHING).sum(1, keepdim=True)
        above = free & (free.cumsum(1) <= chosen)
        number = nth_free(wanted[:, slot], torch.cat([ranks.masked_fill(~above, NOTHING), drawn[:, :slot]], dim=1))
        drawn[:, slot] = number.where(explores[:, slot] & (left[:, slot] > 0), NOTHING)
        until.masked_fill_(ranks == drawn[:, slot : slot + 1], slot)
    draws = drawn < NOTHING
    free = until.unsqueeze(1) >= place.unsqueeze(1)  # [n, slot, place among the best]
    nth = place + 1 - (draws.cumsum(1) - draws.long())
    first = best.gather(1, (free & (free.cumsum(2) == nth.unsqueeze(2))).int().argmax(2))
    random = torch.searchsorted(count, (drawn + 1).int()).clamp(max=scores.shape[1] - 1)
    pick = torch.where(draws, random, first)
    return pick.masked_fill(left <= 0, -1), pick == first


def plackett_luce(scores: Tensor, k: int, temperature: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Slot after slot one of the candidates left, with probability proportional to exp(score / temperature).

    Drawn as the k largest of score / temperature + Gumbel noise (Kool et al., ICML 2019).

    Returns:
        index [B, k] int64 and slot_logp [B, k] float32 as `choose` does.

    Raises:
        ValueError: if `temperature` is not above 0.
    """
    if temperature <= 0.0:
        raise ValueError(
            f"temperature must be above 0, got {temperature}; for the best slate use choose with epsilon 0"
        )
    logits = scores.double() / temperature
    noise = torch.empty_like(logits).exponential_(generator=generator).clamp_(min=1e-300)
    index = _best(torch.where(logits > -torch.inf, logits - noise.log(), -torch.inf), k)
    if logits.shape[1] == 0:
        return index, torch.zeros(index.shape, device=scores.device)
    empty = index < 0
    picked = logits.gather(1, index.clamp(min=0)).masked_fill(empty, -torch.inf)
    # One column more, for what empty slots "pick".
    out = torch.zeros(len(logits), logits.shape[1] + 1, dtype=torch.bool, device=logits.device)
    out = out.scatter_(1, torch.where(empty, logits.shape[1], index), True)[:, :-1]
    rest = logits.masked_fill(out, -torch.inf).logsumexp(1, keepdim=True)
    # What a slot chose from: its own pick, those of the slots below, and what was never picked.
    left = torch.cat([picked, rest], dim=1).flip(1).logcumsumexp(1).flip(1)[:, :-1]
    return index, torch.where(empty, 0.0, picked - left).float()


def first_choice(scores: Tensor, epsilon: float, k: int = 1) -> Tensor:
    """How likely `choose(scores, k, epsilon, ...)` is to take each candidate for its first slot. [B, C] float64.

    What a later slot does is the same with the candidates taken before it at -inf.
    """
    valid = scores > -torch.inf
    out = valid * (epsilon / valid.sum(1, keepdim=True).clamp(min=1).double())
    if scores.shape[1] == 0:
        return out
    best = _best(scores, k)[:, :1]  # of k, as `choose` does: which of equal scores comes first may depend on it
    return out.scatter_add_(1, best.clamp(min=0), (1.0 - epsilon) * (best >= 0).double())


def first_draw(scores: Tensor, temperature: float) -> Tensor:
    """How likely `plackett_luce(scores, k, temperature, ...)` is to take each candidate first. [B, C] float64."""
    if temperature <= 0.0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    logits = scores.double() / temperature
    return torch.softmax(logits, dim=1).nan_to_num(nan=0.0)  # a row without any candidate is NaN throughout


def unseen(mask: Tensor, items: Tensor, seen: Tensor | None) -> Tensor:
    """`mask` without the candidates `items`, both [B, C] or [1, C], that are among `seen` [B, L]; None = as it is."""
    if seen is None:
        return mask
    mask = mask.expand(len(seen), -1).clone()
    for column in seen.unbind(1):  # L passes over [B, C] instead of one over [B, C, L]
        mask &= items != column.unsqueeze(1)
    return mask


def without_repeats(left: Tensor, k: int, generator: Generator, taken: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """k different numbers of 0, 1, 2, ... per row, every order equally likely, without listing what there is.

    Args:
        left: [B] int64, how many numbers are free.
        k: draws per row.
        generator: on the device of `left`.
        taken: [B, T] int64, numbers that are not free, each once, padded with `NOTHING`; the numbers then run
            from 0 to free + taken - 1.

    Returns:
        numbers [B, k] int64, -1 where none is left, and slot_logp [B, k] float32.
    """
    n = len(left)
    taken = left.new_zeros(n, 0) if taken is None else taken
    out = torch.cat([taken, left.new_full((n, k), NOTHING)], dim=1)
    where = torch.rand(n, k, generator=generator, device=left.device, dtype=torch.float64)
    remaining = left.unsqueeze(1) - torch.arange(k, device=left.device)
    for slot in range(k):
        at = taken.shape[1] + slot
        drawn = nth_free((where[:, slot] * remaining[:, slot].clamp(min=0)).long(), out[:, :at])
        out[:, at] = torch.where(remaining[:, slot] > 0, drawn, NOTHING)
    numbers = out[:, taken.shape[1] :]
    slot_logp = torch.where(remaining > 0, -remaining.clamp(min=1).double().log(), 0.0).float()
    return torch.where(remaining > 0, numbers, -1), slot_logp


def nth_free(rank: Tensor, taken: Tensor) -> Tensor:
    """The `rank`-th number of 0, 1, 2, ... that is not in `taken`. [B], [B, T] without repeats -> [B]."""
    ordered = taken.sort(1).values
    below = ordered - torch.arange(taken.shape[1], device=taken.device)  # free numbers below each taken one
    return rank + (below <= rank.unsqueeze(1)).sum(1)


def allowed(items: Tensor, available: Tensor, seen: Tensor | None = None) -> Tensor:
    """Which candidates may be shown: [B, C] or [1, C] catalogue rows -> [B, C] bool.

    Args:
        items: 0 = no candidate.
        available: [N + 1] bool, `Catalog.available`.
        seen: [B, L] rows that a user must not be shown again.
    """
    return unseen(available.to(items.device)[items] & (items != 0), items, seen)


def offered(history: History, available: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
    """The candidates that came with the requests, [B, C] int64, and which may be shown, [B, C] bool; None: none came.

    Whoever asked without any, among others who had some, gets all that is available; C is wider then.

    Args:
        history: of who asked.
        available: [N + 1] bool, `Catalog.available`.
        seen: [B, L] rows that a user must not be shown again.
    """
    if history.offer.shape[1] == 0:
        return None
    offer = _completed(history.offer, available)
    return offer, allowed(offer, available, seen)


def _completed(offer: Tensor, available: Tensor) -> Tensor:
    """`offer` [B, C], with all that is available in the rows that have nothing."""
    empty = (offer == 0).all(1)
    if not bool(empty.any()):
        return offer
    every = torch.nonzero(available.to(offer.device)).squeeze(1)
    wide = offer.new_zeros(len(offer), max(len(every), offer.shape[1]))
    wide[:, : offer.shape[1]] = offer
    wide[empty, : len(every)] = every
    return wide


def pick(items: Tensor, index: Tensor) -> Tensor:
    """What stands at `index` [B, k] of the candidates [B, C] or [1, C]: [B, k] int64, 0 where the index is -1."""
    if items.shape[1] == 0:
        return torch.zeros_like(index)
    return items.expand(len(index), -1).gather(1, index.clamp(min=0)).masked_fill(index < 0, 0)


def _best(scores: Tensor, k: int) -> Tensor:
    """[B, k] int64: the k highest scores, best first; -1 where fewer are valid."""
    top = scores.topk(min(k, scores.shape[1]), dim=1)
    index = top.indices.masked_fill(top.values == -torch.inf, -1)
    return torch.nn.functional.pad(index, (0, k - index.shape[1]), value=-1)
