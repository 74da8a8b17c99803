"""Doubly robust."""

from __future__ import annotations

from streamrec.ope.estimator import Estimator
from streamrec.ope.rows import Floats, Rows, count


def dr() -> Estimator[Rows]:
    """sum [v + w (r - q)] / n (Dudik, Langford, Li, ICML 2011): unbiased if the propensities or the model are right.

    The model must not have seen the rows it scores, else the correction is too small.
    """
    return Estimator(
        "dr", {"n": count, "dr": _figure}, (("dr", "n"),), weight="w", heaviest=lambda largest: largest, model=True
    )


def _figure(rows: Rows) -> Floats:
    return rows.of_policy + rows.weight * (rows.reward - rows.of_logged)
