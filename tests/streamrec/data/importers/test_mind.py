from __future__ import annotations

from pathlib import Path

import pandas as pd

from streamrec.data.events import read, validate
from streamrec.data.importers.mind import Mind
from streamrec.data.importers.run import import_data
from tests.streamrec.data.importers.originals import MIND


def test_a_row_is_a_slate_and_repeated_articles_keep_their_first_place(tmp_path: Path) -> None:
    about = import_data(Mind(), MIND.write(tmp_path / "in"), tmp_path / "out")
    frame = pd.concat(read(tmp_path / "out"))
    later = frame[frame["slate"] == "0-2"]
    assert later[["kind", "item", "slot"]].to_numpy().tolist() == [
        ["impression", "N55689", 0],
        ["impression", "N35729", 1],
        ["impression", "N7", 2],
        ["click", "N35729", 1],
    ]
    assert any("first place" in note for note in about["notes"])


def test_splits_are_joined_and_their_impressions_told_apart(tmp_path: Path) -> None:
    source = MIND.write(tmp_path / "in")
    (source / "dev").mkdir()
    for file in ("behaviors.tsv", "news.tsv"):
        (source / "dev" / file).write_bytes((source / "train" / file).read_bytes())
    about = import_data(Mind(), source, tmp_path / "out")
    assert about["slates"] == 4
    assert about["tables"] == {"items.csv": 2}
    assert validate(tmp_path / "out")["faults"] == {}
