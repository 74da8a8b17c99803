"""Averaged weights: the mean, and nothing but the parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from streamrec.training.average import Average


def test_the_mean_of_all_that_was_added() -> None:
    model = nn.BatchNorm1d(3)
    average = Average(model)
    for value in (1.0, 2.0, 6.0):
        nn.init.constant_(model.weight, value)
        model.running_mean.fill_(value)  # type: ignore[union-attr]
        average.add()
    nn.init.constant_(model.weight, 100.0)
    average.apply()
    assert torch.equal(model.weight, torch.full((3,), 3.0))
    assert torch.equal(model.running_mean, torch.full((3,), 6.0))  # type: ignore[arg-type]


def test_of_nothing_there_is_no_mean() -> None:
    with pytest.raises(ValueError, match="call add"):
        Average(nn.Linear(2, 2)).apply()
