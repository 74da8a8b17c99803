"""A service on a topic of its own, and a learner that the test steps by hand."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from consumers import wire
from consumers.broker import EmbeddedBroker
from consumers.serving.engine import Engine
from consumers.serving.plan import Plan
from streamrec.experiment import Experiment
from streamrec.publish import Publisher

_numbers = itertools.count(1)

GRU = {"use": "streamrec.encoders.gru4rec.GRU4Rec", "dim": 8}
SPEC: dict[str, Any] = {
    "seed": 0,
    "run": {"slate": 5, "update_every": 8, "publish_s": 0.2},
    "catalog": {"capacity": 500},
    "sessions": {"users": 300, "length": 10, "skips": 5},
    "agent": {
        "use": "agents.split.Split",
        "learn_from": "all",
        "agents": {
            "knn": {"use": "agents.itemknn.ItemKNN", "epsilon": 0.1},
            "gru": {
                "use": "agents.supervised.Supervised",
                "epsilon": 0.1,
                "model": {"use": "streamrec.models.next_item.NextItem", "encoder": GRU},
                "memory": 256,
                "batch": 32,
            },
        },
    },
    "world": {"use": "consumers.kafka.KafkaWorld", "batch": 200},
    "serve": {"guard_decisions": 0},
}


class Learns:
    """The learner of a service, in this process: what the child does, one step at a time."""

    def __init__(self, spec: dict[str, Any], run_dir: Path, servers: str) -> None:
        self.experiment = Experiment(Plan(spec, run_dir, servers).learner(), run_dir)
        self.loop = self.experiment.loop
        self.publisher = Publisher(run_dir / "models", 0.0, keep=8)

    def read(self, events: int, seconds: float = 90.0) -> None:
        """Learn until `events` events have been taken in."""
        deadline = time.monotonic() + seconds
        while self.loop.world.events_consumed < events:
            assert time.monotonic() < deadline, f"{self.loop.world.events_consumed} of {events} events"
            self.loop.step(0.05)

    def publish(self) -> str:
        """The version that was written."""
        before = self.publisher.published
        self.publisher._known = None
        self.publisher.close(self.loop)
        assert self.publisher.published > before, self.publisher.reason
        return f"{self.publisher._number:012d}"

    def close(self) -> None:
        self.loop.world.close()


class Stage:
    """One service with its topic."""

    def __init__(self, broker: EmbeddedBroker, run_dir: Path) -> None:
        self.broker, self.run_dir = broker, run_dir
        topic = f"served-{next(_numbers)}"
        names = {"topic": topic, "decisions": f"{topic}-decisions", "dead_letters": f"{topic}-dead"}
        self.spec: dict[str, Any] = {**SPEC, "world": {**SPEC["world"], **names}}
        self._learners: list[Learns] = []

    @asynccontextmanager
    async def engine(self, learner: bool = False, **serve: Any) -> AsyncIterator[Engine]:
        spec = {**self.spec, "serve": {**self.spec["serve"], **serve}}
        made = Engine(spec, self.run_dir, self.broker.address, learner=learner)
        await made.start()
        try:
            yield made
        finally:
            await made.close()

    def learner(self) -> Learns:
        self._learners.append(Learns(self.spec, self.run_dir, self.broker.address))
        return self._learners[-1]

    def close(self) -> None:
        for learner in self._learners:
            learner.close()


@pytest.fixture(autouse=True)
def _all_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A learner that gives way hardly begins where tests keep every processor busy."""
    monkeypatch.setattr("consumers.serving.learner.NICE", 0)


@pytest.fixture
def stage(broker: EmbeddedBroker, tmp_path: Path) -> Iterator[Stage]:
    made = Stage(broker, tmp_path / "run")
    yield made
    made.close()


async def until(what: Callable[[], object], seconds: float = 180.0) -> None:
    """Wait until `what` is true; a child that starts on a busy machine may need a minute for its imports alone."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


async def published(engine: Engine, learner: Learns) -> str:
    """A new version, once it serves."""
    version = learner.publish()
    await until(lambda: engine.registry.serving is not None and engine.registry.serving.version == version)
    return version


def clicks(users: int, items: int, each: int = 6) -> list[wire.Event]:
    """Everybody clicks items in a row, each from another place on."""
    return [
        wire.Event("click", f"u{user}", item=f"i{(user + step) % items}")
        for step in range(each)
        for user in range(users)
    ]


def together(work: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine."""
    asyncio.run(work())  # type: ignore[arg-type]
