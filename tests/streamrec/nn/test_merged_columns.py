"""Losses over merged columns: gradients against finite differences. Values: tests/streamrec/training/test_lanes.py."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from streamrec.nn import merged_columns

POSITIVE = torch.tensor([0, 3, 3, 1])
WEIGHT = torch.tensor([1.0, 2.0, 0.0, 4.0, 1.0])  # nobody asked for item 2: it was only read
LOG_MASS = torch.tensor([0.1, -0.4, -torch.inf, 0.9, 0.0])

SLOPES = {
    "cross-entropy": partial(merged_columns.cross_entropy, log_mass=LOG_MASS.double(), log_own=torch.rand(5).double()),
    "bpr-max": partial(merged_columns.bpr_max, weight=WEIGHT.double(), regularisation=1.3, elu_param=0.5),
    "bpr-max without elu": partial(merged_columns.bpr_max, weight=WEIGHT.double(), regularisation=0.0, elu_param=0.0),
    "top1": partial(merged_columns.top1, weight=WEIGHT.double()),
    "bpr": partial(merged_columns.bpr, weight=WEIGHT.double()),
    "top1-max": partial(merged_columns.top1_max, weight=WEIGHT.double()),
}


@pytest.fixture(params=SLOPES)
def slope(request: pytest.FixtureRequest) -> merged_columns.Slope:
    return SLOPES[request.param]


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(*shape, dtype=torch.double, generator=generator) for shape in ((4, 6), (5, 6), (5,))]


@pytest.mark.parametrize("at_once", [1, 10, 100])
def test_gradients_equal_finite_differences(
    slope: merged_columns.Slope, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged_columns, "SCORES_AT_ONCE", at_once)
    leaves = [leaf.requires_grad_() for leaf in inputs()]
    assert torch.autograd.gradcheck(lambda h, v, b: merged_columns.loss(slope, h, v, b, POSITIVE, 7), leaves)


def test_what_nobody_asked_for_has_no_part(slope: merged_columns.Slope) -> None:
    hidden, vectors, bias = inputs()
    vectors.requires_grad_()
    loss = merged_columns.loss(slope, hidden, vectors, bias, POSITIVE, 4)
    loss.backward()
    assert vectors.grad is not None
    assert (vectors.grad[2] == 0).all()
    assert vectors.grad[4].abs().sum() > 0
