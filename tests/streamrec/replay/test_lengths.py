"""Lengths of sessions, counted by the audit, as a segment of the lists."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from streamrec.mixing import keys_of
from streamrec.replay.lengths import Lengths
from streamrec.replay.results import results
from streamrec.replay.run import Replay
from streamrec.replay.settings import Settings
from tests.streamrec.replay.logs import clicks, saved


def test_counts_by_session() -> None:
    lengths = Lengths()
    names = pd.Series([f"s{at % 50}" for at in range(175)] + [""] * 3, dtype=object).to_numpy()
    keys = keys_of(names)
    for part in keys.split(40):
        lengths.add(part)
    assert lengths.of(keys).tolist() == [4 if at % 50 < 25 else 3 for at in range(175)] + [0, 0, 0]
    assert lengths.of(torch.tensor([12345])).tolist() == [0]


def test_lists_are_told_apart_by_the_length_of_their_session(tmp_path: Path) -> None:
    log = clicks(400, users=30)
    log["session"] = log["user"] + "-" + ((log["time"] - 1.7e9) // 500).astype(int).astype(str)
    settings = Settings(log=saved(tmp_path / "log.parquet", log), metrics=["ndcg"], ks=[5], estimators=[])
    replay = Replay(settings, tmp_path / "run")
    assert replay.run()
    found = results(replay)["segments"]["popular"]["session_length"]
    size = log.groupby("session")["item"].transform("size")
    later = log.groupby("session").cumcount() > 0  # nothing is asked of the first click of a session
    expected = pd.cut(
        size[later], [0, 1, 2, 3, 5, 10, 20, 1000], labels=["1", "2", "3", "4-5", "6-10", "11-20", "21+"]
    ).value_counts()
    assert {label: row["ndcg@5"]["n"] for label, row in found.items()} == {k: n for k, n in expected.items() if n}


def test_without_names_there_are_no_lengths(tmp_path: Path) -> None:
    settings = Settings(log=saved(tmp_path / "log.parquet", clicks(200)), metrics=["ndcg"], ks=[5], estimators=[])
    replay = Replay(settings, tmp_path / "run")
    assert replay.run()
    assert not results(replay)["segments"]["popular"]["session_length"]
