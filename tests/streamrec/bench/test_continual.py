"""The continual benchmark on small made-up periods: the protocol, its rows, and going on after an interruption."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator
from torch.nn import functional as F

from streamrec.bench import continual
from streamrec.bench.continual_rows import Trained, learner_of
from streamrec.bench.continual_table import Periods, Runs, load, shipped
from streamrec.build import BadSpec
from streamrec.data.sequences import Sequences

ITEMS = 30
TABLE = """
length = 6
[train]
epochs = 2
batch = 64
patience = 2
validation = 0.2
[rows.dropout]
model = {{ use = "streamrec.models.next_item.NextItem", loss = "cross-entropy", encoder = {encoder} }}
optimiser = {{ use = "streamrec.nn.adagrad.Adagrad", learning_rate = 0.1 }}
[rows.ewc]
like = "dropout"
schedule = {{ use = "streamrec.schedules.ewc.EWC", samples = 3 }}
[rows.ader]
like = "dropout"
schedule = {{ use = "streamrec.schedules.ader.ADER", exemplars = 40 }}
[rows.joint]
like = "dropout"
data = "all"
warm = false
train = {{ epochs = 1, whole = false }}
[rows.vsknn]
model = {{ use = "streamrec.models.vsknn.VSKNN", neighbours = 20, sample = 50 }}
[rows.blend]
model = {{ use = "streamrec.models.blend.Blend", weight = 0.5 }}
blend = {{ model = "ader", neighbours = "vsknn" }}
"""
SASREC, GRU = "streamrec.encoders.sasrec.SASRec", "streamrec.encoders.gru4rec.GRU4Rec"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three periods of 60 sessions in which each item is followed by the next; five items are new in each period."""
    folder = tmp_path / "data"
    folder.mkdir()
    draws = Generator().manual_seed(0)
    for period in range(3):
        items = 15 + 5 * period
        lines = []
        for session in range(60):
            first = int(torch.randint(0, items, (1,), generator=draws))
            lines += [f"s{session} i{(first + step) % items}" for step in range(2 + session % 4)]
        (folder / f"period_{period + 9}.txt").write_text("\n".join(lines) + "\n")  # 9, 10, 11: by number, not by letter
    return folder


def table(folder: Path, encoder: str = SASREC) -> str:
    path = folder / "table.toml"
    path.write_text(TABLE.format(encoder=f'{{ use = "{encoder}", dim = 8 }}'))
    return str(path)


def figures(results: dict[str, Any]) -> list[Any]:
    timeless = {"seconds", "peak_mb"}
    return [
        {key: value for key, value in made.items() if key not in timeless}
        for row in results["results"]
        for made in row["periods"]
    ]


# --- the protocol ------------------------------------------------------------------------------------------------


def test_periods_are_read_in_order_and_tests_have_nothing_unseen(data: Path) -> None:
    clicks = Periods.read(data, None)
    assert len(clicks) == 3
    assert clicks.known == [15, 20, 25]
    for t in (1, 2):
        test = clicks.test(t)
        assert int(test.items.max()) <= clicks.known[t - 1]
        assert int(test.lengths.min()) >= 2
        assert len(test) < 60, "some sessions are nothing but new items and the one before them"
        assert int(clicks.train(t).items.max()) == clicks.known[t]
    assert len(clicks.train(2, everything=True)) == 180
    assert clicks.catalog(1, torch.device("cpu")).size == 21


def test_every_prefix_of_every_test_sequence_is_ranked(data: Path, tmp_path: Path) -> None:
    results = continual.run(tmp_path / "out", data, table(tmp_path), ["vsknn"])
    clicks = Periods.read(data, None)
    expected = [int((clicks.test(t).lengths - 1).sum()) for t in (1, 2)]
    assert [made["n"] for made in results["results"][0]["periods"]] == expected
    assert results["results"][0]["recall20"] > 0.9, "what follows what is in the sessions of the period before"


