from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from streamrec.data.events import read
from streamrec.data.importers.run import import_data
from streamrec.data.importers.yoochoose import Yoochoose
from tests.streamrec.data.importers.originals import YOOCHOOSE


def test_purchases_have_the_value_paid_where_it_is_known(tmp_path: Path) -> None:
    about = import_data(Yoochoose(), YOOCHOOSE.write(tmp_path / "in"), tmp_path / "out")
    frame = pd.concat(read(tmp_path / "out"))
    bought = frame[frame["kind"] == "purchase"]
    assert bought["value"].tolist() == [2092.0, 1.0]
    assert any("without price" in note for note in about["notes"])


@pytest.mark.parametrize(
    ("categories", "wanted"),
    [(["7", "5", "7"], "7"), (["5", "7"], "5"), (["10", "9"], "9"), (["S", "S", "3"], "3"), (["0", "2089"], "")],
)
def test_category_is_the_one_clicked_most(categories: list[str], wanted: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    lines = [f"1,2014-04-07T10:51:09.277Z,10,{category}\n" for category in categories]
    (tmp_path / "in" / "yoochoose-clicks.dat").write_text("".join(lines))
    import_data(Yoochoose(), tmp_path / "in", tmp_path / "out")
    items = pd.read_csv(tmp_path / "out" / "items.csv", dtype=str, keep_default_na=False)
    assert items.to_numpy().tolist() == [["10", wanted]]
