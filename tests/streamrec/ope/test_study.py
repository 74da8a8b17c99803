from __future__ import annotations

import numpy as np
import pytest

from streamrec.ope.study import PER_DECISION, STATES, Line, TiringWorld, study, table

LOUD = np.tile([0.7, 0.3], (STATES, 1))


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    return study(runs=4, sessions=20_000)


@pytest.mark.parametrize("tiring", [0.0, 0.15])
def test_what_a_policy_earns_in_its_own_world_is_what_walking_there_gives(tiring: float) -> None:
    world = TiringWorld(tiring)
    walked = world.walk(LOUD, 200_000, np.random.default_rng(0))
    a_session, a_decision = world.own(LOUD)
    assert walked.reward.sum() / 200_000 == pytest.approx(a_session, rel=0.01)
    assert walked.reward.mean() == pytest.approx(a_decision, rel=0.01)


def test_values_per_decision_put_the_wrong_policy_first(lines: list[Line]) -> None:
    found = {(one.policy, one.estimator): one for one in lines}
    for name in PER_DECISION:
        loud, quiet = found["loud", name], found["quiet", name]
        assert loud.estimate > quiet.estimate
        assert loud.truth < quiet.truth
        assert loud.error > 0.15
        assert quiet.error < -0.15


def test_values_of_sessions_are_right(lines: list[Line]) -> None:
    for one in lines:
        if one.unit == "session":
            assert abs(one.error) < 4 * max(one.spread, 0.01)


def test_without_consequences_all_are_right() -> None:
    for one in study(runs=4, sessions=20_000, tiring=0.0):
        assert abs(one.error) < 4 * max(one.spread, 0.01)


def test_the_table_has_a_line_for_each(lines: list[Line]) -> None:
    assert len(table(lines).splitlines()) == len(lines) + 2
    assert "| loud | ips | decision |" in table(lines)


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="tiring"):
        TiringWorld(0.2)
