"""What the consumer asks of a client library, and nothing more of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


@dataclass
class Chunk:
    """Records of one partition, in order, as columns."""

    offsets: Sequence[int]
    stamps: Sequence[int]  # milliseconds since the epoch, at most 0 = unknown
    values: Sequence[bytes | None]
    raw: Sequence[Any]  # what holds each record in the library, for `Reader.origin`


class Origin(NamedTuple):
    """One record as a whole; only asked for where it is refused."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


Done = Callable[[BaseException | None, int], None]
"""Hears what became of a record, on whatever thread: the error, None = the broker has it, and then its offset."""


class Writer(Protocol):
    """Sends records and loses none silently; in the order in which they were handed over, for each partition."""

    def prepare(self, topic: str) -> None:
        """Learn what the first `send` to `topic` would wait for."""

    def send(
        self,
        topic: str,
        value: bytes,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
        done: Done | None = None,
    ) -> None:
        """Hand over a record.

        Raises:
            BrokerUnavailable: it is not taken: too many wait, or the topic cannot be asked for.
        """

    def flush(self, timeout_s: float) -> None:
        """Return once `done` was called for everything, or raise BrokerUnavailable after `timeout_s`."""

    def close(self, timeout_s: float) -> None: ...


class Listener(Protocol):
    """Who hears of rebalances; called from whatever thread the library uses."""

    def revoked(self, partitions: list[int]) -> Mapping[int, int]:
        """They go to somebody else after this returns. Returns the offsets to commit for them."""

    def assigned(self, partitions: list[int]) -> None: ...

    def lost(self, partitions: list[int]) -> None:
        """Somebody else has them already."""


class Reader(Protocol):
    """One topic, read by one member of a group or by nobody's.

    Every method may raise `consumers.broker.BrokerUnavailable`, `commit` for any reason it was not taken.

    Attributes:
        ahead: records a partition may run ahead of the others before it is held back.
    """

    ahead: int

    def partitions(self) -> list[int]:
        """Those the topic has, rising."""

    def assign(self, partitions: Sequence[int]) -> None:
        """Read these, without a group."""

    def subscribe(self, listener: Listener) -> None:
        """Share the partitions with the group."""

    def assigned(self) -> set[int]:
        """Those being read now."""

    def fetch(self, wait_s: float) -> dict[int, Chunk]:
        """All that has arrived; waits up to `wait_s` for something."""

    def hold_back(self, partitions: set[int]) -> None:
        """Fetch nothing more of these, and of all others again."""

    def high(self, partition: int) -> int | None:
        """The offset the next record will get, as the last fetch said; None = not fetched yet."""

    def position(self, partition: int) -> int:
        """The offset of the next record to be fetched; it also passes offsets without a record."""

    def begins(self, partitions: Sequence[int]) -> dict[int, int]:
        """Offsets of the first records that are left."""

    def committed(self, partition: int) -> int | None:
        """What the group committed, None = nothing."""

    def seek(self, partition: int, offset: int) -> None:
        """Read on from there."""

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Tell the group how far it is."""

    def origin(self, raw: Any, offset: int) -> Origin:
        """The record at `offset`, of which a chunk said `raw`."""

    def close(self) -> None:
        """Leave the group without a commit."""
