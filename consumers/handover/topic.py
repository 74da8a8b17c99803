"""The topic in which the members of a group keep the state of their users: partition by partition as the events are.

On a broker that compacts, old chunks vanish by their keys. On one that does not, readers begin at the newest base: its
place is an offset that the group `<group>.state` commits, since brokers differ in whether they keep anything else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import Future

from kafka import KafkaAdminClient, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError

from consumers.broker import BrokerUnavailable, ask, create_topic
from consumers.clients.kafka_python import connect_consumer
from consumers.clients.settings import ClientSettings
from consumers.outbox import Outbox

_FEW = 64
"""Chunks taken at a time, so that a poll of events does not wait long for them."""


class StateTopic:
    """Writing chunks of state, and reading those of some partitions from their newest base on.

    Args:
        servers: host:port[,host:port].
        name: of the topic; created with as many partitions as the events have.
        group: the group whose members share the state.
        partitions: of the events.
        outbox: for the chunks; whoever owns it flushes and closes it.
        settings: how to connect.

    Raises:
        BrokerUnavailable: nobody answers, or the topic exists with another number of partitions.
    """

    def __init__(
        self, servers: str, name: str, group: str, partitions: int, outbox: Outbox, settings: ClientSettings
    ) -> None:
        self.servers, self.name = servers, name
        _create(servers, name, partitions, settings)
        self._outbox = outbox
        self._consumer = connect_consumer(servers, f"{group}.state", settings)
        self._next: dict[int, int] = {}  # partition being read -> offset of the next chunk

    def close(self) -> None:
        self._consumer.close(autocommit=False, timeout_ms=5000)

    # --- writing -------------------------------------------------------------------------------------------------

    def send(self, partition: int, key: bytes, value: bytes) -> Future[int]:
        """Hand a chunk to the producer; what is returned comes to be its offset.

        Raises:
            BrokerUnavailable: the broker does not take it.
        """
        return self._outbox.put(self.name, partition, key, value)

    def begin_at(self, bases: dict[int, int]) -> None:
        """Readers may begin at these offsets from now on: by partition, of the first chunk of a base."""
        places = {TopicPartition(self.name, p): OffsetAndMetadata(offset, "", -1) for p, offset in bases.items()}
        if places:
            with contextlib.suppress(KafkaError):  # a reader that begins earlier finds the same
                self._consumer.commit(places, timeout_ms=5000)

    # --- reading -------------------------------------------------------------------------------------------------

    def read(self, partitions: Sequence[int]) -> None:
        """From now on `poll` reads these partitions; those that are new from their newest base on."""
        going_on = {p: self._next[p] for p in partitions if p in self._next}
        places = [TopicPartition(self.name, p) for p in partitions]
        self._consumer.assign(places)
        fresh = [place for place in places if place.partition not in going_on]
        begins = self._consumer.beginning_offsets(fresh) if fresh else {}
        for place in fresh:
            base = self._consumer.committed(place, timeout_ms=10_000) or 0
            going_on[place.partition] = max(begins[place], base)
        self._next = going_on
        for place in places:
            self._consumer.seek(place, going_on[place.partition])

    def poll(self, timeout_s: float = 0.0) -> list[tuple[int, bytes | None]]:
        """Some chunks, with their partitions."""
        if not self._next:
            return []
        found = self._consumer.poll(timeout_ms=int(1000 * timeout_s), max_records=_FEW)
        chunks: list[tuple[int, bytes | None]] = []
        for place, records in found.items():
            chunks += [(place.partition, record.value) for record in records]
            if records:
                self._next[place.partition] = records[-1].offset + 1
        return chunks

    def caught_up(self, partition: int) -> bool:
        """Everything that the broker was known to have at the last fetch was handed out."""
        place = TopicPartition(self.name, partition)
        high = self._consumer.highwater(place)
        if high is None or high < 0:
            return False
        position = self._consumer.position(place, timeout_ms=0) or 0  # passes offsets without a record
        return max(self._next.get(partition, 0), int(position)) >= int(high)


def _create(servers: str, name: str, partitions: int, settings: ClientSettings) -> None:
    def create(client: KafkaAdminClient) -> int:
        if name not in set(client.list_topics()):
            configs = {"cleanup.policy": "compact"}
            options = {"num_partitions": partitions, "replication_factor": -1, "configs": configs}
            create_topic(client, servers, name, options)
        return len(client.describe_topics([name])[0]["partitions"])

    there = ask(servers, create, settings)
    if there != partitions:
        raise BrokerUnavailable(
            f"the topic {name!r} has {there} partitions and the events have {partitions}: state lives where its users' "
            "events do. Name another topic in world.state; it fills itself from the events"
        )
