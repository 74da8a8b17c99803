"""Reward interaction inverse propensity scoring."""

from __future__ import annotations

from streamrec.ope.estimator import Estimator
from streamrec.ope.rows import Floats
from streamrec.ope.slates.rows import Slates, count


def rips() -> Estimator[Slates]:
    """sum over slots of u_1 ... u_l r_l, mean over slates (McInerney, Brost, Chandar, Mehrotra, Carterette, KDD 2020).

    Unbiased if what a slot earns depends on its item and those above (people read from the top). Without the paper's
    self-normalisation, a departure. The effective sample size is that of the mean u_1 ... u_l.
    """
    return Estimator("rips", {"n": count, "rips": _figure, "w.prefix": _weight}, (("rips", "n"),), weight="w.prefix")


def _weight(slates: Slates) -> Floats:
    return slates.mean(slates.prefix)


def _figure(slates: Slates) -> Floats:
    figure: Floats = (slates.prefix * slates.rewards).sum(1)
    return figure
