from __future__ import annotations

from pathlib import Path

import pandas as pd

from streamrec.data.events import read
from streamrec.data.importers.run import import_data
from streamrec.data.importers.tmall import Tmall

HEADER = "user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type\n"


def test_order_within_a_day_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    rows = "1,9,0,0,0,1111,0\n1,3,0,0,0,1110,0\n1,7,0,0,0,1111,2\n1,8,0,0,0,1111,3\n"
    (tmp_path / "in" / "user_log_format1.csv").write_text(HEADER + rows)
    import_data(Tmall(), tmp_path / "in", tmp_path / "out", rows=1)
    frame = pd.concat(read(tmp_path / "out"))
    assert frame[["item", "kind", "session"]].to_numpy().tolist() == [
        ["3", "click", "1-1110"],
        ["9", "click", "1-1111"],
        ["7", "purchase", "1-1111"],
        ["8", "click", "1-1111"],
    ]
    assert pd.to_datetime(frame["time"].iloc[-1], unit="s") == pd.Timestamp("2014-11-11")


def test_an_item_is_described_by_its_first_row(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    rows = "1,9,5,6,7,1111,0\n1,9,8,8,8,1110,0\n"
    (tmp_path / "in" / "user_log_format1.csv").write_text(HEADER + rows)
    import_data(Tmall(), tmp_path / "in", tmp_path / "out")
    lines = (tmp_path / "out" / "items.csv").read_text().splitlines()
    assert lines == ['"item","category","seller","brand"', '"9","5","6","7"']
