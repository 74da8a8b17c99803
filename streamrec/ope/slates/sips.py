"""Slate (standard) inverse propensity scoring."""

from __future__ import annotations

from streamrec.ope.estimator import Estimator
from streamrec.ope.rows import Floats
from streamrec.ope.slates.rows import Slates, count


def sips() -> Estimator[Slates]:
    """sum u_1 ... u_L (r_1 + ... + r_L) / n: the whole slate as one action: unbiased, with the largest weights."""
    return Estimator("sips", {"n": count, "sips": _figure, "w.slate": _weight}, (("sips", "n"),), weight="w.slate")


def _weight(slates: Slates) -> Floats:
    return slates.prefix[:, -1]


def _figure(slates: Slates) -> Floats:
    return _weight(slates) * slates.total
