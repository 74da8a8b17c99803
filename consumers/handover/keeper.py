"""The state of users by the partition their events come from: published, kept, restored, forgotten."""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consumers.handover.assembly import Assembly, Whole
from consumers.handover.chunk import BadChunk, Head, contents, encode, head_of
from consumers.handover.topic import StateTopic
from streamrec.catalog import Catalog
from streamrec.moving import pack, unpack
from streamrec.sessions import SessionStore

log = logging.getLogger(__name__)

CHUNK_BYTES = 400_000
"""Tensors of one chunk, before compression: brokers take 1 MB unless told otherwise."""

SLICE_S = 0.05
"""How long one call of `work` may restore."""

PATIENCE_S = 5.0
"""How long to wait for the state of the member before, which may be writing it still."""


Extra = dict[str, Tensor]


@dataclass
class _Written:
    """The chain that this member writes for a partition."""

    chain: str
    slot: int
    offset: int
    links: int = 1
    base: int = 0  # users in the base
    since: int = 0  # users in the links after it
    extra: Extra = field(default_factory=dict)  # as published


@dataclass
class _Restoring:
    """A partition whose users are on their way here."""

    assembly: Assembly
    needed: int  # somebody was here with the events: nothing less will do while there is patience
    deadline: float
    started: float
    chunks: deque[tuple[Head, bytes]] | None = None  # left to take over; None = still reading
    whole: Whole | None = None
    users: int = 0
    extra: Extra = field(default_factory=dict)


@dataclass
class Restored:
    """A partition that can be read now."""

    partition: int
    offset: int | None  # None: nobody knows anything about it, read it from its beginning
    ended: bool = False


@dataclass
class Figures:
    """What moved, for the metrics."""

    published: int = 0  # users written to the state topic
    published_bytes: int = 0
    restored: int = 0  # users
    restore_s: float = 0.0  # from the assignment to the first event, of the slowest partition so far
    lost: int = 0  # partitions taken from this member without asking


