"""How fast events of a topic become session state, against the client alone and against Quix Streams.

Everybody reads the same recorded topic of the same embedded broker, in turns, and the medians are compared: a machine
is not as fast in one minute as in the next. Each is timed from its first records to its last: clients take a tenth to a
quarter of a second to find broker, topic and offsets, and how long says nothing about the stream that follows.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from kafka import TopicPartition

from consumers import wire
from consumers.broker import EmbeddedBroker
from consumers.kafka import KafkaWorld, connect_consumer
from consumers.topic import EventTopic
from streamrec.catalog import Catalog
from streamrec.sessions import SessionStore

EVENTS = 300_000  # in the topic
ITEMS = 20_000
USERS = 20_000
BATCH = 10_000  # records per poll
SLATE = 10
TOPIC = "bench.events"
ROUNDS = 3  # at least

_PEER = Path(__file__).with_name("quix_peer.py")
_PATIENCE_S = 600.0


class Watch:
    """Starts when the first batch is done, and counts those that follow."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None
        self._last = 0.0
        self.events = 0  # all of them

    def done(self, events: int) -> None:
        """So many more are."""
        self.events += events
        if events and self._first is None:
            self._first = time.perf_counter(), events
        elif events:
            self._last = time.perf_counter()

    @property
    def rate(self) -> float:
        """Events per second.

        Raises:
            RuntimeError: there were no two batches.
        """
        if self._first is None or not self._last:
            raise RuntimeError(f"expected at least two batches of events, got {self.events} events")
        start, before = self._first
        return (self.events - before) / (self._last - start)


@dataclass
class Speed:
    """What one contender did, by round."""

    rates: list[float] = field(default_factory=list)  # events per second
    cpu_us: list[float] = field(default_factory=list)  # processor time of this process per event, all threads
    spent_s: float = 0.0

    def note(self, rate: float, events: int, cpu_s: float) -> None:
        self.rates.append(rate)
        self.cpu_us.append(1e6 * cpu_s / events)
        self.spent_s += events / rate


def measure(seconds: float, peer_python: str | None = None, events: int = EVENTS) -> dict[str, Any]:
    """Every contender in turns, `seconds` each on the average, and at least three rounds after one that does not count.

    Args:
        seconds: reading time per contender, on the average: as many rounds for those who need less.
        peer_python: an interpreter that has `quixstreams`; None = this one, if it has.
        events: records in the topic.

    Returns:
        events per second and processor time per event, medians over the rounds, of `bare` (a poll loop of kafka-python
        and nothing else), `streamrec`, `bare_confluent` and `streamrec_confluent` where that client is installed, and
        `quix` where it is; `ratio` = streamrec / bare, `ratio_quix` and `ratio_quix_confluent` = streamrec / quix.
    """
    with EmbeddedBroker() as broker, tempfile.TemporaryDirectory() as folder:
        _record(broker.address, events)
        contenders = _contenders(broker.address, events, peer_python, Path(folder))
        speeds = _in_turns(contenders, events, seconds)
    figures: dict[str, Any] = {"events": events, "items": ITEMS, "users": USERS, "rounds": len(speeds["bare"].rates)}
    for name, speed in speeds.items():
        figures[name] = median(speed.rates)
        if name != "quix":  # another process
            figures[f"{name}_cpu_us"] = median(speed.cpu_us)
    return figures | _ratios(figures)


def _ratios(figures: dict[str, Any]) -> dict[str, float]:
    pairs = {
        "ratio": ("streamrec", "bare"),
        "ratio_confluent": ("streamrec_confluent", "bare_confluent"),
        "ratio_quix": ("streamrec", "quix"),
        "ratio_quix_confluent": ("streamrec_confluent", "quix"),
    }
    return {name: figures[a] / figures[b] for name, (a, b) in pairs.items() if a in figures and b in figures}


def _in_turns(contenders: dict[str, Callable[[], float]], events: int, seconds: float) -> dict[str, Speed]:
    speeds = {name: Speed() for name in contenders}
    for number in range(10_000):
        for name, work in contenders.items():
            gc.collect()
            cpu = time.process_time()
            rate = work()
            if number:
                speeds[name].note(rate, events, time.process_time() - cpu)
        if number >= ROUNDS and sum(speed.spent_s for speed in speeds.values()) >= seconds * len(speeds):
            break
    return speeds


