"""A child process that ends when its parent does, in an orderly way, however the parent ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

_VARIABLE = "STREAMREC_LIFELINE"


def tie_to_parent() -> None:
    """In a child started by `start`: interrupt this process once standard input ends, as it does with the parent.

    What a script starts in the background ignores interrupts, and so would its children; this one heeds them.
    """
    if os.environ.pop(_VARIABLE, None):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Thread(target=_wait_for_end, name="lifeline", daemon=True).start()


def _wait_for_end() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGINT)


def tie_worker() -> None:
    """In a worker of a process pool, as its initializer: end when the pool's process does, in mid-task too."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), name="lifeline", daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)  # nobody is left to take a result


def start(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start `streamrec arguments...`, tied to this process; its output is added to the file `log`.

    The child has a session of its own, so that Ctrl-C in a terminal reaches it through us and in the right order.
    """
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "streamrec.cli", *arguments],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, _VARIABLE: "1"},
        )


def stop(child: subprocess.Popen[bytes], patience_s: float = 30.0) -> int:
    """Ask a child to end as Ctrl-C would, wait, and end it the hard way if it does not. Returns its exit code.

    The end of its standard input is what asks: unlike a signal it waits for a child that has hardly begun.
    """
    if child.stdin is not None:
        child.stdin.close()
    try:
        child.wait(patience_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    return child.returncode