class Keeper:
    """Which users live in which partition, and their way from member to member.

    A state is right for its offset whoever wrote it, because it follows from the events before that offset. So nothing
    here needs locks or fencing: of two states the one for the higher offset saves work, and either is correct.

    Args:
        topic: where states are written and read.
        log: cluster, topic and group they belong to; states of others are passed over.
        sessions, catalog: of this member.
        extra: what else belongs to a partition, vectors of different numbers by name; goes along with its state.
        take_extra: takes that over; {} = forget it.
        patience_s: how long to wait for a state that reaches as far as the group has read.
        clock: seconds that pass.
    """

    def __init__(
        self,
        topic: StateTopic,
        log: str,
        sessions: SessionStore,
        catalog: Catalog,
        extra: Callable[[int], Extra] = lambda partition: {},
        take_extra: Callable[[int, Extra], None] = lambda partition, extra: None,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.topic, self.log, self.sessions, self.catalog = topic, log, sessions, catalog
        self.patience_s, self.clock = patience_s, clock
        self.figures = Figures()
        self._extra, self._take_extra = extra, take_extra
        users = sessions.users.capacity
        self._home: NDArray[np.int32] = np.full(users, -1, dtype=np.int32)  # partition of each row's newest event
        self._touched = np.zeros(users, dtype=bool)  # since it was published
        self._said = np.zeros(users, dtype=np.int64)  # open decision as published
        self._there: NDArray[np.object_] = np.full(users, None, dtype=object)  # id as published, in the chain of:
        self._there_in: NDArray[np.int32] = np.full(users, -1, dtype=np.int32)
        self._recycled = sessions.recycled
        self._written: dict[int, _Written] = {}
        self._slots: dict[int, int] = {}  # slot of the chain that was read or written last
        self._restoring: dict[int, _Restoring] = {}
        self.kept: dict[int, tuple[int, bool]] = {}  # partitions not ours now whose users are still here: offset, ended

    @property
    def waiting(self) -> set[int]:
        """Partitions whose users are on their way here."""
        return set(self._restoring)

    @property
    def busy(self) -> bool:
        """Some partition waits for its users."""
        return bool(self._restoring)

    # --- what happens to users -----------------------------------------------------------------------------------

    def note(self, rows: Tensor, partitions: Sequence[int]) -> None:
        """Events of the users at `rows` [B] came from `partitions` [B]."""
        at = rows.numpy()
        self._home[at] = partitions
        self._touched[at] = True

    def _alive(self) -> NDArray[np.object_]:
        """Ids by row, None where nobody is."""
        return np.array([*self.sessions.users.ids, None], dtype=object)[:-1]

    def _living_in(self, partition: int, ids: NDArray[np.object_]) -> NDArray[np.int64]:
        home = self._home[: len(ids)] == partition
        return np.flatnonzero(home & ids.astype(bool))  # no id is empty

    # --- writing -------------------------------------------------------------------------------------------------

    def publish(self, places: dict[int, tuple[int, bool]]) -> list[tuple[int, Future[int]]]:
        """Write the state of partitions, exact for `places`: next offset and whether it ended.

        Returns:
            partition and future of the first chunk of each base, for `settle` once the producer was flushed.
        """
        if self.sessions.recycled != self._recycled:  # windows have changed without an event: no link could say so
            self._recycled = self.sessions.recycled
            self._written.clear()
        ids = self._alive()
        return [base for p, (offset, ended) in places.items() if (base := self._publish(p, offset, ended, ids))]

    def settle(self, bases: list[tuple[int, Future[int]]]) -> None:
        """The bases have arrived: readers begin there from now on."""
        self.topic.begin_at({p: future.result(30) for p, future in bases})

    def _publish(self, p: int, offset: int, ended: bool, ids: NDArray[np.object_]) -> tuple[int, Future[int]] | None:
        rows = self._living_in(p, ids)
        waiting = self.sessions.open_ids.cpu().numpy()
        changed = rows[self._touched[rows] | (self._said[rows] != waiting[rows])]
        published = np.flatnonzero(self._there_in == p)
        gone = published[(self._there[published] != ids[published]) | (self._home[published] != p)]
        written = self._written.get(p)
        if written is not None and written.offset == offset and not len(changed) and not len(gone):
            return None
        base = written is None or written.since + len(changed) > max(written.base, 64)
        if base:
            chain = _Written(uuid.uuid4().hex, 1 - self._slots.get(p, 1), offset, base=len(rows))
            self._written[p], self._slots[p] = chain, chain.slot
            self._there_in[published] = -1
            first = self._send(p, chain, 0, rows, [], ended)
        else:
            assert written is not None
            written.offset = offset
            written.since += len(changed)
            written.links += 1
            self._there_in[gone] = -1
            still = set(ids[changed].tolist())
            names = [name for name in self._there[gone].tolist() if name not in still]
            first = self._send(p, written, written.links - 1, changed, names, ended)
        sent = rows if base else changed
        self._touched[sent], self._said[sent] = False, waiting[sent]
        self._there[sent], self._there_in[sent] = ids[sent], p
        return (p, first) if base else None

    def _send(
        self, p: int, chain: _Written, link: int, rows: NDArray[np.int64], gone: list[str], ended: bool
    ) -> Future[int]:
        fresh, extra = self._news(p, chain, link)
        parts = self._cut(rows)
        more = [{name: piece} for name, values in extra.items() for piece in torch.split(values, CHUNK_BYTES // 8)]
        count = len(parts) + len(more)
        futures = []
        for number in range(count):
            part = parts[number] if number < len(parts) else rows[:0]
            parcel = pack(self.sessions, self.catalog, torch.from_numpy(part)) if len(part) else None
            about = parcel or {"users": [], "items": [], "widths": None}
            head = Head(
                self.log, p, chain.offset, ended, chain.chain, chain.slot, link, number, count,
                users=about["users"], items=about["items"], widths=about["widths"],
                gone=gone if number == 0 else [], fresh=fresh and number == 0,
            )  # fmt: skip
            value = encode(head, parcel, more[number - len(parts)] if number >= len(parts) else None)
            futures.append(self.topic.send(p, head.key, value))
            self.figures.published_bytes += len(value)
        self.figures.published += len(rows)
        return futures[0]

    def _news(self, p: int, chain: _Written, link: int) -> tuple[bool, Extra]:
        """What else belongs to the partition: all of it, or what came since the link before."""
        before, chain.extra = chain.extra, self._extra(p)
        grown = link > 0 and before.keys() == chain.extra.keys()
        if not grown or any(not bool(torch.isin(before[name], now).all()) for name, now in chain.extra.items()):
            return True, chain.extra
        return False, {name: now[~torch.isin(now, before[name])] for name, now in chain.extra.items()}

    def _cut(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Pieces of bounded size; at least one, because an empty state is a state."""
        most = max(1, CHUNK_BYTES // (self.sessions.row_bytes + 128))
        return [rows[at : at + most] for at in range(0, len(rows), most)] or [rows]

    # --- moving --------------------------------------------------------------------------------------------------

    def left(self, places: dict[int, tuple[int, bool]]) -> list[tuple[int, Future[int]]]:
        """Partitions are taken away, each after a last event: their state is published, and kept until they are
        somebody else's for sure. Those that were being restored are dropped. Returns as `publish` does."""
        self.kept |= places
        return self.publish(places)

    def drop(self, partitions: Sequence[int]) -> None:
        """These partitions are not ours, and nothing of them may stay or be written."""
        for p in partitions:
            self._restoring.pop(p, None)
            self.kept.pop(p, None)
            self._written.pop(p, None)
            self._there_in[self._there_in == p] = -1
            self._take_extra(p, {})
            ids = self._alive()
            rows = self._living_in(p, ids)
            self._home[rows] = -1
            self._touched[rows] = False
            self.sessions.erase(ids[rows].tolist())
        if partitions:
            self.topic.read(list(self._restoring))

    def arrive(self, partitions: dict[int, int | None]) -> list[Restored]:
        """Partitions are ours now, each with the offset the group has committed; returns those that can be read."""
        ready = []
        now = self.clock()
        for p, committed in partitions.items():
            kept = self.kept.get(p)
            if kept is not None and (committed is None or committed <= kept[0]):
                ready.append(Restored(p, *self.kept.pop(p)))
                continue
            if kept is not None:
                self.drop([p])
            self._restoring[p] = _Restoring(Assembly(self.log, p), committed or 0, now + self.patience_s, now)
        if self._restoring:
            self.topic.read(list(self._restoring))
        return ready

    def work(self, timeout_s: float = 0.0) -> list[Restored]:
        """Restore for a moment; returns the partitions that can be read from now on."""
        if not self._restoring:
            return []
        self._read(timeout_s)
        ready = []
        until = self.clock() + SLICE_S
        for p, restoring in list(self._restoring.items()):
            if restoring.chunks is None:
                self._choose(p, restoring)
            while restoring.chunks and self.clock() < until:
                self._take(p, restoring)
            if restoring.chunks is not None and not restoring.chunks:
                ready.append(self._finish(p, restoring))
        return ready

    def _read(self, timeout_s: float) -> None:
        for p, value in self.topic.poll(timeout_s):
            restoring = self._restoring.get(p)
            if restoring is None or restoring.chunks is not None or value is None:
                continue
            try:
                restoring.assembly.add(head_of(value), value)
            except BadChunk as error:
                log.warning("%s[%d]: %s; passed over", self.topic.name, p, error)

    def _choose(self, p: int, restoring: _Restoring) -> None:
        """Take the newest state once it is as new as the group is, or nobody seems to be writing a newer one."""
        if not self.topic.caught_up(p):
            return
        whole = restoring.assembly.newest()
        reach = 0 if whole is None else whole.head.offset
        if reach < restoring.needed:
            if self.clock() < restoring.deadline:
                return
            log.warning(
                "partition %d: the group has read up to %d, the newest state is of %d; events between are read again",
                p, restoring.needed, reach,
            )  # fmt: skip
        restoring.whole = whole
        restoring.chunks = deque([] if whole is None else whole.chunks)

    def _take(self, p: int, restoring: _Restoring) -> None:
        assert restoring.chunks is not None
        head, value = restoring.chunks.popleft()
        if head.gone:
            self.sessions.erase(head.gone)
        parcel, extra = contents(head, value)
        if head.fresh:
            restoring.extra = {}
        for name, values in extra.items():
            before = restoring.extra.get(name)
            restoring.extra[name] = values if before is None else torch.cat([before, values])
        if parcel is not None:
            rows = unpack(self.sessions, self.catalog, parcel).numpy()
            self._home[rows], self._touched[rows] = p, False
            restoring.users += len(rows)

    def _finish(self, p: int, restoring: _Restoring) -> Restored:
        del self._restoring[p]
        self.topic.read(list(self._restoring))
        self.figures.restored += restoring.users
        self.figures.restore_s = max(self.figures.restore_s, self.clock() - restoring.started)
        if restoring.whole is None:
            return Restored(p, None)
        head = restoring.whole.head
        self._slots[p] = head.slot
        self._take_extra(p, restoring.extra)
        return Restored(p, head.offset, head.ended)

    # --- the member's own checkpoint -----------------------------------------------------------------------------

    def homes(self) -> Tensor:
        """[rows in use] int32: for `settle_in` after the sessions of the same checkpoint were loaded."""
        return torch.from_numpy(self._home[: len(self.sessions.users.ids)].copy())

    def settle_in(self, homes: Tensor, kept: dict[int, tuple[int, bool]]) -> None:
        """The session store was loaded from a checkpoint whose users live at `homes`, exact for `kept`."""
        self._home[:] = -1
        self._home[: len(homes)] = homes.numpy()
        self._written.clear()
        self._there_in[:] = -1
        self.kept = dict(kept)
        half = sorted(set(np.unique(homes.numpy()).tolist()) - {-1} - set(kept))
        self.drop(half)

    def leave_others(self, mine: set[int]) -> None:
        """The group has settled: what was kept of partitions that others have now is not needed any more."""
        self.drop([p for p in self.kept if p not in mine])

    def begin_anew(self, log: str) -> None:
        """The events are another log now, of which nothing has been published."""
        self.log, self.kept = log, {}
        self._restoring.clear()
        self._written.clear()
        self._home[:] = -1
        self._there_in[:] = -1
        self.topic.read([])
