"""Live figures as server-sent events: one pulse for all who watch, a short queue for each."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from consumers.http.problems import Refusal

_HEARTBEAT = b": still here\n\n"


class Hub:
    """Sends the figures of the moment to everybody who watches. Nothing runs while nobody does.

    Args:
        live: figures of the moment, ready for JSON.
        every_s: seconds between two.
        heartbeat_s: silence after which a comment is sent, so that no proxy closes the connection.
        kept: newest records, for those who come back with `Last-Event-ID`.
        queue: records that wait for a slow reader; the oldest goes first.
        most: readers at the same time.
    """

    def __init__(
        self,
        live: Callable[[], dict[str, Any]],
        every_s: float = 1.0,
        heartbeat_s: float = 15.0,
        kept: int = 60,
        queue: int = 64,
        most: int = 32,
    ) -> None:
        self._live, self._every_s, self._heartbeat_s = live, every_s, heartbeat_s
        self._recent: deque[tuple[int, bytes]] = deque(maxlen=kept)
        self._most, self._queue = most, queue
        self._readers: set[asyncio.Queue[bytes | None]] = set()
        self._boot, self._number = secrets.token_hex(4), 0
        self._pulse: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def readers(self) -> int:
        return len(self._readers)

    def watch(self, last_id: str = "") -> AsyncIterator[bytes]:
        """Frames of server-sent events until the hub is closed. `last_id`: the id of the last one the reader has;
        those after it that are still kept come first.

        Raises:
            Refusal: 503 when too many watch or the service is stopping.
        """
        if self._closed:
            raise Refusal(503, "the service is stopping", retry_after=5)
        if len(self._readers) >= self._most:
            raise Refusal(503, f"{self._most} streams are open already: close one", retry_after=5)
        return self._frames(self._seen(last_id))

    async def close(self) -> None:
        """End every stream. Calling it twice is fine."""
        self._closed = True
        for waiting in list(self._readers):
            _put(waiting, None)
        if self._pulse is not None:
            self._pulse.cancel()
            await asyncio.gather(self._pulse, return_exceptions=True)

    def _seen(self, last_id: str) -> int:
        """The newest record that need not be sent: that of the id, or, for a new reader, all but the newest."""
        boot, _, number = last_id.partition("-")
        if boot == self._boot and number.isascii() and number.isdigit() and len(number) < 18:
            return int(number)
        return self._number - 1

    async def _beat(self) -> None:
        while self._readers:
            self._number += 1
            data = msgspec.json.encode(self._live())
            frame = b"id: %s-%d\nevent: live\ndata: %s\n\n" % (self._boot.encode(), self._number, data)
            self._recent.append((self._number, frame))
            for waiting in self._readers:
                _put(waiting, frame)
            await asyncio.sleep(self._every_s)

    async def _frames(self, seen: int) -> AsyncIterator[bytes]:
        # Registered here and not in `watch`: of a reader who leaves before the first frame this never runs.
        waiting: asyncio.Queue[bytes | None] = asyncio.Queue(self._queue)
        for frame in [frame for number, frame in self._recent if number > seen][-self._queue :]:
            waiting.put_nowait(frame)
        self._readers.add(waiting)
        if self._pulse is None or self._pulse.done():
            self._pulse = asyncio.get_running_loop().create_task(self._beat())
        try:
            yield b"retry: 2000\n\n"
            while not self._closed:
                record = await self._next(waiting)
                if record is None:
                    return
                yield record
        finally:
            self._readers.discard(waiting)

    async def _next(self, waiting: asyncio.Queue[bytes | None]) -> bytes | None:
        try:
            async with asyncio.timeout(self._heartbeat_s):
                return await waiting.get()
        except TimeoutError:
            return _HEARTBEAT


def _put(waiting: asyncio.Queue[bytes | None], frame: bytes | None) -> None:
    if waiting.full():
        waiting.get_nowait()
    waiting.put_nowait(frame)
