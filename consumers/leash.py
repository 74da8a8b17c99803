"""Run a command for as long as standard input stays open: `python leash.py command...`.

The pipe closes when the parent ends, however it ended, and the command must not outlive it. Only the standard
library, so that it starts in a few milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading


def _die_with_parent() -> None:
    """Linux: the kernel ends the command should this process be killed before it can."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _end_with_input(child: subprocess.Popen[bytes]) -> None:
    """Wait for the end of standard input, then end `child`: a second of politeness, then the hard way."""
    while os.read(0, 1024):
        pass
    child.terminate()
    try:
        child.wait(1.0)
    except subprocess.TimeoutExpired:
        child.kill()


def main(command: list[str]) -> int:
    """Run `command` until it or standard input ends; returns its exit code."""
    # No other thread runs here yet, so that code between fork and exec is safe.
    before = _die_with_parent if sys.platform == "linux" else None
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=before)
    threading.Thread(target=_end_with_input, args=[child], daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
