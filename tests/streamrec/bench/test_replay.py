"""The benchmark of values: a small log through the same pass."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from streamrec.bench import replay


def test_a_small_log_is_written_and_read(tmp_path: Path) -> None:
    replay.write(tmp_path, 5000)
    assert sum(pq.ParquetFile(path).metadata.num_rows for path in tmp_path.iterdir()) == 5000
    once, twice = replay.values(tmp_path, 1), replay.values(tmp_path, 2)
    assert (once["rows"], twice["rows"]) == (5000, 10_000)
    assert set(once["estimates"]) == {"logged", *replay.ESTIMATORS}
    for name, (value, low, high) in once["estimates"].items():
        assert low < value < high
        assert twice["estimates"][name][0] == pytest.approx(value)
        assert twice["estimates"][name][2] - twice["estimates"][name][1] < high - low


def test_a_pass_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    replay.write(tmp_path, 1000)
    found = replay._in_a_process(tmp_path, 1)
    assert found["rows"] == 1000
    assert 10_000_000 < found["peak_bytes"] < replay.LIMIT_BYTES
    assert json.dumps(found)
