"""Fetching: the partitions of a topic as one queue of records, the same whenever it is read."""

from __future__ import annotations

import sys
import time

import numpy as np

from consumers import wire
from consumers.clients.seam import Reader
from consumers.held import Batch, merged
from consumers.places import Places

_MOMENT_S = 0.005
"""How long a fetch waits while users are being restored, or the end of a partition is not known."""


class Partitions:
    """Fetches ahead of what is handed out, and merges the partitions by timestamp.

    Args:
        reader: who reads the topic.
        places: where it is read.
        batch: most records handed out at once.
        follow: an `end` message is not the end.
        until: see `KafkaWorld`.
        linger_s: how long a poll waits for records that the broker is known to have, at most.
        gather_s: how long it waits for more where it has not got a batch.
    """

    def __init__(
        self,
        reader: Reader,
        places: Places,
        batch: int,
        follow: bool,
        until: str,
        linger_s: float,
        gather_s: float = 0.0,
    ) -> None:
        self.reader, self.places, self.batch, self.follow = reader, places, batch, follow
        self.linger_s, self.gather_s = linger_s, gather_s
        self.until: dict[int, int] = {}  # partition -> offset at which it is over, whatever comes later
        self._most = None if until == "end" else sys.maxsize if until == "latest" else int(until)

    def fill(self, timeout_s: float) -> None:
        """Fetch until a whole batch can be merged, or nothing more is to be had."""
        start = time.monotonic()
        self.fetch(0.0)
        if self.gather_s and not self.ready() and not self.over():
            self._gather()
        while not self.ready():
            waited = time.monotonic() - start
            waiting_for_known = self.backlog()
            patience = max(self.linger_s, timeout_s) if waiting_for_known else timeout_s
            if waited >= patience or (not waiting_for_known and self.holds()):
                return
            if self.over():
                return
            # At the end of a log nothing comes; whether this is one, the broker says with the first answer.
            known = all(self.end(p) is not None for p in self.places.buffers)
            self.fetch(patience - waited if known else min(patience - waited, _MOMENT_S))

    def _gather(self) -> None:
        """Let `gather_s` pass: first comes what was asked for before, then what arrived meanwhile."""
        time.sleep(self.gather_s)
        self.fetch(0.0)
        if not self.ready():
            self.fetch(self.gather_s)

    def fetch(self, wait_s: float) -> None:
        """Take in what has arrived; waits up to `wait_s` for something. Rebalances are dealt with here."""
        buffers = self.places.buffers
        # Partitions with enough in their buffer wait, so that one that runs ahead does not fill the memory.
        full = {p for p, held in buffers.items() if len(held) >= self.batch + self.reader.ahead}
        waiting = self.places.waiting  # nothing can be done with their records yet, but something for them
        self.reader.hold_back(full | waiting)
        fetched = self.reader.fetch(min(wait_s, _MOMENT_S) if waiting else wait_s)
        placed = self.places.settle()
        for partition, chunk in fetched.items():
            if partition in buffers and partition not in placed:
                buffers[partition].add(chunk, self.places.next(partition), self.end(partition))

    def holds(self) -> bool:
        """Something is here that was not handed out."""
        return any(self.places.buffers.values())

    def take(self) -> Batch:
        """The next records: instructions, if they begin with some, and then events up to the next instruction."""
        batch = self.head()
        orders = batch.codes > wire.FIRST_ORDER
        if orders.any():
            begins = len(batch) if orders.all() else int(orders.argmin())
            later = orders[begins:]
            if later.any():
                batch = batch.at(np.arange(begins + int(later.argmax())))
        return self.drop(batch)

    def head(self) -> Batch:
        """The next `batch` records over all partitions, as far as they are here; they stay."""
        with self.places.lock:
            mine = {p: held for p, held in sorted(self.places.buffers.items()) if held and p in self.places.offsets}
        return merged({p: held.head(self.batch) for p, held in mine.items()}, self.batch)

    def drop(self, batch: Batch) -> Batch:
        """The records of `batch`, a beginning of `head()`, are handed out: the position moves behind them.

        Returns:
            those that may be handed out: a partition may have been taken away since `head()`, on another thread.
        """
        gone: set[int] = set()
        counts = np.bincount(batch.partitions) if len(batch) else np.zeros(0, dtype=np.int64)
        for partition in np.flatnonzero(counts).tolist():
            last = int(np.flatnonzero(batch.partitions == partition)[-1])
            with self.places.lock:
                if partition in self.places.offsets:
                    self.places.offsets[partition] = batch.offsets[last] + 1
                    self.places.ended[partition] = bool(batch.codes[last] == wire.CODES[wire.END])
                else:
                    gone.add(partition)
            if partition in self.places.buffers:
                self.places.buffers[partition].drop(int(counts[partition]))
        return batch.at(np.flatnonzero(~np.isin(batch.partitions, list(gone)))) if gone else batch

    def end(self, partition: int) -> int | None:
        """The offset up to which a partition is read, as far as the last fetch knew; None = not fetched yet.

        Of a run that ends at `until`, the first fetch decides: brokers differ in what they answer when asked for the
        end of a topic, the embedded one counts a batch of records as one.
        """
        high = self.reader.high(partition)
        if high is None or self._most is None:
            return high
        return self.until.setdefault(partition, min(high, self._most))

    def drained(self, partition: int) -> bool:
        """Everything the broker has is in the buffer. The client's position also passes offsets without a record."""
        end = self.end(partition)
        if end is None:
            return False
        return max(self.places.next(partition), self.reader.position(partition)) >= end

    def ready(self) -> bool:
        """The next batch can be merged whatever else arrives."""
        buffers = self.places.buffers
        if not buffers or sum(map(len, buffers.values())) < self.batch:
            return False
        return all(len(held) >= self.batch or self.drained(p) for p, held in buffers.items())

    def backlog(self) -> bool:
        """The broker has, or may have, records for this batch that are not here yet."""
        return any(len(held) < self.batch and not self.drained(p) for p, held in self.places.buffers.items())

    def over(self) -> bool:
        """The last record of every partition has been handed out, and says so."""
        buffers = self.places.buffers
        if self.follow or not buffers or self.places.waiting:
            return False
        ended = self.places.ended
        return all((ended.get(p) or p in self.until) and not held and self.drained(p) for p, held in buffers.items())

    def lag(self) -> int | None:
        """Records that are in the assigned partitions and were not handed out yet; None as long as nobody knows."""
        with self.places.lock:
            offsets = dict(self.places.offsets)
        ends = {partition: self.end(partition) for partition in offsets}
        known = {partition: end for partition, end in ends.items() if end is not None}
        if not known:
            return None
        return sum(max(0, end - offsets[partition]) for partition, end in known.items())

    def wiped(self) -> str:
        """Why the log is not the one it was, "" = it is.

        A broker that lost its log need not complain about an offset behind the end: it may just stay silent.
        """
        for partition in list(self.places.buffers):
            end, offset = self.reader.high(partition), self.places.offsets.get(partition, 0)
            if end is not None and end < offset:
                return f"partition {partition} ends at {end}, before {offset} where we were"
        return ""
