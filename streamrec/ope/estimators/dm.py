"""Direct method."""

from __future__ import annotations

from streamrec.ope.estimator import Estimator
from streamrec.ope.rows import Rows, count, model_value


def dm() -> Estimator[Rows]:
    """sum v / n: what the model says. No interval: the spread of its predictions is not that of its error."""
    return Estimator("dm", {"n": count, "v": model_value}, (("v", "n"),), model=True, kind="model-based")
