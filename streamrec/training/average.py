"""Averaging weights over epochs."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Average:
    """The mean of a model's parameters at several moments (stochastic weight averaging; Izmailov et al., UAI 2018).

    Where the learning rate stays what it is, weights wander around an optimum; their mean lies nearer to it.

    Args:
        model: whose parameters are averaged; buffers are left alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.many = 0
        self._sums: list[Tensor] = []

    @torch.no_grad()
    def add(self) -> None:
        """Count the parameters as they are now."""
        self.many += 1
        if not self._sums:
            self._sums = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in self.model.parameters()]
        for total, parameter in zip(self._sums, self.model.parameters(), strict=True):
            total += parameter

    @torch.no_grad()
    def apply(self) -> None:
        """Give the model the mean.

        Raises:
            ValueError: nothing was added.
        """
        if not self.many:
            raise ValueError("there are no weights to average: call add() first")
        for total, parameter in zip(self._sums, self.model.parameters(), strict=True):
            parameter.copy_(total / self.many)
