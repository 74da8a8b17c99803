"""What the live world sends: decisions, and letters about records that cannot be used."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future

from consumers import wire
from consumers.broker import BrokerUnavailable
from consumers.clients.library import open_writer
from consumers.clients.seam import Done, Origin
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
        library: that sends, as `world.client_library`.

    Attributes:
        buried: dead letters so far.
        letters: the newest dead letters.

    Raises:
        BrokerUnavailable: nobody answers at `servers`.
    """

    def __init__(
        self,
        servers: str,
        dead_letters: str,
        timeout_s: float,
        settings: ClientSettings,
        library: str = "kafka-python",
    ) -> None:
        self.servers, self.dead_letter_topic, self.timeout_s = servers, dead_letters, timeout_s
        self.buried = 0
        self.letters: deque[wire.DeadLetter] = deque(maxlen=200)
        self._settings = settings
        self._failure: BaseException | None = None
        self._writer = open_writer(library, servers, settings, timeout_s)

    def send(self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """Hand a record to the client.

        Raises:
            BrokerUnavailable: the client does not take it.
        """
        self._hand_over(topic, value, key, headers)

    def put(self, topic: str, partition: int, key: bytes, value: bytes) -> Future[int]:
        """`send` into one partition; what is returned comes to be the offset of the record.

        Raises:
            BrokerUnavailable: the client does not take it.
        """
        offset: Future[int] = Future()

        def done(error: BaseException | None, at: int) -> None:
            if error is None:
                offset.set_result(at)
            else:
                offset.set_exception(error)

        self._hand_over(topic, value, key, partition=partition, done=done)
        return offset

    def _hand_over(
        self,
        topic: str,
        value: bytes,
        key: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
        done: Done = lambda error, offset: None,
    ) -> None:
        def told(error: BaseException | None, offset: int) -> None:
            self._failure = self._failure or error
            done(error, offset)

        try:
            self._writer.send(topic, value, key, headers, partition, told)
        except BrokerUnavailable as error:
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
            self._writer.flush(self.timeout_s)
        except BrokerUnavailable as error:
            self._failure = self._failure or error
        self.check()

    def check(self) -> None:
        """Raises BrokerUnavailable if something could not be sent since the last time."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise self._lost(failure) from failure

    def close(self, timeout_s: float = 5.0) -> None:
        self._writer.close(timeout_s)

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
