"""Self-normalised inverse propensity scoring."""

from __future__ import annotations

from streamrec.ope.estimator import Estimator
from streamrec.ope.rows import Rows, weight, weighted_reward


def snips() -> Estimator[Rows]:
    """sum w r / sum w (Swaminathan, Joachims, NIPS 2015, eq. 10): biased by O(1/n), inside the rewards' range."""
    return Estimator("snips", {"w": weight, "wr": weighted_reward}, (("wr", "w"),), weight="w")
