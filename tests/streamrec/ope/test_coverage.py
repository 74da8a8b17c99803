from __future__ import annotations

import numpy as np
import pytest

from streamrec.ope.coverage import SessionWorld, coverage, table


def test_the_worlds_value_is_the_mean_weighted_reward_of_many_rows() -> None:
    world = SessionWorld()
    columns, keys = world.draw(200_000, 5, np.random.default_rng(0))
    weight = columns["target"] / columns["propensity"]
    sums = (weight * columns["reward"]).reshape(-1, 5).mean(1)
    assert len(np.unique(keys)) == 200_000
    assert abs(sums.mean() - world.value) < 4 * sums.std() / np.sqrt(200_000)
    assert weight.max() <= world.max_weight


def test_sessions_are_covered_and_rows_are_not() -> None:
    found = {(one.estimator, one.interval, one.unit): one for one in coverage(runs=80, sessions=3000, rows=5)}
    for name in ("ips", "snips", "dr"):
        by_session, by_row = found[name, "delta method", "session"], found[name, "delta method", "row"]
        assert 0.88 <= by_session.covered <= 1.0
        assert by_row.width < 0.85 * by_session.width
    assert found["ips", "confidence sequence", "none"].covered > 0.9
    assert len(table(list(found.values())).splitlines()) == len(found) + 2


@pytest.mark.slow
def test_the_default_interval_covers_as_it_says() -> None:
    for one in coverage(runs=500):
        if one.unit == "session":
            assert 0.93 <= one.covered <= 0.97
        if one.unit == "row":
            assert one.covered < 0.9
