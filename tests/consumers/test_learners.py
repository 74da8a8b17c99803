"""Two processes learn one model from one group's partitions, from their start with torchrun to every kind of end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from consumers.broker import EmbeddedBroker, create_topics
from streamrec import checkpoint
from tests.consumers import learners

pytestmark = [pytest.mark.slow, pytest.mark.kafka]

SHARES = (0.7, 0.1, 0.1, 0.1)
LOCAL = ("ring", "generator", "replay", "spread", "support", "target")
"""Parts of an agent that are a learner's own: memories, draws, counts, and the copy of the weights that targets come
from, which is made every so many of its own updates. Everything else is the model."""
PATIENCE_S = 100.0


@contextmanager
def running(folder: Path, spec: dict[str, Any], *more: str) -> Iterator[subprocess.Popen[str]]:
    """The learners; whatever is left of them in the end is killed, and what they said is shown."""
    process = learners.launch(folder, spec, *more)
    try:
        yield process
    finally:
        for pid in children(process):
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.communicate()
        print((folder / "said.txt").read_text())


def children(process: subprocess.Popen[str]) -> list[int]:
    if process.poll() is not None:
        return []
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def same_model(folder: Path) -> list[dict[str, Any]]:
    """The learners' newest checkpoints, which have one number and one model."""
    found = [learners.newest(where) for where in learners.run_dirs(folder)]
    numbers, states = zip(*found, strict=True)
    assert len(set(numbers)) == 1
    first, second = (learners.tensors(state["agent"]) for state in states)
    assert first.keys() == second.keys()
    model = [name for name in first if not any(part in name for part in LOCAL)]
    assert len(model) > 50
    assert [name for name in model if not torch.equal(first[name], second[name])] == []
    assert states[0]["catalog"]["ids"] == states[1]["catalog"]["ids"]
    return list(states)


def wait_for_checkpoints(folder: Path, process: subprocess.Popen[str], events: int) -> None:
    """Return once the learners' checkpoints say that they have read so many."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "they ended too early"
        if all(checkpoint.numbers(where / "checkpoints") for where in learners.run_dirs(folder)):
            found = [checkpoint.load_newest(where / "checkpoints") for where in learners.run_dirs(folder)]
            if sum(offsets([pair[0] for pair in found if pair is not None]).values()) >= events:
                return
        time.sleep(0.3)
    raise AssertionError(f"they have not read {events} events")


def offsets(states: list[dict[str, Any]]) -> dict[str, int]:
    return {partition: at for state in states for partition, at in state["position"]["offsets"].items()}


def test_learners_with_uneven_shares_end_together_with_one_model(
    broker: EmbeddedBroker, topic: str, tmp_path: Path
) -> None:
    create_topics(broker.address, {topic: learners.PARTITIONS})
    learners.write(broker.address, topic, 4000, SHARES)
    with running(tmp_path, learners.spec(broker.address, topic)) as process:
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert len(out.splitlines()) == 1  # the first of them speaks for all
    states = same_model(tmp_path)
    assert [len(state["position"]["offsets"]) for state in states] == [2, 2]  # each read its part
    assert sum(offsets(states).values()) == 4000 + learners.PARTITIONS
    told = learners.summaries(tmp_path)
    assert sum(one["events_consumed"] for one in told) == 4000
    busy, idle = sorted(one["updates"] for one in told)[::-1]
    assert busy > 2 * idle > 0
    assert all(one["items"] == learners.ITEMS and not one["stopped"] for one in told)


def test_one_is_told_to_end_and_one_is_killed_and_all_go_on_from_one_point(
    broker: EmbeddedBroker, topic: str, tmp_path: Path
) -> None:
    create_topics(broker.address, {topic: learners.PARTITIONS})
    learners.write(broker.address, topic, 1500, SHARES, over=False)
    live = learners.spec(broker.address, topic, follow=True)
    with running(tmp_path, live) as process:
        wait_for_checkpoints(tmp_path, process, events=1500)
        os.kill(children(process)[0], signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert all(one["stopped"] for one in learners.summaries(tmp_path))
    before = same_model(tmp_path)[0]["loop"]["counts"]["polls"]

    live = learners.spec(broker.address, topic, follow=True, start=1)
    learners.write(broker.address, topic, 1500, SHARES, start=1500, over=False)
    with running(tmp_path, live, "--resume") as process:
        wait_for_checkpoints(tmp_path, process, events=3000)
        os.kill(children(process)[-1], signal.SIGKILL)
        process.communicate(timeout=30.0)  # the other does not wait for it
    assert process.returncode != 0

    learners.write(broker.address, topic, 1500, SHARES, start=3000)
    with running(tmp_path, learners.spec(broker.address, topic, start=2), "--resume") as process:
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    states = same_model(tmp_path)
    assert states[0]["loop"]["counts"]["polls"] > before
    assert sum(offsets(states).values()) == 4500 + learners.PARTITIONS
