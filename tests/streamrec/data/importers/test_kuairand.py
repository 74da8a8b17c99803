from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from streamrec.data.events import read
from streamrec.data.importers.kuairand import KuaiRand
from streamrec.data.importers.run import import_data
from tests.streamrec.data.importers.originals import KUAIRAND


def said(positive: str, tmp_path: Path) -> list[list[str]]:
    import_data(KuaiRand(positive), KUAIRAND.write(tmp_path / "in"), tmp_path / positive)
    return pd.concat(read(tmp_path / positive))[["slate", "kind", "item"]].to_numpy().tolist()


def test_rows_are_slates_that_say_whether_they_were_random(tmp_path: Path) -> None:
    assert said("is_click", tmp_path) == [
        ["policy-1-1", "impression", "4"],
        ["policy-1-1", "skip", "4"],
        ["policy-1-0", "impression", "3784"],
        ["policy-1-0", "click", "3784"],
        ["random-0-0", "impression", "4"],
    ]


def test_another_signal_may_be_the_click_but_not_of_a_hated_video(tmp_path: Path) -> None:
    assert [row for row in said("long_view", tmp_path) if row[1] == "click"] == [["policy-1-0", "click", "3784"]]
    assert [row for row in said("is_like", tmp_path) if row[1] == "click"] == []
    with pytest.raises(ValueError, match="positive must be one of"):
        KuaiRand("is_hate")


def test_no_propensity_is_invented(tmp_path: Path) -> None:
    about = import_data(KuaiRand(), KUAIRAND.write(tmp_path / "in"), tmp_path / "out")
    assert about["propensities"] == 0
