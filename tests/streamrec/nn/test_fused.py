"""What can be compiled, against the step-by-step form of it: as it is written, and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from streamrec.nn import fused, merged_columns
from streamrec.nn.adagrad import Adagrad
from streamrec.nn.recurrence import gru

WEIGHT = torch.tensor([1.0, 2.0, 0.0, 4.0, 1.0])  # nobody asked for item 2: it was only read
POSITIVE = torch.tensor([0, 3, 3, 1])
LOG_MASS = torch.tensor([0.1, -0.4, -torch.inf, 0.9, 0.0])
Function = Callable[..., Any]


def as_written(function: Function) -> Function:
    return function


FORMS = [as_written, pytest.param(fused.compiled, marks=pytest.mark.slow)]


@pytest.fixture(autouse=True, scope="module")
def _kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is compiled here is compiled anew, and gone afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
        yield


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("regularisation", "elu_param"), [(1.3, 0.5), (0.0, 0.0), (1.95, 1.0)])
def test_bpr_max_is_the_same(form: Function, regularisation: float, elu_param: float) -> None:
    for scale in (1.0, 60.0):  # a target far above the others must not turn into 0 / 0
        scores = scale * torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
        expected = merged_columns.bpr_max(scores.clone(), POSITIVE, WEIGHT, regularisation, elu_param)
        got = form(fused.bpr_max)(scores.clone(), POSITIVE, WEIGHT, regularisation, elu_param)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_cross_entropy_is_the_same(form: Function) -> None:
    scores, log_own = torch.randn(4, 5), torch.rand(5)
    expected = merged_columns.cross_entropy(scores.clone(), POSITIVE, LOG_MASS, log_own)
    torch.testing.assert_close(form(fused.cross_entropy)(scores.clone(), POSITIVE, LOG_MASS, log_own), expected)


@pytest.mark.parametrize("form", FORMS)
def test_adagrad_moves_the_same(form: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrec.nn.adagrad.compiled", form)
    tables = []
    for compile_it in (False, True):
        generator = torch.Generator().manual_seed(1)
        table, dense = nn.Parameter(torch.randn(300, 3, generator=generator)), nn.Parameter(torch.ones(4))
        optimiser = Adagrad([("t", table), ("d", dense)], 0.1, 0.4, compile=compile_it)
        for many in (64, 150, 3, 299):
            rows = torch.randperm(300, generator=generator)[:many].sort().values
            gradient = torch.randn(many, 3, generator=generator)
            table.grad = torch.sparse_coo_tensor(
                rows.unsqueeze(0), gradient, table.shape, is_coalesced=True, check_invariants=False
            )
            dense.grad = gradient.sum() * torch.arange(4.0)
            optimiser.step()
        tables.append([table.detach(), dense.detach(), *optimiser.acc.values(), *optimiser.velocity.values()])
    for one, other in zip(*tables, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_without_a_compiler_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    from torch._inductor import config

    def alone(x: torch.Tensor) -> torch.Tensor:
        return x.sin() * 3.0

    with (
        config.patch({"cpp.cxx": (str(tmp_path / "none"),)}),
        pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler"),
    ):
        fused.compiled(alone)(torch.ones(7))


def test_without_momentum_nothing_is_compiled() -> None:
    with pytest.raises(ValueError, match="with momentum"):
        Adagrad([("p", nn.Parameter(torch.zeros(1)))], compile=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dropped", [False, True])
def test_a_step_of_a_gru_is_the_same(form: Function, dropped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "compiled", form)
    generator = torch.Generator().manual_seed(2)
    keep = torch.tensor([[0.0, 2.0, 2.0], [2.0, 0.0, 2.0]]) if dropped else None
    start, goes_on = torch.randn(2, 3, generator=generator), torch.tensor([[1.0], [0.0]])
    made = []
    leaves = [torch.randn(*shape, generator=generator) for shape in ((2, 9), (9, 3), (9,))]
    for compile_it in (False, True):
        mine = [leaf.clone().requires_grad_() for leaf in leaves]
        states = gru(*mine, [2], keep, start, goes_on, compile_it)
        states.square().sum().backward()
        made.append([states.detach(), *(leaf.grad for leaf in mine)])
    torch.testing.assert_close(made[0], made[1])
