"""Inverse propensity scoring."""

from __future__ import annotations

from streamrec.ope.estimator import Estimator
from streamrec.ope.rows import Rows, count, weighted_reward


def ips() -> Estimator[Rows]:
    """sum w r / n (Horvitz, Thompson, JASA 1952): unbiased where the propensities are true and nowhere 0."""
    return Estimator(
        "ips", {"n": count, "wr": weighted_reward}, (("wr", "n"),), weight="w", heaviest=lambda largest: largest
    )
