"""`streamrec serve`: what it refuses before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from consumers.commands_serve import _directory
from streamrec.build import BadSpec
from streamrec.cli import app


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["serve", *arguments], catch_exceptions=True)
    said = result.output + (str(result.exception) if result.exception is not None else "")
    return result.exit_code, said


def test_help_names_what_matters() -> None:
    code, said = run("--help")
    assert code == 0
    for option in ("--host", "--port", "--embedded", "--bootstrap-servers", "--run-dir", "--resume", "--no-learner"):
        assert option in said


def test_a_directory_with_a_run_needs_resume(tmp_path: Path) -> None:
    assert _directory(tmp_path, resume=True, learning=True) == tmp_path, "an empty one is a fresh start"
    (tmp_path / "models" / "000000000007").mkdir(parents=True)
    code, said = run("--run-dir", str(tmp_path))
    assert code == 2
    assert "holds models of an earlier run" in " ".join(said.replace("│", " ").split())
    assert _directory(tmp_path, resume=True, learning=True) == tmp_path
    assert _directory(tmp_path, resume=False, learning=False) == tmp_path, "somebody else's models are what it is for"


@pytest.mark.parametrize("option", ["--resume", "--no-learner"])
def test_what_exists_elsewhere_has_to_be_named(option: str) -> None:
    code, said = run(option)
    assert code == 2
    assert "--run-dir" in said


def test_a_public_address_needs_a_token(tmp_path: Path) -> None:
    code, said = run("--host", "0.0.0.0", "--run-dir", str(tmp_path / "new"))
    assert code == 1
    assert "is a public address and no token is set" in said
    assert not (tmp_path / "new").exists()


def test_settings_that_do_not_exist_are_answered_with_those_that_do() -> None:
    from consumers.serving.settings import ServeSettings

    with pytest.raises(BadSpec, match="did you mean 'growth'"):
        ServeSettings.of({"growht": 3})
    with pytest.raises(BadSpec, match=r"serve\.slice must be at least 1"):
        ServeSettings.of({"slice": 0})
    assert ServeSettings.of({"port": 1, "batch": 7}, others=["port"]).batch == 7
