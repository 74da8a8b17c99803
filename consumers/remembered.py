"""Ids of events that were taken in, so that the second of two events with one id is known as such."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from consumers.held import Batch
from streamrec.ports import State

Keys = NDArray[np.uint64]

_SMALL = 1024
"""Slots of a table at first; it doubles as it fills."""


class Remembered:
    """Hashes of 64 bits of ids, by partition: the two events are in one, since they have one key.

    At least the newest `ids / 2` of a partition are known, and at most `ids`: when that many new ones have come, the
    older half is forgotten at once. What is known depends on the ids and their order alone, not on how they were cut
    into batches. Two of a million ids have the same hash with probability 3e-8.

    Args:
        ids: most ids per partition; 16 to 32 bytes each, as they come. 0 = none.
    """

    def __init__(self, ids: int) -> None:
        if ids < 0:
            raise ValueError(f"world.remember must be at least 0, got {ids}")
        self.ids = ids
        self._windows: dict[int, tuple[_Table, _Table]] = {}  # partition -> newer, older

    def fresh(self, batch: Batch) -> tuple[Batch, Keys]:
        """Without events that came before, and the hashes of the others' ids; no hashes if nobody has an id."""
        ids = [event.id for event in batch.events] if self.ids else []
        if not any(ids):
            return batch, np.zeros(0, dtype=np.uint64)
        keys, again = self.again(ids, batch.partitions)
        return (batch.at(np.flatnonzero(~again)), keys[~again]) if again.any() else (batch, keys)

    def again(self, ids: Sequence[str], partitions: NDArray[np.int64]) -> tuple[Keys, NDArray[np.bool_]]:
        """Hashes [B] of `ids`, 0 for the empty one, and whether each is known, or earlier in the batch. [B] bool."""
        keys = _hashes(ids)
        known = np.zeros(len(keys), dtype=bool)
        for partition in np.unique(partitions).tolist() if self.ids else ():
            mine = np.flatnonzero((partitions == partition) & (keys != 0))
            known[mine] = ~_firsts(keys[mine])
            for table in self._windows.get(partition, ()):
                known[mine] |= table.has(keys[mine])
        return keys, known

    def add(self, keys: Keys, partitions: NDArray[np.int64]) -> None:
        """Remember hashes [B] that are not known; 0 = no id."""
        for partition in np.unique(partitions[keys != 0]).tolist() if self.ids else ():
            mine = keys[(partitions == partition) & (keys != 0)]
            half = max(1, self.ids // 2)
            newer, older = self._windows.get(partition) or (_Table(), _Table())
            while len(mine):
                room = half - len(newer)
                newer.add(mine[:room])
                mine = mine[room:]
                if len(newer) == half:
                    newer, older = _Table(), newer
            self._windows[partition] = newer, older

    def export(self, partition: int) -> State:
        """What is known of a partition, {} = nothing."""
        window = self._windows.get(partition)
        if window is None:
            return {}
        return {name: table.state() for name, table in zip(("newer", "older"), window, strict=True)}

    def take(self, partition: int, state: State) -> None:
        """Know what an `export` said, instead of what is known; {} = nothing."""
        if state:
            self._windows[partition] = (_Table.of(state["newer"]), _Table.of(state["older"]))
        else:
            self._windows.pop(partition, None)

    def state_dict(self) -> State:
        """{} if no event had an id."""
        return {str(partition): self.export(partition) for partition in sorted(self._windows)}

    def load_state_dict(self, state: State) -> None:
        self._windows.clear()
        for partition, window in state.items():
            self.take(int(partition), window)


class _Table:
    """A set of hashes, open addressing, all rows of a batch at once."""

    def __init__(self, slots: int = _SMALL) -> None:
        self._slots: Keys = np.zeros(slots, dtype=np.uint64)
        self._held = 0

    def __len__(self) -> int:
        return self._held

    def has(self, keys: Keys) -> NDArray[np.bool_]:
        found = np.zeros(len(keys), dtype=bool)
        left, at = np.arange(len(keys)), self._home(keys)
        while len(left):
            there = self._slots[at]
            hit = there == keys[left]
            found[left[hit]] = True
            on = ~hit & (there != 0)
            left, at = left[on], self._after(at[on])
        return found

    def add(self, keys: Keys) -> None:
        """Add different keys that are not there."""
        self._held += len(keys)
        if 2 * self._held > len(self._slots):
            kept = self._slots[self._slots != 0]
            self._slots = np.zeros(1 << (4 * self._held - 1).bit_length(), dtype=np.uint64)
            self._put(kept)
        self._put(keys)

    def _put(self, keys: Keys) -> None:
        at = self._home(keys)
        while len(keys):
            free = self._slots[at] == 0
            self._slots[at[free]] = keys[free]  # of several that want one slot, the last gets it
            on = self._slots[at] != keys
            keys, at = keys[on], self._after(at[on])

    def _home(self, keys: Keys) -> NDArray[np.int64]:
        return (keys & np.uint64(len(self._slots) - 1)).astype(np.int64)

    def _after(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        return (at + 1) & (len(self._slots) - 1)

    def state(self) -> torch.Tensor:
        """The hashes, rising: the same whatever the table looks like. [N] int64."""
        return torch.from_numpy(np.sort(self._slots[self._slots != 0]).view(np.int64))

    @classmethod
    def of(cls, state: torch.Tensor) -> _Table:
        table = cls()
        table.add(state.numpy().view(np.uint64))
        return table


def _hashes(ids: Sequence[str]) -> Keys:
    """[B], the same in every process; 0 only for ""."""
    text = np.array(ids, dtype=object)
    return np.where(text == "", np.uint64(0), np.maximum(pd.util.hash_array(text, categorize=False), np.uint64(1)))


def _firsts(keys: Keys) -> NDArray[np.bool_]:
    """[B] bool: no earlier row has the same key."""
    first = np.zeros(len(keys), dtype=bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return first
