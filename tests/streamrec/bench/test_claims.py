from __future__ import annotations

import math

import numpy as np
import pytest

from streamrec.bench.claims import bootstrap, half_width, interquartile_mean, judge, parse
from streamrec.build import BadSpec
from streamrec.ope.student import student


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (30, 2.0423)])
def test_students_quantile_is_that_of_the_tables(freedom: int, quantile: float) -> None:
    assert student(0.975, freedom) == pytest.approx(quantile, abs=2e-4)


def test_interval_of_the_mean_covers_it_in_95_of_100_cases() -> None:
    draws = np.random.default_rng(3).normal(2.0, 5.0, (2000, 5))
    inside = [abs(row.mean() - 2.0) <= half_width(row) for row in draws]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_interquartile_mean_is_the_mean_of_the_middle_half() -> None:
    assert interquartile_mean(np.array([9.0, 1.0, 2.0, -50.0])) == pytest.approx(1.5)
    assert interquartile_mean(np.array([4.0])) == 4.0
    # By hand: of 1, 2, 3 the outer quarters take 3/4 of 1 and of 3 away.
    assert interquartile_mean(np.array([3.0, 1.0, 2.0])) == pytest.approx((0.25 * 1 + 2 + 0.25 * 3) / 1.5)


def test_bootstrap_holds_the_interquartile_mean_and_repeats_itself() -> None:
    values = np.random.default_rng(0).normal(size=12)
    low, high = bootstrap(values)
    assert low <= interquartile_mean(values) <= high
    assert bootstrap(values) == (low, high)
    assert math.isnan(bootstrap(values[:1])[0])


def test_a_claim_is_judged_seed_by_seed() -> None:
    luck = np.random.default_rng(1).normal(0, 100, 8)
    scores = {"a": list(luck + 1.0 + 0.01 * np.arange(8)), "b": list(luck)}
    assert judge("a > b", scores).holds
    assert not judge("b > a", scores).holds
    assert not judge("b >= a", scores).holds
    assert not judge("a > b", scores, control=True).holds


def test_a_tie_is_no_win_and_a_good_control() -> None:
    scores = {"a": [1.0, 2.0, 3.0], "b": [1.1, 1.9, 3.0]}
    assert not judge("a > b", scores).holds
    assert judge("a >= b", scores).holds
    assert judge("a > b", scores, control=True).holds


def test_one_seed_proves_nothing() -> None:
    scores = {"a": [5.0], "b": [1.0]}
    assert not judge("a > b", scores).holds
    assert not judge("a > b", scores, control=True).holds
    assert judge("a > b", scores).as_json()["low"] is None


def test_a_claim_may_be_about_less_and_about_another_quantity() -> None:
    less = {"a": [1.0, 1.1, 0.9], "b": [2.0, 2.2, 1.9]}
    assert judge("a < b in swing.value", less).holds
    assert judge("a <= b", less).holds
    assert not judge("b < a", less).holds
    assert not judge("b <= a", less).holds
    assert parse("a < b in swing.value", less).quantity == "swing.value"
    assert parse("a < b", less).quantity == "score"


@pytest.mark.parametrize("claim", ["a is better than b", "a = b", "a > c", "a > b in"])
def test_what_is_no_claim_is_refused(claim: str) -> None:
    with pytest.raises(BadSpec):
        parse(claim, {"a": 1, "b": 2})
