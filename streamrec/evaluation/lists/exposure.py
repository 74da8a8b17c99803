"""How recommendations spread over the catalogue: coverage and the Gini index of how often each was listed."""

from __future__ import annotations

import numpy as np

from streamrec.evaluation.lists.chunk import Ints


def coverage(counts: Ints, available: int) -> float:
    """Share of the `available` items that were listed at least once (Herlocker et al., TOIS 2004; Ge et al., 2010)."""
    return float((counts > 0).sum() / available)


def gini(counts: Ints, available: int) -> float:
    """Gini index of how often each of the `available` items was listed: 0 = all alike, towards 1 = few get everything.

    G = sum_i (2 i - n - 1) x_(i) / (n sum x) over the counts in rising order, items never listed included
    (Castells, Hurley & Vargas, Recommender Systems Handbook, 2015, with n in place of their n - 1; so RecBole).
    """
    listed = np.sort(counts[counts > 0]).astype(np.float64)
    place = np.arange(available - len(listed) + 1, available + 1)
    return float(((2.0 * place - available - 1.0) * listed).sum() / (available * listed.sum()))
