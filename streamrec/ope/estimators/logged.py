"""What the logging policy earned."""

from __future__ import annotations

from streamrec.ope.estimator import Estimator
from streamrec.ope.rows import Rows, count, reward


def logged() -> Estimator[Rows]:
    """sum r / n: the mean reward of the log, which any policy is compared with."""
    return Estimator("logged", {"n": count, "r": reward}, (("r", "n"),), heaviest=lambda _: 1.0)
