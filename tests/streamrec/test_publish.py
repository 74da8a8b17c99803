"""What a learning run publishes: what was learned since, whole, finite, a few of them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from streamrec import checkpoint
from streamrec.catalog import Catalog
from streamrec.loop import Loop
from streamrec.publish import Publisher
from streamrec.sessions import SessionStore
from tests.worlds import Counter, EchoWorld


def loop() -> Loop:
    items, sessions = Catalog(20), SessionStore(users=20, slate=3)
    return Loop(EchoWorld(items, sessions, items=10), sessions, items, Counter(items, 3))


def learned(of: Loop, decisions: int = 1) -> None:
    of.counts["decisions"] += decisions


def versions(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("[0-9]*"))


def test_a_version_holds_what_answers_need(tmp_path: Path) -> None:
    run, publisher = loop(), Publisher(tmp_path, 0.0)
    run.counts |= {"decisions": 7, "updates": 2}
    run.learning, run.newest_sent = {"loss": 0.5, "odd": float("nan")}, 123.0
    publisher.close(run)
    state = checkpoint.load(tmp_path / f"{1:012d}")
    assert torch.equal(state["agent"]["scores"], run.agent.state_dict()["scores"])
    assert state["catalog"]["ids"] == [f"i{n}" for n in range(10)]
    about = state["about"]
    assert (about["decisions"], about["updates"], about["newest_sent"]) == (7, 2, 123.0)
    assert about["learning"] == {"loss": 0.5}


def test_nothing_is_published_twice_and_few_are_kept(tmp_path: Path) -> None:
    run, publisher = loop(), Publisher(tmp_path, 0.0, keep=3)
    for _ in range(6):
        learned(run)
        publisher.close(run)
        publisher.close(run)
    assert versions(tmp_path) == [4, 5, 6]
    again = Publisher(tmp_path, 0.0, keep=3)
    again.close(run)
    assert versions(tmp_path) == [5, 6, 7]


def test_versions_keep_their_distance(tmp_path: Path) -> None:
    run, publisher = loop(), Publisher(tmp_path, 1000.0)
    for _ in range(3):
        learned(run)
        publisher.step(run)
    assert publisher._thread is not None
    publisher._thread.join()
    assert versions(tmp_path) == [1]


def test_weights_that_are_not_finite_stay_here(tmp_path: Path) -> None:
    run, publisher = loop(), Publisher(tmp_path, 0.0)
    publisher.close(run)
    assert isinstance(run.agent, Counter)
    run.agent.scores[3] = float("nan")
    learned(run)
    publisher.close(run)
    assert versions(tmp_path) == [1]
    status = json.loads((tmp_path / "status.json").read_text())
    assert status == {"published": 1, "refused": 1, "reason": "scores is not finite after 0 updates"}
    run.agent.scores[3] = 1.0
    learned(run)
    publisher.close(run)
    assert versions(tmp_path) == [1, 2]
