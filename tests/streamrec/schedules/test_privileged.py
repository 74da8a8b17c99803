"""What followed a click, and a teacher that sees it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from streamrec.catalog import Catalog
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.models.next_item import NextItem
from streamrec.nn.adagrad import Adagrad
from streamrec.schedules.privileged import Privileged
from tests.histories import catalog, history


def model(of: Catalog, seed: int = 0) -> NextItem:
    return NextItem(GRU4Rec(of, dim=8, seed=seed), of, loss="cross-entropy", seed=seed)


def schedule(of: Catalog, **settings: Any) -> Privileged:
    return Privileged(model(of, 1), **{"memory": 40, "batch": 8, "future": 3} | settings)


def click(made: Privileged, users: list[int], rows: list[list[int]], targets: list[int], session: list[int]) -> None:
    before = history(rows, in_session=session)
    before.user = torch.tensor(users)
    made.add(None, before, torch.tensor(targets))


def later(made: Privileged) -> list[list[int]]:
    return [[i for i in row if i] for row in made.later[: made.clicks.added].tolist()]


def test_later_clicks_of_the_same_session_are_filled_in() -> None:
    made = schedule(catalog(30))
    click(made, [5, 2], [[], []], [1, 11], [0, 0])
    click(made, [2, 5], [[11], [1]], [12, 2], [1, 1])
    click(made, [5, 5, 5], [[1, 2]] * 3, [3, 4, 6], [2, 3, 4])  # three at once, in order
    click(made, [2], [[11, 12]], [13], [0])  # user 2 begins a new session
    expected = [[2, 3, 4], [12], [], [3, 4, 6], [4, 6], [6], [], []]
    assert later(made) == expected


def test_what_the_ring_has_lost_is_not_written_to() -> None:
    made = schedule(catalog(30), memory=8)
    click(made, [0], [[]], [1], [0])
    click(made, list(range(1, 9)), [[]] * 8, list(range(2, 10)), [0] * 8)  # overwrites the click of user 0
    click(made, [0], [[1]], [20], [1])
    assert not (made.later == 20).any()


def test_the_teacher_reads_the_future_backwards() -> None:
    made = schedule(catalog(30))
    click(made, [0], [[]], [1], [0])
    click(made, [0, 0], [[1]] * 2, [2, 3], [1, 2])
    after = made._after(torch.tensor([0, 1, 2]))
    assert after.items.tolist() == [[0, 3, 2], [0, 0, 3], [0, 0, 0]]


def test_clicks_whose_future_is_unknown_are_trained_on_as_ever() -> None:
    of = catalog(30)
    made, mine = schedule(of), model(of)
    click(made, [0, 1], [[3], [4]], [1, 2], [0, 0])
    some = made.draw()
    assert some is not None
    assert made.loss(mine, some).item() == mine.loss(some.history, some.target).item()


def two_steps(weight: float, count: int, columns: int | None) -> float:
    """Share of right guesses where the future tells the target of a click: users click a, b, b's twin, for random b."""
    of = catalog(20)
    draws = Generator().manual_seed(0)
    made, mine = schedule(of, memory=5_000, batch=256, weight=weight, columns=columns), model(of)
    first = torch.randint(1, 6, (count,), generator=draws)
    chosen = 5 + first + 5 * (torch.rand(count, generator=draws) < 0.2).long()  # one item in four of five cases
    users = list(range(count))
    empty: list[list[int]] = [[] for _ in users]
    click(made, users, empty, first.tolist(), [0] * count)
    click(made, users, first.unsqueeze(1).tolist(), chosen.tolist(), [1] * count)
    click(made, users, torch.stack([first, chosen], 1).tolist(), (chosen % 10 + 1).tolist(), [2] * count)
    optimiser = Adagrad(mine.named_parameters(), 0.1)
    for _ in range(60):
        some = made.draw()
        assert some is not None
        optimiser.zero_grad()
        loss: Tensor = made.loss(mine, some)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    guess = mine.score(history([[i] for i in range(1, 6)]))[:, 1:].argmax(1) + 1
    return (guess == torch.arange(6, 11)).float().mean().item()


@pytest.mark.parametrize("columns", [None, 10])
def test_learns_with_the_teachers_opinion(columns: int | None) -> None:
    assert two_steps(0.3, 200, columns) == 1.0


@pytest.mark.parametrize("setting", [{"weight": 1.5}, {"future": 0}, {"columns": 0}])
def test_settings_out_of_range_are_named(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        schedule(catalog(5), **setting)
    with pytest.raises(ValueError, match="Privileged needs a model with"):
        Privileged(object())  # type: ignore[arg-type]
