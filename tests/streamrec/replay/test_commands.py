"""audit, replay, compare and plan as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from streamrec import cli
from streamrec.replay.commands import columns, listed, numbers
from tests.streamrec.replay.logs import clicks, items_file, saved, slates


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("commands")
    saved(made / "log.parquet", slates(150))
    saved(made / "clicks.csv", clicks(80))
    items_file(made / "items.csv")
    return made


def streamrec(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_audit_says_what_a_log_can_do(folder: Path) -> None:
    done = streamrec("audit", folder / "log.parquet", "--json", "--out", folder / "audit.json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told == json.loads((folder / "audit.json").read_text())
    assert told["logs"][0]["abilities"]["values"] == "yes"
    text = streamrec("audit", folder / "log.parquet", folder / "clicks.csv").stdout
    assert "propensities: 150" in text
    assert "overlap" in text


def test_audit_exits_with_2_where_a_log_cannot_be_used(folder: Path) -> None:
    lines = (folder / "clicks.csv").read_text().splitlines()
    (folder / "broken.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    done = streamrec("audit", folder / "broken.csv")
    assert done.exit_code == 2
    assert "REFUSED time_disorder" in done.stdout
    assert streamrec("audit", folder / "broken.csv", "--late", "1d").exit_code == 0


def test_replay_compare_and_plan(folder: Path) -> None:
    words = ["replay", folder / "log.parquet", "--items", folder / "items.csv", "--slate", "1", "--metrics", "recall@3"]
    done = streamrec(*words, "--estimators", "snips,dr", "--out", folder / "a")
    assert done.exit_code == 0, done.output
    assert "report" in done.stdout
    assert {path.name for path in (folder / "a").iterdir()} == {"report.json", "report.html", "sums"}
    again = streamrec(*words, "--policy", "x=baseline:popular@epsilon-greedy", "--out", folder / "b", "--json")
    assert json.loads(again.stdout)["policies"]["x"]["snips"]["value"] is not None
    same = streamrec("compare", folder / "a", folder / "b", "--policy", "popular:x", "--json")
    assert {row["policy_b"] for row in json.loads(same.stdout)["differences"]} == {"x"}
    assert "same rows" in streamrec("compare", folder / "a", folder / "b").stdout
    plan = streamrec("plan", folder / "log.parquet", "--width", "0.05", "--items", folder / "items.csv", "--slate", "1")
    assert plan.exit_code == 0
    assert "as logged" in plan.stdout


def test_what_was_not_finished_is_not_overwritten(folder: Path) -> None:
    (folder / "half" / "checkpoints" / "000000000001").mkdir(parents=True)
    done = streamrec("replay", folder / "log.parquet", "--out", folder / "half")
    assert done.exit_code == 2
    assert "--resume" in done.output
    assert streamrec("replay", folder / "log.parquet", "--out", folder / "none", "--resume").exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "run.decisions=5"],
        ["--feedback-delay", "soon"],
        ["--reward", "click"],
        ["--reward-range", "1"],
        ["--metrics", "recall@x"],
        ["--column", "user"],
    ],
)
def test_options_that_cannot_be_read_exit_with_2(folder: Path, words: list[str]) -> None:
    assert streamrec("replay", folder / "log.parquet", *words, "--out", folder / "never").exit_code == 2
    assert not (folder / "never").exists()


def test_a_spec_is_told_from_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli._is_spec(None, None)
    assert cli._is_spec("clicklog", None)
    assert cli._is_spec("mine.toml", None)
    assert not cli._is_spec("clicks.parquet", None)
    assert not cli._is_spec("kafka:clicks", None)
    (tmp_path / "clicklog").mkdir()
    assert not cli._is_spec("clicklog", None)
    assert cli._is_spec("clicklog", Path("a.csv"))


def test_words_become_settings() -> None:
    assert listed("recall@20,ndcg@10,coverage") == (["recall", "ndcg", "coverage"], [10, 20])
    assert listed("none") == ([], [])
    assert numbers("click=1,buy=10", "--reward") == {"click": 1.0, "purchase": 10.0}
    assert columns(["time=ms/1000", "item=id"]) == {"time": "ms/1000", "item": "id"}
    with pytest.raises(typer.BadParameter):
        numbers("click=many", "--reward")
