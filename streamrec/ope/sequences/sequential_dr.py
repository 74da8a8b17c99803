"""Sequential doubly robust."""

from __future__ import annotations

import math

from streamrec.ope.estimator import Estimator
from streamrec.ope.rows import Floats
from streamrec.ope.sequences.steps import Steps, begun, grown


def sequential_dr() -> Estimator[Steps]:
    """sum over steps of gamma**t [rho_t (r_t - q_t) + rho_(t-1) v_t], mean over sequences (Jiang, Li, ICML 2016).

    Unbiased with any model that has not seen the sequence; q_t values step t and all that follow it, discounted from t.
    """
    columns = {"n": begun, "sequential_dr": _figure}
    return Estimator("sequential_dr", columns, (("sequential_dr", "n"),), weight="w", model=True)


def _figure(steps: Steps) -> Floats:
    q, v = steps.modelled()
    discount = steps.step * math.log(steps.gamma)
    return grown(discount + steps.log) * (steps.reward - q) + grown(discount + steps.before) * v
