"""Adagrad with momentum: golden steps worked out by hand, rows of sparse gradients, state."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamrec.nn.adagrad import Adagrad


def stepped(start: Tensor, rows: Tensor, sparse: bool, momentum: float, norm: dict[str, float] | None = None) -> Tensor:
    """A table after three steps in which `rows` [4] are looked up."""
    weights = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    table = nn.Parameter(start.clone())
    optimiser = Adagrad([("t", table)], 0.1, momentum, norm=norm)
    for _ in range(3):
        optimiser.zero_grad()
        (F.embedding(rows, table, sparse=sparse) * weights).sum().backward()
        optimiser.step()
    return table.detach()


def test_two_steps_worked_out_by_hand() -> None:
    # g = 3 then 4, lr = .1, eps = 1e-6: acc 9, 25; steps -.1 * 3/3 and -.1 * 4/5; v = .5 * -.1 - .08.
    for momentum, expected in ((0.0, (-0.1, -0.18)), (0.5, (-0.1, -0.23))):
        p = nn.Parameter(torch.zeros(1))
        optimiser = Adagrad([("p", p)], learning_rate=0.1, momentum=momentum)
        for grad, value in zip((3.0, 4.0), expected, strict=True):
            p.grad = torch.tensor([grad])
            optimiser.step()
            assert p.item() == pytest.approx(value, abs=1e-6)


def test_eps_is_inside_the_root() -> None:
    p = nn.Parameter(torch.zeros(1))
    p.grad = torch.tensor([1e-3])
    Adagrad([("p", p)], learning_rate=1.0).step()
    assert p.item() == pytest.approx(-1e-3 / (2e-6) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.4])
def test_sparse_equals_dense_on_the_rows_that_always_occur(momentum: float) -> None:
    start = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([1, 4, 1, 1])  # row 1 three times in one batch: one summed gradient
    tables = [stepped(start, rows, sparse, momentum) for sparse in (True, False)]
    torch.testing.assert_close(tables[0], tables[1])
    assert torch.equal(tables[0][[0, 2, 3, 5]], start[[0, 2, 3, 5]])


def test_momentum_of_a_row_waits_until_the_row_comes_again() -> None:
    table = nn.Parameter(torch.zeros(3, 1))
    optimiser = Adagrad([("t", table)], learning_rate=0.1, momentum=0.5)
    for row in (1, 2, 1):
        optimiser.zero_grad()
        F.embedding(torch.tensor([row]), table, sparse=True).sum().backward()
        optimiser.step()
    # Row 1: -.1, then -.1 / sqrt(2) + .5 * -.1; in between it stood still although it had momentum.
    assert table[1].item() == pytest.approx(-0.1 - 0.1 / 2**0.5 - 0.05, abs=1e-5)
    assert table[2].item() == pytest.approx(-0.1, abs=1e-5)


def test_state_goes_into_another_optimiser() -> None:
    p, q = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    one, other = Adagrad([("p", p)], momentum=0.3), Adagrad([("p", q)], momentum=0.3)
    p.grad = torch.tensor([1.0, -2.0])
    one.step()
    q.data.copy_(p.data)
    other.load_state_dict(one.state_dict())
    for parameter, optimiser in ((p, one), (q, other)):
        parameter.grad = torch.tensor([0.5, 0.5])
        optimiser.step()
    assert torch.equal(p, q)
    with pytest.raises(ValueError, match="velocity"):
        Adagrad([("p", p)]).load_state_dict(one.state_dict())


@pytest.mark.parametrize("momentum", [0.0, 0.4])
def test_rows_that_moved_have_their_length_and_sparse_equals_dense(momentum: float) -> None:
    start = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([1, 4, 1, 3])
    tables = [stepped(start, rows, sparse, momentum, {"t": 0.5}) for sparse in (True, False)]
    torch.testing.assert_close(tables[0], tables[1])
    torch.testing.assert_close(tables[0].norm(dim=1)[[1, 3, 4]], torch.full((3,), 0.5))
    assert torch.equal(tables[0][[0, 2, 5]], start[[0, 2, 5]])


def test_a_step_towards_the_gradient_turns_the_row() -> None:
    # From (1, 0) with g = (0, -1): acc 1, step .1 up, then back to length 1.
    table = nn.Parameter(torch.tensor([[1.0, 0.0]]))
    table.grad = torch.tensor([[0.0, -1.0]])
    Adagrad([("t", table)], 0.1, norm={"t": 1.0}).step()
    torch.testing.assert_close(table.detach(), torch.tensor([[1.0, 0.1]]) / 1.01**0.5)


@pytest.mark.parametrize(
    ("norm", "said"), [({"v": 1.0}, "no table"), ({"x": 1.0}, "no table"), ({"t": 0.0}, "above 0")]
)
def test_only_tables_have_rows_of_a_length(norm: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Adagrad([("t", nn.Parameter(torch.zeros(2, 2))), ("v", nn.Parameter(torch.zeros(2)))], norm=norm)


@pytest.mark.parametrize("setting", [{"learning_rate": 0.0}, {"momentum": 1.0}, {"momentum": -0.1}])
def test_settings_out_of_range_are_named(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        Adagrad([], **setting)
