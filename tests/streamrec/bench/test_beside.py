"""Benchmarks beside code of others: turns, loading with the lines of today, and the real peers where they are.

The peers are looked for in the folder that the environment variable STREAMREC_PEERS names: clones of
hidasib/GRU4Rec_PyTorch_Official and rn5l/session-rec.
"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from types import ModuleType

import pytest
import torch
from typer.testing import CliRunner

from streamrec.bench import beside, encoders, gru4rec, measure
from streamrec.build import BadSpec
from streamrec.cli import app


def test_ratios_are_of_the_same_turn() -> None:
    done: list[tuple[str, float]] = []

    def work(name: str, units: int) -> beside.Work:
        def one(seconds: float) -> int:
            done.append((name, seconds))
            sum(range(20_000))
            return units

        return one

    told = beside.in_turns({"peer": work("peer", 10), "ours": work("ours", 1_000_000)}, "peer", 3.0, 3)
    assert done == [("peer", 1.0), ("ours", 1.0)] + 3 * [("peer", 3.0), ("ours", 3.0)], "the first turn does not count"
    assert told["ratios"]["ours"] > 100
    assert list(told["ratios"]) == ["ours"]
    assert len(told["turns"]) == 3


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with beside.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_a_peer_is_read_with_its_lines_changed(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text("import not_here_at_all\nX = gone(3)\n")
    changes, needs = {"gone(3)": "3"}, {"not_here_at_all": ModuleType("not_here_at_all")}
    assert beside.load("some_peer", tmp_path / "old.py", changes, needs).X == 3
    with pytest.raises(BadSpec, match=r"expected a file .*missing\.py; clone"):
        beside.load("some_peer", tmp_path / "missing.py", {})


def test_settings_are_told_to_the_authors_in_their_words() -> None:
    """paramfiles/retailrocket_bprmax_shared_best.py of hidasib/GRU4Rec_PyTorch_Official."""
    table = encoders.load("yoochoose-gru4rec")["models"]["gru4rec"]
    theirs = gru4rec._translated(table)
    assert theirs == {
        "loss": "bpr-max",
        "constrained_embedding": True,
        "embedding": 0,
        "elu_param": 0.5,
        "layers": [224],
        "batch_size": 80,
        "dropout_p_embed": 0.5,
        "dropout_p_hidden": 0.05,
        "learning_rate": 0.05,
        "momentum": 0.4,
        "n_sample": 2048,
        "sample_alpha": 0.4,
        "bpreg": 1.95,
        "logq": 0.0,
    }


@pytest.mark.parametrize("name", ["gru4rec", "vsknn"])
def test_what_is_missing_is_said(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", name, "--data", str(tmp_path)])
    assert result.exit_code == 2
    assert "--peer-code" in result.output
    (tmp_path / "train.tsv").write_text("SessionId\tItemId\tTime\n1\ta\t1\n1\tb\t2\n")
    (tmp_path / "test.tsv").write_text("SessionId\tItemId\tTime\n2\ta\t3\n2\tb\t4\n")
    with pytest.raises(BadSpec, match="clone the repository"):
        measure(name, 0.1, data=tmp_path, peer_code=tmp_path / "nowhere")


def test_only_gru4rec_in_lanes_is_compared(tmp_path: Path) -> None:
    for name in ("train.tsv", "test.tsv"):
        (tmp_path / name).write_text("SessionId\tItemId\tTime\n")
    with pytest.raises(BadSpec, match="trained in lanes"):
        measure("gru4rec", 0.1, data=tmp_path, peer_code=tmp_path, only=["diginetica-vsknn"])


def test_peers_read_what_we_read(tmp_path: Path) -> None:
    head = "SessionId\tItemId\tTime\n"
    with gzip.open(tmp_path / "train.tsv.gz", "wt") as file:
        file.write(head + "1\ta\t1\n1\tb\t2\n")
    (tmp_path / "test.tsv").write_text(head + "2\tnew\t3\n2\ta\t4\n2\tb\t5\n")
    job = beside.job("yoochoose-vsknn", tmp_path)
    train, test = beside.clicks(job)
    _, ours, ours_test = encoders.read(job)
    assert (len(train), len(test)) == (len(ours.items), len(ours_test.items)) == (2, 2)
    with pytest.raises(BadSpec, match=r"ml-1m-sasrec: expected an experiment with a \[test\] table"):
        beside.job("ml-1m-sasrec", tmp_path)


def test_one_experiment_of_a_vsknn_is_compared(tmp_path: Path) -> None:
    for name in ("train.tsv", "test.tsv"):
        (tmp_path / name).write_text("SessionId\tItemId\tTime\n1\ta\t1\n1\tb\t2\n")
    for only, message in ((["a", "b"], "expected one"), (["diginetica-gru4rec"], "expected a VSKNN, got a NextItem")):
        with pytest.raises(BadSpec, match=message):
            measure("vsknn", 0.1, data=tmp_path, peer_code=tmp_path, only=only)


@pytest.fixture
def peers() -> Path:
    folder = Path(os.environ.get("STREAMREC_PEERS", "nowhere"))
    if not folder.is_dir():
        pytest.skip("STREAMREC_PEERS names no folder with clones of the peers")
    return folder


@pytest.mark.peers
@pytest.mark.parametrize(
    ("name", "code", "experiment", "said"),
    [
        ("gru4rec", "GRU4Rec_PyTorch_Official", "diginetica-gru4rec", ("training", "evaluation")),
        ("vsknn", "session-rec", "yoochoose-vsknn", ("prediction",)),
    ],
)
def test_beside_the_real_peer(
    name: str, code: str, experiment: str, said: tuple[str, ...], peers: Path, tmp_path: Path
) -> None:
    for part, sessions in (("train", range(400)), ("test", range(400, 480))):
        lines = [
            f"{session}\t{1 + (session + 3 * step) % 111}\t{100 * session + step}"
            for session in sessions
            for step in range(2 + session % 5)
        ]
        (tmp_path / f"{part}.tsv").write_text("\n".join(["SessionId\tItemId\tTime", *lines]) + "\n")
    arguments = ["bench", name, "--data", str(tmp_path), "--peer-code", str(peers / code), "--only", experiment]
    result = CliRunner().invoke(app, [*arguments, "--seconds", "0.2", "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.output.splitlines()[-1])
    for part in said:
        assert told[part]["ratios"][experiment] > 0
        assert all(rate > 0 for turn in told[part]["turns"] for rate in turn.values())
