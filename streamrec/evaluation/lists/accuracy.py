"""Metrics of what was relevant: recall, hit rate, precision, MRR, MAP and NDCG at k.

Each function takes a chunk of n rows and the list lengths and returns [n, len(ks)] float64. A row without a list has 0
in all of them. Rows with nothing relevant have no value; the caller leaves them out. r is the number of relevant items
of the row; ranks begin at 1; a slot's rank is its place, whatever the slots above it hold.
"""

from __future__ import annotations

import numpy as np

from streamrec.evaluation.lists.chunk import Chunk, Floats, upto


def recall(chunk: Chunk, ks: tuple[int, ...]) -> Floats:
    """Relevant items among the first k, divided by r (trec_eval's recall_k)."""
    return _hits(chunk, ks) / np.maximum(chunk.truth.many, 1)[:, None]


def precision(chunk: Chunk, ks: tuple[int, ...]) -> Floats:
    """Relevant items among the first k, divided by k, also where the list is shorter (trec_eval's P_k)."""
    return _hits(chunk, ks) / np.array(ks, dtype=np.float64)


def hitrate(chunk: Chunk, ks: tuple[int, ...]) -> Floats:
    """1 where any of the first k is relevant (trec_eval's success_k)."""
    return (_hits(chunk, ks) > 0).astype(np.float64)


def mrr(chunk: Chunk, ks: tuple[int, ...]) -> Floats:
    """1 / rank of the first relevant item, 0 if that is not among the first k (Voorhees, TREC-8, 1999)."""
    hit = chunk.gain > 0
    rank = np.where(hit.any(1), hit.argmax(1) + 1.0, np.inf)[:, None]
    return np.where(rank <= np.array(ks), 1.0 / rank, 0.0)


def average_precision(chunk: Chunk, ks: tuple[int, ...]) -> Floats:
    """Precision at the rank of each relevant item among the first k, summed and divided by r (trec_eval's map_cut_k).

    Some libraries divide by min(k, r) or by the number of hits, which gives higher figures where r > k or hits < r.
    """
    hit = (chunk.gain > 0).astype(np.float64)
    rank = np.arange(1, hit.shape[1] + 1)
    each = hit * np.cumsum(hit, axis=1) / rank
    return upto(each, ks) / np.maximum(chunk.truth.many, 1)[:, None]


def ndcg(chunk: Chunk, ks: tuple[int, ...]) -> Floats:
    """DCG of the first k over that of the best list there is: sum of gain / log2(rank + 1) (Järvelin & Kekäläinen,
    TOIS 2002, with the discount of Burges et al., ICML 2005, and linear gain, as in trec_eval's ndcg_cut_k).

    The best list has the min(k, r) relevant items with the highest gains on top. Dividing by k hits in every row, as
    RecTools does unless told otherwise, makes a figure for next-item data several times lower.
    """
    discount = 1.0 / np.log2(np.arange(chunk.gain.shape[1]) + 2.0)
    dcg = upto(chunk.gain * discount, ks)
    ideal = _ideal(chunk, ks)
    share: Floats = np.divide(dcg, ideal, out=np.zeros_like(ideal), where=ideal > 0)
    return share


def _hits(chunk: Chunk, ks: tuple[int, ...]) -> Floats:
    return upto(chunk.gain > 0, ks)


def _ideal(chunk: Chunk, ks: tuple[int, ...]) -> Floats:
    """[n, len(ks)] DCG of the best list."""
    many, top = chunk.truth.many, max(ks)
    if chunk.truth.gains is None:
        best = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(top) + 2.0))])
        return np.stack([best[np.minimum(many, k)] for k in ks], axis=1)
    row = np.repeat(np.arange(len(many)), many)
    order = np.lexsort((-chunk.truth.gains, row))
    place = np.arange(len(row)) - chunk.truth.offsets[:-1][row]
    worth = chunk.truth.gains[order] / np.log2(place + 2.0)
    sums = [np.bincount(row, worth * (place < k), minlength=len(many)) for k in ks]
    return np.stack(sums, axis=1).astype(np.float64)  # without any row to count numpy answers in integers
