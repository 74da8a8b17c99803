from __future__ import annotations

import numpy as np
import pytest

from streamrec.ope.accumulator import Accumulator
from streamrec.ope.windows import MOST, Windows
from tests.streamrec.ope.worlds import draw


def test_values_by_window_are_those_of_its_rows_alone() -> None:
    log = draw(sessions=3000, rows=2, seed=7)
    accumulator = Accumulator(["snips"], window_s=86_400.0)
    accumulator.add(**log.columns)
    found = accumulator.windows("snips")
    assert len(found) == 5
    for window in found:
        rows = (log.time >= window.start) & (log.time < window.start + window.width)
        w = (log.target / log.propensity)[rows]
        assert window.n == rows.sum()
        assert window.value == pytest.approx(w @ log.reward[rows] / w.sum(), rel=1e-12)
        own = np.sqrt(np.sum((w * (log.reward[rows] - window.value)) ** 2)) / w.sum()
        assert window.se == pytest.approx(own, rel=0.5)  # 64 groups of sessions of two rows


def test_a_long_log_keeps_a_bounded_number_of_windows() -> None:
    windows = Windows(["n"], width=10.0)
    time = np.sort(np.random.default_rng(0).uniform(-1e5, 1e5, 20_000))
    for part in np.array_split(time, 40):
        windows.add("n", windows.cells(part, np.zeros(len(part), dtype=np.intp)), np.ones(len(part)))
    assert windows.sums.shape[1] <= MOST
    assert windows.width == 640.0
    counts, _ = np.histogram(time, bins=np.append(windows.starts(), windows.starts()[-1] + windows.width))
    assert np.array_equal(windows.sums[0].sum(1), counts)


@pytest.mark.parametrize("spans", [((0, 100), (50, 400)), ((0, 100), (90_000, 90_100)), ((-9e4, 10), (5, 20))])
def test_windows_of_two_parts_add_up(spans: tuple[tuple[float, float], ...]) -> None:
    generator, parts, times = np.random.default_rng(0), [], []
    for low, high in spans:
        windows, time = Windows(["n"], width=10.0), generator.uniform(low, high, 500)
        windows.add("n", windows.cells(time, np.zeros(500, dtype=np.intp)), np.ones(500))
        parts.append(windows)
        times.append(time)
    for both in (parts[0] + parts[1], parts[1] + parts[0]):
        counts, _ = np.histogram(np.concatenate(times), bins=np.append(both.starts(), both.starts()[-1] + both.width))
        assert np.array_equal(both.sums[0].sum(1), counts)
    empty = Windows(["n"], width=10.0)
    assert np.array_equal((parts[0] + empty).sums, parts[0].sums)
    assert np.array_equal((empty + parts[0]).sums, parts[0].sums)


def test_a_time_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        Windows(["n"]).cells(np.array([0.0, np.nan]), np.zeros(2, dtype=np.intp))
