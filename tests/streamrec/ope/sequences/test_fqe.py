from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from streamrec import checkpoint
from streamrec.ope.codes import Refused
from streamrec.ope.sequences.fqe import LinearFqe
from streamrec.ope.sequences.network_fqe import NetworkFqe, Transitions
from tests.streamrec.ope.sequences.chains import ACTIONS, GAMMA, MOVE, POLICY, REWARD, START, STATES, pair, value, walk

PAIRS = STATES * ACTIONS


def every_transition(fitted: LinearFqe) -> LinearFqe:
    """Each (state, action, next state) as often as expected in 10 visits of the pair."""
    for state in range(STATES):
        for action in range(ACTIONS):
            after = np.arange(STATES).repeat(np.rint(10 * MOVE[state, action]).astype(int))
            here = pair(np.full(10, state), np.eye(ACTIONS)[np.full(10, action)])
            fitted.add(here, np.full(10, REWARD[state, action]), pair(after, POLICY[after]))
    first = np.arange(STATES).repeat((10 * START).astype(int))
    fitted.begin(pair(first, POLICY[first]))
    return fitted


def test_tabular_fqe_is_the_linear_solve() -> None:
    estimate, report = every_transition(LinearFqe(PAIRS, GAMMA)).result()
    assert estimate.value == pytest.approx(value(), rel=1e-9)
    assert report.converged
    assert report.unseen == 0
    assert report.factor == pytest.approx(GAMMA, rel=1e-9)
    assert report.changes[-1] < 1e-9 < report.changes[0]
    assert {warned.code for warned in estimate.warnings} == {"model_based"}


def test_on_a_drawn_log_it_is_the_linear_solve_of_the_estimated_process() -> None:
    state, action = walk(sessions=500, steps=6, seed=1)
    counts, earned = np.zeros((STATES, ACTIONS, STATES)), np.zeros((STATES, ACTIONS))
    generator = np.random.default_rng(0)
    reward = generator.normal(REWARD[state[:, :-1], action])
    np.add.at(counts, (state[:, :-1], action, state[:, 1:]), 1)
    np.add.at(earned, (state[:, :-1], action), reward)
    whole, half = LinearFqe(PAIRS, GAMMA), [LinearFqe(PAIRS, GAMMA), LinearFqe(PAIRS, GAMMA)]
    for part in (slice(0, 200), slice(200, 500)):
        here, after = state[part, :-1].ravel(), state[part, 1:].ravel()
        for fitted in (whole, half[part.start > 0]):
            fitted.add(
                pair(here, np.eye(ACTIONS)[action[part].ravel()]), reward[part].ravel(), pair(after, POLICY[after])
            )
            fitted.begin(pair(state[part, 0], POLICY[state[part, 0]]))
    times = counts.sum(2)
    start = np.bincount(state[:, 0], minlength=STATES) / 500
    expected = value(counts / times[:, :, None], earned / times, start)
    assert whole.result()[0].value == pytest.approx(expected, rel=1e-9)
    assert (half[0] + half[1]).result()[0].value == pytest.approx(expected, rel=1e-9)


def test_too_few_iterations_are_told() -> None:
    estimate, report = every_transition(LinearFqe(PAIRS, GAMMA, iterations=5)).result()
    assert not report.converged
    assert "not_converged" in {warned.code for warned in estimate.warnings}
    assert "after 5 iterations" in report.warnings()[0].message


def test_an_iteration_that_cannot_settle_is_told() -> None:
    """Two states share a feature, 1 and 2, and the log shows only the first: the well-known factor is 2 gamma."""
    fitted = LinearFqe(1, GAMMA)
    fitted.add([[1.0]], [1.0], [[2.0]])
    fitted.begin([[1.0]])
    estimate, report = fitted.result()
    assert report.factor == pytest.approx(1.8)
    assert not report.converged
    assert estimate.value is None
    assert estimate.refused is not None
    assert estimate.refused.code == "not_converged"
    assert "multiplies errors by 1.8" in estimate.refused.message


def test_what_was_never_seen_has_no_weight() -> None:
    fitted = LinearFqe(2, GAMMA)
    fitted.add([[1.0, 0.0]], [1.0], [[0.0, 0.0]])
    fitted.begin([[0.5, 0.5]])
    estimate, report = fitted.result()
    assert estimate.value == pytest.approx(0.5)
    assert report.unseen == 1


def test_resumed_is_the_same_to_the_bit(tmp_path: Path) -> None:
    fitted = every_transition(LinearFqe(PAIRS, GAMMA))
    checkpoint.save(tmp_path, {"fqe": fitted.state_dict()}, 1)
    loaded, other = checkpoint.load_newest(tmp_path), LinearFqe(PAIRS, GAMMA)
    assert loaded is not None
    other.load_state_dict(loaded[0]["fqe"])
    assert other.result() == fitted.result()


def test_what_cannot_be_fitted() -> None:
    with pytest.raises(Refused, match="empty_log"):
        LinearFqe(2, GAMMA).result()
    with pytest.raises(Refused, match="bad_reward"):
        LinearFqe(1, GAMMA).add([[1.0]], [np.nan], [[1.0]])
    with pytest.raises(ValueError, match="features have shape"):
        LinearFqe(2, GAMMA).add([[1.0]], [1.0], [[1.0]])
    with pytest.raises(ValueError, match="gamma"):
        LinearFqe(2, 1.5)


def transitions(sessions: int) -> Transitions:
    state, action = walk(sessions, steps=5, seed=2)
    here, after = state[:, :-1].T.ravel(), state[:, 1:].T.ravel()
    every = np.stack([pair(np.arange(STATES), np.eye(ACTIONS)[np.full(STATES, a)]) for a in range(ACTIONS)], axis=1)
    tensors = (
        pair(here, np.eye(ACTIONS)[action.T.ravel()]),
        REWARD[here, action.T.ravel()],
        every[after],
        POLICY[after],
        every[state[:, 0]],
        POLICY[state[:, 0]],
    )
    return Transitions(*(torch.tensor(one, dtype=torch.float32) for one in tensors))


def test_the_network_comes_near_the_linear_solve_and_reports_its_way() -> None:
    fitted = NetworkFqe(PAIRS, GAMMA, hidden=32, rounds=120, lr=3e-3, batch=128, tolerance=2e-3)
    estimate, report = fitted.result(transitions(600))
    assert estimate.value == pytest.approx(value(), rel=0.05)
    assert len(report.held_out) == len(report.changes)
    assert estimate.kind == "model-based"
    assert ("not_converged" in {warned.code for warned in estimate.warnings}) is not report.converged


def test_a_network_stopped_early_says_so() -> None:
    steps = transitions(50)
    estimate, report = NetworkFqe(PAIRS, GAMMA, rounds=3).result(steps)
    assert not report.converged
    assert "not_converged" in {warned.code for warned in estimate.warnings}
    again, _ = NetworkFqe(PAIRS, GAMMA, rounds=3).result(steps)
    assert again.value == estimate.value