@pytest.mark.parametrize("encoder", [SASREC, GRU])
def test_all_rows_learn(data: Path, tmp_path: Path, encoder: str) -> None:
    said: list[str] = []
    rows = ["dropout", "ewc", "ader", "joint", "vsknn", "blend"]
    results = continual.run(tmp_path / "out", data, table(tmp_path, encoder), say=said.append)
    assert [row["model"] for row in results["results"]] == rows
    for row in results["results"]:
        assert [made["period"] for made in row["periods"]] == [1, 2]
        assert row["recall20"] == pytest.approx(sum(made["recall20"] for made in row["periods"]) / 2)
        assert 0.0 < row["mrr20"] <= row["recall20"] <= 1.0
        assert row["epochs"] == {"vsknn": 0, "blend": 0, "joint": 2}.get(row["model"], 4)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    assert len(said) == 3 * len(rows)


def test_later_periods_may_learn_more_slowly_and_new_weights_do_not(data: Path, tmp_path: Path) -> None:
    spec, slow = Path(table(tmp_path)), tmp_path / "slow.toml"
    slow.write_text(spec.read_text().replace("epochs = 2", "later = 1e-9\nepochs = 2"))
    learners = {}
    for path in (spec, slow):
        runs = Runs(tmp_path / path.stem, load(str(path)), Periods.read(data, None), 0)
        learners[path] = [learner_of(row, runs, torch.device("cpu")) for row in ("dropout", "joint")]
        for learner in learners[path]:
            learner.learn(0)
    before = copy.deepcopy(learners[slow][0].model.state_dict())
    for name, value in learners[spec][0].model.named_parameters():
        assert torch.equal(value, before[name]), "the first period is what it was"
    for path in (spec, slow):
        for learner in learners[path]:
            learner.learn(1)
    for name, value in learners[slow][0].model.named_parameters():
        torch.testing.assert_close(value, before[name], atol=1e-6, rtol=0)
    moved = dict(learners[spec][0].model.named_parameters())["encoder.items.weight"]
    assert (moved - before["encoder.items.weight"]).abs().max() > 1e-2
    for (_, one), (_, other) in zip(
        *(learners[path][1].model.named_parameters() for path in (spec, slow)), strict=True
    ):
        assert torch.equal(one, other)


def test_held_out_sequences_may_be_learned_once_the_epochs_are_chosen(data: Path, tmp_path: Path) -> None:
    spec, refit = Path(table(tmp_path)), tmp_path / "refit.toml"
    refit.write_text(
        spec.read_text().replace("epochs = 2", "refit = 2\nepochs = 2").replace("whole = false", "refit = 0")
    )
    losses = {}
    for path in (spec, refit):
        runs = Runs(tmp_path / path.stem, load(str(path)), Periods.read(data, None), 0)
        assert runs.training("joint").refit == 0
        learner = learner_of("dropout", runs, torch.device("cpu"))
        assert isinstance(learner, Trained)
        clicks = runs.clicks.train(0)
        held = torch.rand(len(clicks), generator=Generator().manual_seed(runs.seed)) < learner.training.validation
        assert 0 < int(held.sum()) < len(clicks)
        assert learner.learn(0) == 2
        losses[path] = [surprise(learner, clicks.select(rows)) for rows in (held, ~held)]
    drop = [losses[spec][part] - losses[refit][part] for part in (0, 1)]
    assert drop[0] > 0.02
    assert drop[0] > drop[1], "what was held out gains more than what was learned before"


def surprise(learner: Trained, clicks: Sequences) -> float:
    """Mean cross-entropy of every click after the ones before it."""
    history, target = clicks.prefixes(*clicks.clicks(), 6)
    with torch.no_grad():
        return float(F.cross_entropy(learner.model.score(history)[:, 1:], target - 1))


# --- going on ----------------------------------------------------------------------------------------------------


