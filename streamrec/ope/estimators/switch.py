"""Switch doubly robust."""

from __future__ import annotations

import numpy as np

from streamrec.ope.estimator import Estimator
from streamrec.ope.rows import Floats, Rows, count


def switch(threshold: float) -> Estimator[Rows]:
    """sum [v + 1{w <= threshold} w (r - q)] / n: SWITCH-DR (Wang, Agarwal, Dudik, ICML 2017, section 4).

    Rows with large weights are left to the model; biased by the model's error there.
    """

    def weight(rows: Rows) -> Floats:
        return np.where(rows.weight <= threshold, rows.weight, 0.0)

    def figure(rows: Rows) -> Floats:
        return rows.of_policy + weight(rows) * (rows.reward - rows.of_logged)

    return Estimator(
        "switch",
        {"n": count, "w.switch": weight, "switch": figure},
        (("switch", "n"),),
        weight="w.switch",
        heaviest=lambda largest: min(largest, threshold),
        model=True,
    )
