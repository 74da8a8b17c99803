"""Pseudo-inverse."""

from __future__ import annotations

from streamrec.ope.estimator import Estimator
from streamrec.ope.rows import Floats
from streamrec.ope.slates.rows import Slates, count


def pi() -> Estimator[Slates]:
    """sum (1 - L + w_1 + ... + w_L) (r_1 + ... + r_L) / n (Swaminathan et al., NIPS 2017, for a product logger).

    Unbiased if the slate's reward is a sum of what its slots contribute, seen or not, and the logger drew the slots
    independently of each other; the closed form holds for no other logger. Weights may be negative.
    """
    return Estimator("pi", {"n": count, "pi": _figure, "w.pi": _weight}, (("pi", "n"),), weight="w.pi")


def _weight(slates: Slates) -> Floats:
    weight: Floats = 1.0 - slates.filled.sum(1) + (slates.slot * slates.filled).sum(1)
    return weight


def _figure(slates: Slates) -> Floats:
    return _weight(slates) * slates.total
