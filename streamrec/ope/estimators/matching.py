"""Replay matching."""

from __future__ import annotations

from streamrec.ope.estimator import Estimator
from streamrec.ope.rows import Floats, Rows


def matching() -> Estimator[Rows]:
    """sum t r / sum t over a uniform log, t the policy's probability of the logged item.

    Li, Chu, Langford, Wang, WSDM 2011, algorithm 2 for a policy that does not learn: the mean reward of the rows whose
    item the policy chooses too. For a policy that draws, the draw is integrated out instead of made (a departure that
    only lowers the variance). It needs all propensities equal, else rows are accepted in proportion to the
    logger's preferences and the value is biased towards its own.
    """
    return Estimator("matching", {"t": _target, "tr": _matched}, (("tr", "t"),), weight="t", uniform=True)


def _target(rows: Rows) -> Floats:
    return rows.chosen


def _matched(rows: Rows) -> Floats:
    return rows.chosen * rows.reward
