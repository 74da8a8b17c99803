"""Losses of many states against one set of columns: every [states, columns] matrix is made a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from streamrec.nn.products import linear, over_rows, product

SCORES_AT_ONCE = 262_144
"""Scores held at a time (1 MiB of float32): more than that leaves the cache of a core."""

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""scores [R, C], positive [R], valid [R, C] bool or None (all) -> mean over the rows, as in `streamrec.nn.losses`."""

Slope = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""The same arguments -> the sum over the rows, and its gradient by the scores [R, C]; may overwrite the scores."""


def by_autograd(loss: Loss) -> Slope:
    """The slope of any loss."""

    def slope(scores: Tensor, positive: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            scores.requires_grad_()
            total = loss(scores, positive, valid) * len(scores)
        (gradient,) = torch.autograd.grad(total, scores)
        return total.detach(), gradient

    return slope


def cross_entropy(scores: Tensor, positive: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """The slope of `losses.cross_entropy`, in place."""
    at = positive.unsqueeze(1)
    if valid is not None:
        scores.masked_fill_(~valid.scatter(1, at, True), -torch.inf)
    # log p of the target by way of the likeliest column, whose p cannot underflow: one exponential per score.
    highest, target = scores.amax(1, keepdim=True), scores.gather(1, at)
    p = torch.softmax(scores, 1)
    total = (highest - p.amax(1, keepdim=True).log() - target).sum()
    return total, p.scatter_add_(1, at, torch.full_like(at, -1, dtype=p.dtype))


def whole(slope: Slope, hidden: Tensor, vectors: Tensor, bias: Tensor, positive: Tensor) -> Tensor:
    """Mean loss of states that are scored against all columns. Scalar to differentiate.

    Args:
        slope: of the loss.
        hidden: [T, D] states, T above 0.
        vectors: [C, D] of the columns.
        bias: [C].
        positive: [T] int64, column of each state's target.
    """
    apply: Callable[..., Tensor] = _Whole.apply
    return apply(hidden, vectors, bias, positive, slope)


def sampled(
    slope: Slope,
    hidden: Tensor,
    own: Tensor,
    vectors: Tensor,
    bias: Tensor,
    target: Tensor,
    columns: Tensor,
) -> Tensor:
    """Mean loss of states whose targets are scored against shared negatives. Scalar to differentiate.

    Args:
        slope: of the loss.
        hidden: [T, D] states, T above 0.
        own: [T] scores of the targets.
        vectors: [C, D] of the negatives.
        bias: [C].
        target: [T] int64 items.
        columns: [C] int64 items; those equal to a row's target do not count in that row.
    """
    apply: Callable[..., Tensor] = _Sampled.apply
    return apply(hidden, own, vectors, bias, target, columns, slope)


class _Whole(torch.autograd.Function):
    """Gradients are made going forward, while the scores of some rows are at hand, and scaled going backward."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, vectors: Tensor, bias: Tensor, positive: Tensor, slope: Slope) -> Tensor:
        total = hidden.new_zeros(())
        at_hidden, at_vectors, at_bias = torch.empty_like(hidden), torch.zeros_like(vectors), torch.zeros_like(bias)
        for rows in _parts(len(hidden), len(vectors)):
            scores = linear(hidden[rows], vectors, bias)
            part, gradient = slope(scores, positive[rows], None)
            total += part
            at_hidden[rows] = product(gradient, vectors)
            at_vectors += over_rows(gradient, hidden[rows])
            at_bias += gradient.sum(0)
        ctx.save_for_backward(at_hidden, at_vectors, at_bias)
        ctx.rows = many = len(hidden)
        return total / many

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad / ctx.rows
        return *(saved * scale for saved in ctx.saved_tensors), None, None


class _Sampled(torch.autograd.Function):
    """As `_Whole`, with a column in front that holds each row's target."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        own: Tensor,
        vectors: Tensor,
        bias: Tensor,
        target: Tensor,
        columns: Tensor,
        slope: Slope,
    ) -> Tensor:
        total = hidden.new_zeros(())
        at_hidden, at_vectors, at_bias = torch.empty_like(hidden), torch.zeros_like(vectors), torch.zeros_like(bias)
        at_own = torch.empty_like(own)
        for rows in _parts(len(hidden), len(vectors) + 1):
            scores = F.pad(linear(hidden[rows], vectors, bias), (1, 0))
            scores[:, 0] = own[rows]
            valid = F.pad(columns != target[rows].unsqueeze(1), (1, 0), value=True)
            part, gradient = slope(scores, torch.zeros_like(target[rows]), valid)
            total += part
            at_own[rows] = gradient[:, 0]
            gradient = gradient[:, 1:]
            at_hidden[rows] = product(gradient, vectors)
            at_vectors += over_rows(gradient, hidden[rows])
            at_bias += gradient.sum(0)
        ctx.save_for_backward(at_hidden, at_own, at_vectors, at_bias)
        ctx.rows = many = len(hidden)
        return total / many

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad / ctx.rows
        return *(saved * scale for saved in ctx.saved_tensors), None, None, None


def _parts(rows: int, columns: int) -> list[slice]:
    """Slices of the rows, each with about `SCORES_AT_ONCE` scores."""
    step = max(1, SCORES_AT_ONCE // max(columns, 1))
    return [slice(start, start + step) for start in range(0, rows, step)]
