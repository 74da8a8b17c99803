"""Records of one partition that were fetched and decoded, and not handed out yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from consumers import wire
from consumers.clients.seam import Chunk

_FREE = 4096
"""Records handed out before the lists that hold them are cut."""

UNREADABLE = -1
"""In the place of the code of a message that is none."""


class Held:
    """A queue of columns."""

    def __init__(self) -> None:
        self._start = 0
        self._offsets: list[int] = []
        self._stamps: list[int] = []
        self._messages: list[wire.Event | str] = []
        self._codes: list[int] = []
        self._raw: list[Any] = []

    def __len__(self) -> int:
        return len(self._offsets) - self._start

    @property
    def last(self) -> int | None:
        """Offset of the last record."""
        return self._offsets[-1] if len(self) else None

    def add(self, chunk: Chunk, behind: int, until: int | None) -> None:
        """Decode and keep the records of `chunk` from offset `behind` on and before `until`.

        A partition that comes back in a rebalance may bring records from where the client was before it.
        """
        offsets, stamps, values, raw = chunk.offsets, chunk.stamps, chunk.values, chunk.raw
        if offsets[0] < behind or (until is not None and offsets[-1] >= until):
            end = offsets[-1] + 1 if until is None else until
            known = [at for at, offset in enumerate(offsets) if behind <= offset < end]
            offsets, stamps = [offsets[at] for at in known], [stamps[at] for at in known]
            values, raw = [values[at] for at in known], [raw[at] for at in known]
        messages = wire.decode_events(values)
        self._offsets.extend(offsets)
        self._stamps.extend(stamps)
        self._messages.extend(messages)
        self._codes.extend([UNREADABLE if isinstance(m, str) else wire.CODES[m.kind] for m in messages])
        self._raw.extend(raw)

    def head(self, count: int) -> Batch:
        """The first `count` records, as far as there are so many; they stay."""
        part = slice(self._start, self._start + count)
        codes = np.array(self._codes[part], dtype=np.int64)
        return Batch(self._offsets[part], self._stamps[part], self._messages[part], codes, self._raw[part])

    def drop(self, count: int) -> None:
        """The first `count` records were handed out."""
        self._start += count
        if self._start >= _FREE or self._start == len(self._offsets):
            for column in (self._offsets, self._stamps, self._messages, self._codes, self._raw):
                del column[: self._start]
            self._start = 0


@dataclass
class Batch:
    """Records in the order in which they are handed out."""

    offsets: list[int]
    stamps: list[int]  # milliseconds since the epoch
    messages: list[wire.Event | str]  # a text: the reason why there is none
    codes: NDArray[np.int64]  # numbers of the kinds as in `wire.CODES`, or UNREADABLE
    raw: list[Any]
    partitions: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def events(self) -> list[wire.Event]:
        """The messages of a batch in which all can be read."""
        return cast(list[wire.Event], self.messages)

    @property
    def sent(self) -> NDArray[np.float64]:
        """[B] when the records were sent, seconds since the epoch, 0 = unknown."""
        return np.maximum(np.array(self.stamps, dtype=np.int64), 0) / 1000

    def at(self, index: NDArray[np.int64]) -> Batch:
        """The records at `index`, in that order."""
        places = index.tolist()
        columns = (self.offsets, self.stamps, self.messages)
        offsets, stamps, messages = ([column[at] for at in places] for column in columns)
        return Batch(
            offsets, stamps, messages, self.codes[index], [self.raw[at] for at in places], self.partitions[index]
        )


def merged(heads: Mapping[int, Batch], count: int) -> Batch:
    """The `count` oldest records; of each partition a prefix, in its order.

    The same as taking, again and again, the oldest of the partitions' next records: a record counts as being as young
    as the youngest before it in its partition. Ties go to the partition that `heads` names first.
    """
    if len(heads) == 1 and len(only := next(iter(heads.values()))) <= count:
        return replace(only, partitions=np.full(len(only), next(iter(heads)), dtype=np.int64))
    whole = Batch([], [], [], np.zeros(0, dtype=np.int64), [])
    for part in heads.values():
        for mine, more in ((whole.offsets, part.offsets), (whole.stamps, part.stamps), (whole.raw, part.raw)):
            mine.extend(more)
        whole.messages.extend(part.messages)
    if heads:
        whole.codes = np.concatenate([part.codes for part in heads.values()])
        sizes = [len(part) for part in heads.values()]
        whole.partitions = np.repeat(np.array(list(heads), dtype=np.int64), sizes)
    return whole.at(oldest([part.stamps for part in heads.values()], count))


def oldest(stamps: Sequence[Sequence[int]], count: int) -> NDArray[np.int64]:
    """Places, in the stamps of all partitions one after another, of the `count` oldest records; see `merged`."""
    ages = [np.maximum.accumulate(np.array(part, dtype=np.int64)) for part in stamps if len(part)]
    if not ages:
        return np.zeros(0, dtype=np.int64)
    return np.argsort(np.concatenate(ages), kind="stable")[:count]
