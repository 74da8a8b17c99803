"""Dead letters as `KafkaWorld` writes them, told by reason and one by one."""

from __future__ import annotations

import json
import time

import pytest
from typer.testing import CliRunner

from consumers import wire
from consumers.broker import EmbeddedBroker, create_topics
from consumers.commands_dead_letters import app
from consumers.dead_letters import Place, by_reason, find, letters, place, shown
from consumers.kafka import connect_producer
from tests.consumers.kafka_topics import Open, drain, send

pytestmark = pytest.mark.kafka

CLICK = b'{"user":"bob","kind":"click","item":"i"}'
BAD = [b'{"user":"bob","kind":"clik"}', b'{"user":"bob","kind":"clik","item":"i"}', b"\x1b[2J\xff bob"]


@pytest.fixture
def dead(broker: EmbeddedBroker, topic: str, open_world: Open) -> str:
    """A topic with a letter for each of `BAD`, from offsets 1, 2 and 3."""
    send(broker.address, topic, [CLICK, *BAD, CLICK])
    world = open_world()
    drain(world, 2)
    world.flush()
    return f"{topic}-dead"


def run(broker: EmbeddedBroker, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*arguments, "--bootstrap-servers", broker.address])
    return result.exit_code, result.stdout, result.stderr


def test_letters_are_counted_by_reason(broker: EmbeddedBroker, dead: str) -> None:
    before = time.time()
    groups = by_reason(broker.address, dead, examples=1)
    assert [(name, group.count, group.offsets, group.places) for name, group in groups.items()] == [
        ("unknown_value:kind", 2, {0: [0, 1]}, ["0:0"]),
        ("malformed_json", 1, {0: [2, 2]}, ["0:2"]),
    ]
    group = groups["unknown_value:kind"]
    assert before - 30 < group.first <= group.last <= before
    code, out, _ = run(broker, "list", "--topic", dead)
    assert code == 0
    assert "        2  unknown_value:kind: expected one of request" in out
    assert "at 0:0 to 0:1\n" in out
    assert f"{dead}: 3 dead letters\n" in out
    told = json.loads(run(broker, "list", "--topic", dead, "--json")[1])
    assert told["letters"] == 3
    assert told["reasons"]["malformed_json"]["places"] == ["0:2"]


def test_a_letter_knows_its_original(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    create_topics(broker.address, {topic: 2})
    producer = connect_producer(broker.address)
    headers = [("trace", b"t" * 1000), ("streamrec-retry", b"x" * 500)]
    producer.send(topic, b"\xff", key=b"bob", partition=1, timestamp_ms=1_000_000_001_500, headers=headers)
    producer.send(topic, CLICK, partition=1)
    producer.flush()
    producer.close()
    world = open_world()
    drain(world, 1)
    world.flush()
    (letter,) = letters(broker.address, f"{topic}-dead")
    assert (letter.topic, letter.origin_partition, letter.origin_offset) == (topic, 1, 0)
    assert (letter.key, letter.value, letter.sent) == (b"bob", b"\xff", 1_000_000_001.5)
    assert letter.time > 1.7e9
    assert letter.again == "x" * 64  # whatever a stranger writes there
    assert letter.whole


def test_a_record_with_huge_key_and_headers_stops_nothing(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    producer = connect_producer(broker.address)
    producer.send(topic, b"\x00" * 70_000, key=b"\x00" * 900_000)
    producer.send(topic, b"x", headers=[("streamrec-retry", b"\x00" * 900_000), ("streamrec-retry", b"")])
    producer.send(topic, CLICK)
    producer.flush()
    producer.close()
    world = open_world()
    drain(world, 1)
    world.flush()
    cut, other = sorted(letters(broker.address, f"{topic}-dead"), key=lambda letter: letter.origin_offset)
    assert (cut.key, cut.value) == (b"\x00" * wire.MAX_BYTES,) * 2
    assert not cut.whole
    assert other.whole
    assert shown(cut)["reason"] == "too_long"


def test_users_are_hidden_and_bytes_escaped_unless_raw(broker: EmbeddedBroker, dead: str) -> None:
    code, out, _ = run(broker, "show", "--topic", dead, "--reason", "unknown_value")
    assert code == 0
    assert "bob" not in out
    assert "Invalid enum value 'clik' - at `$.kind`" in out
    assert '"kind":"clik","item":"i"' in out
    code, out, _ = run(broker, "show", "2", "--topic", dead, "--raw")
    assert code == 0
    assert r"\x1b[2J\xff bob" in out
    told = json.loads(run(broker, "show", "0:2", "--topic", dead, "--json")[1])["letters"]
    assert [(letter["place"], letter["bytes"], letter["reason"]) for letter in told] == [("0:2", 9, "malformed_json")]
    assert "bob" not in json.dumps(told)


def test_what_is_shown_has_a_bound(broker: EmbeddedBroker, dead: str) -> None:
    assert run(broker, "show", "0", "--topic", dead, "--raw", "--width", "5")[1].count('{"use … (28 bytes)') == 1
    assert len(find(broker.address, dead, reason="unknown_value:kind", limit=1)) == 1


def test_what_is_not_there_is_said_so(broker: EmbeddedBroker, dead: str) -> None:
    code, _, err = run(broker, "show", "7", "--topic", dead)
    assert (code, "no such dead letter" in err) == (1, True)
    assert run(broker, "show", "--topic", dead)[0] == 2
    assert run(broker, "show", "first", "--topic", dead)[0] == 2
    assert run(broker, "list", "--topic", "nowhere")[0] == 2


def test_what_is_no_letter_is_shown_as_it_is(broker: EmbeddedBroker, topic: str) -> None:
    strange = [b"\xff", b"{}", b'{"reason":"r","topic":"t","partition":0,"offset":1,"value64":"?"}', b"[" * 9000]
    send(broker.address, topic, [*strange])
    found = list(letters(broker.address, topic))
    assert [letter.value for letter in found] == strange
    assert {letter.reason.name for letter in found} == {"not_a_dead_letter"}
    assert all(shown(letter, raw=raw)["value"] for letter in found for raw in (False, True))


def test_places_are_offsets_with_or_without_a_partition() -> None:
    assert place("12") == Place(None, 12)
    assert place("3:12") == Place(3, 12)
    for wrong in ("", ":12", "a:12", "-1", "1:2:3"):
        with pytest.raises(ValueError, match="expected OFFSET or PARTITION:OFFSET"):
            place(wrong)


def test_an_offset_without_a_partition_is_looked_for_in_all(broker: EmbeddedBroker, topic: str) -> None:
    create_topics(broker.address, {topic: 3})
    for partition, count in ((0, 5), (2, 3)):
        send(broker.address, topic, [b"x"] * count, partition=partition)
    assert sorted(letter.place for letter in find(broker.address, topic, Place(None, 2))) == ["0:2", "2:2"]
    assert [letter.place for letter in find(broker.address, topic, Place(None, 4))] == ["0:4"]
    assert [letter.place for letter in find(broker.address, topic, Place(2, 1))] == ["2:1"]
    assert find(broker.address, topic, Place(1, 0)) == []
    assert find(broker.address, topic, Place(0, 9)) == []
