from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamrec.data.events import read
from streamrec.data.formats import BadLog
from streamrec.data.importers.dataset import DataSet
from streamrec.data.importers.ledger import Ledger
from streamrec.data.importers.run import GROUP, LOG, Counts, Different, Progress, import_data
from streamrec.data.importers.source import Source


class Made(DataSet):
    """Rows made here: what `import_data` does with any data set."""

    title, homepage, licence, files = "made", "nowhere", "none", "none"
    mapping: ClassVar[Mapping[str, str]] = {"user": "user"}

    def __init__(self, rows: int, twice: bool = False) -> None:
        self.rows, self.twice = rows, twice

    def events(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        page = ledger.page("made", ["time"])
        generator = np.random.default_rng(0)
        for begin in range(0, self.rows, 50_000):
            size = min(50_000, self.rows - begin)
            page.parse(size)
            number = pa.array(np.arange(begin, begin + size) % 777).cast(pa.string())
            kind = pa.repeat("click", size)
            yield pa.table({"user": number, "item": number, "kind": kind, "time": generator.random(size)})

    def items(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        yield pa.table({"item": ["1"], "category": pa.nulls(1)})


def test_row_groups_are_bounded_and_all_rows_are_there(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    said: list[str] = []
    about = import_data(Made(200_000), tmp_path / "in", tmp_path / "out", said.append, rows=30_000)
    metadata = pq.ParquetFile(tmp_path / "out" / LOG).metadata
    assert metadata.num_rows == about["events"] == 200_000
    assert max(metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)) <= 2 * GROUP
    times = np.concatenate([frame["time"] for frame in read(tmp_path / "out")])
    wanted = np.concatenate([np.asarray(t["time"]) for t in Made(200_000).events(Source(tmp_path / "in"), Ledger())])
    assert (times == np.sort(wanted)).all()
    assert about["users"] == 777
    assert (tmp_path / "out" / "items.csv").read_text() == '"item","category"\n"1",\n'


def test_no_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(BadLog, match="at least one row"):
        import_data(Made(0), tmp_path / "in", tmp_path / "out")


def test_an_empty_folder_may_become_the_result(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    import_data(Made(5), tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / LOG).is_file()


def test_different_counts_texts_once_however_they_come() -> None:
    different = Different()
    texts = [f"user {n % 30_000}" for n in range(200_000)]
    for begin in range(0, len(texts), 7001):
        different.add(pa.chunked_array([pa.array([*texts[begin : begin + 7001], None])]))
    assert len(different) == 30_000
    assert len(different) == 30_000


def test_nothing_counted() -> None:
    assert len(Different()) == 0
    assert Counts().rows == 0


def test_progress_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    progress = Progress(said.append, every_s=0.0)
    progress.step("read", 1500)
    progress.step("read", 500)
    progress.begin()
    progress.step("written", 10)
    assert [text.split(" after")[0] for text in said] == ["1,500 events read", "2,000 events read", "10 events written"]
    Progress(None, every_s=0.0).step("read", 1)
