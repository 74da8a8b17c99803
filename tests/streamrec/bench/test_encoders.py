"""bench encoders: runs on a data set written here, taken up again where they were, and what is wrong is said."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from streamrec.bench import encoders
from streamrec.bench.encoders import Job, load, play, run, shipped
from streamrec.build import BadSpec
from streamrec.cli import app
from streamrec.evaluation.next_item import evaluate
from streamrec.models.next_item import NextItem
from streamrec.training.lanes import epoch

EXPERIMENT = """
data = "steps"
epochs = 3
ks = [1, 5]
[train]
use = "streamrec.data.sequences.read_sessions"
path = "train.tsv"
[test]
use = "streamrec.data.sequences.read_sessions"
path = "test.tsv"
[models.gru]
epochs = 12
model = { use = "streamrec.models.next_item.NextItem", loss = "cross-entropy", n_sample = 4, encoder = { use = "streamrec.encoders.gru4rec.GRU4Rec", dim = 12 } }
optimiser = { use = "streamrec.nn.adagrad.Adagrad", learning_rate = 0.1 }
epoch = { use = "streamrec.training.lanes.epoch", lanes = 4 }
[models.whole]
shuffle = true
model = { use = "streamrec.models.next_item.NextItem", n_sample = 4, encoder = { use = "streamrec.encoders.gru4rec.GRU4Rec", dim = 6 } }
optimiser = { use = "streamrec.nn.optimiser.Optimiser", learning_rate = 0.01, item_learning_rate = 0.1 }
epoch = { use = "streamrec.training.whole.epoch", rows = 16 }
"""  # noqa: E501


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, sessions in (("train", range(60)), ("test", range(60, 75))):
        lines = [
            f"{session}\t{1 + (session + 3 * step) % 11}\t{100 * session + step}"
            for session in sessions
            for step in range(2 + session % 5)
        ]
        (folder / f"{name}.tsv").write_text("\n".join(["SessionId\tItemId\tTime", *lines]) + "\n")
    with (folder / "test.tsv").open("a") as file:
        file.write("90\tnever-seen\t1\n90\t4\t2\n90\t7\t3\n")
    (tmp_path / "e.toml").write_text(EXPERIMENT)
    return folder


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Runs are made in this process, and listed."""
    made: list[Job] = []

    def in_this_process(missing: Sequence[Job], jobs: int) -> Iterator[tuple[Job, dict[str, Any]]]:
        for job in missing:
            made.append(job)
            yield job, play(job)

    monkeypatch.setattr(encoders, "_made", in_this_process)
    return made


def test_results_of_each_model_over_seeds(data: Path, tmp_path: Path, here: list[Job]) -> None:
    told: list[str] = []
    results = run(tmp_path / "out", data, [str(tmp_path / "e.toml")], seeds=2, say=told.append)["results"]
    assert [(row["model"], row["data"], row["seeds"]) for row in results] == [
        ("gru", "steps", 2),
        ("whole", "steps", 2),
    ]
    gru = results[0]
    assert gru["recall1"] > 0.9
    assert gru["n"] == sum(1 + session % 5 for session in range(60, 75)) + 1, "the unseen item is left out"
    assert [len(one["epochs"]) for one in gru["runs"]] == [12, 12]
    assert gru["recall1"] == sum(one["recall1"] for one in gru["runs"]) / 2
    assert abs(gru["recall1_se"] - abs(gru["runs"][0]["recall1"] - gru["runs"][1]["recall1"]) / 2) < 1e-12
    assert len(results[1]["runs"][0]["epochs"]) == 3
    assert results[1]["runs"][0]["mrr5"] != results[1]["runs"][1]["mrr5"]
    assert all(row["events_per_s"] > 0 and row["predictions_per_s"] > 0 and row["peak_mb"] > 50 for row in results)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["results"] == results
    assert len(told) == 5
    assert "steps gru (2 seeds): recall1" in encoders.as_text({"results": results})


