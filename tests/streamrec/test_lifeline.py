from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from streamrec import lifeline

CHILD = "import sys, streamrec.lifeline as l; l.tie_to_parent(); import time; print('up', flush=True); time.sleep(60)"
PARENT = f"""
import os, signal, subprocess, sys
if sys.argv[1] == "background":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what a script starts with &
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=subprocess.PIPE,
                         start_new_session=True, env={{**os.environ, "STREAMREC_LIFELINE": "1"}})
print(child.pid, flush=True)
sys.stdin.read()
"""


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except FileNotFoundError:
        return False


def ends_with(parent: subprocess.Popen[bytes], pid: int) -> None:
    """The process `pid` lives, and no longer than `parent`, which is killed."""
    assert alive(pid)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)
    parent.communicate()


@pytest.mark.parametrize("where", ["terminal", "background"])
def test_a_child_ends_with_its_parent_even_if_that_is_killed(where: str) -> None:
    command = [sys.executable, "-c", PARENT, where]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert parent.stdout.readline() == b"up\n"
    ends_with(parent, pid)


POOL = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from streamrec import lifeline

def task():
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=lifeline.tie_worker) as pool:
        pool.submit(task).result()
"""


def test_a_worker_ends_with_its_pool_in_the_middle_of_a_task(tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    ends_with(parent, int(parent.stdout.readline()))


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
def test_a_child_that_has_hardly_begun_is_asked_and_not_killed(handler: Any, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        endless = ["train", "--run-dir", str(tmp_path / "run"), "--set", "run.decisions=1000000000"]
        child = lifeline.start(endless, tmp_path / "log")
        code = lifeline.stop(child, 60.0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert code != -signal.SIGKILL, (tmp_path / "log").read_text()
