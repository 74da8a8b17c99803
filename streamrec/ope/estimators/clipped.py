"""Clipped inverse propensity scoring."""

from __future__ import annotations

import numpy as np

from streamrec.ope.estimator import Estimator
from streamrec.ope.rows import Floats, Rows, count


def clipped(clip: float) -> Estimator[Rows]:
    """sum min(w, clip) r / n (Ionides, J. Comp. Graph. Stat. 2008, eq. 2).

    For rewards above 0 biased downwards by what the clipped weights carried; the interval is that of the clipped mean.
    """

    def weight(rows: Rows) -> Floats:
        return np.minimum(rows.weight, clip)

    def figure(rows: Rows) -> Floats:
        return np.minimum(rows.weight, clip) * rows.reward

    columns = {"n": count, "w.clipped": weight, "wr.clipped": figure}
    return Estimator(
        "clipped",
        columns,
        (("wr.clipped", "n"),),
        weight="w.clipped",
        heaviest=lambda largest: min(largest, clip),
    )
