"""Doubly robust with optimistic shrinkage."""

from __future__ import annotations

import math

from streamrec.ope.estimator import Estimator
from streamrec.ope.rows import Floats, Rows, count


def dros(lam: float) -> Estimator[Rows]:
    """sum [v + w' (r - q)] / n with w' = lam w / (w**2 + lam) (Su, Dimakopoulou, Krishnamurthy, Dudik, ICML 2020).

    lam = 0 is the direct method, lam = infinity doubly robust. No weight exceeds sqrt(lam) / 2.
    """

    def weight(rows: Rows) -> Floats:
        shrunk: Floats = lam * rows.weight / (rows.weight**2 + lam)
        return shrunk

    def figure(rows: Rows) -> Floats:
        return rows.of_policy + weight(rows) * (rows.reward - rows.of_logged)

    def heaviest(largest: float) -> float:
        at = min(largest, math.sqrt(lam))
        return lam * at / (at * at + lam)

    return Estimator(
        "dros",
        {"n": count, "w.dros": weight, "dros": figure},
        (("dros", "n"),),
        weight="w.dros",
        heaviest=heaviest,
        model=True,
    )
