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
    negatives = torch.ones_like(scores, dtype=torch.bool) if valid is None else valid.clone()
    negatives[rows, positive] = False
    # A finite floor, not -inf: a row without any negative must give zeros, not NaN.
    floor = torch.finfo(scores.dtype).min
    weight = scores.masked_fill(~negatives, floor).softmax(1) * negatives
    better = (weight * torch.sigmoid(target - scores)).sum(1)
    penalty = (weight * scores.square()).sum(1)
    return (regularisation * penalty - torch.log(better + 1e-24)).mean()


def _excluded(valid: Tensor, positive: Tensor) -> Tensor:
    """Columns that take no part: not valid, and not the row's positive."""
    excluded = ~valid
    excluded[torch.arange(len(positive), device=positive.device), positive] = False
    return excluded
