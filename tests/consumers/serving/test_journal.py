"""What the service appends: in order, soon, and with a verdict where somebody waits for one."""

from __future__ import annotations

import asyncio
import time

import pytest

from consumers import wire
from consumers.broker import EmbeddedBroker
from consumers.serving.journal import GATHER_S, Journal
from tests.consumers.kafka_topics import Open, drain, send

pytestmark = pytest.mark.kafka


def event(kind: wire.Name, number: int) -> wire.Event:
    clicked = kind == "click"
    return wire.Event(kind, "u", item="i" if clicked else "", decision=-number, slate=() if clicked else ("i",))


@pytest.fixture(params=["kafka-python", "confluent"])
def journal(request: pytest.FixtureRequest, broker: EmbeddedBroker, topic: str, open_world: Open) -> Journal:
    if request.param == "confluent":
        pytest.importorskip("confluent_kafka", reason='needs the other client: pip install "streamrec[fast]"')
    send(broker.address, topic, [event("click", 1)])  # the topic is there
    return Journal(broker.address, topic, library=request.param)


def test_what_is_posted_stands_before_what_is_appended_after_it(journal: Journal, open_world: Open) -> None:
    async def say() -> None:
        for number in range(2, 12, 2):
            journal.post(event("request", number))
            verdicts = await journal.append([event("click", number)])
            assert [verdict.status for verdict in verdicts] == ["accepted"]

    asyncio.run(say())
    journal.close()
    events = drain(open_world(remember=0), 11)
    assert events.decision.tolist() == [-1, *(-number for number in range(2, 12, 2) for _ in range(2))]
    assert events.kind.tolist()[1:] == [1, 3] * 5


def test_what_is_posted_goes_out_by_itself_and_with_what_follows(journal: Journal, open_world: Open) -> None:
    async def say() -> None:
        for number in range(2, 7):
            journal.post(event("request", number))
        assert journal.appended == 0
        deadline = time.monotonic() + 10.0
        await asyncio.sleep(GATHER_S)
        while journal.appended < 5:
            assert time.monotonic() < deadline, journal.says
            await asyncio.sleep(0.01)
        journal.post(event("request", 7))
        await journal.flush()
        assert journal.appended == 6

    asyncio.run(say())
    journal.close()
    assert drain(open_world(remember=0), 7).decision.tolist() == [-number for number in range(1, 8)]
