"""Self-normalised doubly robust."""

from __future__ import annotations

from streamrec.ope.estimator import Estimator
from streamrec.ope.rows import Rows, count, model_value, weight, weighted_error


def sndr() -> Estimator[Rows]:
    """sum v / n + sum w (r - q) / sum w: `dr` with the correction divided by the sum of weights instead of by n.

    Thomas, Brunskill, ICML 2016 (weighted doubly robust), for one step.
    """
    columns = {"n": count, "v": model_value, "w": weight, "we": weighted_error}
    return Estimator("sndr", columns, (("v", "n"), ("we", "w")), weight="w", model=True)
