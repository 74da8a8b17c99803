"""`streamrec token`: what it prints is what the service takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.datastructures import Headers
from typer.testing import CliRunner

from consumers.http.access import Access
from consumers.http.problems import Refusal
from consumers.http.settings import Settings
from streamrec.cli import app


def test_the_line_goes_into_a_file_and_the_token_opens_its_door(tmp_path: Path) -> None:
    made = json.loads(CliRunner().invoke(app, ["token", "serve", "--json"]).stdout)
    file = tmp_path / "tokens"
    file.write_text(made["line"] + "\n")
    access = Access(Settings.from_table({"host": "0.0.0.0"}, file, {}))
    headers = Headers({"authorization": f"Bearer {made['token']}"})
    access.check_token(headers, "serve")
    with pytest.raises(Refusal, match="scope admin"):
        access.check_token(headers, "admin")


def test_the_token_does_not_go_where_the_line_goes() -> None:
    first, second = (CliRunner().invoke(app, ["token", "admin"]) for _ in range(2))
    secret = first.stderr.split()[-1]
    assert len(secret) >= 43
    assert secret not in first.stdout
    assert first.stdout.startswith("admin:")
    assert first.stdout != second.stdout
    assert CliRunner().invoke(app, ["token", "root"]).exit_code == 2
