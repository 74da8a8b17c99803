"""`streamrec demo`: the main job on embedded defaults, made of the same commands a user would type.

A broker, a process that plays simulated users (`streamrec produce`), a process that answers and learns
(`streamrec consume`), and this one, which shows what `metrics.jsonl` says. First a day of the same users under a random
policy is recorded (`streamrec train record`): the log the supervised model starts from.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from consumers.broker import EmbeddedBroker, create_topics
from consumers.dashboard import Dashboard
from consumers.panel import Panel
from streamrec import lifeline
from streamrec.interrupts import interrupts

EPOCH_S = 1_700_000_000.0
"""Event time at which the simulated users start, seconds since the epoch."""

PACE = 60.0
"""Seconds of event time per second of wall clock: a minute of the demo is an hour of clicking."""

TOPICS = {"streamrec.events": 2, "streamrec.decisions": 2, "streamrec.dead-letters": 1}

NEXT = (
    "streamrec train --set run.decisions=200000        # the same agents, training in the simulator at full speed",
    "streamrec replay --log {run_dir}/log               # the log its models were warmed on: predict, score, learn",
    "streamrec demo --resume --run-dir {run_dir}        # go on learning where this demo stopped",
)


class DemoFailed(RuntimeError):
    """One of the demo's processes ended with an error; the message has the end of its log."""


def run_demo(
    run_dir: Path, seconds: float, *, headless: bool, servers: str | None, resume: bool, sets: Sequence[str]
) -> dict[str, Any]:
    """Run the demo for `seconds` of live play and return its figures.

    Args:
        run_dir: where everything is left: logs of the processes, metrics, checkpoints, report.
        seconds: length of the live part; tastes shift after a third of it.
        headless: neither terminal panel nor page.
        servers: a Kafka of the user's instead of the embedded broker.
        resume: go on from the checkpoint in `run_dir`.
        sets: overrides for the spec of the consumer.

    Raises:
        DemoFailed: a process ended with an error.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stopped = threading.Event()
        interrupted = stopped.is_set
        stack.enter_context(interrupts(stopped.set))
        address = servers or stack.enter_context(EmbeddedBroker()).address
        create_topics(address, TOPICS)
        if not headless:
            page = stack.enter_context(Dashboard(run_dir))
            print(f"streamrec demo: live plots at {page.url}, files in {run_dir}/", file=sys.stderr)
        if not (run_dir / "log").exists():
            _record(run_dir, interrupted)
        if interrupted():
            return _nothing_yet(run_dir)
        consumer = _start_consumer(stack, run_dir, address, seconds, resume, sets)
        _wait_until_ready(run_dir, consumer, interrupted)
        players = _start_players(stack, run_dir, address, seconds)
        _watch(run_dir, consumer, players, seconds, headless, interrupted)
        return _report(run_dir, players, consumer, interrupted())


def _record(run_dir: Path, interrupted: Callable[[], bool]) -> None:
    """A log of the same users under a random policy, before the demo starts."""
    warm = run_dir / "yesterday"
    shutil.rmtree(warm, ignore_errors=True)  # of a demo that was interrupted here
    child = lifeline.start(["train", "record", "--run-dir", str(warm), "--quiet"], run_dir / "record.log")
    while child.poll() is None:
        if interrupted():
            lifeline.stop(child)
        time.sleep(0.05)
    if child.stdin is not None:
        child.stdin.close()
    if interrupted():
        return
    if child.returncode != 0:
        raise DemoFailed(_last_lines("recording the warm-start log", run_dir / "record.log"))
    (warm / "log").rename(run_dir / "log")


def _start_consumer(
    stack: ExitStack, run_dir: Path, address: str, seconds: float, resume: bool, sets: Sequence[str]
) -> subprocess.Popen[bytes]:
    shift_at = EPOCH_S + PACE * seconds / 3
    arguments = ["consume", "demo", "--bootstrap-servers", address, "--run-dir", str(run_dir), "--json", "--quiet"]
    arguments += ["--set", f'run.marks={{"{shift_at}"="tastes shift"}}']
    arguments += ["--set", f'warm_start.world.path="{run_dir / "log"}"']
    for override in sets:
        arguments += ["--set", override]
    if resume and any((run_dir / "checkpoints").glob("[0-9]*")):
        arguments.append("--resume")
    child = lifeline.start(arguments, run_dir / "consumer.log")
    stack.callback(lifeline.stop, child)
    return child


def _start_players(stack: ExitStack, run_dir: Path, address: str, seconds: float) -> subprocess.Popen[bytes]:
    arguments = ["produce", "players", "--bootstrap-servers", address, "--seconds", str(seconds), "--json", "--quiet"]
    arguments += ["--pace", str(PACE)]
    arguments += ["--set", f"world.core.shift_at={PACE * seconds / 3}"]
    child = lifeline.start(arguments, run_dir / "players.log")
    stack.callback(lifeline.stop, child, 10.0)
    return child


def _wait_until_ready(run_dir: Path, consumer: subprocess.Popen[bytes], interrupted: Callable[[], bool]) -> None:
    """The consumer writes its first line of metrics when its models are warm and it polls."""
    metrics, size = run_dir / "metrics.jsonl", 0
    if metrics.exists():
        size = metrics.stat().st_size
    while not interrupted() and consumer.poll() is None:
        if metrics.exists() and metrics.stat().st_size != size:
            return
        time.sleep(0.05)


def _watch(
    run_dir: Path,
    consumer: subprocess.Popen[bytes],
    players: subprocess.Popen[bytes],
    seconds: float,
    headless: bool,
    interrupted: Callable[[], bool],
) -> None:
    def done() -> bool:
        return interrupted() or consumer.poll() is not None

    if headless:
        while not done():
            time.sleep(0.1)
    else:
        Panel(run_dir).follow(done, seconds)
    if interrupted():
        lifeline.stop(players, 10.0)
        lifeline.stop(consumer)
    elif consumer.returncode == 0:
        players.wait(30.0)


def _report(
    run_dir: Path, players: subprocess.Popen[bytes], consumer: subprocess.Popen[bytes], interrupted: bool
) -> dict[str, Any]:
    if interrupted and not (run_dir / "summary.json").exists():
        return _nothing_yet(run_dir)
    if consumer.returncode != 0:
        raise DemoFailed(_last_lines("the consumer", run_dir / "consumer.log"))
    if players.returncode != 0 and not interrupted:
        raise DemoFailed(_last_lines("the players", run_dir / "players.log"))
    consumed = _last_json(run_dir / "consumer.log")
    produced = _last_json(run_dir / "players.log")
    return {
        **consumed,
        "events_produced": produced.get("events"),
        "next": [command.format(run_dir=run_dir) for command in NEXT],
    }


def _nothing_yet(run_dir: Path) -> dict[str, Any]:
    """Interrupted before anything was learned; a later `--resume` starts afresh."""
    return {"stopped": True, "run_dir": str(run_dir), "events_produced": 0, "events_consumed": 0, "policies": {}}


def _last_json(path: Path) -> dict[str, Any]:
    for line in reversed(path.read_text().splitlines()):
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    return {}


def _last_lines(what: str, log: Path) -> str:
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    return f"{what} failed; the end of {log}:\n{tail}"
