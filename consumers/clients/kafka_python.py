"""kafka-python: the client that is always there. It administers; it reads and writes unless told otherwise."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from kafka import (
    AsyncConsumerRebalanceListener,
    KafkaConsumer,
    KafkaProducer,
    OffsetAndMetadata,
    TopicPartition,
)
from kafka.errors import KafkaError

from consumers.broker import BrokerUnavailable, reach, unusable
from consumers.clients.columnar import ColumnarRecords, Columns
from consumers.clients.seam import Chunk, Done, Listener, Origin
from consumers.clients.settings import ClientSettings

SEND_TIMEOUT_S = 30.0
"""How long a record may take to reach the broker."""

_ALL = 1 << 30
"""Take everything that was fetched: kafka-python 3.0.12 may never hand out the rest of a partition paused half-way."""


class KafkaPythonReader:
    """See `consumers.clients.seam.Reader`. Brings what the client raises as `BrokerUnavailable`.

    Args:
        servers: host:port[,host:port].
        topic: must exist.
        group: None = no group.
        settings: how to connect.
        gather_s: without effect, it asks the broker only when it is asked itself.
    """

    ahead = 0

    def __init__(
        self, servers: str, topic: str, group: str | None, settings: ClientSettings, gather_s: float = 0.0
    ) -> None:
        self.topic = topic
        self._consumer = connect_consumer(servers, group, settings)
        self._consumer._fetcher.PartitionRecords = ColumnarRecords

    def partitions(self) -> list[int]:
        return sorted(self._consumer.partitions_for_topic(self.topic))

    def assign(self, partitions: Sequence[int]) -> None:
        self._consumer.assign([self._at(p) for p in partitions])

    def subscribe(self, listener: Listener) -> None:
        self._consumer.subscribe([self.topic], listener=_Told(self._consumer, self.topic, listener))

    def assigned(self) -> set[int]:
        return {place.partition for place in self._consumer.assignment()}

    def fetch(self, wait_s: float) -> dict[int, Chunk]:
        fetched = self._consumer.poll(timeout_ms=int(1000 * max(wait_s, 0.0)), max_records=_ALL)
        return {place.partition: _chunk(batches) for place, batches in fetched.items() if batches}

    def hold_back(self, partitions: set[int]) -> None:
        consumer = self._consumer
        mine, paused = consumer.assignment(), consumer.paused()
        full = {self._at(p) for p in partitions} & mine
        if full - paused:
            consumer.pause(*(full - paused))
        if (paused & mine) - full:
            consumer.resume(*((paused & mine) - full))

    def high(self, partition: int) -> int | None:
        place = self._at(partition)
        if place not in self._consumer.assignment():
            return None
        high = self._consumer.highwater(place)
        return None if high is None or high < 0 else int(high)

    def position(self, partition: int) -> int:
        return self._consumer.position(self._at(partition), timeout_ms=0) or 0

    def begins(self, partitions: Sequence[int]) -> dict[int, int]:
        if not partitions:
            return {}
        found = self._consumer.beginning_offsets([self._at(p) for p in partitions])
        return {place.partition: int(offset) for place, offset in found.items()}

    def committed(self, partition: int) -> int | None:
        offset = self._consumer.committed(self._at(partition), timeout_ms=10_000)
        return None if offset is None or offset < 0 else int(offset)

    def seek(self, partition: int, offset: int) -> None:
        self._consumer.seek(self._at(partition), offset)

    def commit(self, offsets: Mapping[int, int]) -> None:
        try:
            self._consumer.commit(_as_offsets(self.topic, offsets), timeout_ms=5000)
        except KafkaError as error:
            raise BrokerUnavailable(str(error)) from error

    def origin(self, raw: Columns, offset: int) -> Origin:
        at = raw.place(offset)
        return Origin(self.topic, raw.partition, offset, raw.stamps[at], raw.key(at), raw.values[at], raw.headers(at))

    def close(self) -> None:
        self._consumer.close(autocommit=False, timeout_ms=5000)

    def _at(self, partition: int) -> TopicPartition:
        return TopicPartition(self.topic, partition)


def _chunk(batches: Sequence[Columns]) -> Chunk:
    offsets: list[int] = []
    stamps: list[int] = []
    values: list[bytes | None] = []
    raw: list[Columns] = []
    for batch in batches:
        offsets += batch.offsets
        stamps += batch.stamps
        values += batch.values
        raw += [batch] * len(batch.offsets)  # a tuple for each record would keep the garbage collector busy
    return Chunk(offsets, stamps, values, raw)


class _Told:
    """Runs on the client's thread: a listener that is not async could not commit there."""

    def __init__(self, consumer: KafkaConsumer, topic: str, listener: Listener) -> None:
        self.consumer, self.topic, self.listener = consumer, topic, listener

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        offsets = self.listener.revoked(sorted(place.partition for place in revoked))
        if offsets:
            await self.consumer.commit_async(_as_offsets(self.topic, offsets))

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self.listener.assigned(sorted(place.partition for place in assigned))

    async def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        self.listener.lost(sorted(place.partition for place in lost))


