"""What the live world sends: decisions, and letters about records that cannot be used."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from kafka.errors import KafkaError

from consumers import wire
from consumers.broker import BrokerUnavailable
from consumers.clients.kafka_python import connect_producer
from consumers.clients.seam import Origin
from consumers.clients.settings import ClientSettings

SENT_HEADER = "streamrec-sent"
"""Header of a dead letter: timestamp of the original record in milliseconds, which is its event time if it has none."""

RETRY_HEADER = "streamrec-retry"
"""Header of a record that was a dead letter and is sent again, and of the letter it becomes if it is refused again:
id of the letter it was."""


class Outbox:
    """The producing end. What could not be sent is said by the next `check` or `flush`.

    Args:
        servers: host:port[,host:port].
        dead_letters: topic of the dead letters; "" = they are not published.
        timeout_s: how long a record may take to reach the broker.
        settings: how to connect.

    Attributes:
        buried: dead letters so far.
        letters: the newest dead letters.

    Raises:
        BrokerUnavailable: nobody answers at `servers`.
    """

    def __init__(self, servers: str, dead_letters: str, timeout_s: float, settings: ClientSettings) -> None:
        self.servers, self.dead_letter_topic, self.timeout_s = servers, dead_letters, timeout_s
        self.buried = 0
        self.letters: deque[wire.DeadLetter] = deque(maxlen=200)
        self._settings = settings
        self._failure: BaseException | None = None
        self._producer = connect_producer(servers, timeout_s=timeout_s, settings=settings, idempotent=False)

    def send(self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """Hand a record to the client.

        Raises:
            BrokerUnavailable: the client does not take it.
        """
        try:
            self._producer.send(topic, value, key=key, headers=list(headers)).add_errback(self._note)
        except KafkaError as error:
            raise self._lost(error) from error

    def put(self, topic: str, partition: int, key: bytes, value: bytes) -> Any:
        """`send` into one partition; the future of the record knows its offset.

        Raises:
            BrokerUnavailable: the client does not take it.
        """
        try:
            return self._producer.send(topic, value, key=key, partition=partition).add_errback(self._note)
        except KafkaError as error:
            raise self._lost(error) from error

    def bury(self, origin: Origin, reason: str) -> None:
        """Count a record that cannot be used, and send a letter about it."""
        self.buried += 1
        letter = wire.dead_letter(reason, origin.topic, origin.partition, origin.offset, origin.key, origin.value)
        self.letters.append(letter)
        if self.dead_letter_topic:
            key = origin.key and origin.key[: wire.MAX_BYTES]  # with a longer one the letter might be too long to send
            self.send(self.dead_letter_topic, key, wire.encode(letter), _marks(origin))

    def flush(self) -> None:
        """Return once everything is with the broker.

        Raises:
            BrokerUnavailable: something could not be sent.
        """
        try:
            self._producer.flush(timeout=self.timeout_s)
        except KafkaError as error:
            self._note(error)
        self.check()

    def check(self) -> None:
        """Raises BrokerUnavailable if something could not be sent since the last time."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise self._lost(failure) from failure

    def close(self, timeout_s: float = 5.0) -> None:
        self._producer.close(timeout=timeout_s)

    def _note(self, error: BaseException) -> None:
        self._failure = self._failure or error

    def _lost(self, error: BaseException) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"{self.servers} did not take what was sent to it for {self.timeout_s:.0f} s "
            f"({self._settings.redacted(error)}): is the broker up? "
            "The last checkpoint is good, go on from it with --resume"
        )


def _marks(origin: Origin) -> list[tuple[str, bytes]]:
    """Headers of a dead letter. Those of the original stay behind, since their size has no bound, but for one."""
    marks = [(SENT_HEADER, b"%d" % origin.timestamp)] if origin.timestamp > 0 else []
    again = [value[:64] for name, value in origin.headers if name == RETRY_HEADER and value]
    return marks + [(RETRY_HEADER, value) for value in again[:1]]
