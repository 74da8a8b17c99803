"""Events into Kafka: a recorded log, in order, or simulated users who also read the answers they get."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from consumers import wire
from consumers.clients.option import settings_from
from consumers.clients.settings import ClientSettings
from consumers.pace import Pace
from consumers.players import Players
from consumers.topic import EventTopic
from streamrec.build import BadSpec, build
from streamrec.catalog import Catalog
from streamrec.data.events import read
from streamrec.data.logs import slate_tickets
from streamrec.interrupts import interrupts
from streamrec.ports import World
from streamrec.sessions import SessionStore

if TYPE_CHECKING:
    from consumers.http_players import HttpPlayers

Report = dict[str, Any]

START_S = 1_700_000_000.0
"""Event time at which simulated users start if their world does not say otherwise, seconds since the epoch."""


def send_log(
    path: Path | str,
    servers: str,
    topic: str = "streamrec.events",
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    *,
    speed: float | None = None,
    partitions: int = 1,
    quiet: bool = False,
    settings: ClientSettings | None = None,
) -> Report:
    """Send a log (see `streamrec.data.events.read`) in order and close the topic's partitions with `end` messages.

    Args:
        path: the log; `columns` says where its columns come from.
        servers: host:port[,host:port].
        topic: where the events go; created with `partitions` partitions if it does not exist.
        columns: event column -> expression over the columns of the log.
        limit: rows of the log to send at most.
        speed: seconds of event time per second of wall clock; None = as fast as possible.
        partitions: of a topic that does not exist yet.
        quiet: say nothing while sending.
        settings: how to connect.

    Returns:
        events sent (the impressions of one slate are one request), rows read, partitions, seconds, events_per_s.

    Raises:
        BadLog: the log is not as it must be.
        BrokerUnavailable: the broker cannot be reached, or not any more.
    """
    frames = _limited(read(path, columns), limit)
    progress = _Ticker(quiet)
    started = time.monotonic()
    target = EventTopic(servers, topic, partitions=partitions, settings=settings)
    try:
        stopped = threading.Event()
        with interrupts(stopped.set):
            rows = produce(frames, target, speed=speed, stopped=stopped.is_set, progress=progress.show)
        ended = target.end()
    finally:
        target.close()
        progress.close()
    return _report(target.sent, started) | {"rows": rows, "partitions": ended}


def produce(
    frames: Iterable[pd.DataFrame],
    target: EventTopic,
    *,
    speed: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda sent: None,
) -> int:
    """Send the rows of canonical frames (see `streamrec.data.events.read`) in order. Returns the rows read.

    Args:
        frames: with all columns of the event format; impressions of one slate are within one frame.
        target: where they go.
        speed: seconds of event time per second of wall clock; None = as fast as possible.
        stopped: whether to end early.
        progress: told how many events were sent, now and then.
    """
    rows, pace = 0, Pace(speed)
    for frame in frames:
        for at, (when, key, value) in enumerate(_messages(frame)):
            if speed is not None:
                pace.wait(when, stopped)
            target.send(key, value)
            if at % 1000 == 999:
                progress(target.sent)
                if stopped():
                    return rows + at + 1
        rows += len(frame)
        if stopped():
            break
    progress(target.sent)
    return rows


def _messages(frame: pd.DataFrame) -> Iterator[tuple[float, bytes, bytes]]:
    """(event time, key, value) per event. The impressions of one slate become one request that says what was shown."""
    names = ("user", "item", "time", "session", "value", "slate", "slot", "propensity")
    kinds = [wire.NAMES[code] for code in frame["kind"].cat.codes]
    tickets = slate_tickets(frame["slate"].to_numpy(object)).tolist()  # those of a replay of the log
    rows = zip(kinds, tickets, *(frame[name].tolist() for name in names), strict=True)
    shown: wire.Event | None = None  # the request that the impressions at hand belong to
    for kind, ticket, user, item, when, session, value, slate, slot, propensity in rows:
        if shown is not None and (kind != "impression" or ticket != shown.decision):
            yield _packed(shown)
            shown = None
        if slate and kind == "impression":
            shown = shown or wire.Event("request", user, 1, "", when, 1.0, session, ticket)
            _show(shown, slot, item, propensity)
        elif not (slate and kind == "request"):  # with a slate it repeats what the impressions say
            yield _packed(wire.Event(kind, user, 1, item, when, value, session, ticket, slot))
    if shown is not None:
        yield _packed(shown)


def _packed(message: wire.Event) -> tuple[float, bytes, bytes]:
    assert message.time is not None
    return message.time, message.user.encode(), wire.encode(message)


def _show(request: wire.Event, slot: int, item: str, propensity: float) -> None:
    """Put an item into a slot of what was shown; without a slot, behind the others."""
    at = slot if slot >= 0 else len(request.slate)
    missing = at + 1 - len(request.slate)
    slate, logp = [*request.slate, *[""] * missing], [*request.slot_logp, *[None] * missing]
    slate[at] = item
    logp[at] = None if math.isnan(propensity) else math.log(propensity)
    request.slate, request.slot_logp = slate, logp


def _limited(frames: Iterator[pd.DataFrame], limit: int | None) -> Iterator[pd.DataFrame]:
    left = sys.maxsize if limit is None else limit
    for frame in frames:
        if left <= 0:
            return
        yield frame.iloc[:left]
        left -= len(frame)


def play(
    spec: Mapping[str, Any],
    servers: str,
    topic: str = "streamrec.events",
    seconds: float = 0.0,
    *,
    decisions: str = "streamrec.decisions",
    pace: float | None = None,
    quiet: bool = False,
    through: Callable[[World, Catalog, SessionStore, int], HttpPlayers] | None = None,
    settings: ClientSettings | None = None,
) -> Report:
    """Let the simulated users of a spec's `[world]` play over Kafka; at the end the partitions get `end` messages.

    Args:
        spec: its tables `world`, `catalog`, `sessions`, `run.slate` and `seed` are used.
        servers: host:port[,host:port].
        topic, decisions: where events go and answers come from.
        seconds: wall time to play; 0 = until the world is over, or a signal.
        pace: seconds of event time per second of wall clock, for a world that takes a `clock`; None = the world's own
            clock, with a simulated one as fast as answers come.
        quiet: say nothing while playing.
        through: makes players who take another way than Kafka, of the world, its catalogue, sessions and slate.
        settings: how to connect to Kafka; None = as the spec's `[world.client]` says.

    Returns:
        events sent, requests, answered, ignored (answers nobody waits for), unanswered, seconds, events_per_s.

    Raises:
        BadSpec: the world cannot be built.
        BrokerUnavailable: the broker cannot be reached, or not any more.
    """
    table = dict(spec.get("world", {}))
    client = table.pop("client", {})
    if settings is None and through is None:
        settings = settings_from(client, "[world.client]")
    made = _build_world({**spec, "world": table}, pace)
    players = Players(*made, servers, topic, decisions, settings) if through is None else through(*made)
    progress = _Ticker(quiet)
    started = time.monotonic()
    try:
        stopped = threading.Event()
        with interrupts(stopped.set):
            while not stopped.is_set() and (seconds <= 0 or time.monotonic() - started < seconds) and players.step():
                progress.show(players.events)
        players.finish()
    finally:
        players.close()
        progress.close()
    return _report(players.events, started) | players.report()


def _build_world(spec: Mapping[str, Any], pace: float | None) -> tuple[World, Catalog, SessionStore, int]:
    if not spec["world"]:
        raise BadSpec("the spec has no [world] table")
    slate = int(spec.get("run", {}).get("slate", 10))
    context: dict[str, Any] = {"slate": slate, "seed": int(spec.get("seed", 0)), "device": "cpu", "policies": []}
    if pace is not None:
        began, start = time.monotonic(), float(spec["world"].get("start", START_S))
        context["clock"] = lambda: start + pace * (time.monotonic() - began)
    context["catalog"] = build({"use": "streamrec.catalog.Catalog", **spec.get("catalog", {})}, context, "catalog")
    table = {"use": "streamrec.sessions.SessionStore", **spec.get("sessions", {})}
    context["sessions"] = build(table, context, "sessions")
    return build(spec["world"], context, "world"), context["catalog"], context["sessions"], slate


def _report(events: int, started: float) -> Report:
    elapsed = time.monotonic() - started
    return {"events": events, "seconds": elapsed, "events_per_s": events / max(elapsed, 1e-9)}


class _Ticker:
    """A line on a terminal that says how far it is, once a second."""

    def __init__(self, quiet: bool) -> None:
        self._on = not quiet and sys.stderr.isatty()
        self._started = self._last = time.monotonic()

    def show(self, sent: int) -> None:
        now = time.monotonic()
        if self._on and now - self._last >= 1.0:
            self._last = now
            rate = sent / (now - self._started)
            print(f"\r{sent:,} events sent, {rate:,.0f}/s", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._on:
            print(file=sys.stderr)
