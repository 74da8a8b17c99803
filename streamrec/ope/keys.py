"""Hashes of sessions: mixed, cut into buckets, and counted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrec.ope.rows import Keys

KEPT = 4096
"""Smallest hashes kept; the count is exact for fewer sessions."""

_AT_ONCE = 65_536


def mix(keys: NDArray[np.integer]) -> Keys:
    """The keys, [n] integers of 64 bits, with every bit of the result depending on every bit of a key; a bijection.

    Counters and hashes with weak low bits then fill buckets evenly. It is the finaliser of SplitMix64 (Steele, Lea,
    Flood, OOPSLA 2014).

    Raises:
        ValueError: the keys are no integers of 64 bits.
    """
    if keys.dtype.kind not in "iu" or keys.dtype.itemsize != 8:
        raise ValueError(f"session keys are {keys.dtype}: expected 64-bit hashes (uint64 or int64)")
    z = keys.view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = z ^ (z >> np.uint64(31))
    return mixed


class DistinctKeys:
    """How many different keys came: exact below 4,096, from there within about 3 % (two standard errors).

    The k smallest hashes are kept; k - 1 over the share of the hash range they span estimates the count without bias
    (k minimum values: Bar-Yossef et al., RANDOM 2002; the unbiased form of Beyer et al., SIGMOD 2007). Neither order
    nor cut of the rows matters.
    """

    def __init__(self) -> None:
        self.smallest: Keys = np.zeros(0, dtype=np.uint64)

    def add(self, mixed: Keys) -> None:
        """Take in keys made by `mix`, [n]."""
        for start in range(0, len(mixed), _AT_ONCE):
            self._add(mixed[start : start + _AT_ONCE])

    def _add(self, keys: Keys) -> None:
        if len(self.smallest) >= KEPT:
            keys = keys[keys < self.smallest[-1]]
        elif len(keys) > 1:  # rows of a session often stand together
            keys = np.concatenate([keys[:1], keys[1:][keys[1:] != keys[:-1]]])
        if len(self.smallest) and len(keys):
            at = np.searchsorted(self.smallest, keys)
            keys = keys[self.smallest[np.minimum(at, len(self.smallest) - 1)] != keys]
        if len(keys):
            both = np.sort(np.concatenate([self.smallest, keys]))  # np.unique is twenty times slower on hashes
            self.smallest = both[np.append(True, both[1:] != both[:-1])][:KEPT]

    def __len__(self) -> int:
        if len(self.smallest) < KEPT:
            return len(self.smallest)
        return max(KEPT, round((KEPT - 1) / (float(self.smallest[-1]) / 2.0**64)))
