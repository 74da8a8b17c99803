"""The producing end of a topic of events."""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Any

from kafka.errors import KafkaError
from kafka.partitioner import murmur2

from consumers import wire
from consumers.broker import BrokerUnavailable, create_topics
from consumers.clients.settings import ClientSettings
from consumers.kafka import SEND_TIMEOUT_S, connect_producer

_MARK = 2_000
"""Events between two marks of the window of what is on its way."""


class EventTopic:
    """The producing end of a topic of events: keyed by user, with a bound on what is on its way.

    Args:
        servers: host:port[,host:port].
        topic: created with `partitions` partitions if it does not exist.
        in_flight: most events handed to the client and not yet with the broker.
        partitions: of a topic that does not exist yet.
        settings: how to connect.

    Raises:
        BrokerUnavailable: nobody answers at `servers`.
    """

    def __init__(
        self,
        servers: str,
        topic: str,
        in_flight: int = 20_000,
        partitions: int = 1,
        settings: ClientSettings | None = None,
    ) -> None:
        create_topics(servers, {topic: partitions}, settings)
        self.servers, self.topic = servers, topic
        self.sent = 0  # events, without `end` messages
        self._producer = connect_producer(servers, batch_bytes=131_072, settings=settings)
        partitions_now = len(self._producer.partitions_for(topic))
        # The default partitioner of every Kafka client, remembered: in Python it costs a tenth of sending an event.
        self._partition = lru_cache(1 << 17)(lambda key: (murmur2(key) & 0x7FFFFFFF) % partitions_now)
        self._marks: deque[Any] = deque()
        self._room = max(1, in_flight // _MARK)
        self._failure: BaseException | None = None

    def send(self, key: bytes, value: bytes) -> None:
        """Send one event; waits while too many are on their way.

        Raises:
            BrokerUnavailable: the broker does not take them any more.
        """
        try:
            future = self._producer.send(self.topic, value, key=key, partition=self._partition(key))
            future.add_errback(self._note_failure)
            self.sent += 1
            if self.sent % _MARK == 0:
                self._marks.append(future)
                if len(self._marks) > self._room:
                    self._marks.popleft().get(timeout=SEND_TIMEOUT_S)
        except KafkaError as error:
            raise self._lost(error) from error

    def flush(self) -> None:
        """Return once everything sent is with the broker.

        Raises:
            BrokerUnavailable: something could not be sent.
        """
        try:
            self._producer.flush(timeout=SEND_TIMEOUT_S)
        except KafkaError as error:
            raise self._lost(error) from error
        if self._failure is not None:
            raise self._lost(self._failure) from self._failure

    def end(self) -> int:
        """Say in every partition that no more will come; returns how many there are.

        Raises:
            BrokerUnavailable: something could not be sent.
        """
        self.flush()  # first: an `end` must not overtake an event that is sent a second time
        message = wire.encode(wire.Event(wire.END))
        partitions = sorted(self._producer.partitions_for(self.topic))
        for partition in partitions:
            self._producer.send(self.topic, message, partition=partition).add_errback(self._note_failure)
        self.flush()
        return len(partitions)

    def close(self) -> None:
        self._producer.close(timeout=5.0)

    def _note_failure(self, error: BaseException) -> None:
        self._failure = self._failure or error

    def _lost(self, error: BaseException) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"{self.servers} stopped taking events after about {self.sent} ({error}): is the broker up? "
            "Start again with an empty topic, or what has arrived will be there twice"
        )