def _contenders(servers: str, events: int, peer_python: str | None, folder: Path) -> dict[str, Callable[[], float]]:
    """By name, what reads the whole topic once and returns events per second."""
    contenders: dict[str, Callable[[], float]] = {
        "bare": lambda: _bare(servers, events),
        "streamrec": lambda: _ours(servers, events, "kafka-python"),
    }
    if importlib.util.find_spec("confluent_kafka"):
        contenders["bare_confluent"] = lambda: _bare_confluent(servers, events)
        contenders["streamrec_confluent"] = lambda: _ours(servers, events, "confluent")
    if python := peer_python or _own_python():
        contenders["quix"] = lambda: _quix(python, servers, events, folder)
    return contenders


def _own_python() -> str | None:
    import sys

    return sys.executable if importlib.util.find_spec("quixstreams") else None


def _record(servers: str, events: int) -> None:
    """Clicks and skips of many users on items of which a few are popular, and an `end`."""
    draw = np.random.default_rng(0)
    users = draw.integers(0, USERS, events).tolist()
    items = np.minimum(draw.zipf(1.2, events), ITEMS).tolist()
    skips = (draw.random(events) < 0.3).tolist()
    topic = EventTopic(servers, TOPIC)
    for at, (user, item, skip) in enumerate(zip(users, items, skips, strict=True)):
        kind: wire.Name = "skip" if skip else "click"
        event = wire.Event(kind, f"user-{user}", item=f"item-{item}", time=1.7e9 + at / 100, session=f"s{user}")
        topic.send(event.user.encode(), wire.encode(event))
    topic.end()
    topic.close()


def _bare(servers: str, events: int) -> float:
    consumer = connect_consumer(servers)
    with contextlib.closing(consumer):
        place = TopicPartition(TOPIC, 0)
        consumer.assign([place])
        consumer.seek(place, 0)
        watch = Watch()
        while watch.events < events:
            watch.done(sum(map(len, consumer.poll(timeout_ms=100, max_records=1 << 30).values())))
        return watch.rate


def _bare_confluent(servers: str, events: int) -> float:
    from confluent_kafka import Consumer
    from confluent_kafka import TopicPartition as Place

    options = {"bootstrap.servers": servers, "group.id": "bench", "enable.auto.commit": False}
    more = {"fetch.wait.max.ms": 10, "fetch.message.max.bytes": 4_194_304, "fetch.queue.backoff.ms": 5}
    consumer = Consumer({**options, **more})
    with contextlib.closing(consumer):
        consumer.assign([Place(TOPIC, 0, 0)])
        watch = Watch()
        while watch.events < events:
            watch.done(len(consumer.consume(10_000, 0.02)))
        return watch.rate


def _ours(servers: str, events: int, library: str) -> float:
    with _world(servers, library) as world:
        watch = Watch()
        while (polled := world.poll(0.1)) is not None:
            for wave in polled.waves():
                world.sessions.take(wave)
            watch.done(len(polled))
    if watch.events != events or world.dead_letters:
        raise RuntimeError(f"expected {events} events, got {watch.events} and {world.dead_letters} dead letters")
    return watch.rate


@contextlib.contextmanager
def _world(servers: str, library: str) -> Iterator[KafkaWorld]:
    catalog, sessions = Catalog(ITEMS), SessionStore(users=USERS, slate=SLATE)
    catalog.rows([f"item-{number}" for number in range(1, ITEMS + 1)])
    world = KafkaWorld(servers, catalog, sessions, SLATE, topic=TOPIC, batch=BATCH, client_library=library)
    with contextlib.closing(world):
        yield world


def _quix(python: str, servers: str, events: int, folder: Path) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as state:
        command = [python, str(_PEER), servers, TOPIC, str(events), state]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
    if done.returncode:
        raise RuntimeError(f"Quix Streams failed under {python}: {done.stderr.strip().splitlines()[-1:]}")
    return events / float(json.loads(done.stdout)["seconds"])
