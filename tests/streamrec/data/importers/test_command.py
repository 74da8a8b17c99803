from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamrec.data.importers.command import app
from streamrec.data.importers.shelf import data_sets, named
from tests.streamrec.data.importers.originals import ORIGINALS

RUN = CliRunner()


def test_list_names_every_data_set_with_its_home_and_licence() -> None:
    out = RUN.invoke(app, ["list"]).stdout
    assert len(out.splitlines()) == len(data_sets())
    for name, cls in data_sets().items():
        line = next(line for line in out.splitlines() if line.startswith(name))
        assert cls.homepage in line
        assert cls.licence in line
    facts = json.loads(RUN.invoke(app, ["list", "--json"]).stdout)
    assert set(facts) == set(data_sets())


def test_import_says_what_it_made(tmp_path: Path) -> None:
    source = ORIGINALS["retailrocket"].write(tmp_path / "in")
    result = RUN.invoke(app, ["import", "retailrocket", str(source), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "3 events (click 2, purchase 1) of 2 users and 2 items" in result.stdout
    assert "1 (timestamp: below 1)" in result.stdout
    result = RUN.invoke(app, ["import", "retailrocket", str(source), str(tmp_path / "two"), "--json", "--quiet"])
    assert json.loads(result.stdout)["events"] == 3


def test_keywords_of_a_data_set(tmp_path: Path) -> None:
    source = ORIGINALS["diginetica"].write(tmp_path / "in")
    words = ["import", "diginetica", str(source), str(tmp_path / "out"), "--set", "searches=true", "--json"]
    about = json.loads(RUN.invoke(app, words).stdout)
    assert about["options"] == {"searches": True}
    assert about["kinds"]["impression"] == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["yochoose", ".", "out"], "yoochoose"),
        (["kuairand", ".", "out", "--set", "positive=is_clic"], "is_click"),
        (["kuairand", ".", "out", "--set", "other=1"], "positive"),
        (["globo", ".", "out", "--set", "other=1"], "keyword"),
    ],
)
def test_wrong_words_are_answered_with_what_there_is(words: list[str], says: str) -> None:
    result = RUN.invoke(app, ["import", *words])
    assert result.exit_code == 2
    assert says in result.output


def test_names_of_data_sets() -> None:
    with pytest.raises(ValueError, match="did you mean 'open-bandit'"):
        named("openbandit")


def test_help_does_not_wait_for_libraries() -> None:
    code = (
        "import sys; import streamrec.data.importers.command;"
        "print([name for name in ('torch', 'pandas', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