AsyncConsumerRebalanceListener.register(_Told)


def _as_offsets(topic: str, offsets: Mapping[int, int]) -> dict[TopicPartition, OffsetAndMetadata]:
    return {TopicPartition(topic, p): OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}


def connect_consumer(servers: str, group: str | None = None, settings: ClientSettings | None = None) -> KafkaConsumer:
    """A consumer with the settings this project was measured with.

    The client's own wait of 500 ms per fetch makes an event take 130 ms on the embedded broker, one of 10 ms takes 3.

    Raises:
        BrokerUnavailable: nobody speaks Kafka at `servers`, or not with these settings.
    """
    settings = settings or ClientSettings()
    options: dict[str, Any] = {
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "fetch_max_wait_ms": 10,
        "fetch_max_bytes": 1_048_576,
        "max_partition_fetch_bytes": 262_144,
        "session_timeout_ms": 6000,
        "heartbeat_interval_ms": 1000,
        "receive_message_max_bytes": 1_000_000_000,
        "bootstrap_timeout_ms": 10_000,
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }
    known = KafkaConsumer.DEFAULT_CONFIG
    if settings.encrypted:
        reach(servers, settings)  # the client itself would wait for TLS for ever
    try:
        return KafkaConsumer(bootstrap_servers=servers, group_id=group, **(options | settings.for_kafka_python(known)))
    except (KafkaError, OSError, AssertionError) as error:
        raise unusable(servers, settings, error) from None


def connect_producer(
    servers: str,
    batch_bytes: int = 65_536,
    timeout_s: float = SEND_TIMEOUT_S,
    settings: ClientSettings | None = None,
    idempotent: bool = True,
    linger_ms: int = 5,
) -> KafkaProducer:
    """A producer that loses nothing and keeps the order (acks=all).

    Args:
        servers: host:port[,host:port].
        batch_bytes: most bytes of a batch.
        timeout_s: how long a record may take to reach the broker.
        settings: how to connect.
        idempotent: nothing is doubled either, until the broker forgets whom it had heard what from: then it refuses
            everything (OutOfOrderSequenceNumber), for good. Who must outlive that and may be read twice says False.
        linger_ms: how long a record waits for others to go with.

    Raises:
        BrokerUnavailable: nobody speaks Kafka at `servers`, or not with these settings.
    """
    settings = settings or ClientSettings()
    options: dict[str, Any] = {
        "linger_ms": linger_ms,
        "batch_size": batch_bytes,
        "compression_type": "lz4",
        "delivery_timeout_ms": int(1000 * timeout_s),
        "max_block_ms": int(1000 * timeout_s),
        "request_timeout_ms": int(1000 * timeout_s / 3),
        "bootstrap_timeout_ms": 10_000,
        "metrics_enabled": False,
        "acks": "all",
        "enable_idempotence": idempotent,
        "max_in_flight_requests_per_connection": 5 if idempotent else 1,
    }
    if settings.encrypted:
        reach(servers, settings)
    try:
        return KafkaProducer(
            bootstrap_servers=servers, **(options | settings.for_kafka_python(KafkaProducer.DEFAULT_CONFIG))
        )
    except (KafkaError, OSError, AssertionError) as error:
        raise unusable(servers, settings, error) from None


class KafkaPythonWriter:
    """See `consumers.clients.seam.Writer`. Whatever the client raises comes as `BrokerUnavailable`.

    It may be read twice what was sent once, see `connect_producer`.

    Args:
        servers: host:port[,host:port].
        settings: how to connect.
        timeout_s: how long a record may take to reach the broker.
        linger_ms: how long a record waits for others to go with.

    Raises:
        BrokerUnavailable: nobody answers at `servers`.
    """

    def __init__(self, servers: str, settings: ClientSettings, timeout_s: float, linger_ms: int = 5) -> None:
        self._settings = settings
        self._producer = connect_producer(
            servers, timeout_s=timeout_s, settings=settings, idempotent=False, linger_ms=linger_ms
        )

    def send(
        self,
        topic: str,
        value: bytes,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
        done: Done | None = None,
    ) -> None:
        try:
            future = self._producer.send(topic, value, key=key, headers=list(headers), partition=partition)
        except KafkaError as error:
            raise self._lost(error) from error
        if done is not None:
            future.add_callback(lambda record: done(None, record.offset))
            future.add_errback(lambda error: done(self._lost(error), -1))

    def prepare(self, topic: str) -> None:
        try:
            self._producer.partitions_for(topic)
        except KafkaError as error:
            raise self._lost(error) from error

    def flush(self, timeout_s: float) -> None:
        try:
            self._producer.flush(timeout=timeout_s)
        except KafkaError as error:
            raise self._lost(error) from error

    def close(self, timeout_s: float) -> None:
        self._producer.close(timeout=timeout_s)

    def _lost(self, error: object) -> BrokerUnavailable:
        return BrokerUnavailable(self._settings.redacted(error))
