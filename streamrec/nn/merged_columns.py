"""Losses of states against items that stand for several columns at once, with their gradients.

A batch whose rows share targets and drawn items as negatives has the same item in several columns, as a target of
some rows and drawn once or more. Their scores are equal, so one column with a weight gives the same loss, and the
gradient of the item's vector comes out summed, which the optimiser needs anyway. `scores` is [B, C] with one column
per item; `positive` [B] is each row's own column; `weight` [C] is how many columns stand in it, the own ones
included. Of the own item's columns one is the target, the rest (another row's target, a drawn item) are negatives, as
in the authors' GRU4Rec (hidasib/GRU4Rec_PyTorch_Official).

Each function returns the sum of the loss over the rows and its gradient [B, C], and may overwrite `scores`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from streamrec.nn.products import linear, over_rows, product

Slope = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""scores [B, C], positive [B] -> the sum of the loss over the rows, and its gradient [B, C]."""


def loss(slope: Slope, hidden: Tensor, vectors: Tensor, bias: Tensor, positive: Tensor, rows: int) -> Tensor:
    """Loss of states [B, D] against items with vectors [C, D] and biases [C], divided by `rows`. Scalar."""
    apply: Callable[..., Tensor] = _Loss.apply
    return apply(hidden, vectors, bias, positive, slope, rows)


SCORES_AT_ONCE = 196_608
"""Scores a loss works on at a time: 768 KiB of float32, what the second-level cache of a core holds."""


class _Loss(torch.autograd.Function):
    """The gradient by the scores is made going forward, where most of it is at hand."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, vectors: Tensor, bias: Tensor, positive: Tensor, slope: Slope, rows: int
    ) -> Tensor:
        at_scores = linear(hidden, vectors, bias)
        total = hidden.new_zeros(())
        step = max(1, SCORES_AT_ONCE // max(len(vectors), 1))
        for start in range(0, len(hidden), step):
            scores = at_scores[start : start + step]
            part, gradient = slope(scores, positive[start : start + step])
            total += part
            if gradient.data_ptr() != scores.data_ptr():
                scores.copy_(gradient)
        ctx.save_for_backward(hidden, vectors, at_scores)
        ctx.rows = rows
        return total / rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, vectors, at_scores = ctx.saved_tensors
        scale = grad / ctx.rows
        # The scale goes to the narrow side of each product.
        return (
            product(at_scores, vectors).mul_(scale),
            over_rows(at_scores, hidden * scale),
            at_scores.sum(0).mul_(scale),
            None,
            None,
            None,
        )


def cross_entropy(scores: Tensor, positive: Tensor, log_mass: Tensor, log_own: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax cross-entropy with logQ correction: log sum_c exp(r_c + log_mass_c) - (r_i + log_own_i).

    Args:
        scores: [B, C].
        positive: [B] int64.
        log_mass: [C] log of the sum of 1 / Q over the columns that stand in this one; -inf = none.
        log_own: [C] log of 1 / Q as a target.
    """
    at = positive.unsqueeze(1)
    own = scores.gather(1, at).squeeze(1) + log_own[positive]
    log_p = torch.log_softmax(scores.add_(log_mass), 1)
    # log_p at the own column is r_i + log_mass_i - log sum.
    total = (log_p.gather(1, at).squeeze(1) - scores.gather(1, at).squeeze(1) + own).sum().neg()
    return total, log_p.exp_().scatter_add_(1, at, torch.full_like(at, -1, dtype=log_p.dtype))


