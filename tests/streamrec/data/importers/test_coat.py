from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from streamrec.data.events import read
from streamrec.data.formats import BadLog
from streamrec.data.importers.coat import Coat
from streamrec.data.importers.run import import_data
from tests.streamrec.data.importers.originals import COAT


def log(source: Path, out: Path) -> pd.DataFrame:
    import_data(Coat(), source, out)
    return pd.concat(read(out), ignore_index=True)


def test_picked_ratings_come_first_then_slates_drawn_at_random(tmp_path: Path) -> None:
    frame = log(COAT.write(tmp_path / "in"), tmp_path / "out")
    said = (
        frame[["user", "item", "kind", "value", "slate", "slot", "propensity"]]
        .fillna({"propensity": -1.0})
        .to_numpy()
        .tolist()
    )
    assert said == [
        ["0", "1", "rating", 5.0, "", -1, 0.2],
        ["1", "0", "rating", 1.0, "", -1, 0.25],
        ["0", "1", "impression", 1.0, "t0", 0, 1 / 4],
        ["0", "3", "impression", 1.0, "t0", 1, 1 / 3],
        ["0", "1", "rating", 2.0, "t0", 0, -1.0],
        ["0", "3", "rating", 4.0, "t0", 1, -1.0],
        ["1", "0", "impression", 1.0, "t1", 0, 1 / 4],
        ["1", "0", "rating", 3.0, "t1", 0, -1.0],
    ]


def test_propensities_of_a_slate_are_those_of_drawing_without_putting_back(tmp_path: Path) -> None:
    """Every ordered draw of 16 of 300 has the probability 284! / 300!."""
    generator = np.random.default_rng(0)
    drawn = np.zeros((3, 300), dtype=int)
    for row in drawn:
        row[generator.choice(300, 16, replace=False)] = 5
    (tmp_path / "in").mkdir()
    for name in ("train.ascii", "test.ascii"):
        np.savetxt(tmp_path / "in" / name, drawn, fmt="%d")
    frame = log(tmp_path / "in", tmp_path / "out")
    logs = np.log(frame[frame["slate"] == "t1"]["propensity"].dropna())
    assert len(logs) == 16
    assert logs.sum() == pytest.approx(-np.log(np.arange(285, 301)).sum(), abs=1e-9)


def test_cells_that_are_not_0_are_counted(tmp_path: Path) -> None:
    about = import_data(Coat(), COAT.write(tmp_path / "in"), tmp_path / "out")
    assert about["files"]["train.ascii"]["rows_read"] == 3
    assert about["files"]["train.ascii"]["rows_kept"] == 2


def test_a_propensity_that_is_none_is_left_empty_and_told(tmp_path: Path) -> None:
    source = COAT.write(tmp_path / "in")
    (source / "propensities.ascii").write_text("0 0 0 0\n2 2 2 2\n")
    about = import_data(Coat(), source, tmp_path / "out")
    assert "2 ratings of train have no propensity" in about["notes"][0]
    assert about["propensities"] == 3


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("test.ascii", "0 1\n", "as large as train.ascii, 2 x 4, got 1 x 2"),
        ("propensities.ascii", "0.5\n", "as large as train.ascii"),
        ("train.ascii", "1 2\n3\n", "matrix of numbers"),
        ("user_item_features/item_features_map.txt", "gender:men\n", "expected 1 columns as the map says, got 4"),
    ],
)
def test_matrices_that_do_not_belong_together(file: str, text: str, words: str, tmp_path: Path) -> None:
    source = COAT.write(tmp_path / "in")
    (source / file).write_text(text)
    with pytest.raises(BadLog, match=words):
        import_data(Coat(), source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