def test_runs_already_made_are_kept(data: Path, tmp_path: Path, here: list[Job]) -> None:
    names = [str(tmp_path / "e.toml")]
    first = run(tmp_path / "out", data, names, seeds=1)
    made = len(here)
    with (tmp_path / "out" / "runs.jsonl").open("a") as file:
        file.write('{"key": "cut off by a ki')
    assert run(tmp_path / "out", data, names, seeds=1) == first
    assert len(here) == made == 2
    (tmp_path / "e.toml").write_text(EXPERIMENT.replace("lanes = 4", "lanes = 5"))
    run(tmp_path / "out", data, names, seeds=2)
    assert [(job.model, job.seed) for job in here[2:]] == [("gru", 0), ("gru", 1), ("whole", 1)]


def test_leave_one_out_and_a_model_that_only_counts(data: Path, tmp_path: Path, here: list[Job]) -> None:
    text = EXPERIMENT.split("[test]")[0].replace("[train]", "held_out = 2\n[train]")
    model = "[models.knn]\nmodel = { use = 'streamrec.models.session_knn.SessionKNN' }\n"
    (tmp_path / "one.toml").write_text(text + model)
    (row,) = run(tmp_path / "out", data, [str(tmp_path / "one.toml")], seeds=1)["results"]
    assert row["n"] == 60
    assert row["recall1_se"] is None
    assert row["runs"][0]["epochs"][0]["events"] == sum(session % 5 for session in range(60))


def test_weights_are_averaged_over_the_last_epochs(
    data: Path, tmp_path: Path, here: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    only = EXPERIMENT.replace("epochs = 12", "epochs = 3\naveraged = 2").split("[models.whole]")[0]
    (tmp_path / "e.toml").write_text(only)
    weights, evaluated = [], []

    def noted(model: NextItem, *rest: Any, **keywords: Any) -> dict[str, float]:
        told = epoch(model, *rest, **keywords)
        weights.append(model.bias.detach().clone())
        return told

    def looked_at(model: NextItem, *rest: Any, **keywords: Any) -> dict[str, float]:
        evaluated.append(model.bias.detach().clone())
        return evaluate(model, *rest, **keywords)

    monkeypatch.setattr("streamrec.training.lanes.epoch", noted)
    monkeypatch.setattr(encoders, "evaluate", looked_at)
    run(tmp_path / "out", data, [str(tmp_path / "e.toml")], seeds=1)
    assert not torch.equal(weights[1], weights[2])
    torch.testing.assert_close(evaluated, [(weights[1] + weights[2]) / 2])


@pytest.mark.parametrize("name", shipped())
def test_shipped_experiments_can_be_read(name: str) -> None:
    experiment = load(name)
    assert experiment["about"]
    assert experiment["source"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 3", "epoch = 3", "unknown key 'epoch'; did you mean 'epochs'"),
        ("shuffle = true", "shufle = true", "models.whole: unknown key 'shufle'"),
        ('data = "steps"', "", "expected a key 'data'"),
        ('path = "test.tsv"', 'path = "tset.tsv"', "test.path = 'tset.tsv': there is no such file in"),
        ("optimiser = {", "optimizer = {", "unknown key 'optimizer'"),
        ("epochs = 12", "epochs =", "not valid TOML"),
        ("shuffle = true", "averaged = 4", "averaged must be from 1 to the number of epochs, 3, got 4"),
        ("lanes = 4 }", "lanes = 4 }\n[models.none]\nmodel = {}\nepoch = {}", "epoch and optimiser go together"),
    ],
)
def test_what_is_wrong_is_said(data: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in EXPERIMENT
    (tmp_path / "e.toml").write_text(EXPERIMENT.replace(old, new))
    with pytest.raises(BadSpec, match=message):
        run(tmp_path / "out", data, [str(tmp_path / "e.toml")])


def test_unknown_names_are_said(tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match="no experiment 'yoochose-gru4rec'; did you mean 'yoochoose-gru4rec'"):
        run(tmp_path, tmp_path, ["yoochose-gru4rec"])
    with pytest.raises(BadSpec, match="name an experiment"):
        run(tmp_path, tmp_path, [])


def test_the_command_line_wants_the_data() -> None:
    result = CliRunner().invoke(app, ["bench", "encoders", "--only", "yoochoose-gru4rec"])
    assert result.exit_code == 2
    assert "--data" in result.output
