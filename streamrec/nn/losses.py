"""Losses of next-item models over a matrix of scores: pure functions, one column per candidate.

Every function takes `scores` [B, C], the column `positive` [B] that holds each row's target, and optionally `valid`
[B, C] bool: columns that count as negatives of the row. The positive always counts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(scores: Tensor, positive: Tensor, valid: Tensor | None = None, log_q: Tensor | None = None) -> Tensor:
    """Softmax cross-entropy of the positives among the valid columns, averaged over the rows. Scalar.

    Args:
        log_q: [C] log of how likely each column was to be drawn; subtracted from the scores (the logQ correction of
            Bengio & Senecal 2008), so that shared sampled negatives estimate the softmax over all items.
    """
    if log_q is not None:
        scores = scores - log_q
    if valid is not None:
        scores = scores.masked_fill(_excluded(valid, positive), -torch.inf)
    return F.cross_entropy(scores, positive)


def bpr_max(scores: Tensor, positive: Tensor, valid: Tensor | None = None, regularisation: float = 0.0) -> Tensor:
    """BPR-max with score regularisation (Hidasi & Karatzoglou 2018, eq. 10 and section 3.2.2), row average. Scalar.

    -log(sum_j s_j sigmoid(r_i - r_j) + 1e-24) + regularisation * sum_j s_j r_j^2, where s is the softmax of the
    scores over the negatives alone. The gradient flows through s as well.
    """
    rows = torch.arange(len(scores), device=scores.device)
    target = scores[rows, positive].unsqueeze(1)
    weight = _weights(scores, _negatives(scores, positive, valid))
    better = (weight * torch.sigmoid(target - scores)).sum(1)
    penalty = (weight * scores.square()).sum(1)
    return (regularisation * penalty - torch.log(better + 1e-24)).mean()


def bpr(scores: Tensor, positive: Tensor, valid: Tensor | None = None) -> Tensor:
    """BPR (Rendle et al. 2009) against many negatives (Hidasi et al. 2016, section 3.1.2), row average. Scalar.

    The mean over the negatives j of -log sigmoid(r_i - r_j).
    """
    target = scores.gather(1, positive.unsqueeze(1))
    return _mean_over(_negatives(scores, positive, valid), -F.logsigmoid(target - scores))


def top1(scores: Tensor, positive: Tensor, valid: Tensor | None = None) -> Tensor:
    """TOP1 (Hidasi et al. 2016, section 3.1.2), row average. Scalar.

    The mean over the negatives j of sigmoid(r_j - r_i) + sigmoid(r_j^2). The mean is over the negatives alone, as the
    paper writes it; the authors' code keeps a constant share of the positive in it.
    """
    target = scores.gather(1, positive.unsqueeze(1))
    ranked = torch.sigmoid(scores - target) + torch.sigmoid(scores.square())
    return _mean_over(_negatives(scores, positive, valid), ranked)


def top1_max(scores: Tensor, positive: Tensor, valid: Tensor | None = None) -> Tensor:
    """TOP1-max (Hidasi & Karatzoglou 2018, eq. 8), row average. Scalar.

    sum_j s_j (sigmoid(r_j - r_i) + sigmoid(r_j^2)), where s is the softmax of the scores over the negatives alone.
    """
    target = scores.gather(1, positive.unsqueeze(1))
    weight = _weights(scores, _negatives(scores, positive, valid))
    return (weight * (torch.sigmoid(scores - target) + torch.sigmoid(scores.square()))).sum(1).mean()


def binary_cross_entropy(scores: Tensor, positive: Tensor, valid: Tensor | None = None, beta: float = 1.0) -> Tensor:
    """Generalised binary cross-entropy (gBCE; Petrov & Macdonald, RecSys 2023, eq. 14 and 16), row average. Scalar.

    -(beta log sigmoid(r_i) + sum_j log(1 - sigmoid(r_j))) / (negatives + 1). With beta = 1 this is the loss of SASRec
    against many negatives. See `calibration` for beta.
    """
    negatives = _negatives(scores, positive, valid)
    target = scores.gather(1, positive.unsqueeze(1)).squeeze(1)
    total = torch.where(negatives, F.softplus(scores), 0.0).sum(1) - beta * F.logsigmoid(target)
    return (total / (negatives.sum(1) + 1)).mean()


def calibration(sampled: int, items: int, t: float) -> float:
    """beta of gBCE: alpha (t (1 - 1/alpha) + 1/alpha), where alpha is the share of the negatives that were drawn.

    Sampled negatives make a model sure of too much: sigmoid(score) exceeds the chance of a click. With t = 1
    (beta = alpha) this is undone, with t = 0 (beta = 1) the loss is plain binary cross-entropy.

    Args:
        sampled: negatives of each positive.
        items: in the catalogue; all but the positive are its negatives.
        t: strength, from 0 to 1.
    """
    alpha = min(sampled / max(items - 1, 1), 1.0)
    return alpha * t + (1.0 - t) if alpha else 1.0


def _negatives(scores: Tensor, positive: Tensor, valid: Tensor | None) -> Tensor:
    """[B, C] bool: the valid columns without the positives."""
    negatives = torch.ones_like(scores, dtype=torch.bool) if valid is None else valid.clone()
    negatives[torch.arange(len(scores), device=scores.device), positive] = False
    return negatives


def _weights(scores: Tensor, negatives: Tensor) -> Tensor:
    """Softmax over the negatives, [B, C]; zeros elsewhere."""
    # A finite floor, not -inf: a row without any negative must give zeros, not NaN.
    floor = torch.finfo(scores.dtype).min
    return scores.masked_fill(~negatives, floor).softmax(1) * negatives


def _mean_over(negatives: Tensor, values: Tensor) -> Tensor:
    """Mean over each row's negatives (0 where it has none), then over the rows."""
    total = torch.where(negatives, values, 0.0).sum(1)
    return (total / negatives.sum(1).clamp(min=1)).mean()


def _excluded(valid: Tensor, positive: Tensor) -> Tensor:
    """Columns that take no part: not valid, and not the row's positive."""
    excluded = ~valid
    excluded[torch.arange(len(positive), device=positive.device), positive] = False
    return excluded
