from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

CHILD = "import sys, streamrec.lifeline as l; l.tie_to_parent(); import time; print('up', flush=True); time.sleep(60)"
PARENT = f"""
import os, subprocess, sys
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


def test_a_child_ends_with_its_parent_even_if_that_is_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert parent.stdout.readline() == b"up\n"
    assert alive(pid)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)
