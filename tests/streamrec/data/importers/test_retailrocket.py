from __future__ import annotations

from pathlib import Path

import pandas as pd

from streamrec.data.importers.retailrocket import RetailRocket
from streamrec.data.importers.run import import_data
from tests.streamrec.data.importers.originals import RETAILROCKET


def test_category_is_the_last_one_wherever_its_file_ends(tmp_path: Path) -> None:
    source = RETAILROCKET.write(tmp_path / "in")
    for order in (("part1", "part2"), ("part2", "part1")):
        one, two = (source / f"item_properties_{part}.csv" for part in order)
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)
        import_data(RetailRocket(), source, tmp_path / order[0])
        items = pd.read_csv(tmp_path / order[0] / "items.csv", dtype=str)
        assert items.to_numpy().tolist() == [["355908", "1114", "169"]]


def test_events_alone_are_enough(tmp_path: Path) -> None:
    source = RETAILROCKET.write(tmp_path / "in")
    about = import_data(RetailRocket(), source / "events.csv", tmp_path / "out")
    assert (about["events"], about["tables"]) == (3, {})
