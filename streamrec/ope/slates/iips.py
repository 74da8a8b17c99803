"""Independent inverse propensity scoring."""

from __future__ import annotations

from streamrec.ope.estimator import Estimator
from streamrec.ope.rows import Floats
from streamrec.ope.slates.rows import Slates, count


def iips() -> Estimator[Slates]:
    """sum over slots of w_l r_l, mean over slates (Li, Abbasi-Yadkori, Kveton et al., KDD 2018, item-position model).

    Unbiased if what a slot earns depends on its own item alone. The effective sample size is that of the mean w_l.
    """
    return Estimator("iips", {"n": count, "iips": _figure, "w.slots": _weight}, (("iips", "n"),), weight="w.slots")


def _weight(slates: Slates) -> Floats:
    return slates.mean(slates.slot)


def _figure(slates: Slates) -> Floats:
    figure: Floats = (slates.slot * slates.rewards).sum(1)
    return figure
