"""confluent-kafka, which fetches and sends on threads of its own: `pip install "streamrec[fast]"`."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from consumers.broker import BrokerUnavailable
from consumers.clients.seam import Chunk, Done, Listener, Origin
from consumers.clients.settings import ClientSettings

try:
    from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
except ImportError as error:  # said when a world asks for it
    _MISSING: ImportError | None = error
else:
    _MISSING = None
    _MESSAGE: Any = Message  # its methods may say None, which is only so for errors

log = logging.getLogger(__name__)

_MANY = 10_000
"""Most messages taken from the library at once."""

_TIMEOUT_S = 10.0
"""How long a question to the broker may take."""


class ConfluentReader:
    """See `consumers.clients.seam.Reader`. The library's own threads fetch ahead while this one works.

    Args:
        servers: host:port[,host:port].
        topic: must exist.
        group: None = no group.
        settings: how to connect.
        gather_s: how long whoever reads gathers records; the broker may keep few records back for half as long then,
            where it would otherwise be asked again for each.

    Raises:
        ValueError: the package is not installed, or it refuses a setting.
    """

    ahead = 100_000  # a pause throws away what the library holds

    def __init__(
        self, servers: str, topic: str, group: str | None, settings: ClientSettings, gather_s: float = 0.0
    ) -> None:
        if _MISSING is not None:
            raise ValueError('world.client_library = "confluent" needs: pip install "streamrec[fast]"') from _MISSING
        self.topic, self.group, self.servers, self._settings = topic, group, servers, settings
        self._next: dict[int, int] = {}  # partition -> offset after what was handed out; those that are ours
        self._paused: set[int] = set()
        self._moved = False  # `_next` says something new to the library
        options = {
            "bootstrap.servers": servers,
            "group.id": group or "streamrec-alone",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": max(10, int(500 * gather_s)),
            "fetch.min.bytes": 65_536 if gather_s else 1,
            "fetch.message.max.bytes": 4_194_304,
            "queued.min.messages": 50_000,
            "queued.max.messages.kbytes": 65_536,
            "fetch.queue.backoff.ms": 5,  # it sleeps for a second of its own accord once the queue is full
            "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 1000,
            "allow.auto.create.topics": False,
            "log_level": 2,  # what matters comes as an error with the messages
        }
        try:
            self._consumer = Consumer(options | settings.for_confluent())
        except (KafkaException, TypeError) as error:
            raise ValueError(f"world.client: {settings.redacted(error)}") from None

    def partitions(self) -> list[int]:
        try:
            topics = self._consumer.list_topics(self.topic, timeout=_TIMEOUT_S).topics
        except KafkaException as error:
            raise self._lost(error) from None
        return sorted(topics[self.topic].partitions)

    def assign(self, partitions: Sequence[int]) -> None:
        self._take_over(partitions)

    def subscribe(self, listener: Listener) -> None:
        def assigned(consumer: Any, places: list[Any]) -> None:
            self._take_over([place.partition for place in places])
            listener.assigned(sorted(self._next))

        def revoked(consumer: Any, places: list[Any]) -> None:
            offsets = listener.revoked(sorted(place.partition for place in places))
            self._take_over([])
            if offsets:
                self.commit(offsets)

        def lost(consumer: Any, places: list[Any]) -> None:
            self._take_over([])
            listener.lost(sorted(place.partition for place in places))

        self._consumer.subscribe([self.topic], on_assign=assigned, on_revoke=revoked, on_lost=lost)

    def _take_over(self, partitions: Sequence[int]) -> None:
        self._paused.clear()
        self._next = dict.fromkeys(partitions, 0)
        self._moved = True

    def assigned(self) -> set[int]:
        return set(self._next)

    def fetch(self, wait_s: float) -> dict[int, Chunk]:
        self._go()
        messages = self._consumer.consume(_MANY, 0.0)
        if not messages and wait_s > 0:
            messages = self._consumer.consume(1, wait_s)  # it would wait for all that it is asked for
        found: dict[int, list[Any]] = {}
        for partition, run in groupby(self._heard(messages), _MESSAGE.partition):  # the library brings long runs
            found.setdefault(partition, []).extend(run)
        return {p: self._chunk(p, part) for p, part in found.items() if p in self._next}

    def _heard(self, messages: list[Any]) -> list[Any]:
        """Without what comes in the place of messages, which is listened to."""
        errors = [at for at, error in enumerate(map(_MESSAGE.error, messages)) if error is not None]
        for at in reversed(errors):
            self._hear(messages.pop(at))
        return messages

    def _go(self) -> None:
        """Read from where the seeks said; one that is made while the library still starts up would be refused."""
        if self._moved:
            self._moved = False
            self._paused.clear()
            self._consumer.assign([self._at(p, offset) for p, offset in self._next.items()])

    def _chunk(self, partition: int, messages: list[Any]) -> Chunk:
        offsets = list(map(_MESSAGE.offset, messages))
        self._next[partition] = max(self._next[partition], offsets[-1] + 1)
        stamps = [stamp for _, stamp in map(_MESSAGE.timestamp, messages)]
        return Chunk(offsets, stamps, list(map(_MESSAGE.value, messages)), messages)

    def _hear(self, message: Any) -> None:
        """What comes in the place of a message: the end of a partition, or an error."""
        error, partition = message.error(), message.partition()
        if error.code() == KafkaError._PARTITION_EOF:
            if partition in self._next:
                self._next[partition] = max(self._next[partition], message.offset())
        elif error.fatal() or not error.retriable():
            log.warning("%s: %s", self.servers, self._settings.redacted(error.str()))

    def hold_back(self, partitions: set[int]) -> None:
        if self._moved:
            return
        full = {p for p in partitions if p in self._next}
        if full - self._paused:
            self._consumer.pause([self._at(p) for p in full - self._paused])
        for p in self._paused - full:  # what a pause threw away is fetched again
            self._consumer.resume([self._at(p)])
        self._paused = full

    def high(self, partition: int) -> int | None:
        if partition not in self._next:
            return None
        low_high = self._consumer.get_watermark_offsets(self._at(partition), cached=True)
        return None if low_high is None or low_high[1] < 0 else int(low_high[1])

    def position(self, partition: int) -> int:
        return self._next.get(partition, 0)

    def begins(self, partitions: Sequence[int]) -> dict[int, int]:
        found: dict[int, int] = {}
        for partition in partitions:
            try:
                low_high = self._consumer.get_watermark_offsets(self._at(partition), timeout=_TIMEOUT_S)
            except KafkaException as error:
                raise self._lost(error) from None
            if low_high is None:
                raise self._lost("it does not say where a partition begins")
            found[partition] = int(low_high[0])
        return found

    def committed(self, partition: int) -> int | None:
        try:
            (place,) = self._consumer.committed([self._at(partition)], timeout=_TIMEOUT_S)
        except KafkaException as error:
            raise self._lost(error) from None
        return None if place.offset < 0 else int(place.offset)

    def seek(self, partition: int, offset: int) -> None:
        if self._next.get(partition) != offset:
            self._next[partition] = offset
            self._moved = True

    def commit(self, offsets: Mapping[int, int]) -> None:
        places = [self._at(p, offset) for p, offset in offsets.items()]
        try:
            for place in self._consumer.commit(offsets=places, asynchronous=False) or ():
                if place.error is not None:
                    raise self._lost(place.error)
        except KafkaException as error:
            raise self._lost(error) from None

    def origin(self, raw: Any, offset: int) -> Origin:
        return Origin(
            raw.topic(), raw.partition(), raw.offset(), raw.timestamp()[1], raw.key(), raw.value(), raw.headers() or ()
        )

    def close(self) -> None:
        self._consumer.close()

    def _at(self, partition: int, offset: int | None = None) -> Any:
        return (
            TopicPartition(self.topic, partition) if offset is None else TopicPartition(self.topic, partition, offset)
        )

    def _lost(self, error: object) -> BrokerUnavailable:
        return BrokerUnavailable(f"no Kafka broker answers at {self.servers!r}: {self._settings.redacted(error)}")


class ConfluentWriter:
    """See `consumers.clients.seam.Writer`. The library's own threads speak with the broker, without the interpreter.

    One thread of ours alone listens to what became of records: with two, they would be told in another order, and
    `flush` could return while the other is at the last one.

    Args:
        servers: host:port[,host:port].
        settings: how to connect.
        timeout_s: how long a record may take to reach the broker.
        linger_ms: how long a record waits for others to go with.

    Raises:
        ValueError: the package is not installed, or it refuses a setting.
        BrokerUnavailable: nobody answers at `servers`.
    """

    def __init__(self, servers: str, settings: ClientSettings, timeout_s: float, linger_ms: int = 5) -> None:
        if _MISSING is not None:
            raise ValueError('world.client_library = "confluent" needs: pip install "streamrec[fast]"') from _MISSING
        self.servers, self._settings = servers, settings
        options = {
            "bootstrap.servers": servers,
            "acks": "all",
            "max.in.flight.requests.per.connection": 1,  # keeps the order when one of them is repeated
            "linger.ms": linger_ms,
            "partitioner": "murmur2_random",  # as every other client: a user's events have one partition
            "compression.type": "lz4",
            "message.timeout.ms": int(1000 * timeout_s),
            "message.max.bytes": 1_048_576,  # as kafka-python
            "allow.auto.create.topics": False,
            "log_level": 2,
        }
        try:
            self._producer = Producer(options | settings.for_confluent(producer=True))
        except (KafkaException, TypeError) as error:
            raise ValueError(f"world.client: {settings.redacted(error)}") from None
        self._timeout_s, self._closed = timeout_s, False
        self._open = 0  # records whose sender has not been told
        self._told = threading.Condition()
        self._ask(None)
        self._thread = threading.Thread(target=self._listen, name="confluent-delivered", daemon=True)
        self._thread.start()

    def send(
        self,
        topic: str,
        value: bytes,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
        done: Done | None = None,
    ) -> None:
        def told(error: Any, message: Any) -> None:
            try:
                if done is not None:
                    done(None if error is None else self._lost(error), -1 if error is not None else message.offset())
            finally:
                self._count(-1)

        where: dict[str, Any] = {} if partition is None else {"partition": partition}
        self._count(1)
        try:
            self._hand_over(topic, value, key, on_delivery=told, headers=list(headers), **where)
        except BaseException:
            self._count(-1)
            raise

    def _hand_over(self, *record: Any, **more: Any) -> None:
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                self._producer.produce(*record, **more)
                return
            except BufferError as error:  # as many wait as there is room for
                if time.monotonic() > deadline:
                    raise self._lost(error) from None
                time.sleep(0.01)
            except KafkaException as error:
                raise self._lost(error) from None

    def _count(self, records: int) -> None:
        with self._told:
            self._open += records
            if self._open == 0:
                self._told.notify_all()

    def _listen(self) -> None:
        while not self._closed:
            self._producer.poll(0.1)

    def flush(self, timeout_s: float) -> None:
        with self._told:
            if not self._told.wait_for(lambda: self._open == 0, timeout_s):
                raise self._lost(f"{self._open} records still wait after {timeout_s:.0f} s")

    def close(self, timeout_s: float) -> None:
        with contextlib.suppress(BrokerUnavailable):
            self.flush(timeout_s)
        self._closed = True
        self._thread.join()

    def prepare(self, topic: str) -> None:
        self._ask(topic)

    def _ask(self, topic: str | None) -> None:
        try:
            self._producer.list_topics(topic, timeout=_TIMEOUT_S)
        except KafkaException as error:
            said = self._settings.redacted(error)
            raise BrokerUnavailable(f"no Kafka broker answers at {self.servers!r}: {said}") from None

    def _lost(self, error: object) -> BrokerUnavailable:
        return BrokerUnavailable(self._settings.redacted(error))
