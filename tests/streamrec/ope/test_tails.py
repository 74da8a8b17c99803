from __future__ import annotations

import numpy as np
import pytest

from streamrec.ope.tails import Tails


def filled(weight: np.ndarray, cuts: int) -> Tails:
    tails = Tails()
    for part in np.array_split(np.arange(len(weight)), cuts):
        tails.add(weight[part], part.astype(np.float64), part.astype(np.uint64))
    return tails


@pytest.mark.parametrize("cuts", [1, 7, 100])
def test_the_heaviest_thousand_rows_earlier_first_among_equals(cuts: int) -> None:
    weight = np.random.default_rng(0).integers(0, 900, 30_000) / 8.0
    order = np.lexsort((np.arange(30_000), -weight))[:1000]
    tails = filled(weight, cuts)
    assert np.array_equal(tails.heavy.row, order)
    assert np.array_equal(tails.heavy.weight, weight[order])
    assert np.array_equal(tails.heavy.reward, order.astype(np.float64))


def test_the_histogram_counts_every_weight_once() -> None:
    weight = np.random.default_rng(1).lognormal(0, 5, 10_000)
    weight[:50] = 0
    tails = filled(weight, 3)
    assert tails.zeros == 50
    counts, _ = np.histogram(weight[50:], bins=tails.edges())
    assert np.array_equal(tails.bins, counts)
    assert tails.bins.sum() == 9950


def test_weights_beyond_the_histogram_fall_into_its_outer_bins() -> None:
    tails = filled(np.array([1e-300, 1e300]), 1)
    assert (tails.bins[0], tails.bins[-1]) == (1, 1)


def test_two_halves_are_the_whole() -> None:
    weight = np.random.default_rng(2).lognormal(0, 2, 5000)
    a, b, whole = Tails(), Tails(), filled(weight, 1)
    a.add(weight[:2000], np.arange(2000.0), np.arange(2000, dtype=np.uint64))
    b.add(weight[2000:], np.arange(2000.0, 5000), np.arange(2000, 5000, dtype=np.uint64))
    both = a + b
    assert np.array_equal(both.heavy.row, whole.heavy.row)
    assert np.array_equal(both.heavy.session, whole.heavy.session)
    assert np.array_equal(both.bins, whole.bins)
