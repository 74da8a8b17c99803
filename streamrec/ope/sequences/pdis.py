"""Per-decision importance sampling."""

from __future__ import annotations

import math

from streamrec.ope.estimator import Estimator
from streamrec.ope.rows import Floats
from streamrec.ope.sequences.steps import Steps, begun, grown


def pdis() -> Estimator[Steps]:
    """sum over steps of gamma**t rho_t r_t, mean over sequences (Precup, Sutton, Singh, ICML 2000). Unbiased.

    A step's reward is weighted by the decisions up to it and not by later ones.
    """
    return Estimator("pdis", {"n": begun, "pdis": _figure}, (("pdis", "n"),), weight="w")


def _figure(steps: Steps) -> Floats:
    return grown(steps.step * math.log(steps.gamma) + steps.log) * steps.reward
