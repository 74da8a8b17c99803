"""One running service for all tests of a module: embedded broker, real engine, real socket, no learner."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from consumers.broker import EmbeddedBroker
from consumers.http.settings import Settings
from consumers.serving.engine import Engine
from tests.consumers.http.running import Running

_numbers = itertools.count(1)


def make_engine(address: str, run_dir: Path) -> Engine:
    """An engine on topics of its own."""
    topic = f"service-{next(_numbers)}"
    spec = {
        "run": {"slate": 20},
        "catalog": {"capacity": 5000},
        "sessions": {"users": 5000},
        "agent": {"use": "agents.popular.Popular"},
        "world": {"topic": topic, "decisions": f"{topic}-decisions", "dead_letters": f"{topic}-dead"},
    }
    return Engine(spec, run_dir, address, learner=False, others=sorted(Settings.KEYS))


@pytest.fixture(scope="module")
def engine(broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return make_engine(broker.address, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def running(engine: Engine) -> Iterator[Running]:
    with Running(engine) as service:
        service.await_start()
        yield service


@pytest.fixture(scope="module")
def http(running: Running) -> Iterator[httpx.Client]:
    with running.client() as client:
        yield client
