"""Adam against its algorithm in numpy, with row-sparse gradients, and across a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamrec import checkpoint
from streamrec.nn.adam import Adam

ROWS = torch.tensor([1, 3, 3, 4])


def table() -> nn.Parameter:
    return nn.Parameter(torch.randn(6, 2, generator=torch.Generator().manual_seed(0)))


def loss(weight: Tensor, rows: Tensor) -> Tensor:
    return F.embedding(rows, weight, sparse=True).square().sum()


def train(optimiser: Adam, weight: nn.Parameter, batches: list[Tensor]) -> None:
    for rows in batches:
        optimiser.zero_grad()
        torch.autograd.backward(loss(weight, rows))
        optimiser.step()


def test_steps_are_those_of_the_paper() -> None:
    weight = table()
    optimiser = Adam([("weight", weight)], learning_rate=0.1, beta1=0.8, beta2=0.9, eps=1e-4)
    w = weight.detach().double().numpy().copy()
    m, v = np.zeros_like(w), np.zeros_like(w)
    batches = [ROWS, torch.tensor([1, 5]), ROWS]
    for t, rows in enumerate(batches, 1):
        if t == 3:
            optimiser.learning_rate = 0.02
        train(optimiser, weight, [rows])
        g = np.zeros_like(w)
        np.add.at(g, rows.numpy(), 2 * w[rows.numpy()])
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        w -= (0.02 if t == 3 else 0.1) * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-4)
        np.testing.assert_allclose(weight.detach().numpy(), w, atol=1e-5)


def test_the_learning_rate_rises_and_falls_in_straight_lines(tmp_path: Path) -> None:
    def moved(optimiser: Adam, weight: nn.Parameter) -> float:
        before = weight.detach().clone()
        weight.grad = torch.ones_like(weight)  # always the same: a step is as long as the learning rate
        optimiser.step()
        return float((before - weight.detach()).mean())

    weight = table()
    optimiser = Adam([("weight", weight)], learning_rate=0.1, warmup=2, steps=10)
    found = [moved(optimiser, weight) for _ in range(5)]
    checkpoint.save(tmp_path, optimiser.state_dict(), 1)
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    resumed = Adam([("weight", weight)], learning_rate=0.1, warmup=2, steps=10)
    resumed.load_state_dict(loaded[0])
    found += [moved(resumed, weight) for _ in range(7)]
    assert found == pytest.approx([0.045, 0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01, 0.0, 0.0, 0.0], abs=1e-6)


def test_rows_without_a_gradient_so_far_stay() -> None:
    weight = table()
    before = weight.detach().clone()
    train(Adam([("weight", weight)]), weight, [ROWS, ROWS])
    assert torch.equal(weight[[0, 2, 5]], before[[0, 2, 5]])
    assert not torch.equal(weight[[1, 3, 4]], before[[1, 3, 4]])


def test_saved_and_restored_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    weight, untouched = table(), nn.Parameter(torch.ones(2))
    optimiser = Adam([("untouched", untouched), ("weight", weight)])
    train(optimiser, weight, [ROWS, ROWS])
    checkpoint.save(tmp_path, {"weight": weight.detach().clone(), "optimiser": optimiser.state_dict()}, 1)
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    other = nn.Parameter(loaded[0]["weight"])
    resumed = Adam([("untouched", nn.Parameter(torch.ones(2))), ("weight", other)])
    resumed.load_state_dict(loaded[0]["optimiser"])
    train(optimiser, weight, [ROWS, torch.tensor([2])])
    train(resumed, other, [ROWS, torch.tensor([2])])
    assert torch.equal(weight, other)


def test_the_state_of_other_parameters_is_refused() -> None:
    weight = table()
    optimiser = Adam([("weight", weight)])
    train(optimiser, weight, [ROWS])
    with pytest.raises(ValueError, match="weight"):
        Adam([("bias", table())]).load_state_dict(optimiser.state_dict())


@pytest.mark.parametrize("setting", [{"learning_rate": 0.0}, {"beta1": 1.0}, {"beta2": -0.1}, {"warmup": -1}])
def test_settings_out_of_range_are_named(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        Adam([("weight", table())], **setting)


def test_a_fall_that_ends_before_the_rise_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup=5, steps=5"):
        Adam([("weight", table())], warmup=5, steps=5)
