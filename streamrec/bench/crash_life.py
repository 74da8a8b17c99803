"""One life of a consumer in `streamrec bench crash`: forked from a process that has imported everything already."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from streamrec.spec import Spec

DEADLY = ("open", "os.rename", "shutil.rmtree", "os.mkdir", "os.remove")
"""Audit events at which a life may end by itself, when they concern a checkpoint."""


def live(spec: Spec, run_dir: str, die_at: int) -> None:
    """Consume until the stream ends or somebody kills this process.

    Args:
        spec: of the run.
        run_dir: continued where its newest checkpoint is.
        die_at: SIGKILL itself at this step of writing checkpoints, counted from 1; 0 = never.
    """
    logging.disable(logging.WARNING)
    _silence(Path(run_dir))
    if die_at:
        _arm(str(Path(run_dir) / "checkpoints"), die_at)
    from streamrec.experiment import Experiment
    from streamrec.interrupts import interrupts

    experiment = Experiment(spec, Path(run_dir), "streamrec bench crash")
    experiment.resume()
    with interrupts(experiment.stop):  # `run` without its report, whose plots take longer than a short stream
        experiment._main()
        experiment._write_metrics()
        experiment._checkpoint()
    experiment.loop.world.close()


def _silence(run_dir: Path) -> None:
    """What a dying consumer has to say goes to a file."""
    run_dir.mkdir(parents=True, exist_ok=True)
    out = os.open(run_dir / "life.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)


def _arm(folder: str, die_at: int) -> None:
    left = die_at
    writing = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left, writing
        if event not in DEADLY or not arguments or not str(arguments[0]).startswith(folder):
            return
        writing = writing or ".writing-" in str(arguments[0])  # reading a checkpoint is not writing one
        left -= writing
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
