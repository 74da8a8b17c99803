"""What can be compiled, against the step-by-step form of it: as it is written, and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from streamrec.catalog import Catalog
from streamrec.data.sequences import Sequences
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.models.next_item import NextItem, Objective
from streamrec.nn import merged_columns
from streamrec.nn.adagrad import Adagrad
from streamrec.nn.recurrence import gru
from streamrec.training import fused
from streamrec.training.lanes import epoch

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
def test_adagrad_moves_the_same(form: Function) -> None:
    generator = torch.Generator().manual_seed(1)
    starts = {name: torch.randn(*shape, generator=generator) for name, shape in SHAPES.items()}
    mine, theirs = ({name: nn.Parameter(start.clone()) for name, start in starts.items()} for _ in range(2))
    fused_one, plain = Adagrad(mine.items(), 0.1, 0.4), Adagrad(theirs.items(), 0.1, 0.4)
    table, biases, dense = (fused.moved(fused_one, parameter) for parameter in mine.values())
    settings = 0.1, 0.4, plain.eps
    for many, parts in ((64, 8), (150, 8), (3, 1), (299, 8)):
        rows = torch.randperm(300, generator=generator)[:many].sort().values
        at_table, at_biases = torch.randn(many, 3, generator=generator), torch.randn(many, generator=generator)
        at_dense = at_biases.sum() * torch.arange(4.0)
        listed = torch.arange(many) % 3 > 0
        form(fused.adagrad_rows)(table, rows, table[0][rows], at_table, settings, parts)
        form(fused.adagrad_biases)(biases, rows, at_biases, listed, settings)
        form(fused.adagrad)(dense, at_dense, settings)
        theirs["table"].grad = by_rows(rows, at_table, theirs["table"])
        theirs["biases"].grad = by_rows(rows[listed], at_biases[listed].unsqueeze(1), theirs["biases"])
        theirs["dense"].grad = at_dense
        plain.step()
    for name, parameter in mine.items():
        torch.testing.assert_close(parameter.detach(), theirs[name].detach())
    torch.testing.assert_close(fused_one.state_dict(), plain.state_dict())


SHAPES = {"table": (300, 3), "biases": (300, 1), "dense": (4,)}


def by_rows(rows: Tensor, gradient: Tensor, table: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(rows.unsqueeze(0), gradient, table.shape, is_coalesced=True, check_invariants=False)


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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dropped", [False, True])
def test_a_step_of_a_gru_is_the_same(form: Function, dropped: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    keep = torch.tensor([[0.0, 2.0, 2.0], [2.0, 0.0, 2.0]]) if dropped else None
    before, grad = torch.randn(2, 3, generator=generator), torch.randn(2, 3, generator=generator)
    leaves = [torch.randn(*shape, generator=generator).requires_grad_() for shape in ((2, 9), (9, 3), (9,))]
    gates, weight, bias = leaves
    expected = gru(gates, weight, bias, [2], keep, before)
    at_gates, at_weight, at_bias = torch.autograd.grad(expected, leaves, grad)
    side = torch.addmm(bias, before, weight.t()).detach()
    states, opened = form(fused.gru_states)(gates.detach(), side, before, keep)
    torch.testing.assert_close(states, expected.detach())
    at_side, at_input = form(fused.gru_slopes)(grad, opened, side, before, keep)
    torch.testing.assert_close((at_input, at_side.t() @ before, at_side.sum(0)), (at_gates, at_weight, at_bias))


@pytest.mark.parametrize(
    ("form", "device"),
    [
        (as_written, "cpu"),
        pytest.param(fused.compiled, "cpu", marks=pytest.mark.slow),
        pytest.param(fused.compiled, "cuda", marks=pytest.mark.gpu),
    ],
)
@pytest.mark.parametrize("loss", ["bpr-max", "cross-entropy"])
def test_epochs_are_the_same_with_layers_and_dropout(
    form: Function, device: str, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes end one after the other, down to a single one, so steps of all sizes are among them."""
    monkeypatch.setattr(fused, "compiled", form)
    catalog = Catalog(200)
    sessions = Sequences.of([[1 + (at * many) % 97 for at in range(2 + many % 7)] for many in range(1, 40)])
    made = []
    for compile_it in (False, True):
        encoder = GRU4Rec(catalog, dim=8, layers=2, dropout_embed=0.3, dropout_hidden=0.2, seed=1)
        model = NextItem(encoder, catalog, loss=cast(Objective, loss), n_sample=90, device=device)
        optimiser = Adagrad(model.named_parameters(), 0.05, 0.4)
        losses = [epoch(model, sessions, optimiser, lanes=9, compile=compile_it)["loss"] for _ in range(2)]
        made.append((losses, dict(model.state_dict()), optimiser.state_dict()))
    torch.testing.assert_close(made[0], made[1], rtol=1e-4, atol=1e-5)
