"""Rows met before, remembered in bounded memory: for duplicates, ties and reactions without a cause."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from streamrec.ope.keys import mix

Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def hashed(*columns: Sequence[object] | NDArray[np.generic]) -> Keys:
    """[n] 64-bit hashes of rows of columns, numbers or text, the same in every process."""
    total: Keys | None = None
    for column in columns:
        values = np.asarray(column)
        part: Keys = pd.util.hash_array(values.astype(object) if values.dtype.kind in "UO" else values)
        total = mix(part) if total is None else mix(total ^ part)
    assert total is not None
    return total


class Traces:
    """The newest keys, one per place of a table by hash: a key that is not found may have been pushed out.

    So what is found has been there (but for a chance of one in 2^64 minus the bits of the table), and what was counted
    is a lower bound; keys that come back within a few hundred thousand others are all found.

    Args:
        bits: the table has 2^bits places of 16 bytes.
    """

    def __init__(self, bits: int = 20) -> None:
        self._keys: Keys = np.zeros(1 << bits, dtype=np.uint64)
        self._values: Floats = np.zeros(1 << bits)
        self._mask = np.uint64((1 << bits) - 1)

    def before(self, keys: Keys, values: Floats) -> tuple[Bools, Floats]:
        """Whether each key [n] came before, and with which value the newest time; they are remembered with `values`.

        Within the call rows count in their order.
        """
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        again = np.zeros(len(keys), dtype=bool)
        again[1:] = ordered[1:] == ordered[:-1]
        found, last = np.zeros(len(keys), dtype=bool), np.zeros(len(keys))
        place = (keys & self._mask).astype(np.intp)
        known = self._keys[place] == keys
        found[order] = again | known[order]
        previous = np.concatenate([np.zeros(1), values[order][:-1]])[: len(keys)]
        last[order] = np.where(again, previous, self._values[place][order])
        self._keys[place], self._values[place] = keys, values  # of one place the last row stays
        return found, last
