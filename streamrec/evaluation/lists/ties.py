"""Ties: where scores are equal the order says nothing, so it is taken to be the worst for the model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrec.evaluation.lists.chunk import Bools, Floats, Ints, Relevant


def worst_order(scores: NDArray[np.floating], gain: Floats) -> Ints:
    """[n, K] order of the slots by falling score, of equal scores the smallest gain first."""
    order: Ints = np.lexsort((gain, -scores), axis=-1)
    return order


def worst_rank(scores: NDArray[np.floating], target: Ints, ranked: Bools | None = None) -> Ints:
    """Rank of each row's target among all items: how many are not scored below it, itself included.

    Args:
        scores: [n, N + 1] of every catalogue row; row 0 is no item.
        target: [n] catalogue rows.
        ranked: [N + 1] which items are ranked; None = all but row 0.

    Returns:
        [n] int64 from 1; N + 1 where the target's score is no number or -inf, or the target is not ranked.
    """
    taken = np.ones(scores.shape[1], dtype=np.bool_) if ranked is None else ranked.copy()
    taken[0] = False
    own = scores[np.arange(len(scores)), target]
    above = taken.sum() - ((scores < own[:, None]) & taken).sum(1)
    rank: Ints = np.where(taken[target] & (own > -np.inf), above, scores.shape[1])
    return rank


def worst_lists(scores: NDArray[np.floating], k: int, truth: Relevant, ranked: Bools | None = None) -> Ints:
    """The k highest-scored items of each row, in the order and at the cut where ties are worst for the model.

    Args:
        scores: [n, N + 1] of every catalogue row; NaN and -inf = never listed; row 0 is no item.
        k: length of the lists.
        truth: of the n rows.
        ranked: [N + 1] which items may be listed; None = all but row 0.

    Returns:
        [n, k] catalogue rows, 0 = empty.
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    scores[:, 0] = -np.inf
    if ranked is not None:
        scores[:, ~ranked] = -np.inf
    k = min(k, scores.shape[1])
    gain = np.zeros(scores.shape)
    row = np.repeat(np.arange(len(truth)), truth.many)
    gain[row, truth.items] = 1.0 if truth.gains is None else truth.gains
    cut = np.partition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k, None]
    claim = np.where(scores > cut, np.inf, np.where(scores == cut, -gain, -np.inf))
    chosen = np.argpartition(claim, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k :]
    theirs = np.take_along_axis(scores, chosen, axis=1)
    order = worst_order(theirs, np.take_along_axis(gain, chosen, axis=1))
    chosen, theirs = np.take_along_axis(chosen, order, axis=1), np.take_along_axis(theirs, order, axis=1)
    return np.where(theirs > -np.inf, chosen, 0).astype(np.int64)
