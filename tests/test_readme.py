"""The Python of the README runs, and its commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run(block: str, tmp_path: Path) -> None:
    if "stable_baselines3" in block:
        pytest.importorskip("stable_baselines3")
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", block], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_commands_and_options_exist(tmp_path: Path) -> None:
    lines = [line.partition("#")[0] for line in README.replace("\\\n", " ").splitlines()]
    calls = [line.split() for line in lines if line.startswith("    streamrec ")]
    assert len(calls) >= 7
    helps: dict[str, str] = {}
    for _, verb, *words in calls:
        if verb not in helps:
            command = [sys.executable, "-m", "streamrec.cli", verb, "--help"]
            helps[verb] = subprocess.run(
                command, cwd=tmp_path, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"}
            ).stdout
        for option in (word for word in words if word.startswith("--")):
            assert option in helps[verb], f"streamrec {verb} has no {option}"
