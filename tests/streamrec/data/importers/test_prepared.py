from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from streamrec.data.events import read
from streamrec.data.formats import BadLog
from streamrec.data.importers.dataset import DataSet
from streamrec.data.importers.diginetica import Diginetica
from streamrec.data.importers.globo import Globo
from streamrec.data.importers.run import import_data
from streamrec.data.importers.tmall import Tmall
from streamrec.data.importers.yoochoose import Yoochoose

ROWS = pd.DataFrame({"SessionId": [2, 1, 1], "ItemId": [7, 8, 9], "Time": [1.5, 0.5, 1.0]})


@pytest.mark.parametrize("data_set", [Yoochoose, Diginetica, Tmall])
@pytest.mark.parametrize("form", ["tsv", "parquet"])
def test_tables_of_benchmarks(data_set: type[DataSet], form: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    if form == "tsv":
        ROWS.to_csv(tmp_path / "in" / "train.tsv", sep="\t", index=False)
    else:
        ROWS.to_parquet(tmp_path / "in" / "train.parquet")
    about = import_data(data_set(), tmp_path / "in", tmp_path / "out")
    frame = pd.concat(read(tmp_path / "out"))
    assert frame[["session", "item", "time"]].to_numpy().tolist() == [["1", "8", 0.5], ["1", "9", 1.0], ["2", "7", 1.5]]
    assert (frame["user"] == frame["session"]).all()
    assert "only give the order" in about["notes"][0]


def test_parquet_with_other_columns_is_refused(tmp_path: Path) -> None:
    ROWS.rename(columns={"Time": "when"}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(BadLog, match="got SessionId, ItemId, when: no Time"):
        import_data(Yoochoose(), tmp_path / "x.parquet", tmp_path / "out")


def test_globo_in_one_parquet_file(tmp_path: Path) -> None:
    names = ("user_id", "session_id", "click_article_id", "click_timestamp")
    pd.DataFrame([[3, 4, 5, 1506826828020]], columns=names).to_parquet(tmp_path / "clicks.parquet")
    import_data(Globo(), tmp_path / "clicks.parquet", tmp_path / "out")
    frame = pd.concat(read(tmp_path / "out"))
    assert frame[["user", "session", "item", "time"]].to_numpy().tolist() == [["3", "4", "5", 1506826828.02]]
