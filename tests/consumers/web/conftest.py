"""A running service with people who use it, and a browser to look at it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from consumers.broker import EmbeddedBroker
from consumers.http.settings import Settings
from consumers.http_players import HttpPlayers
from consumers.serving.engine import Engine
from simulators.feed import Feed
from simulators.world import SimulatorWorld
from streamrec.catalog import Catalog
from streamrec.sessions import SessionStore
from tests.consumers.http.running import Running
from tests.consumers.web.browser import CHROMIUM, Browser, Tab

SLATE = 5
TOPIC = "dashboard"

SPEC: dict[str, Any] = {
    "run": {"slate": SLATE, "update_every": 8, "publish_s": 1.0},
    "catalog": {"capacity": 500},
    "sessions": {"users": 300, "length": 10, "skips": 5},
    "meters": {"reward": {"use": "streamrec.evaluation.reward.Reward"}},
    "agent": {
        "use": "agents.split.Split",
        "learn_from": "all",
        "agents": {
            "knn": {"use": "agents.itemknn.ItemKNN", "epsilon": 0.1},
            "gru": {
                "use": "agents.supervised.Supervised",
                "model": {
                    "use": "streamrec.models.next_item.NextItem",
                    "encoder": {"use": "streamrec.encoders.gru4rec.GRU4Rec", "dim": 8},
                },
                "memory": 256,
                "batch": 32,
            },
        },
    },
    "world": {
        "use": "consumers.kafka.KafkaWorld",
        "topic": TOPIC,
        "decisions": f"{TOPIC}-decisions",
        "dead_letters": f"{TOPIC}-dead",
    },
    "serve": {"guard_decisions": 0},
}


class Crowd:
    """Simulated users of the service, in a thread; they think for two seconds and ask at most five times a second."""

    def __init__(self, url: str) -> None:
        catalog, sessions = Catalog(100), SessionStore(users=60, slate=SLATE)
        people = Feed(users=60, items=80, slate=SLATE, think_s=2.0, gap_s=10.0, purchase=0.3, new_items_per_hour=0)
        world = SimulatorWorld(people, catalog, sessions, clock=time.time, start=time.time())
        self.players = HttpPlayers(world, catalog, sessions, SLATE, url, rate=5.0, callers=1)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._play, name="crowd")
        self._thread.start()

    def _play(self) -> None:
        while not self._ends.is_set() and self.players.step(0.05):
            pass

    def close(self) -> None:
        self._ends.set()
        self._thread.join(20.0)
        self.players.close()


@pytest.fixture(scope="module")
def service(broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with its learner and users, once a first version serves."""
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH")
    engine = Engine(SPEC, tmp_path_factory.mktemp("run"), broker.address, others=sorted(Settings.KEYS))
    with Running(engine) as running:
        running.await_start()
        crowd = Crowd(running.url)
        try:
            _await_models(running, 3)
            yield running
        finally:
            crowd.close()


def _await_models(running: Running, least: int) -> None:
    deadline = time.monotonic() + 200  # the learner gives way to everybody else on the machine
    with running.client() as http:
        while len(http.get("/v1/models").json()["models"]) < least:
            assert time.monotonic() < deadline, http.get("/readyz").text
            time.sleep(0.1)


@pytest.fixture
def http(service: Running) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH")
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


Look = Callable[..., Tab]


@pytest.fixture
def look(browser: Browser, service: Running) -> Iterator[Look]:
    """Opens a page of the service by its hash and waits for live figures; at the end its console must be silent."""
    opened: list[Tab] = []

    def open_page(page: str = "#/live", width: int = 1280, height: int = 900, **media: str) -> Tab:
        tab = browser.open(service.url + page, width, height, **media)
        opened.append(tab)
        tab.wait("document.querySelector('#state')?.dataset.state === 'live'")
        return tab

    yield open_page
    said = [line for tab in opened for line in tab.console]
    for tab in opened:
        tab.close()
    assert said == []
