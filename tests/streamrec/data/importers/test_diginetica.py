from __future__ import annotations

from pathlib import Path

import pandas as pd

from streamrec.data.events import read, validate
from streamrec.data.importers.diginetica import Diginetica
from streamrec.data.importers.run import import_data
from tests.streamrec.data.importers.originals import DIGINETICA

MAY_9 = 1462752000


def test_searches_are_slates_with_clicks(tmp_path: Path) -> None:
    source = DIGINETICA.write(tmp_path / "in")
    about = import_data(Diginetica(searches=True), source, tmp_path / "out")
    frame = pd.concat(read(tmp_path / "out"))
    found = frame[frame["slate"] != ""]
    said = found[["time", "kind", "item", "slot", "slate", "user"]].to_numpy().tolist()
    assert said == [
        [MAY_9 + 0.2, "impression", "30", 0, "q5", "s1"],
        [MAY_9 + 0.2, "impression", "10", 1, "q5", "s1"],
        [MAY_9 + 0.2, "impression", "11", 3, "q5", "s1"],
        [MAY_9 + 0.2, "click", "30", 0, "q5", "s1"],  # logged before the search: moved to it
        [MAY_9 + 0.3, "click", "11", 3, "q5", "s1"],
    ]
    assert about["files"]["train-clicks.csv"]["rows_dropped"] == {"queryId, itemId: no such result was shown": 1}
    assert about["files"]["train-queries.csv"]["rows_dropped"] == {
        "is.test: clicks are withheld": 1,
        "items: no list of ids": 1,
        "queryId: came before": 1,
    }
    assert validate(tmp_path / "out")["faults"] == {}


def test_users_that_are_not_known_are_their_sessions(tmp_path: Path) -> None:
    import_data(Diginetica(), DIGINETICA.write(tmp_path / "in"), tmp_path / "out")
    frame = pd.concat(read(tmp_path / "out"))
    assert dict(zip(frame["session"], frame["user"], strict=True)) == {"1": "s1", "2": "u77"}


def test_periods_in_the_order_of_events(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "period_00.txt").write_text("7 1\n8 2\n")
    (tmp_path / "in" / "period_01.txt").write_text("7 3\n7\nx 3\n")
    about = import_data(Diginetica(), tmp_path / "in", tmp_path / "out")
    frame = pd.concat(read(tmp_path / "out"))
    assert frame[["session", "item", "time"]].to_numpy().tolist() == [["7", "1", 0.0], ["8", "2", 1.0], ["7", "3", 2.0]]
    assert about["files"]["period_01.txt"]["rows_kept"] == 1
    assert "without times" in about["notes"][0]
