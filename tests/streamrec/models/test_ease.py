"""EASE against its closed form; what a stream must not change. The shared properties: tests/contracts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from streamrec.catalog import Catalog
from streamrec.models.ease import EASE
from tests.histories import catalog, history

SESSIONS = [[1, 2, 3], [2, 3], [1, 4], [2, 5, 2, 3], [6], [3, 1, 6, 1]]


def play(model: EASE, rows: list[list[int]], together: bool = False) -> None:
    """Every click after those before it, click by click or all in one call."""
    befores = [(row[:at], row[at]) for row in rows for at in range(len(row))]
    if together:
        model.observe(history([before for before, _ in befores]), torch.tensor([item for _, item in befores]))
        return
    for before, item in befores:
        model.observe(history([before]), torch.tensor([item]))


def matrix(rows: list[list[int]], items: int) -> np.ndarray:
    out = np.zeros((len(rows), items))
    for at, row in enumerate(rows):
        out[at, np.array(row) - 1] = 1.0
    return out


def closed_form(x: np.ndarray, regularisation: float) -> np.ndarray:
    """B of equation 8 of the paper, by an ordinary inverse over all items."""
    p = np.linalg.inv(x.T @ x + regularisation * np.eye(x.shape[1]))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0.0)
    return b


@pytest.mark.parametrize("together", [False, True])
def test_weights_are_the_closed_form_of_all_sessions(together: bool) -> None:
    model = EASE(catalog(8), regularisation=2.0, refresh=0.0)
    play(model, SESSIONS, together)
    x = matrix(SESSIONS, 8)
    assert torch.equal(model.gram[1:9, 1:9], torch.tensor(x.T @ x).float())
    expected = matrix([[1, 3], [6, 6]], 8) @ closed_form(x, 2.0)
    scores = model.score(history([[3, 1], [6, 6]]))[:, 1:]
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-6)


def test_golden_two_items() -> None:
    """Three sessions with both of two items, lambda 1: G + I = [[4, 3], [3, 4]], so P = [[4, -3], [-3, 4]] / 7 and
    B_12 = 3 / 4."""
    model = EASE(catalog(2), regularisation=1.0, refresh=0.0)
    play(model, [[1, 2]] * 3)
    assert model.score(history([[1]]))[0].tolist() == pytest.approx([0.0, 0.0, 0.75])


def test_what_it_learnt_is_recommended() -> None:
    """Items come in pairs (2i - 1, 2i) beside noise: the partner is ranked first for nearly all."""
    draw = np.random.default_rng(0)
    pairs = draw.integers(0, 20, 400)
    rows = [[2 * int(p) + 1, int(n), 2 * int(p) + 2] for p, n in zip(pairs, draw.integers(1, 41, 400), strict=True)]
    model = EASE(catalog(40), regularisation=5.0, refresh=1.0)
    play(model, rows, together=True)
    best = model.score(history([[item] for item in range(1, 41)]))[:, 1:].argmax(1) + 1
    partner = torch.arange(1, 41) + torch.tensor([1, -1]).repeat(20)
    assert (best == partner).float().mean() >= 0.95


def test_sessions_or_users() -> None:
    before = history([[1, 2, 3]], in_session=[1])
    session, user = (EASE(catalog(5), refresh=0.0, scope=scope) for scope in ("session", "user"))
    for model in (session, user):
        model.observe(before, torch.tensor([4]))
    assert session.gram[4].nonzero().flatten().tolist() == [3, 4]
    assert user.gram[4].nonzero().flatten().tolist() == [1, 2, 3, 4]


def test_only_the_newest_clicks_are_paired_and_scored() -> None:
    model = EASE(catalog(5), refresh=0.0, last=2)
    play(model, [[1, 2, 3, 4]])
    assert model.gram[4].nonzero().flatten().tolist() == [2, 3, 4]
    assert torch.equal(model.score(history([[1, 2, 3]])), model.score(history([[2, 3]])))


def test_a_click_on_what_the_session_has_changes_nothing() -> None:
    model = EASE(catalog(5), refresh=0.0)
    play(model, [[1, 2]])
    before = model.gram.clone()
    model.observe(history([[1, 2]]), torch.tensor([1]))
    assert torch.equal(model.gram, before)


def test_it_is_solved_again_when_clicks_have_grown_by_the_share() -> None:
    model = EASE(catalog(8), refresh=0.5)
    solved = []
    for row in SESSIONS:
        play(model, [row])
        solved.append(model.clicks.tolist())
    for counted, last in solved:
        assert last <= counted < 1.5 * last + 1
    assert solved[-1][0] == int(matrix(SESSIONS, 8).sum())
    assert len({last for _, last in solved}) > 2


def test_expired_items_leave_no_trace() -> None:
    model = EASE(catalog(8), regularisation=2.0, refresh=0.0)
    play(model, SESSIONS)
    model.recycle(torch.tensor([3]))
    assert not model.gram[3].any()
    assert not model.gram[:, 3].any()
    assert not model.score(history([[3]])).any()
    assert not model.score(history([[1, 2]]))[:, 3].any()


def test_a_catalogue_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 10000 items, catalog\.capacity is 10001"):
        EASE(Catalog(10_001))
    with pytest.raises(ValueError, match="at most 7"):
        EASE(Catalog(8), largest=7)
    for wrong in ({"regularisation": 0.0}, {"refresh": -1.0}, {"last": 0}):
        with pytest.raises(ValueError, match=r"regularisation|refresh|length"):
            EASE(catalog(3), **wrong)


def test_empty_calls_are_harmless() -> None:
    model = EASE(catalog(5))
    model.observe(history([]), torch.zeros(0, dtype=torch.int64))
    assert not model.score(history([[1], []])).any()
    before = replace(history([[1]]), in_session=torch.tensor([1]))
    model.observe(before, torch.tensor([0]))
    assert not model.gram.any()
