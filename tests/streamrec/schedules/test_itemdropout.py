"""Prefixes with clicks left out."""

from __future__ import annotations

import pytest
import torch

from streamrec.schedules.itemdropout import ItemDropout
from streamrec.schedules.replay import Replay
from tests.histories import history


def drawn(p: float, in_session: list[int] | None = None, rows: int = 1) -> list[list[int]]:
    made = ItemDropout(Replay(batch=rows), p)
    made.add(None, history([[1, 2, 3, 4, 5]] * rows, in_session=in_session), torch.full((rows,), 9))
    some = made.draw()
    assert some is not None
    assert some.target.tolist() == [9] * rows
    assert (some.history.kinds != 0).equal(some.history.items != 0)
    if in_session is None:
        assert some.history.in_session.equal((some.history.items != 0).sum(1))
    return [[i for i in row if i] for row in some.history.items.tolist()]


def test_what_is_left_keeps_its_order_and_moves_to_the_end() -> None:
    made = ItemDropout(Replay(batch=500), 0.3)
    before = history([[1, 2, 3, 4, 5]] * 500)
    made.add(None, before, torch.ones(500, dtype=torch.int64))
    some = made.draw()
    assert some is not None
    filled = some.history.items != 0
    assert (filled[:, 1:] | ~filled[:, :-1]).all(), "no holes, newest last"
    assert before.items[0].tolist() == [0, 1, 2, 3, 4, 5], "what is remembered stays whole"
    kept = [[i for i in row if i] for row in some.history.items.tolist()]
    assert all(row == sorted(row) for row in kept)
    share = sum(len(row) for row in kept) / 2_500
    assert share == pytest.approx(0.7, abs=0.03)
    each = torch.bincount(torch.tensor([i for row in kept for i in row]), minlength=6)[1:] / 500
    assert ((each - 0.7).abs() < 0.09).all()


def test_without_dropout_nothing_changes() -> None:
    assert drawn(0.0) == [[1, 2, 3, 4, 5]]


def test_the_running_session_counts_what_is_left_of_it() -> None:
    made = ItemDropout(Replay(batch=300), 0.5)
    made.add(None, history([[1, 2, 3, 4, 5]] * 300, in_session=[2] * 300), torch.ones(300, dtype=torch.int64))
    some = made.draw()
    assert some is not None
    left = ((some.history.items == 4) | (some.history.items == 5)).sum(1)
    assert some.history.in_session.equal(left)


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_p_is_a_probability(p: float) -> None:
    with pytest.raises(ValueError, match="p must be"):
        ItemDropout(Replay(), p)
