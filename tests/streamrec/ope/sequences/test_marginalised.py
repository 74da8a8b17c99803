from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec import checkpoint
from streamrec.ope.codes import Refused
from streamrec.ope.sequences.marginalised import Marginalised
from tests.streamrec.ope.sequences.chains import (
    ACTIONS,
    GAMMA,
    LOGGER,
    MOVE,
    POLICY,
    REWARD,
    START,
    STATES,
    value,
    walk,
)

EYE = np.eye(STATES)


def test_tabular_is_the_linear_solve() -> None:
    """Each (state, action, next) as often as expected, a first step as often in each state as sessions begin there."""
    rows: list[tuple[Any, ...]] = []
    for state in range(STATES):
        for action in range(ACTIONS):
            for after in range(STATES):
                times = round(100 * LOGGER[state, action] * MOVE[state, action, after])
                one = (EYE[state], REWARD[state, action], LOGGER[state, action], POLICY[state, action], EYE[after])
                rows += [(*one, 0.0)] * times
    names = ("features", "reward", "propensity", "target", "following", "first")
    table = {name: np.array([row[at] for row in rows], dtype=np.float64) for at, name in enumerate(names)}
    for state, times in enumerate((10 * START).astype(int)):
        table["first"][np.flatnonzero(table["features"][:, state])[:times]] = 1.0
    fitted = Marginalised(STATES, GAMMA)
    fitted.add(**table, session=np.arange(len(rows), dtype=np.uint64))
    assert fitted.result().value == pytest.approx(value(), rel=1e-9)


def logged(sessions: int, steps: int, seed: int) -> dict[str, Any]:
    state, action = walk(sessions, steps, seed)
    here, after, done = state[:, :-1].ravel(), state[:, 1:].ravel(), action.ravel()
    first = np.zeros((sessions, steps))
    first[:, 0] = 1
    return {
        "features": EYE[here],
        "reward": REWARD[here, done],
        "propensity": LOGGER[here, done],
        "target": POLICY[here, done],
        "following": EYE[after],
        "first": first.ravel(),
        "session": np.arange(sessions, dtype=np.uint64).repeat(steps),
    }


def test_a_drawn_log_is_solved_as_its_estimated_chain() -> None:
    """Weighted counts of the chain by hand (Xie, Ma, Wang, NeurIPS 2019, section 3, with one chain for all steps)."""
    table = logged(400, 8, seed=1)
    here, after = table["features"].argmax(1), table["following"].argmax(1)
    weight = table["target"] / table["propensity"]
    chain, earned, visits = np.zeros((STATES, STATES)), np.zeros(STATES), np.bincount(here, minlength=STATES)
    np.add.at(chain, (here, after), weight)
    np.add.at(earned, here, weight * table["reward"])
    start = np.bincount(here[table["first"] > 0], minlength=STATES) / 400
    by_hand = start @ np.linalg.solve(np.eye(STATES) - GAMMA * chain / visits[:, None], earned / visits)
    fitted = Marginalised(STATES, GAMMA)
    fitted.add(**table)
    assert fitted.result().value == pytest.approx(by_hand, rel=1e-9)
    assert fitted.result().n == 400


def test_its_interval_is_the_jackknife_of_sessions_to_first_order() -> None:
    table = logged(300, 5, seed=2)
    fitted = Marginalised(STATES, GAMMA, buckets=2**14)
    fitted.add(**table)
    left_out = []
    for session in range(300):
        keep = table["session"] != session
        other = Marginalised(STATES, GAMMA, buckets=2)
        other.add(**{name: column[keep] for name, column in table.items()})
        left_out.append(other.result().value)
    jackknife = np.sqrt(299 / 300 * np.sum((np.array(left_out) - np.mean(left_out)) ** 2))
    assert fitted.result().se == pytest.approx(jackknife, rel=0.02)


def test_sessions_that_end_and_gamma_one() -> None:
    """Two steps, the state is the step: the value is a sum of two weighted means."""
    n = 200
    generator = np.random.default_rng(0)
    propensity, target = generator.uniform(0.3, 1, (n, 2)), generator.uniform(0.3, 1, (n, 2))
    reward = generator.normal(size=(n, 2))
    fitted = Marginalised(2, 1.0)
    eye, session = np.eye(2), np.arange(n, dtype=np.uint64)
    fitted.add(
        eye[np.zeros(n, int)], reward[:, 0], propensity[:, 0], target[:, 0], eye[np.ones(n, int)], np.ones(n), session
    )
    fitted.add(
        eye[np.ones(n, int)], reward[:, 1], propensity[:, 1], target[:, 1], np.zeros((n, 2)), np.zeros(n), session
    )
    w = target / propensity
    means = (w * reward).mean(0)
    assert fitted.result().value == pytest.approx(means[0] + w[:, 0].mean() * means[1], rel=1e-9)


def test_variance_does_not_grow_with_the_length_of_sessions() -> None:
    from streamrec.ope.sequences.accumulator import SequenceAccumulator

    table = logged(1000, 60, seed=3)
    fitted = Marginalised(STATES, GAMMA)
    fitted.add(**table)
    estimate = fitted.result()
    assert abs(estimate.value - value()) < 4 * estimate.se
    assert estimate.se < 0.2
    product = SequenceAccumulator(["pdis"], gamma=GAMMA)
    names = ("reward", "propensity", "target", "session")
    product.add(**{name: table[name] for name in names}, time=np.tile(np.arange(60.0), 1000))
    assert product.result()["pdis"].ess < 20


def test_cut_added_and_resumed(tmp_path: Path) -> None:
    table = logged(100, 5, seed=4)
    parts = [{name: column[at] for name, column in table.items()} for at in (slice(0, 200), slice(200, 500))]
    whole, first, second = (Marginalised(STATES, GAMMA) for _ in range(3))
    whole.add(**table)
    first.add(**parts[0])
    checkpoint.save(tmp_path, {"marginalised": first.state_dict()}, 1)
    second.add(**parts[1])
    assert (first + second).result().value == pytest.approx(whole.result().value, rel=1e-12)
    loaded, resumed = checkpoint.load_newest(tmp_path), Marginalised(STATES, GAMMA)
    assert loaded is not None
    resumed.load_state_dict(loaded[0]["marginalised"])
    resumed.add(**parts[1])
    assert resumed.result() == whole.result()


def test_warnings_and_refusals() -> None:
    fitted = Marginalised(STATES, GAMMA, reward_range=(0.0, 0.1))
    with pytest.raises(Refused, match="empty_log"):
        fitted.result()
    fitted.add(**logged(50, 5, seed=5))
    codes = {warned.code for warned in fitted.result().warnings}
    assert {"model_based", "few_sessions", "out_of_range"} <= codes
    alike = Marginalised(2, GAMMA)
    alike.add([[1.0, 1.0]], [1.0], [0.5], [0.5], [[1.0, 1.0]], [True], np.zeros(1, dtype=np.uint64))
    with pytest.raises(Refused, match="no_support"):
        alike.result()
    with pytest.raises(ValueError, match="features have shape"):
        alike.add([[1.0]], [1.0], [0.5], [0.5], [[1.0]], [True], np.zeros(1, dtype=np.uint64))
    with pytest.raises(ValueError, match="dim"):
        Marginalised(0, GAMMA)
