"""The process that learns beside the service: started with it, ended with it, and never a reason for it to stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import tomli_w

from streamrec import lifeline
from streamrec import spec as specs

log = logging.getLogger(__name__)

BACKOFF_S = (0.5, 30.0)
"""Wall seconds before the first restart and at most; twice as long each time."""

FRESH_S = 10.0
"""A learner writes a line of metrics each second; one that was silent for this long is not there."""

NICE = 10
"""Whoever asks waits for the service; nobody waits for the learner, which still gets a tenth of a busy processor. At 19
it gets a hundredth, and answers came a millisecond sooner."""

STEADY_S = 60.0
"""A learner that ran this long begins again with the shortest wait."""


class Learner:
    """`streamrec consume` as a child process on the run directory of the service.

    Args:
        spec: what it runs; written to `learner.toml`.
        run_dir: its output goes to `learner.log` there.
    """

    def __init__(self, spec: specs.Spec, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.restarts = 0
        self.says = "not started"
        self._spec = run_dir / "learner.toml"
        self._spec.touch(mode=0o600)
        self._spec.write_text(tomli_w.dumps(spec))  # not `spec.dump`: the broker's password has to be in it
        self._child: subprocess.Popen[bytes] | None = None
        self._begun = 0.0

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    async def keep_running(self) -> None:
        """Start it and start it again whenever it ends, until cancelled."""
        wait = BACKOFF_S[0]
        while True:
            self._start()
            while self.alive:
                await asyncio.sleep(0.2)
            code = None if self._child is None else lifeline.stop(self._child)  # gone already: this tidies up
            if time.monotonic() - self._begun > STEADY_S:
                wait = BACKOFF_S[0]
            self.says = f"ended with {code}, starts again in {wait:g} s: see learner.log"
            log.warning("the learner %s", self.says)
            await asyncio.sleep(wait)
            wait = min(2 * wait, BACKOFF_S[1])
            self.restarts += 1

    def _start(self) -> None:
        arguments = ["consume", str(self._spec), "--run-dir", str(self.run_dir), "--quiet"]
        if any((self.run_dir / "checkpoints").glob("[0-9]*")):
            arguments.append("--resume")
        self._begun = time.monotonic()
        try:
            self._child = lifeline.start(arguments, self.run_dir / "learner.log")
            _give_way(self._child.pid)
            self.says = "runs"
        except OSError as error:
            self.says = f"cannot be started: {error}"

    async def stop(self, patience_s: float = 20.0) -> None:
        """End it; it leaves a checkpoint."""
        if self._child is not None:
            await asyncio.to_thread(lifeline.stop, self._child, patience_s)


def _give_way(process: int) -> None:
    """Who answers goes first. Where Linux groups processes by session, the group has to give way, not the process."""
    os.setpriority(os.PRIO_PROCESS, process, NICE)
    with contextlib.suppress(OSError):
        Path(f"/proc/{process}/autogroup").write_text(str(NICE))


class Traces:
    """What a learner leaves in the run directory, whoever started it.

    Args:
        run_dir: of the learner.
    """

    def __init__(self, run_dir: Path) -> None:
        self._metrics, self._status = run_dir / "metrics.jsonl", run_dir / "models" / "status.json"

    def fresh(self) -> bool:
        """It has said something in the last seconds."""
        try:
            return time.time() - self._metrics.stat().st_mtime < FRESH_S
        except OSError:
            return False

    def figures(self) -> dict[str, Any]:
        """The newest line of its metrics; {} before the first."""
        try:
            with self._metrics.open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - 65_536))
                lines = file.read().split(b"\n")
            line: dict[str, Any] = json.loads(lines[-2])
            return line
        except (OSError, IndexError, ValueError):
            return {}

    def refused(self) -> tuple[int, str]:
        """Versions it did not publish because they were not finite, and the reason of the newest."""
        try:
            status = json.loads(self._status.read_text())
            return int(status["refused"]), str(status["reason"])
        except (OSError, ValueError, KeyError):
            return 0, ""
