"""How much at once: requests under way, by client and in all, and the memory of their bodies."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from consumers.http.problems import Refusal
from consumers.http.settings import Limits

RETRY_S = 1


class Overload:
    """Counts what is under way; nothing waits in a queue, what is too much is refused at once.

    Args:
        limits: see `Limits`.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.in_flight = 0
        self.held_bytes = 0
        self._clients: Counter[str] = Counter()

    @contextlib.contextmanager
    def slot(self, client: str) -> Iterator[None]:
        """One request of a client is under way inside this block.

        Raises:
            Refusal: 503 when there are too many in all, 429 when too many are this client's.
        """
        if self.in_flight >= self.limits.in_flight:
            raise Refusal(503, "too many requests are under way: try again in a second", retry_after=RETRY_S)
        if self._clients[client] >= self.limits.in_flight_per_client:
            raise Refusal(
                429,
                f"{self.limits.in_flight_per_client} requests of this client are under way: wait for some of them",
                retry_after=RETRY_S,
            )
        self.in_flight += 1
        self._clients[client] += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    @contextlib.contextmanager
    def memory(self) -> Iterator[Memory]:
        """Memory for one body, given back at the end of the block."""
        held = Memory(self)
        try:
            yield held
        finally:
            self.held_bytes -= held.size


class Memory:
    """What one body takes of the memory for all bodies."""

    def __init__(self, overload: Overload) -> None:
        self._overload = overload
        self.size = 0

    def take(self, size: int) -> None:
        """Take `size` bytes more.

        Raises:
            Refusal: 413 when the body is too long, 503 when all bodies together are.
        """
        limits = self._overload.limits
        if self.size + size > limits.body_bytes:
            raise Refusal(413, f"expected a body of at most {limits.body_bytes} bytes: send it in parts")
        if self._overload.held_bytes + size > limits.memory_bytes:
            raise Refusal(503, "too many bodies are being read: try again in a second", retry_after=RETRY_S)
        self.size += size
        self._overload.held_bytes += size
