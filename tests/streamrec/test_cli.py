"""The command line as a user meets it."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streamrec.cli import main

TINY = ["--set", "run.decisions=200", "--set", "run.update_every=50", "--set", "world.core.users=60", "--quiet"]
TINY += ["--set", "world.core.items=120"]


def streamrec(*arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "streamrec", *arguments], cwd=cwd, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == code, done.stderr
    return done


def last_json(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_help_does_not_wait_for_torch(tmp_path: Path) -> None:
    code = "import sys, streamrec.cli; from typer.testing import CliRunner; "
    code += "assert CliRunner().invoke(streamrec.cli.app, ['--help']).exit_code == 0; "
    code += "print(sorted(m for m in ('torch', 'numpy', 'pandas', 'kafka', 'gymnasium') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "verb", ["demo", "train", "consume", "replay", "audit", "compare", "plan", "data", "produce", "doctor", "bench"]
)
def test_every_verb_has_help(verb: str, tmp_path: Path) -> None:
    assert "Usage" in streamrec(verb, "--help", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "no-such-spec"], "there is no spec 'no-such-spec'"),
        (["train", "--set", "run.decision=5"], "there is no setting 'decision'; did you mean 'decisions'?"),
        (["train", "--set", "agent.use=agents.dqm.DQN"], "did you mean 'dqn'?"),
        (["train", "--resume"], "--resume needs --run-dir"),
        (["bench", "nothing"], "there is no benchmark 'nothing'"),
        (["replay", "--log", "missing.parquet"], "missing.parquet"),
        (["replay", "missing.parquet"], "expected a log file here"),
        (["replay", "--policy", "baseline:popular"], "--policy goes with a log"),
        (["audit", "missing.parquet"], "expected a log file here"),
        (["compare", "a", "b"], "a is no report"),
        (["plan", "missing.parquet", "--width", "0.1"], "expected a log file here"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_was_meant(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["streamrec", *arguments])
    monkeypatch.setattr(gc, "set_threshold", lambda *_: None)  # it is the test's process, not one of its own
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_an_error_of_the_user_is_told_without_a_traceback(tmp_path: Path) -> None:
    done = streamrec("train", "no-such-spec", cwd=tmp_path, code=2)
    assert "there is no spec 'no-such-spec'" in done.stderr
    assert "Traceback" not in done.stderr


def test_train_leaves_a_whole_run_directory_and_resumes(tmp_path: Path) -> None:
    first = last_json(streamrec("train", *TINY, "--run-dir", "run", "--json", cwd=tmp_path))
    assert first["decisions"] >= 200
    assert set(first["policies"]) == {"random", "popular", "itemknn", "gru4rec", "dqn"}
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} >= {
        "spec.toml",
        "metrics.jsonl",
        "checkpoints",
        "summary.json",
        "report.html",
    }
    more = ["--set", "run.decisions=300"]
    again = last_json(streamrec("train", *TINY, *more, "--run-dir", "run", "--resume", "--json", cwd=tmp_path))
    assert again["decisions"] >= 300
    assert again["seconds"] > first["seconds"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["t"] for line in lines] == sorted(line["t"] for line in lines)


def test_doctor_reports_and_specs_lists(tmp_path: Path) -> None:
    assert last_json(streamrec("doctor", "--json", cwd=tmp_path))["ok"] is True
    assert "train" in streamrec("specs", cwd=tmp_path).stdout
