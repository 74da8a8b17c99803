"""Appending to the log: the only way in which the service says anything to anybody."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence

from consumers import wire
from consumers.broker import BrokerUnavailable
from consumers.clients.library import open_writer
from consumers.clients.seam import Done
from consumers.clients.settings import ClientSettings
from consumers.serving.types import Verdict

log = logging.getLogger(__name__)

ACK_S = 10.0
"""How long the broker may take to take an event."""

GATHER_S = 0.02
"""How long posted events wait for others: each batch costs broker and readers as much as the events in it."""


class Journal:
    """The producing end of the topic of events, for the thread of an event loop.

    An event with an id that was appended before is not appended again, as long as the id is remembered. That spares the
    log what the reader's window would drop. One without an id may stand on the log twice if an answer of the broker was
    lost.

    Args:
        servers: host:port[,host:port].
        topic: that exists.
        remembered: ids.
        settings: how to connect.
        ack_s: how long the broker may take.
        library: that sends, as `world.client_library`.

    Raises:
        BrokerUnavailable: nobody answers at `servers`.
    """

    def __init__(
        self,
        servers: str,
        topic: str,
        remembered: int = 100_000,
        settings: ClientSettings | None = None,
        ack_s: float = ACK_S,
        library: str = "kafka-python",
    ) -> None:
        self.servers, self.topic, self.remembered, self.ack_s = servers, topic, remembered, ack_s
        self.appended = self.failed = 0
        self.failing_since: float | None = None  # monotonic; None = the last append was taken
        self.says = "nothing was appended yet"
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._posted: list[wire.Event] = []  # not sent yet
        # What is appended together is sent at once, and somebody waits for it.
        self._writer = open_writer(library, servers, settings or ClientSettings(), ack_s, linger_ms=1)
        self._writer.prepare(topic)

    def post(self, event: wire.Event) -> None:
        """Append within `GATHER_S`, before anything that is appended later; how it went is in `failed` and `says`."""
        if not self._posted:
            asyncio.get_running_loop().call_later(GATHER_S, self._send_posted)
        self._posted.append(event)

    def _send_posted(self) -> None:
        posted, self._posted = self._posted, []
        for event in posted:
            try:
                self._send(event, lambda error, _: self._note(error))
            except BrokerUnavailable as error:
                self._note(error)

    async def append(self, events: Sequence[wire.Event]) -> list[Verdict]:
        """Append and wait for the broker.

        Returns:
            one verdict per event; one that is refused by itself (too long) does not hold up the others.

        Raises:
            BrokerUnavailable: the broker did not take them; sending the same again, with ids, is safe.
        """
        self._send_posted()  # a reaction never stands before the decision that it answers
        verdicts: list[Verdict | None] = []
        waiting: list[tuple[int, asyncio.Future[None]]] = []
        for event in events:
            verdict = self._refusal(event)
            if verdict is None:
                waiting.append((len(verdicts), self._submit(event)))
                self._remember(event.id)
            verdicts.append(verdict)
        results = await asyncio.gather(*(future for _, future in waiting), return_exceptions=True)
        failure: BaseException | None = None
        for (at, _), result in zip(waiting, results, strict=True):
            if result is None:
                verdicts[at] = Verdict("accepted", events[at].id)
            else:
                self._ids.pop(events[at].id, None)
                failure = result
        if failure is not None:
            raise BrokerUnavailable(f"{self.servers} did not take {self.topic}'s events: {failure}") from failure
        return [verdict for verdict in verdicts if verdict is not None]

    async def flush(self) -> None:
        """Return once everything was taken by the broker or given up."""
        self._send_posted()
        try:
            await asyncio.to_thread(self._writer.flush, self.ack_s)
        except BrokerUnavailable as error:
            self._note(error)

    def close(self) -> None:
        self._writer.close(2.0)

    def _refusal(self, event: wire.Event) -> Verdict | None:
        if event.id and event.id in self._ids:
            return Verdict("duplicate", event.id)
        size = len(wire.encode(event))
        if size > wire.MAX_BYTES:
            return Verdict("rejected", event.id, f"Expected at most {wire.MAX_BYTES} bytes, got {size}")
        return None

    def _remember(self, identity: str) -> None:
        if identity:
            self._ids[identity] = None
            if len(self._ids) > self.remembered:
                self._ids.popitem(last=False)

    def _submit(self, event: wire.Event) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            self._note(error)
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def tell(error: BaseException | None, offset: int) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, error)

        try:
            self._send(event, tell)
        except BrokerUnavailable as error:
            settle(error)
        return done

    def _send(self, event: wire.Event, done: Done) -> None:
        if self.failing_since is not None and time.monotonic() - self.failing_since < 0.5:
            raise BrokerUnavailable(f"{self.servers} does not take events: {self.says}")
        key = (event.user or event.item).encode()
        self._writer.send(self.topic, wire.encode(event), key=key, done=done)

    def _note(self, error: BaseException | None) -> None:
        if error is None:
            self.appended += 1
            self.failing_since, self.says = None, "the broker takes what is appended"
            return
        self.failed += 1
        self.says = "the broker does not take what is appended"
        if self.failing_since is None:
            log.warning("%s: %s", self.topic, error)
        self.failing_since = time.monotonic()
