"""Losses against the formulas of the papers, evaluated with plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from streamrec.nn.losses import bpr_max, cross_entropy


def columns_of(row: int, positive: Tensor, valid: Tensor | None, width: int) -> list[int]:
    """Columns that count as negatives of a row."""
    return [j for j in range(width) if j != positive[row] and (valid is None or bool(valid[row, j]))]


def slow_cross_entropy(scores: Tensor, positive: Tensor, valid: Tensor | None, log_q: Tensor | None) -> float:
    total = 0.0
    for row in range(len(scores)):
        values = [float(s) - (float(log_q[j]) if log_q is not None else 0.0) for j, s in enumerate(scores[row])]
        target = int(positive[row])
        counted = [target, *columns_of(row, positive, valid, scores.shape[1])]
        total -= math.log(math.exp(values[target]) / sum(math.exp(values[j]) for j in counted))
    return total / len(scores)


def slow_bpr_max(scores: Tensor, positive: Tensor, valid: Tensor | None, regularisation: float) -> float:
    total = 0.0
    for row in range(len(scores)):
        values = [float(s) for s in scores[row]]
        negatives = columns_of(row, positive, valid, scores.shape[1])
        mass = sum(math.exp(values[j]) for j in negatives)
        target = values[int(positive[row])]
        better = sum(math.exp(values[j]) / mass / (1 + math.exp(values[j] - target)) for j in negatives)
        penalty = sum(math.exp(values[j]) / mass * values[j] ** 2 for j in negatives)
        total += regularisation * penalty - math.log(better + 1e-24)
    return total / len(scores)


@pytest.fixture
def case() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 9, generator=generator, dtype=torch.double)
    positive = torch.tensor([0, 3, 8, 3, 1])
    valid = torch.rand(5, 9, generator=generator) < 0.7
    return scores, positive, valid


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("corrected", [False, True])
def test_cross_entropy_is_its_formula(case: tuple[Tensor, Tensor, Tensor], masked: bool, corrected: bool) -> None:
    scores, positive, valid = case
    log_q = torch.linspace(-3, 1, 9, dtype=torch.double) if corrected else None
    chosen = valid if masked else None
    expected = slow_cross_entropy(scores, positive, chosen, log_q)
    assert float(cross_entropy(scores, positive, chosen, log_q)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("regularisation", [0.0, 1.95])
def test_bpr_max_is_its_formula(case: tuple[Tensor, Tensor, Tensor], masked: bool, regularisation: float) -> None:
    scores, positive, valid = case
    chosen = valid if masked else None
    expected = slow_bpr_max(scores, positive, chosen, regularisation)
    assert float(bpr_max(scores, positive, chosen, regularisation)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_equal_finite_differences(case: tuple[Tensor, Tensor, Tensor], masked: bool) -> None:
    scores, positive, valid = case
    chosen = valid if masked else None
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: cross_entropy(s, positive, chosen), scores)
    assert torch.autograd.gradcheck(lambda s: bpr_max(s, positive, chosen, 0.7), scores)


def test_a_row_without_negatives_is_finite_and_teaches_nothing() -> None:
    scores = torch.randn(2, 3, requires_grad=True)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    for loss in (cross_entropy, bpr_max):
        value = loss(scores, torch.tensor([0, 2]), nothing)
        (grad,) = torch.autograd.grad(value, scores)
        assert value.isfinite()
        assert (grad == 0).all()
