from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrec.data.importers import merge
from streamrec.data.importers.merge import ByTime


def tables(times: np.ndarray, width: int) -> list[pa.Table]:
    rows = pa.table({"time": times.astype(float), "row": np.arange(len(times))})
    return [rows.slice(at, width) for at in range(0, len(times), width)]


def in_order(folder: Path, times: np.ndarray, rows: int, width: int) -> pa.Table:
    order = ByTime(folder, rows)
    for table in tables(times, width):
        order.add(table)
    parts = list(order)
    return pa.concat_tables(parts) if parts else pa.table({"time": [], "row": []})


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.integers(0, 6), max_size=60),
    rows=st.integers(1, 20),
    width=st.integers(1, 25),
    block=st.integers(1, 4),
)
def test_order_is_that_of_a_stable_sort(
    times: list[int], rows: int, width: int, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "LEAST", block)
        found = in_order(folder, np.array(times, dtype=float), rows, width)
    assert found["row"].to_pylist() == np.argsort(np.array(times), kind="stable").tolist()
    assert not list(folder.iterdir()), "runs are left on disk"


def test_memory_while_merging_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "LEAST", 16)
    times = np.random.default_rng(0).random(20_000)
    order = ByTime(tmp_path, rows=1000)
    for table in tables(times, 700):
        order.add(table)
        assert sum(part.num_rows for part in order._waiting) <= 1000
    before: list[float] = [-1.0]
    for part in order:
        assert part.num_rows <= 2000
        assert part["time"][0].as_py() >= before[-1]
        before.append(part["time"][-1].as_py())


def test_one_table_larger_than_the_memory_is_cut(tmp_path: Path) -> None:
    order = ByTime(tmp_path, rows=3)
    order.add(tables(np.array([5, 4, 3, 2, 1, 0, 7]), 7)[0])
    assert len(list(tmp_path.iterdir())) == 2
    assert pa.concat_tables(list(order))["row"].to_pylist() == [5, 4, 3, 2, 1, 0, 6]


def test_no_rows_at_all(tmp_path: Path) -> None:
    assert list(ByTime(tmp_path)) == []
    with pytest.raises(ValueError, match="rows >= 1"):
        ByTime(tmp_path, rows=0)
