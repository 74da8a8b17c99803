"""Places in the log: which partitions are ours, how far each was handed out, and where reading begins."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from consumers.clients.seam import Reader
from consumers.held import Held
from streamrec.ports import State

log = logging.getLogger(__name__)

Move = tuple[Literal["assigned", "revoked", "lost"], list[int]]


class Places:
    """Offsets of one topic. Rebalances are told on the client's own thread, and dealt with on that of `poll`.

    Args:
        reader: who reads the topic.
        topic: for the log file.
        group: None = this process reads all partitions.

    Attributes:
        offsets: partition -> offset after the last record handed out.
        ended: partition -> the last record handed out was an `end` message.
        buffers: what was fetched and not handed out, of the partitions that are ours.
        expired: records that were deleted before anybody read them.
        lock: of `offsets` and `ended`.
        newcomers: called with the partitions that have come; places those it can and returns them.
        progress: called at every fetch; places some that could not be placed before, and returns them.
        waiting: partitions that are ours and not placed yet.
        on_revoked, on_assigned: called with the partitions that leave or come in a rebalance, from inside `poll`.
        on_lost: the same for partitions that somebody else has already.
    """

    def __init__(self, reader: Reader, topic: str, group: str | None) -> None:
        self.reader, self.topic, self.group = reader, topic, group
        self.offsets: dict[int, int] = {}
        self.ended: dict[int, bool] = {}
        self.buffers: dict[int, Held] = {}
        self.expired = 0
        self.lock = threading.Lock()
        self.closed = False
        self.on_revoked: Callable[[list[int]], None] = lambda partitions: None
        self.on_assigned: Callable[[list[int]], None] = lambda partitions: None
        self.on_lost: Callable[[list[int]], None] = lambda partitions: None
        self.newcomers: Callable[[list[int]], set[int]] = self._place_all
        self.progress: Callable[[], set[int]] = set
        self.waiting: set[int] = set()
        self._saved: dict[int, tuple[int, bool]] = {}  # offset, ended of a seek, for partitions not assigned yet
        self._left: dict[int, tuple[int, bool]] = {}  # offset, ended of partitions taken away, should they come back
        self._moves: deque[Move] = deque()  # rebalances that poll has not dealt with yet

    def begin(self) -> None:
        """Read all partitions, or join the group."""
        if self.group is not None:
            self.reader.subscribe(self)
            return
        partitions = self.reader.partitions()
        self.reader.assign(partitions)
        self.place(partitions)

    def state(self) -> State:
        """Exactly what was handed out, not what was fetched ahead of it."""
        with self.lock:
            places = self._saved | {p: (offset, self.ended.get(p, False)) for p, offset in self.offsets.items()}
        offsets = {str(p): offset for p, (offset, _) in sorted(places.items())}
        return {"offsets": offsets, "ended": [p for p, (_, over) in sorted(places.items()) if over]}

    def seek(self, state: State) -> None:
        """Go on at a `state()`; partitions that are not ours yet will."""
        ended = set(state["ended"])
        self._saved = {int(p): (offset, int(p) in ended) for p, offset in state["offsets"].items()}
        with self.lock:
            mine = list(self.offsets)
        self.place(mine)

    def place(self, partitions: Sequence[int]) -> None:
        """Start reading `partitions` where a seek said; the rest where the group is, or at the beginning."""
        begins = self.reader.begins(partitions)
        for partition in partitions:
            begin, committed = begins[partition], None if self.group is None else self.reader.committed(partition)
            left = self._left.pop(partition, (begin, False))
            offset, ended = self._saved.pop(partition, left)
            if committed is not None and committed > offset:
                offset, ended = committed, False  # another member has gone on from our checkpoint
            if offset < begin:
                log.warning("%s[%d]: %d records were deleted unread", self.topic, partition, begin - offset)
                self.expired += begin - offset
                offset, ended = begin, False
            self._start_at(partition, offset, ended)

    def _start_at(self, partition: int, offset: int, ended: bool = False) -> None:
        self.reader.seek(partition, offset)
        with self.lock:
            self.buffers[partition] = Held()
            self.offsets[partition], self.ended[partition] = offset, ended

    def begin_at(self, partition: int, offset: int | None, ended: bool) -> None:
        """Start reading a partition at `offset`, or at the first record that is left."""
        begin = self.reader.begins([partition])[partition]
        if offset is not None and offset < begin:
            log.warning("%s[%d]: %d records were deleted unread", self.topic, partition, begin - offset)
            self.expired += begin - offset
            ended = False
        self._start_at(partition, max(begin, offset or 0), ended)

    def left(self, partitions: Sequence[int]) -> dict[int, tuple[int, bool]]:
        """Where we were in partitions that were taken away: offset, ended. Asked once, and forgotten."""
        return {p: self._left.pop(p) for p in partitions if p in self._left}

    def start_over(self) -> None:
        """Read everything that is ours from the beginning."""
        self._saved = {}
        for partition, offset in self.reader.begins(list(self.buffers)).items():
            self._start_at(partition, offset)

    def next(self, partition: int) -> int:
        """The offset after everything in the buffer."""
        last = self.buffers[partition].last
        return self.offsets.get(partition, 0) if last is None else last + 1

    # --- rebalances --------------------------------------------------------------------------------------------------

    def settle(self) -> set[int]:
        """Deal with rebalances on this thread, where calls to the broker may wait. Returns what is read anew."""
        placed: set[int] = set()
        while self._moves:
            what, partitions = self._moves.popleft()
            if what == "assigned":
                held = self.reader.assigned()
                mine = [p for p in partitions if p in held]
                placed |= self.newcomers(mine)
                self.on_assigned(partitions)
                continue
            for partition in partitions:
                self.buffers.pop(partition, None)
            (self.on_lost if what == "lost" else self.on_revoked)(partitions)
        return placed | self.progress()

    def _place_all(self, partitions: list[int]) -> set[int]:
        self.place(partitions)
        return set(partitions)

    def revoked(self, partitions: list[int]) -> dict[int, int]:
        """See `Listener`. On closing, the last checkpoint stays the group's place."""
        left = self._hand_over(partitions, "revoked")
        return {} if self.closed else left

    def lost(self, partitions: list[int]) -> None:
        """See `Listener`: no commit."""
        self._hand_over(partitions, "lost")

    def assigned(self, partitions: list[int]) -> None:
        """See `Listener`."""
        self._moves.append(("assigned", partitions))

    def _hand_over(self, partitions: list[int], what: Literal["revoked", "lost"]) -> dict[int, int]:
        """Forget positions that are no longer ours; what was handed out of them is for the next owner to skip."""
        with self.lock:
            left = {p: self.offsets.pop(p) for p in partitions if p in self.offsets}
            self._left |= {p: (offset, self.ended.pop(p, False)) for p, offset in left.items()}
        self._moves.append((what, partitions))
        return left
