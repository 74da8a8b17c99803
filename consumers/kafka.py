"""The live world: events come from a Kafka topic, decisions go to another, what cannot be read goes to a third."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from kafka import (
    AsyncConsumerRebalanceListener,
    KafkaConsumer,
    KafkaProducer,
    OffsetAndMetadata,
    TopicPartition,
)
from kafka.errors import KafkaError

from consumers import wire
from consumers.broker import BrokerUnavailable, cluster_id, create_topics, topic_id
from streamrec.catalog import Catalog
from streamrec.data.clicks import ask_before_clicks
from streamrec.data.logs import answer_from_past
from streamrec.ports import State
from streamrec.records import Decision, Events
from streamrec.sessions import SessionStore

log = logging.getLogger(__name__)

LINGER_S = 1.0
"""How long a poll waits for records that the broker is known to have."""

SEND_TIMEOUT_S = 30.0
"""How long a record may take to reach the broker."""

_ALL = 1 << 30
"""Take everything that was fetched: kafka-python 3.0.12 may never hand out the rest of a partition paused half-way."""

SENT_HEADER = "streamrec-sent"
"""Header of a dead letter: timestamp of the original record in milliseconds, which is its event time if it has none."""

RETRY_HEADER = "streamrec-retry"
"""Header of a record that was a dead letter and is sent again, and of the letter it becomes if it is refused again:
id of the letter it was."""

_Buffer = deque[Any]  # ConsumerRecord, fetched and not handed out


class KafkaWorld:
    """A topic of events as the source, a topic of decisions as the sink; messages as in `consumers.wire`.

    A poll hands out `batch` records as long as the broker has that many, merged over the partitions by timestamp (ties
    by partition number), so that a recorded topic is cut into the same batches whenever it is read. Of a topic that is
    being written, it hands out what there is. The stream is over when the last record of every partition is an `end`
    message.

    Positions are truth and live in the checkpoint: the next offset of each partition, with the cluster and topic they
    belong to. What `commit` tells the broker is a courtesy. At a position of another cluster or topic, or behind the
    end of the log, this world starts over at the beginning with a warning and counts it in `wiped`; where retention has
    deleted records since, it goes on at the first one left and counts in `expired`.

    Records that cannot be used go to the dead-letter topic with reason and origin. After a crash those since the last
    checkpoint go there a second time, as decisions go out a second time.

    Args:
        bootstrap_servers: host:port[,host:port].
        catalog: gets the items as they turn up.
        sessions: gets the users.
        slate: K, width of the slates that requests of a recorded stream may carry.
        topic, decisions, dead_letters: names of the topics; missing ones are created with `partitions` partitions that
            keep their records.
        group: consumer group that shares the partitions; None = this process reads them all, without the seconds a
            group needs to form. State of users whose partition moves away does not move with it.
        batch: most records per poll. Order between users is not kept within one poll.
        ask: for streams of clicks without requests: every organic click is preceded by a request that it answers, and
            decisions are not published, since nobody waits for them.
        follow: go on waiting at `end` messages.
        policies: names by `Decision.policy`, for the decision messages.
        partitions: of topics that do not exist yet.
        send_timeout_s: how long a decision may take to reach the broker before the run stops.
        until: "end" = read up to `end` messages; "latest" = up to what a partition holds at the first fetch; a number =
            up to this offset in every partition, and no further than "latest". A checkpoint keeps where that was.

    Attributes:
        events_consumed: events handed out, without `end` messages, dead letters and the questions of `ask`.
        dead_letters: records sent to the dead-letter topic.
        on_revoked, on_assigned: called with the partitions that leave or come in a rebalance, from inside `poll`.

    Raises:
        BrokerUnavailable: nobody answers at `bootstrap_servers`; also later, when sending fails for `send_timeout_s`.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        catalog: Catalog,
        sessions: SessionStore,
        slate: int,
        topic: str = "streamrec.events",
        decisions: str = "streamrec.decisions",
        dead_letters: str = "streamrec.dead-letters",
        group: str | None = None,
        batch: int = 500,
        ask: bool = False,
        follow: bool = False,
        policies: Sequence[str] = (),
        partitions: int = 1,
        send_timeout_s: float = SEND_TIMEOUT_S,
        until: str = "end",
    ) -> None:
        if batch < 1 or slate < 1:
            raise ValueError(f"world.batch and world.slate must be at least 1, got batch={batch} and slate={slate}")
        if until not in ("end", "latest") and not until.isdigit():
            raise ValueError(f'world.until must be "end", "latest" or an offset, got {until!r}')
        self.servers, self.catalog, self.sessions, self.slate = bootstrap_servers, catalog, sessions, slate
        self.topic, self.decisions_topic, self.dead_letter_topic = topic, decisions, dead_letters
        self.group, self.batch, self.ask, self.follow = group, batch, ask, follow
        self.policies = tuple(policies)
        self.events_consumed = self.dead_letters = self.wiped = self.expired = 0
        self.on_revoked: Callable[[list[int]], None] = lambda partitions: None
        self.on_assigned: Callable[[list[int]], None] = lambda partitions: None
        create_topics(bootstrap_servers, dict.fromkeys((topic, decisions, dead_letters), partitions))
        self._identity = self._identify()
        self._offsets: dict[int, int] = {}  # partition -> offset after the last record handed out
        self._ended: dict[int, bool] = {}  # partition -> the last record handed out was an `end` message
        self._buffers: dict[int, _Buffer] = {}
        self._saved: dict[int, tuple[int, bool]] = {}  # offset, ended of a seek, for partitions not assigned yet
        self._most = None if until == "end" else sys.maxsize if until == "latest" else int(until)
        self._until: dict[int, int] = {}  # partition -> offset at which it is over, whatever comes later
        self._left: dict[int, tuple[int, bool]] = {}  # offset, ended of partitions taken away, should they come back
        self._requests: dict[int, deque[str]] = {}  # user row -> ids of the requests of this poll not answered yet
        self._moves: deque[tuple[str, list[int]]] = deque()  # rebalances that poll has not dealt with yet
        self._lock = threading.Lock()  # rebalances are told on the client's own thread
        self._failure: BaseException | None = None
        self._closed = False
        self._last_lag: int | None = None
        self._send_timeout_s = send_timeout_s
        self._producer = connect_producer(bootstrap_servers, timeout_s=send_timeout_s)
        try:
            self._consumer = connect_consumer(bootstrap_servers, group)
        except BaseException:
            self._producer.close(timeout=0)
            raise
        if group is None:
            self._assign_all()
        else:
            self._consumer.subscribe([topic], listener=_Listener(self))

    # --- source ------------------------------------------------------------------------------------------------

    def poll(self, timeout_s: float = 0.0) -> Events | None:
        """The next events; None once every partition has ended.

        Raises:
            BrokerUnavailable: an earlier decision or dead letter could not be sent.
        """
        self._check()
        self._fill(timeout_s)
        records = self._take()
        if not records and self._over():
            return None
        return self._events(records)

    def position(self) -> State:
        """Exactly what was handed out, not what was fetched ahead of it."""
        with self._lock:
            places = self._saved | {p: (offset, self._ended.get(p, False)) for p, offset in self._offsets.items()}
        offsets = {str(p): offset for p, (offset, _) in sorted(places.items())}
        ended = [p for p, (_, over) in sorted(places.items()) if over]
        counts = {"events_consumed": self.events_consumed, "dead_letters": self.dead_letters}
        until = {str(p): end for p, end in sorted(self._until.items())}
        return {**self._identity, "offsets": offsets, "ended": ended, "until": until, **counts}

    def seek(self, position: State) -> None:
        self.events_consumed, self.dead_letters = position["events_consumed"], position["dead_letters"]
        if any(position[key] != value for key, value in self._identity.items()):
            self._start_over("the checkpoint was made with another cluster, or the topic was made anew since")
            return
        ended = set(position["ended"])
        self._until = {int(p): end for p, end in position.get("until", {}).items()}
        self._saved = {int(p): (offset, int(p) in ended) for p, offset in position["offsets"].items()}
        with self._lock:
            mine = list(self._offsets)
        self._place(mine)

    @property
    def lag(self) -> int | None:
        """Records that are in the assigned partitions and were not handed out yet; None as long as nobody knows."""
        if self._closed:
            return self._last_lag
        with self._lock:
            offsets = dict(self._offsets)
        ends = {partition: self._end(partition) for partition in offsets}
        known = {partition: end for partition, end in ends.items() if end is not None}
        if not known:
            return None
        return sum(max(0, end - offsets[partition]) for partition, end in known.items())

    # --- sink --------------------------------------------------------------------------------------------------

    def send(self, wanted: Decision, asked: Events) -> Decision:
        """Publish decisions, keyed by user; with `ask`, return what the stream says was shown instead."""
        if self.ask:
            return answer_from_past(wanted, asked)
        requests = [self._request_id(row) for row in asked.user.tolist()] if self._requests else []
        messages = wire.from_decisions(wanted, asked, self.catalog, self.sessions, self.policies, requests)
        for key, value in messages:
            self._send(self.decisions_topic, key, value)
        return wanted

    def flush(self) -> None:
        """Return once every decision and dead letter is with the broker.

        Raises:
            BrokerUnavailable: one could not be sent.
        """
        try:
            self._producer.flush(timeout=self._send_timeout_s)
        except KafkaError as error:
            self._failure = self._failure or error
        self._check()

    def commit(self, position: State) -> None:
        """Tell the broker how far the group is; without a group there is nobody to tell."""
        if self.group is None or position["topic"] != self._identity["topic"]:
            return
        with self._lock:
            mine = set(self._offsets)
        offsets = {
            TopicPartition(self.topic, int(p)): OffsetAndMetadata(offset, "", -1)
            for p, offset in position["offsets"].items()
            if int(p) in mine
        }
        try:
            if offsets:
                self._consumer.commit(offsets, timeout_ms=5000)
        except KafkaError as error:  # a rebalance is under way, or the broker is gone: the checkpoint is what counts
            log.warning("the broker did not take the group's offsets: %s", error)

    def close(self) -> None:
        if self._closed:
            return
        self._last_lag = self.lag
        self._closed = True
        self._consumer.close(autocommit=False, timeout_ms=5000)
        self._producer.close(timeout=5.0)

    # --- fetching ------------------------------------------------------------------------------------------------

    def _identify(self) -> dict[str, str]:
        return {"cluster": cluster_id(self.servers), "topic": topic_id(self.servers, self.topic)}

    def _assign_all(self) -> None:
        partitions = sorted(self._consumer.partitions_for_topic(self.topic))
        self._consumer.assign([TopicPartition(self.topic, p) for p in partitions])
        self._place(partitions)

    def _fill(self, timeout_s: float) -> None:
        """Fetch until a whole batch can be merged, or nothing more is to be had."""
        start = time.monotonic()
        self._fetch(0.0)
        while not self._ready():
            waited = time.monotonic() - start
            waiting_for_known = self._backlog()
            patience = max(LINGER_S, timeout_s) if waiting_for_known else timeout_s
            if waited >= patience or (not waiting_for_known and any(self._buffers.values())):
                return
            if self._over():
                return
            self._fetch(patience - waited)

    def _fetch(self, wait_s: float) -> None:
        self._hold_back()
        fetched = self._consumer.poll(timeout_ms=int(1000 * max(wait_s, 0.0)), max_records=_ALL)
        placed = self._settle_moves()
        for place, records in fetched.items():
            partition = place.partition
            # A partition that comes back in a rebalance may bring records from where the client was before it.
            if partition in self._buffers and partition not in placed:
                behind, until = self._next(partition), self._end(partition)
                known = [record for record in records if until is None or record.offset < until]
                self._buffers[partition].extend(record for record in known if record.offset >= behind)
        self._find_wiped()

    def _hold_back(self) -> None:
        """Partitions with enough in their buffer wait, so that one that runs ahead does not fill the memory."""
        full = {TopicPartition(self.topic, p) for p, held in self._buffers.items() if len(held) >= self.batch}
        mine = {TopicPartition(self.topic, p) for p in self._buffers} & self._consumer.assignment()
        paused = self._consumer.paused()
        if full & mine - paused:
            self._consumer.pause(*(full & mine - paused))
        if paused & mine - full:
            self._consumer.resume(*(paused & mine - full))

    def _next(self, partition: int) -> int:
        """The offset after everything in the buffer."""
        held = self._buffers[partition]
        return int(held[-1].offset) + 1 if held else self._offsets.get(partition, 0)

    def _end(self, partition: int) -> int | None:
        """The offset up to which a partition is read, as far as the last fetch knew; None = not fetched yet.

        Of a run that ends at `until`, the first fetch decides: brokers differ in what they answer when asked for the
        end of a topic, the embedded one counts a batch of records as one.
        """
        high = self._high(partition)
        if high is None or self._most is None:
            return high
        return self._until.setdefault(partition, min(high, self._most))

    def _high(self, partition: int) -> int | None:
        """The offset the next record of a partition will get, as the last fetch said; None = not fetched yet."""
        place = TopicPartition(self.topic, partition)
        if place not in self._consumer.assignment():
            return None
        high = self._consumer.highwater(place)
        return None if high is None or high < 0 else int(high)

    def _drained(self, partition: int) -> bool:
        """Everything the broker has is in the buffer. The client's position also passes offsets without a record."""
        end = self._end(partition)
        if end is None:
            return False
        place = TopicPartition(self.topic, partition)
        position = self._consumer.position(place, timeout_ms=0)
        return max(self._next(partition), position or 0) >= end

    def _ready(self) -> bool:
        """The next batch can be merged whatever else arrives."""
        if not self._buffers:
            return False
        held = [len(records) for records in self._buffers.values()]
        enough = all(size >= self.batch or self._drained(p) for p, size in zip(self._buffers, held, strict=True))
        return enough and sum(held) >= self.batch

    def _backlog(self) -> bool:
        """The broker is known to have records for this batch that are not here yet."""
        known = [p for p in self._buffers if self._end(p) is not None]
        return any(len(self._buffers[p]) < self.batch and not self._drained(p) for p in known)

    def _over(self) -> bool:
        if self.follow or not self._buffers:
            return False
        return all(
            (self._ended.get(p) or p in self._until) and not held and self._drained(p)
            for p, held in self._buffers.items()
        )

    # --- handing out ---------------------------------------------------------------------------------------------

    def _take(self) -> list[Any]:
        """The next records over all partitions, and the position moves behind them."""
        with self._lock:
            mine = {p: self._buffers[p] for p in sorted(self._buffers) if self._buffers[p] and p in self._offsets}
            taken = _merge({p: list(islice(held, self.batch)) for p, held in mine.items()}, self.batch)
            self._offsets |= {record.partition: record.offset + 1 for record in taken}
        for record in taken:
            self._buffers[record.partition].popleft()
        return taken

    def _events(self, records: list[Any]) -> Events:
        good: list[wire.Event] = []
        origin: list[Any] = []
        for record in records:
            message = wire.decode_event(record.value)
            if isinstance(message, str):
                self._bury(record, message)
                self._ended[record.partition] = False
                continue
            self._ended[record.partition] = message.kind == wire.END
            if message.kind != wire.END:
                good.append(message)
                origin.append(record)
        stamps = [max(0, record.timestamp) / 1000 for record in origin]
        received = wire.to_events(good, stamps, self.catalog, self.sessions, self.slate)
        for at, reason in received.refused:
            self._bury(origin[at], reason)
        self._requests = {row: deque(ids) for row, ids in received.requests.items()}
        first = self.events_consumed + 1
        self.events_consumed += len(received.events)
        if not self.ask:
            return received.events
        return ask_before_clicks(_as_wide(received.events, self.slate), first)

    def _bury(self, record: Any, reason: str) -> None:
        self.dead_letters += 1
        letter = wire.dead_letter(reason, record.topic, record.partition, record.offset, record.key, record.value)
        key = record.key and record.key[: wire.MAX_BYTES]  # with a longer one the letter might be too long to send
        self._send(self.dead_letter_topic, key, wire.encode(letter), _marks(record))

    def _request_id(self, row: int) -> str:
        waiting = self._requests.get(row)
        return waiting.popleft() if waiting else ""

    def _send(self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        try:
            self._producer.send(topic, value, key=key, headers=list(headers)).add_errback(self._note_failure)
        except KafkaError as error:
            raise self._lost(error) from error

    def _note_failure(self, error: BaseException) -> None:
        self._failure = self._failure or error

    def _check(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise self._lost(failure) from failure

    def _lost(self, error: BaseException) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"{self.servers} did not take what was sent to it for {self._send_timeout_s:.0f} s ({error}): "
            "is the broker up? The last checkpoint is good, go on from it with --resume"
        )

    # --- places in the log -----------------------------------------------------------------------------------------

    def _place(self, partitions: Sequence[int]) -> None:
        """Start reading `partitions` where a seek said; the rest where the group is, or at the beginning."""
        places = [TopicPartition(self.topic, p) for p in partitions]
        begins = self._consumer.beginning_offsets(places) if places else {}
        for place in places:
            begin, committed = begins[place], self._committed(place)
            left = self._left.pop(place.partition, (begin, False))
            offset, ended = self._saved.pop(place.partition, left)
            if committed is not None and committed > offset:
                offset, ended = committed, False  # another member has gone on from our checkpoint
            if offset < begin:
                log.warning("%s[%d]: %d records were deleted unread", self.topic, place.partition, begin - offset)
                self.expired += begin - offset
                offset, ended = begin, False
            self._start_at(place, offset, ended)

    def _committed(self, place: TopicPartition) -> int | None:
        if self.group is None:
            return None
        offset = self._consumer.committed(place, timeout_ms=10_000)
        return None if offset is None or offset < 0 else int(offset)

    def _start_at(self, place: TopicPartition, offset: int, ended: bool = False) -> None:
        self._consumer.seek(place, offset)
        with self._lock:
            self._buffers[place.partition] = deque()
            self._offsets[place.partition], self._ended[place.partition] = offset, ended

    def _start_over(self, why: str) -> None:
        self.wiped += 1
        log.warning("%s: %s; reading it from the beginning", self.topic, why)
        self._saved = {}
        for partition in list(self._buffers):
            place = TopicPartition(self.topic, partition)
            self._start_at(place, self._consumer.beginning_offsets([place])[place])

    def _find_wiped(self) -> None:
        """A broker that lost its log need not complain about an offset behind the end: it may just stay silent."""
        for partition in list(self._buffers):
            end = self._high(partition)
            offset = self._offsets.get(partition, 0)
            if end is not None and end < offset:
                self._identity = self._identify()
                self._start_over(f"partition {partition} ends at {end}, before {offset} where we were")
                return

    # --- rebalances ------------------------------------------------------------------------------------------------

    def _settle_moves(self) -> set[int]:
        """Deal with rebalances on this thread, where calls to the broker may wait. Returns what is read anew."""
        placed: set[int] = set()
        while self._moves:
            what, partitions = self._moves.popleft()
            if what == "assigned":
                held = self._consumer.assignment()
                mine = [p for p in partitions if TopicPartition(self.topic, p) in held]
                self._place(mine)
                placed.update(mine)
                self.on_assigned(partitions)
                continue
            for partition in partitions:
                self._buffers.pop(partition, None)
            self.on_revoked(partitions)
        return placed

    def _hand_over(self, partitions: list[int]) -> dict[TopicPartition, OffsetAndMetadata]:
        """Forget positions that are no longer ours; what was handed out of them is for the next owner to skip."""
        with self._lock:
            left = {p: self._offsets.pop(p) for p in partitions if p in self._offsets}
            self._left |= {p: (offset, self._ended.pop(p, False)) for p, offset in left.items()}
        self._moves.append(("revoked", partitions))
        return {TopicPartition(self.topic, p): OffsetAndMetadata(offset, "", -1) for p, offset in left.items()}


class _Listener:
    """Runs on the client's thread: a listener that is not async could not commit there."""

    def __init__(self, world: KafkaWorld) -> None:
        self.world = world

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        offsets = self.world._hand_over(sorted(place.partition for place in revoked))
        if offsets and not self.world._closed:  # on closing, the last checkpoint stays the group's place
            await self.world._consumer.commit_async(offsets)

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self.world._moves.append(("assigned", sorted(place.partition for place in assigned)))

    async def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        """Others own them already: no commit."""
        self.world._hand_over(sorted(place.partition for place in lost))


AsyncConsumerRebalanceListener.register(_Listener)


def _marks(record: Any) -> list[tuple[str, bytes]]:
    """Headers of a dead letter. Those of the original stay behind, since their size has no bound, but for one."""
    marks = [(SENT_HEADER, b"%d" % record.timestamp)] if record.timestamp > 0 else []
    again = [value[:64] for name, value in record.headers or () if name == RETRY_HEADER and value]
    return marks + [(RETRY_HEADER, value) for value in again[:1]]


def _merge(heads: dict[int, list[Any]], count: int) -> list[Any]:
    """The `count` oldest records; of each partition a prefix, in its order.

    The same as taking, again and again, the oldest of the partitions' next records: a record counts as being as young
    as the youngest before it in its partition.
    """
    if len(heads) == 1:
        return next(iter(heads.values()))[:count]
    records = [record for held in heads.values() for record in held]
    ages = [np.maximum.accumulate([record.timestamp for record in held]) for held in heads.values()]
    if not ages:
        return []
    order = np.argsort(np.concatenate(ages), kind="stable")[:count]
    return [records[at] for at in order.tolist()]


def _as_wide(events: Events, slots: int) -> Events:
    """With a `shown` of K slots even if no request carries a slate, so that every decision of a run is as wide."""
    if events.shown.shape[1] == slots:
        return events
    events.shown = torch.zeros(len(events), slots, dtype=torch.int64)
    events.slot_logp = torch.full((len(events), slots), torch.nan)
    return events


def connect_consumer(servers: str, group: str | None = None) -> KafkaConsumer:
    """A consumer with the settings this project was measured with.

    The client's own wait of 500 ms per fetch makes an event take 130 ms on the embedded broker, one of 10 ms takes 3.

    Raises:
        BrokerUnavailable: nobody speaks Kafka at `servers`.
    """
    try:
        return KafkaConsumer(
            bootstrap_servers=servers,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=10,
            fetch_max_bytes=1_048_576,
            max_partition_fetch_bytes=262_144,
            session_timeout_ms=6000,
            heartbeat_interval_ms=1000,
            receive_message_max_bytes=1_000_000_000,
            bootstrap_timeout_ms=10_000,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
    except KafkaError as error:
        raise BrokerUnavailable(f"no Kafka broker answers at {servers!r}: {error}") from error


def connect_producer(servers: str, batch_bytes: int = 65_536, timeout_s: float = SEND_TIMEOUT_S) -> KafkaProducer:
    """A producer that loses nothing and doubles nothing (acks=all, idempotent: the client's defaults).

    Raises:
        BrokerUnavailable: nobody speaks Kafka at `servers`.
    """
    try:
        return KafkaProducer(
            bootstrap_servers=servers,
            linger_ms=5,
            batch_size=batch_bytes,
            compression_type="lz4",
            delivery_timeout_ms=int(1000 * timeout_s),
            max_block_ms=int(1000 * timeout_s),
            request_timeout_ms=int(1000 * timeout_s / 3),
            bootstrap_timeout_ms=10_000,
            metrics_enabled=False,
        )
    except KafkaError as error:
        raise BrokerUnavailable(f"no Kafka broker answers at {servers!r}: {error}") from error
