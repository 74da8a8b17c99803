"""Bits that look random and are the same everywhere: for ids, splits and counter-based draws."""

from __future__ import annotations

import torch
from torch import Tensor


def mix(x: Tensor) -> Tensor:
    """A bijection of int64 that looks random; any shape.

    The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, variant 13 of Stafford) in wrapping arithmetic.
    Torch shifts signed numbers with their sign, so the bits shifted in are masked away.
    """
    y = (x >> 30).bitwise_and_(0x3FFFFFFFF).bitwise_xor_(x).mul_(-0x40A7B892E31B1A47)
    z = (y >> 27).bitwise_and_(0x1FFFFFFFFF).bitwise_xor_(y).mul_(-0x6B2FB644ECCEEE15)
    return torch.bitwise_right_shift(z, 31, out=y).bitwise_and_(0x1FFFFFFFF).bitwise_xor_(z)
