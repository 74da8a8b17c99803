"""Calibration: do the categories of a list have the shares they have in what the user had?"""

from __future__ import annotations

import numpy as np

from streamrec.evaluation.lists.chunk import Bools, Chunk, Floats, Ints
from streamrec.evaluation.lists.diversity import spread

ALPHA = 0.01
"""How much of the user's distribution is mixed into that of the list, so that the divergence is finite."""


def calibration(chunk: Chunk, ks: tuple[int, ...]) -> tuple[Floats, Bools]:
    """Kullback-Leibler divergence of the list's categories from the user's, in nats; 0 is perfect (Steck, RecSys 2018).

    KL = sum_g p(g) log(p(g) / q'(g)) with q' = (1 - a) q + a p and a = 0.01 (his equations 6 and 7). p is the mean of
    p(g | item) over what the user had, q that over the first k items, p(g | item) is 1 / (number of its categories);
    all items weigh the same, where his equations 2 and 3 leave room for weights. Items without a category are left out.
    A row exists where both sides have a category.
    """
    table = chunk.items.categories
    assert table is not None
    assert chunk.history is not None
    n, width = len(chunk.lists), int(table.max()) + 1
    row, _, category, share = spread(chunk.history, table)
    list_row, slot, list_category, list_share = spread(chunk.lists, table)
    keys = np.concatenate([row * width + category, list_row * width + list_category])
    cell, of = np.unique(keys, return_inverse=True)
    owner = cell // width
    p, had = _distribution(of[: len(row)], share, owner, n)
    out, exists = np.empty((n, len(ks))), np.empty((n, len(ks)), dtype=np.bool_)
    for at, k in enumerate(ks):
        q, listed = _distribution(of[len(row) :], list_share * (slot < k), owner, n)
        mixed = (1.0 - ALPHA) * q + ALPHA * p
        ratio = np.divide(p, mixed, out=np.ones_like(p), where=p > 0)
        out[:, at] = np.bincount(owner, p * np.log(ratio), minlength=n)
        exists[:, at] = had & listed
    return out, exists


def _distribution(cell: Ints, share: Floats, owner: Ints, rows: int) -> tuple[Floats, Bools]:
    """Shares of the cells within the rows that own them, and which rows have any."""
    mass = np.bincount(cell, share, minlength=len(owner))
    total = np.bincount(owner, mass, minlength=rows)
    return mass / np.where(total > 0, total, 1.0)[owner], total > 0
