"""Losses against the formulas of the papers, evaluated with plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import permutations

import pytest
import torch
from torch import Tensor

from streamrec.nn.losses import binary_cross_entropy, bpr, bpr_max, calibration, cross_entropy, top1, top1_max


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


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def slow(kind: str, scores: Tensor, positive: Tensor, valid: Tensor | None) -> float:
    """bpr, top1, top1_max and gBCE with beta = .3, one pair after the other."""
    total = 0.0
    for row in range(len(scores)):
        values = [float(s) for s in scores[row]]
        i, negatives = values[int(positive[row])], columns_of(row, positive, valid, scores.shape[1])
        r = [values[j] for j in negatives]
        mass = sum(math.exp(x) for x in r)
        total += {
            "bpr": sum(-math.log(sigmoid(i - x)) for x in r) / len(r),
            "top1": sum(sigmoid(x - i) + sigmoid(x * x) for x in r) / len(r),
            "top1_max": sum(math.exp(x) / mass * (sigmoid(x - i) + sigmoid(x * x)) for x in r),
            "bce": -(math.log(sigmoid(i) ** 0.3) + sum(math.log(1 - sigmoid(x)) for x in r)) / (len(r) + 1),
        }[kind]
    return total / len(scores)


FAST: dict[str, Callable[..., Tensor]] = {
    "bpr": bpr,
    "top1": top1,
    "top1_max": top1_max,
    "bce": partial(binary_cross_entropy, beta=0.3),
}


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
@pytest.mark.parametrize("kind", sorted(FAST))
def test_losses_without_settings_are_their_formulas(
    case: tuple[Tensor, Tensor, Tensor], kind: str, masked: bool
) -> None:
    scores, positive, valid = case
    chosen = valid if masked else None
    assert float(FAST[kind](scores, positive, chosen)) == pytest.approx(slow(kind, scores, positive, chosen), abs=1e-12)


def test_golden_values_worked_out_by_hand() -> None:
    # One click, target score ln 3, one negative with score 0: sigmoid(r_i - r_j) = 3/4 and sigmoid(r_j^2) = 1/2.
    scores, positive = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([0])
    assert float(bpr(scores, positive)) == pytest.approx(math.log(4 / 3))
    assert float(top1(scores, positive)) == pytest.approx(1 / 4 + 1 / 2)
    # Two negatives, 0 and ln 2: their softmax is 1/3 and 2/3; sigmoid(ln 2 - ln 3) = 2/5.
    scores = torch.tensor([[math.log(3.0), 0.0, math.log(2.0)]])
    last = sigmoid(math.log(2.0) ** 2)
    assert float(top1_max(scores, positive)) == pytest.approx((1 / 4 + 1 / 2) / 3 + (2 / 5 + last) * 2 / 3)
    # sigmoid(ln 3) = 3/4; 1 - sigmoid(0) = 1/2; 1 - sigmoid(ln 2) = 1/3; two negatives and the positive.
    expected = (0.5 * math.log(4 / 3) + math.log(2) + math.log(3)) / 3
    assert float(binary_cross_entropy(scores, positive, beta=0.5)) == pytest.approx(expected)


def test_calibration_is_the_formula_of_the_paper() -> None:
    for sampled, items, t in ((256, 3416, 0.75), (1, 100, 0.9), (10, 11, 0.3)):
        alpha = sampled / (items - 1)
        assert calibration(sampled, items, t) == pytest.approx(alpha * (t * (1 - 1 / alpha) + 1 / alpha))
    assert calibration(256, 3416, 0.0) == 1.0
    assert calibration(256, 3416, 1.0) == pytest.approx(256 / 3415)
    assert calibration(5_000, 100, 0.75) == 1.0, "every negative is there: nothing to calibrate"


@pytest.mark.parametrize(("t", "calibrated"), [(1.0, True), (0.0, False)])
def test_full_calibration_makes_sigmoids_the_chances_of_clicks(t: float, calibrated: bool) -> None:
    # One state, 6 items clicked with known chances, one negative drawn uniformly: all that can happen, weighted by how
    # often it does. The sigmoids of the scores are the chances, and there the expected loss must be flat.
    chances = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04], dtype=torch.double)
    scores = chances.logit().requires_grad_()
    expected = torch.zeros((), dtype=torch.double)
    for i, j in permutations(range(6), 2):
        beta = calibration(1, 6, t)
        pair = scores[[i, j]].unsqueeze(0)
        expected = expected + chances[i] / 5 * binary_cross_entropy(pair, torch.tensor([0]), beta=beta)
    (slope,) = torch.autograd.grad(expected, scores)
    assert (slope.abs().max() < 1e-12) == calibrated


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_equal_finite_differences(case: tuple[Tensor, Tensor, Tensor], masked: bool) -> None:
    scores, positive, valid = case
    chosen = valid if masked else None
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: cross_entropy(s, positive, chosen), scores)
    assert torch.autograd.gradcheck(lambda s: bpr_max(s, positive, chosen, 0.7), scores)
    for loss in FAST.values():
        assert torch.autograd.gradcheck(partial(loss, positive=positive, valid=chosen), scores)


def test_a_row_without_negatives_is_finite_and_teaches_nothing() -> None:
    scores = torch.randn(2, 3, requires_grad=True)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    for loss in (cross_entropy, bpr_max, bpr, top1, top1_max):
        value = loss(scores, torch.tensor([0, 2]), nothing)
        (grad,) = torch.autograd.grad(value, scores)
        assert value.isfinite()
        assert (grad == 0).all()
