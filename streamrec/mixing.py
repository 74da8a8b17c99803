"""Bits that look random and are the same everywhere: for ids, splits and counter-based draws."""

from __future__ import annotations

from torch import Tensor


def mix(x: Tensor) -> Tensor:
    """A bijection of int64 that looks random; any shape.

    The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, variant 13 of Stafford) in wrapping arithmetic.
    Torch shifts signed numbers with their sign, so the bits shifted in are masked away.
    """
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
