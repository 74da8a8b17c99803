"""Some rows of lists with all that metrics read, and which slots hold something relevant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.evaluation.lists.items import Items
from streamrec.evaluation.lists.popularity import Popularity

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: multiplicative hashing, Knuth vol. 3, 6.4


@dataclass(frozen=True)
class Relevant:
    """What was relevant in each of n rows: sets, packed row after row."""

    items: Ints  # [m] catalogue rows, rising within a row
    offsets: Ints  # [n + 1] where each row's items begin
    gains: Floats | None  # [m] above 0; None = 1 each
    size: int  # largest catalogue row

    @classmethod
    def of(cls, rows: int, size: int, items: Ints, offsets: Ints | None, gains: Floats | None) -> Relevant:
        """Checked and sorted; an item that comes twice in a row counts once, with its highest gain.

        Raises:
            ValueError: shapes that do not fit, items outside 1..size, gains that are not above 0 and finite.
        """
        offsets = np.arange(rows + 1, dtype=np.int64) if offsets is None else np.asarray(offsets, dtype=np.int64)
        items = np.asarray(items, dtype=np.int64)
        if offsets.shape != (rows + 1,) or items.ndim != 1 or offsets[0] != 0 or offsets[-1] != len(items):
            raise ValueError(
                f"relevant must be flat with {rows} + 1 offsets from 0 to its length, "
                f"got {items.shape} items and {offsets.shape} offsets"
            )
        many = np.diff(offsets)
        if len(many) and many.min() < 0:
            raise ValueError("offsets of relevant items must not fall")
        if len(items) and not 1 <= items.min() <= items.max() <= size:
            raise ValueError(f"relevant items must be catalogue rows 1 to {size}, got {items.min()} to {items.max()}")
        if gains is not None:
            gains = np.asarray(gains, dtype=np.float64)
            if gains.shape != items.shape or not np.all((gains > 0) & np.isfinite(gains)):
                raise ValueError("gains must be finite, above 0 and one for each relevant item; leave out the others")
        made = cls(items, offsets, gains, size)
        return made if len(many) == 0 or many.max() <= 1 else made._as_sets(many)

    def _as_sets(self, many: Ints) -> Relevant:
        row = np.repeat(np.arange(len(many)), many)
        key = row * (self.size + 1) + self.items
        order = np.argsort(key, kind="stable") if self.gains is None else np.lexsort((-self.gains, key))
        key = key[order]
        first = np.ones(len(key), dtype=np.bool_)
        np.not_equal(key[1:], key[:-1], out=first[1:])
        order, row = order[first], row[order[first]]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(many)))])
        return Relevant(self.items[order], offsets, None if self.gains is None else self.gains[order], self.size)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def many(self) -> Ints:
        """[n] relevant items of each row."""
        return np.diff(self.offsets)

    @property
    def single(self) -> bool:
        """Exactly one item in every row, with gain 1."""
        return self.gains is None and len(self.items) == len(self) and bool((self.many == 1).all())

    def part(self, start: int, stop: int) -> Relevant:
        """Rows start to stop."""
        low, high = self.offsets[start], self.offsets[stop]
        gains = None if self.gains is None else self.gains[low:high]
        return Relevant(self.items[low:high], self.offsets[start : stop + 1] - low, gains, self.size)

    def gain(self, lists: Ints) -> Floats:
        """[n, K] gain of what stands in each slot of `lists`, 0 where it is not relevant.

        A bit table of hashes throws out nearly all slots; what is left is looked up exactly.
        """
        width = self.size + 1
        theirs = np.repeat(np.arange(len(self)), self.many) * width + self.items
        keys = (np.arange(len(lists))[:, None] * width + lists).ravel()
        bits = max(len(theirs) * 16, 1024).bit_length()
        table = np.zeros(1 << bits, dtype=np.bool_)
        table[_hashed(theirs, bits)] = True
        maybe = np.flatnonzero(table[_hashed(keys, bits)])
        out = np.zeros(lists.shape)
        if len(theirs):
            at = np.minimum(np.searchsorted(theirs, keys[maybe]), len(theirs) - 1)
            hit = theirs[at] == keys[maybe]
            out.ravel()[maybe[hit]] = 1.0 if self.gains is None else self.gains[at[hit]]
        return out


def _hashed(keys: Ints, bits: int) -> Ints:
    high: Ints = ((keys.view(np.uint64) * _FACTOR) >> np.uint64(64 - bits)).view(np.int64)
    return high


@dataclass(frozen=True)
class Chunk:
    """n rows of lists."""

    lists: Ints  # [n, K] catalogue rows, best first, 0 = empty slot
    truth: Relevant  # of the n rows
    gain: Floats  # [n, K] of what stands in each slot
    popularity: Popularity | None  # as of the time of each row
    history: Ints | None  # [n, L] what the user had, 0 = nothing
    items: Items  # what is known of items

    @property
    def shown(self) -> Bools:
        """[n, K] slots that hold something."""
        return self.lists > 0


def upto(each: NDArray[Any], ks: tuple[int, ...]) -> Floats:
    """Sums over the first k of [n, K] slots, [n, len(ks)]; a short list has what it has."""
    running = np.cumsum(each, axis=1, dtype=np.float64)
    sums: Floats = running[:, [min(k, running.shape[1]) - 1 for k in ks]]
    return sums
