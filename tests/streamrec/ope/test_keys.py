from __future__ import annotations

import numpy as np
import pytest

from streamrec.ope.keys import DistinctKeys, mix


def test_mixing_is_that_of_splitmix64() -> None:
    """First outputs of SplitMix64 seeded with 0 and 1 (Vigna's splitmix64.c)."""
    assert mix(np.array([0, 1], dtype=np.uint64)).tolist() == [0xE220A8397B1DCDAF, 0x910A2DEC89025CC1]


def test_counters_fill_buckets_evenly() -> None:
    counts = np.bincount((mix(np.arange(409_600, dtype=np.uint64)) % np.uint64(4096)).astype(int), minlength=4096)
    assert ((counts - 100) ** 2 / 100).sum() == pytest.approx(4095, abs=5 * np.sqrt(2 * 4095))


@pytest.mark.parametrize("sessions", [0, 1, 500, 4095])
def test_few_sessions_are_counted_exactly(sessions: int) -> None:
    keys, counted = mix(np.arange(sessions, dtype=np.uint64)), DistinctKeys()
    for part in np.array_split(np.random.default_rng(0).permutation(keys.repeat(3)), 5):
        counted.add(part)
    assert len(counted) == sessions


@pytest.mark.parametrize("sessions", [5000, 100_000, 1_000_000])
def test_many_sessions_are_counted_within_three_standard_errors(sessions: int) -> None:
    counted = DistinctKeys()
    counted.add(mix(np.arange(sessions, dtype=np.uint64)).repeat(2))
    assert len(counted) == pytest.approx(sessions, rel=3 / np.sqrt(4096))


def test_neither_order_nor_cut_matters() -> None:
    keys = mix(np.arange(50_000, dtype=np.uint64))
    one, other = DistinctKeys(), DistinctKeys()
    one.add(keys)
    for part in np.array_split(keys[::-1], 9):
        other.add(part)
    assert np.array_equal(one.smallest, other.smallest)
