"""Cascade doubly robust."""

from __future__ import annotations

from streamrec.ope.estimator import Estimator
from streamrec.ope.rows import Floats
from streamrec.ope.slates.rows import Slates, count


def cascade_dr() -> Estimator[Slates]:
    """sum over slots of u_1 ... u_l (r_l - q_l) + u_1 ... u_(l-1) v_l, mean over slates (Kiyohara et al., WSDM 2022).

    Unbiased where `rips` is, with less variance the better the model. q_l values slot l and all below it.
    """
    columns = {"n": count, "cascade_dr": _figure, "w.prefix": _weight}
    return Estimator("cascade_dr", columns, (("cascade_dr", "n"),), weight="w.prefix", model=True)


def _weight(slates: Slates) -> Floats:
    return slates.mean(slates.prefix)


def _figure(slates: Slates) -> Floats:
    q, v = slates.modelled()
    figure: Floats = (slates.prefix * (slates.rewards - q) + slates.above * v).sum(1)
    return figure
