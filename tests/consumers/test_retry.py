"""What can be read by now is sent again, once, whatever dies in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from consumers import retry as module
from consumers import wire
from consumers.broker import BrokerUnavailable, EmbeddedBroker, create_topics
from consumers.commands_dead_letters import app
from consumers.kafka import RETRY_HEADER, connect_producer
from consumers.retry import Outcome, _Ledger, retry
from consumers.scan import bounds, scan, topics
from streamrec.catalog import Catalog
from tests.consumers.kafka_topics import Open, drain, send

pytestmark = pytest.mark.kafka

NOW_GOOD = b'{"user":"bob","kind":"click","item":"i"}'
Bury = Callable[..., str]


@pytest.fixture
def bury(broker: EmbeddedBroker, topic: str) -> Bury:
    """Writes dead letters as an earlier version, with a decoder that was stricter, would have."""

    def write(*values: bytes, partitions: int = 1, partition: int = 0, first: int = 0) -> str:
        create_topics(broker.address, {topic: partitions, f"{topic}-dead": 1})
        found = [
            wire.dead_letter("Expected `str`, got `int` - at `$.item`", topic, partition, first + at, b"bob", value)
            for at, value in enumerate(values)
        ]
        send(broker.address, f"{topic}-dead", [wire.encode(letter) for letter in found])
        return f"{topic}-dead"

    return write


def records(broker: EmbeddedBroker, topic: str) -> list[Any]:
    return [record for found in scan(broker.address, topic) for record in found]


def counts(outcome: Outcome) -> tuple[int, dict[str, int], dict[str, int]]:
    return outcome.sent, dict(outcome.still_bad), dict(outcome.skipped)


def test_what_can_be_read_is_sent_once_however_often_one_retries(
    broker: EmbeddedBroker, topic: str, bury: Bury
) -> None:
    dead = bury(NOW_GOOD, b"{}", NOW_GOOD, b'{"kind":"end"}')
    bad, over = {"missing_field:kind": 1}, {"end": 1}
    assert counts(retry(broker.address, dead, dry_run=True)) == (2, bad, over)
    assert records(broker, topic) == []
    assert f"{dead}.retried" not in topics(broker.address)
    assert counts(retry(broker.address, dead)) == (2, bad, over)
    for dry_run in (True, False, False):
        again = counts(retry(broker.address, dead, dry_run=dry_run))
        assert again == (0, bad, {"already_sent": 2, **over})
    sent = records(broker, topic)
    assert [(record.key, record.value) for record in sent] == [(b"bob", NOW_GOOD)] * 2
    assert len({dict(record.headers)[RETRY_HEADER] for record in sent}) == 2
    bury(NOW_GOOD, first=100)
    assert retry(broker.address, dead).sent == 1


def test_a_consumer_reads_what_was_sent_at_the_time_it_first_came(
    broker: EmbeddedBroker, topic: str, open_world: Open
) -> None:
    create_topics(broker.address, {topic: 3})
    producer = connect_producer(broker.address)
    for at, item in enumerate(("a", "b")):  # no time in the message: its event time is the record's
        value = wire.encode(wire.Event("click", "bob", item=item))
        producer.send(topic, value, key=b"bob", partition=2, timestamp_ms=1_500_000_000_000 + at)
    producer.close()
    full = open_world(catalog=Catalog(1))
    drain(full, 1)
    full.flush()
    assert full.dead_letters == 1
    assert counts(retry(broker.address, f"{topic}-dead")) == (1, {}, {})
    roomy = open_world(catalog=Catalog(10))
    events = drain(roomy, 3)
    assert events.time.tolist() == [1_500_000_000.0, 1_500_000_000.001, 1_500_000_000.001]
    assert [roomy.catalog.ids[row] for row in events.item.tolist()] == ["a", "b", "b"]
    assert [record.partition for record in records(broker, topic)] == [2, 2, 2]


def test_what_comes_back_is_not_sent_again_unasked(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    send(broker.address, topic, [wire.Event("click", "bob", item=item) for item in ("a", "b")])
    full = open_world(catalog=Catalog(1))
    drain(full, 1)
    full.flush()
    dead = f"{topic}-dead"
    assert retry(broker.address, dead).sent == 1
    for _ in range(20):
        full.poll(0.1)
        if full.dead_letters == 2:
            break
    full.flush()
    assert counts(retry(broker.address, dead)) == (0, {}, {"already_sent": 1, "came_back": 1})
    assert counts(retry(broker.address, dead, again=True)) == (1, {}, {"already_sent": 1})
    assert counts(retry(broker.address, dead, again=True)) == (0, {}, {"already_sent": 2})


def test_only_letters_of_a_reason(broker: EmbeddedBroker, topic: str, bury: Bury) -> None:
    dead = bury(NOW_GOOD)
    letter = wire.dead_letter("Expected `float` >= 0.0 - at `$.time`", topic, 0, 50, None, NOW_GOOD)
    send(broker.address, dead, [wire.encode(letter)])
    assert retry(broker.address, dead, reason="out_of_range:time").sent == 1
    assert retry(broker.address, dead, reason="out_of_range").skipped == {"already_sent": 1}
    assert retry(broker.address, dead, reason="too_deep") == Outcome(False)
    assert retry(broker.address, dead).sent == 1
    assert [record.key for record in records(broker, topic)] == [None, b"bob"]


def test_what_cannot_be_sent_whole_or_to_its_place_is_not_sent(broker: EmbeddedBroker, topic: str, bury: Bury) -> None:
    dead = bury(NOW_GOOD)
    padded = NOW_GOOD + b" " * 70_000  # its first 64 KiB can be read
    others = [
        wire.dead_letter("Expected at most 65536 bytes, got 70042", topic, 0, 7, None, padded),
        wire.dead_letter("JSON is malformed", f"{topic}-gone", 0, 8, None, NOW_GOOD),
        wire.dead_letter("Expected `str`, got `int` - at `$.item`", topic, 0, 0, b"bob", NOW_GOOD),
    ]
    send(broker.address, dead, [*(wire.encode(letter) for letter in others), b"junk"])
    expected = {"cut": 1, "no_topic": 1, "written_twice": 1, "not_a_dead_letter": 1}
    assert counts(retry(broker.address, dead)) == (1, {}, expected)
    assert f"{topic}-gone" not in topics(broker.address)


def test_a_letter_of_a_partition_that_is_gone_goes_by_its_key(broker: EmbeddedBroker, topic: str, bury: Bury) -> None:
    assert retry(broker.address, bury(NOW_GOOD, partition=9)).sent == 1
    assert [record.partition for record in records(broker, topic)] == [0]


@pytest.mark.parametrize("moment", ["announced", "half", "all"])
def test_a_retry_that_dies_is_taken_up_without_loss_or_double(
    broker: EmbeddedBroker, topic: str, bury: Bury, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    dead = bury(*[NOW_GOOD] * 7)
    send(broker.address, topic, [NOW_GOOD] * 30)
    monkeypatch.setattr(module, "BATCH", 3)
    deliver, calls = _Ledger._deliver, iter(range(100))
    sent_before = {"announced": 3, "half": 5, "all": 6}[moment]

    def dies(self: _Ledger, given: Any) -> None:
        found, call = list(given), next(calls)  # 0, 3: announced; 1, 4: sent; 2, 5: ticked off
        if call == 4:
            deliver(self, found[: sent_before - 3])
        if call == 4:
            raise KeyboardInterrupt
        deliver(self, found)

    monkeypatch.setattr(_Ledger, "_deliver", dies)
    with pytest.raises(KeyboardInterrupt):
        retry(broker.address, dead)
    monkeypatch.setattr(_Ledger, "_deliver", deliver)
    assert len(records(broker, topic)) == 30 + sent_before
    left: tuple[int, dict[str, int], dict[str, int]] = (7 - sent_before, {}, {"already_sent": sent_before})
    assert counts(retry(broker.address, dead, dry_run=True)) == left
    assert counts(retry(broker.address, dead)) == left
    assert counts(retry(broker.address, dead)) == (0, {}, {"already_sent": 7})
    sent = [dict(record.headers)[RETRY_HEADER] for record in records(broker, topic)[30:]]
    assert len(sent) == len(set(sent)) == 7


def test_what_nobody_can_tell_any_more_is_not_sent_unasked(
    broker: EmbeddedBroker, topic: str, bury: Bury, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = bury(NOW_GOOD)
    monkeypatch.setattr(_Ledger, "_records", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        retry(broker.address, dead)
    monkeypatch.undo()
    real = bounds  # the embedded broker never deletes records
    monkeypatch.setattr(module, "bounds", lambda *where: ({0: 1_000}, real(*where)[1]))
    assert counts(retry(broker.address, dead)) == (0, {}, {"uncertain": 1})
    assert counts(retry(broker.address, dead, again=True)) == (1, {}, {})
    assert counts(retry(broker.address, dead)) == (0, {}, {"already_sent": 1})


def test_the_command_says_how_many(broker: EmbeddedBroker, topic: str, bury: Bury) -> None:
    dead = bury(NOW_GOOD, b"{}")
    where = ["--topic", dead, "--bootstrap-servers", broker.address]
    told = CliRunner().invoke(app, ["retry", "--dry-run", *where])
    assert told.stdout.startswith("1 would be sent, 1 still bad, 0 skipped\n")
    told = CliRunner().invoke(app, ["retry", *where])
    assert told.stdout == "1 sent, 1 still bad, 0 skipped\n        1  still bad: missing_field:kind\n"
    told = CliRunner().invoke(app, ["retry", "--json", *where])
    assert json.loads(told.stdout) == {
        "topic": dead,
        "dry_run": False,
        "sent": 0,
        "still_bad": {"missing_field:kind": 1},
        "skipped": {"already_sent": 1},
    }
    assert CliRunner().invoke(app, ["retry", "--topic", "nowhere", *where[2:]]).exit_code == 2


def test_nobody_there_is_said_so() -> None:
    with pytest.raises(BrokerUnavailable, match="no Kafka broker answers"):
        retry("127.0.0.1:1")