def bpr_max(
    scores: Tensor, positive: Tensor, weight: Tensor, regularisation: float, elu_param: float
) -> tuple[Tensor, Tensor]:
    """BPR-max with score regularisation (Hidasi & Karatzoglou 2018, eq. 10 and section 3.2.2) on elu(scores).

    -log A + regularisation * R with A = sum_j p_j sigmoid(r_i - r_j), R = sum_j p_j r_j^2, p the softmax over the
    negatives. With a = -1 / A the gradient is p_j (a (sigmoid_j^2 - A) + regularisation (r_j^2 + 2 r_j - R)) at a
    negative and a sum_j p_j sigmoid_j (1 - sigmoid_j) at the target.

    Args:
        scores: [B, C].
        positive: [B] int64.
        weight: [C] float.
        regularisation: strength of R.
        elu_param: r = elu(score) with this alpha; 0 = the score itself.
    """
    at = positive.unsqueeze(1)
    r = _elu(scores, elu_param) if elu_param else scores
    p = _softmax(r, at, weight)
    better = (r.gather(1, at) - r).sigmoid_()
    mean = torch.linalg.vecdot(p, better).unsqueeze(1)
    better.square_()
    spread = mean - torch.linalg.vecdot(p, better).unsqueeze(1)
    slope = -1.0 / (mean + 1e-24)
    total, constant = -torch.log(mean + 1e-24), slope * mean
    better.mul_(slope)
    if regularisation:
        square = r * r
        penalty = torch.linalg.vecdot(p, square).unsqueeze(1)
        total, constant = total + regularisation * penalty, constant + regularisation * penalty
        better.add_(square.add_(r, alpha=2.0), alpha=regularisation)
    gradient = better.sub_(constant).mul_(p).scatter_add_(1, at, slope * spread)
    if elu_param:
        gradient = torch.ops.aten.elu_backward(gradient, elu_param, 1.0, 1.0, True, r)
    return total.sum(), gradient


def top1(scores: Tensor, positive: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """TOP1 (Hidasi et al. 2016, section 3.1.2): mean over the negatives of sigmoid(r_j - r_i) + sigmoid(r_j^2)."""
    return _by_autograd(scores, positive, lambda r, at: (_mean(r, at, weight) * _ranked(r, at)).sum())


def bpr(scores: Tensor, positive: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """BPR (Hidasi et al. 2016, section 3.1.2): mean over the negatives of -log sigmoid(r_i - r_j)."""
    return _by_autograd(
        scores, positive, lambda r, at: -(_mean(r, at, weight) * F.logsigmoid(r.gather(1, at) - r)).sum()
    )


def top1_max(scores: Tensor, positive: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """TOP1-max (Hidasi & Karatzoglou 2018, eq. 8): sum_j p_j (sigmoid(r_j - r_i) + sigmoid(r_j^2))."""
    return _by_autograd(scores, positive, lambda r, at: (_softmax(r, at, weight) * _ranked(r, at)).sum())


def _by_autograd(
    scores: Tensor, positive: Tensor, total_of: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = scores.detach().requires_grad_()
        total = total_of(leaf, positive.unsqueeze(1))
    return total.detach(), torch.autograd.grad(total, leaf)[0]


def _ranked(r: Tensor, at: Tensor) -> Tensor:
    return torch.sigmoid(r - r.gather(1, at)) + torch.sigmoid(r.square())


def _mean(r: Tensor, at: Tensor, weight: Tensor) -> Tensor:
    """[B, C] weights of the mean over the negatives."""
    others = weight.expand_as(r).scatter_add(1, at, torch.full_like(at, -1, dtype=r.dtype))
    return others / others.sum(1, keepdim=True).clamp(min=1)


def _softmax(r: Tensor, at: Tensor, weight: Tensor) -> Tensor:
    """[B, C] softmax over the negatives; there must be some."""
    own = r.gather(1, at) + torch.log(weight[at] - 1.0)
    return (r + torch.log(weight)).scatter_(1, at, own).softmax(1)


def _elu(x: Tensor, alpha: float) -> Tensor:
    """`F.elu`, twice as fast: torch takes expm1, here 1 is subtracted, an error of up to 1e-7."""
    return x.clamp_max(0.0).exp_().sub_(1.0).mul_(alpha).add_(x.clamp_min(0.0))
