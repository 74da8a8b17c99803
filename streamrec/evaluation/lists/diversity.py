"""Intra-list diversity: how unlike each other the items of a list are."""

from __future__ import annotations

import numpy as np

from streamrec.evaluation.lists.chunk import Bools, Chunk, Floats, Ints, upto

AT_ONCE = 1 << 20
"""Numbers of item features held at a time (8 MiB)."""


def ild(chunk: Chunk, ks: tuple[int, ...]) -> tuple[Floats, Bools]:
    """Mean cosine distance, 1 - cos, over the pairs among the first k items (Ziegler et al., WWW 2005; Vargas &
    Castells, RecSys 2011).

    Items are the vectors `features`, or without them the indicator vectors of their categories: two items of one
    category each have distance 0 or 1. An item of which nothing is known is at distance 1 from all others. A list of
    fewer than two items has no value.

    All pairs come from one sum: with unit vectors u, sum over i != j of u_i u_j = |sum u|^2 - sum |u|^2.
    """
    many = upto(chunk.shown, ks)
    alike = _by_features(chunk, ks) if chunk.items.features is not None else _by_categories(chunk, ks)
    pairs = many * (many - 1.0)
    return 1.0 - np.divide(alike, pairs, out=np.zeros_like(alike), where=pairs > 0), many > 1


def _by_features(chunk: Chunk, ks: tuple[int, ...]) -> Floats:
    """[n, len(ks)] sum of the cosines of all ordered pairs."""
    table = chunk.items.features
    assert table is not None
    out = np.empty((len(chunk.lists), len(ks)))
    rows = max(1, AT_ONCE // max(chunk.lists.shape[1] * table.shape[1], 1))
    for start in range(0, len(out), rows):
        lists = chunk.lists[start : start + rows]
        vectors = table[lists] * (lists > 0)[:, :, None]
        for at, k in enumerate(ks):
            total = vectors[:, :k].sum(1)
            out[start : start + rows, at] = (total * total).sum(1) - (vectors[:, :k] ** 2).sum((1, 2))
    return out


def _by_categories(chunk: Chunk, ks: tuple[int, ...]) -> Floats:
    table = chunk.items.categories
    assert table is not None
    row, slot, category, share = spread(chunk.lists, table)
    weight = np.sqrt(share)
    cell, of = np.unique(row * (table.max() + 1) + category, return_inverse=True)
    owner = np.zeros(len(cell), dtype=np.int64)
    owner[of] = row
    out = np.empty((len(chunk.lists), len(ks)))
    for at, k in enumerate(ks):
        inside = slot < k
        total = np.bincount(of, weight * inside, minlength=len(cell))
        out[:, at] = np.bincount(owner, total * total, minlength=len(out))
        out[:, at] -= np.bincount(row, share * inside, minlength=len(out))
    return out


def spread(lists: Ints, categories: Ints) -> tuple[Ints, Ints, Ints, Floats]:
    """Row, slot, category and share 1 / (categories of the item) of every category in lists [n, K], flat."""
    theirs = categories[lists]
    theirs = np.where((lists > 0)[:, :, None], theirs, 0)
    many = (theirs > 0).sum(2)
    row, slot, at = np.nonzero(theirs)
    return row, slot, theirs[row, slot, at], 1.0 / many[row, slot]
