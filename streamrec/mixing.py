"""Bits that look random and are the same everywhere: for ids, splits and counter-based draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor


def mix(x: Tensor) -> Tensor:
    """A bijection of int64 that looks random; any shape.

    The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, variant 13 of Stafford) in wrapping arithmetic.
    Torch shifts signed numbers with their sign, so the bits shifted in are masked away.
    """
    y = (x >> 30).bitwise_and_(0x3FFFFFFFF).bitwise_xor_(x).mul_(-0x40A7B892E31B1A47)
    z = (y >> 27).bitwise_and_(0x1FFFFFFFFF).bitwise_xor_(y).mul_(-0x6B2FB644ECCEEE15)
    return torch.bitwise_right_shift(z, 31, out=y).bitwise_and_(0x1FFFFFFFF).bitwise_xor_(z)


def keys_of(text: Sequence[str] | NDArray[np.object_], bits: int = 63) -> Tensor:
    """A key for each text [B], [B] int64 below 2**bits: the same in every process, and 0 for "" alone.

    The top `bits` bits of pandas' hash of texts: all of them in one call, which is faster than looking them up in a
    large table. Among a million texts two have the same 63 bits with probability 5e-8.
    """
    hashed = pd.util.hash_array(np.asarray(text, dtype=object), categorize=False)
    keys = np.maximum((hashed >> np.uint64(64 - bits)).view(np.int64), 1)
    return torch.from_numpy(np.where(hashed == _EMPTY, 0, keys))


_EMPTY = pd.util.hash_array(np.array([""], dtype=object))[0]
