"""The main job as a user runs it: broker, players, consumer and parent as real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kafka

POLICIES = {"random", "popular", "itemknn", "gru4rec", "dqn"}


def demo(cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "streamrec.cli", "demo", "--headless", "--json", "--run-dir", "run", *arguments]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], timeout_s: float = 200.0) -> dict[str, Any]:
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            yield child
            yield from descendants(child)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(path: Path, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.1)


def test_the_demo_counts_every_event_and_judges_every_policy(tmp_path: Path) -> None:
    report = finish(demo(tmp_path, "--seconds", "8", "--set", "warm_start.passes=1"))
    assert report["events_produced"] == report["events_consumed"] > 0
    assert report["dead_letters"] == 0
    assert report["updates"] > 0
    assert report["event_to_weights_ms"]["p50"] <= report["event_to_weights_ms"]["p95"]
    assert set(report["policies"]) == set(report["recovery_s"]) == POLICIES
    for figures in report["policies"].values():
        assert figures["low"] <= figures["reward"] <= figures["high"]
    page = (tmp_path / report["report"]).read_text()
    assert "tastes shift" in page
    assert "http://" not in page.replace("http://www.w3.org/", "")


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads the process table of Linux")
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("record.log", marks=pytest.mark.slow),
        pytest.param("consumer.log", marks=pytest.mark.slow),
        "metrics.jsonl",
    ],
)
def test_ctrl_c_at_any_moment_leaves_no_process_and_something_to_go_on_with(tmp_path: Path, moment: str) -> None:
    run = tmp_path / "run"
    if moment != "record.log":  # an hour of yesterday is enough
        record = ["train", "record", "--quiet", "--run-dir", "yesterday", "--set", "run.decisions=2000"]
        subprocess.run([sys.executable, "-m", "streamrec.cli", *record], cwd=tmp_path, check=True)
        run.mkdir()
        (tmp_path / "yesterday" / "log").rename(run / "log")
    process = demo(tmp_path, "--seconds", "60")
    deadline = time.monotonic() + 120
    while not (run / moment).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.0)
    family = list(descendants(process.pid))
    os.kill(process.pid, signal.SIGINT)
    report = finish(process)
    assert not [pid for pid in family if alive(pid)]
    if moment == "metrics.jsonl":
        assert report["stopped"] is True
        again = finish(demo(tmp_path, "--seconds", "6", "--resume"))
        assert again["decisions"] > report["decisions"]
        assert again["events_produced"] == again["events_consumed"] - report["events_consumed"]