def test_an_interrupted_benchmark_goes_on_to_the_same_figures(data: Path, tmp_path: Path) -> None:
    rows, spec = ["dropout", "ader"], table(tmp_path)
    whole = continual.run(tmp_path / "whole", data, spec, rows)
    said: list[str] = []

    def kill(text: str) -> None:
        said.append(text)
        if text.startswith("ader 1/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        continual.run(tmp_path / "killed", data, spec, rows, say=kill)
    with (tmp_path / "killed" / "runs.jsonl").open("a") as file:
        file.write('{"key": "half a li')
    again: list[str] = []
    resumed = continual.run(tmp_path / "killed", data, spec, rows, say=again.append)
    assert figures(resumed) == figures(whole)
    assert [text.split(" Recall")[0] for text in again] == ["dropout mean", "ader 2/2", "ader mean"]


def test_figures_lost_after_training_are_made_from_the_weights(data: Path, tmp_path: Path) -> None:
    spec, out = table(tmp_path), tmp_path / "out"
    whole = continual.run(out, data, spec, ["ader"])
    lines = (out / "runs.jsonl").read_text().splitlines()
    (out / "runs.jsonl").write_text(lines[0] + "\n")
    assert [f["recall20"] for f in figures(continual.run(out, data, spec, ["ader"]))] == [
        f["recall20"] for f in figures(whole)
    ]


def test_other_settings_are_other_runs(data: Path, tmp_path: Path) -> None:
    spec, out = table(tmp_path), tmp_path / "out"
    first = continual.run(out, data, spec, ["dropout"])
    other = continual.run(out, data, spec, ["dropout"], seed=1)
    assert figures(first) != figures(other)
    assert len((out / "runs.jsonl").read_text().splitlines()) == 4


def test_a_blend_is_its_rows_as_they_were_in_each_period(data: Path, tmp_path: Path) -> None:
    """All of the weight on one member gives that member's figures, also when they were made long before."""
    spec, out = table(tmp_path), tmp_path / "out"
    Path(spec).write_text(Path(spec).read_text().replace("weight = 0.5", "weight = 0.0"))
    ader = continual.run(out, data, spec, ["ader"])
    blend = continual.run(out, data, spec, ["blend"])
    both = zip(figures(ader), figures(blend), strict=True)
    assert all(a["recall20"] == b["recall20"] and a["mrr20"] == pytest.approx(b["mrr20"], abs=2e-3) for a, b in both)
    with pytest.raises(BadSpec, match="made of ader: run that one before"):
        continual.run(tmp_path / "other", data, spec, ["blend"])


# --- tables ------------------------------------------------------------------------------------------------------


def test_the_shipped_table_has_the_rows_of_the_paper() -> None:
    assert "diginetica" in shipped()
    rows = load("diginetica")["rows"]
    assert {"finetune", "dropout", "ewc", "joint", "ader", "vsknn"} <= rows.keys()
    assert rows["finetune"]["model"]["encoder"]["dropout"] == 0.0
    assert rows["finetune"]["model"]["encoder"]["dim"] == rows["ader"]["model"]["encoder"]["dim"] == 150
    assert "schedule" not in rows["dropout"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rowz = 1", "rows"),
        ("[rows.a]\nmodle = 1", "model"),
        ("[rows.a]\nlike = 'b'\n[rows.c]\nmodel = {}", "whole row"),
        ("[rows.a]\nblend = { model = 'b' }", "no row 'b'"),
        ("[rows.a", "not valid TOML"),
    ],
)
def test_mistakes_in_tables_are_explained(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(text)
    with pytest.raises(BadSpec, match=says):
        load(str(path))


def test_mistakes_in_calls_are_explained(data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match="diginetica"):
        load("digenetica")
    with pytest.raises(BadSpec, match="'ader'"):
        continual.run(tmp_path / "out", data, table(tmp_path), ["aderr"])
    with pytest.raises(BadSpec, match="at least two files"):
        continual.run(tmp_path / "out", tmp_path / "data" / "none", table(tmp_path))
