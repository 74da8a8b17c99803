from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from streamrec.data.events import read
from streamrec.data.importers.movielens import MovieLens
from streamrec.data.importers.run import import_data

RATINGS = [["5", "1", 4.0, 100.0], ["6", "2", 3.0, 50.0]]
FLAGS = "|".join(["0"] * 5 + ["1"] + ["0"] * 2 + ["1"] + ["0"] * 10)

LAYOUTS = {
    "100K": {
        "u.data": "5\t1\t4\t100\n6\t2\t3\t50\n",
        "u.item": f"1|Toy Story (1995)|01-Jan-1995||http://x|{FLAGS}\n2|unknown||||{'|'.join(['0'] * 19)}\n",
        "u1.base": "5\t1\t4\t100\n",
    },
    "1M": {
        "ratings.dat": "5::1::4::100\n6::2::3::50\n",
        "movies.dat": "1::Toy Story (1995)::Comedy|Drama\n2::unknown::\n",
    },
    "newer": {
        "ratings.csv": "userId,movieId,rating,timestamp\n5,1,4.0,100\n6,2,3.0,50\n",
        "movies.csv": "movieId,title,genres\n1,Toy Story (1995),Comedy|Drama\n2,unknown,(no genres listed)\n",
        "tags.csv": "userId,movieId,tag,timestamp\n5,1,fun,100\n",
    },
    "atomic": {
        "x.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n5\t1\t4\t100\n6\t2\t3\t50\n",
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_say_the_same(layout: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, text in LAYOUTS[layout].items():
        (tmp_path / "in" / name).write_text(text)
    about = import_data(MovieLens(), tmp_path / "in", tmp_path / "out")
    frame = pd.concat(read(tmp_path / "out"))
    assert frame[["user", "item", "value", "time"]].to_numpy().tolist() == RATINGS[::-1]
    if layout == "atomic":
        assert about["tables"] == {}
        return
    items = (tmp_path / "out" / "items.csv").read_text().splitlines()
    genres = "Comedy|Drama"
    assert items[1:] in (
        [f'"1","{genres}","Toy Story (1995)"', '"2",,"unknown"'],
        [f'"1","{genres}","Toy Story (1995)"', '"2","","unknown"'],
    )
