"""How far a model is from a former self, as a loss: over all items, or over some of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from streamrec.schedules.heads import NEVER, Factored, Table, scores


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """-sum_i p_i log q_i with p = softmax(teacher) and q = softmax(student), both [B, N]; mean over the rows. Scalar.

    The knowledge distillation of Hinton et al. (2015) at temperature 1, as in ADER (Mi et al. 2020, eq. 4).
    """
    return F.cross_entropy(student, teacher.softmax(1))


def sampled_divergence(
    model: Factored, hidden: Tensor, table: Table, before: Tensor, log_z: Tensor, top: Tensor, columns: int
) -> Tensor:
    """An estimate of `divergence` whose cost does not grow with the catalogue. Scalar.

    What the former self held most likely is taken exactly; of everything else, items drawn with P ~ support^(1/2) stand
    for the rest, each weighted by 1 / P (the logQ correction of Bengio & Senecal 2008): in the former self their
    weights share the probability that is left over, in the student they fill up the normaliser. Where the sample is the
    whole catalogue the result is `divergence`.

    Args:
        model: the student.
        hidden: [B, D] its features, to differentiate.
        table: of the former self.
        before: [B, D] features of the former self.
        log_z: [B] log of its normaliser.
        top: [B, T] int64, its highest items.
        columns: items drawn, shared by the batch.
    """
    drawn, log_q = _draw(model, columns, table.gone)
    theirs = torch.einsum("bd,btd->bt", before, table.vectors[top]) + table.bias[top]
    p_top = (theirs - log_z.unsqueeze(1)).exp()  # [B, T]
    rest = (1.0 - p_top.sum(1, keepdim=True)).clamp(min=0.0)
    column = torch.full((len(table.vectors),), len(drawn), device=drawn.device)
    column[drawn] = torch.arange(len(drawn), device=drawn.device)
    outside = torch.ones(len(hidden), len(drawn) + 1, dtype=torch.bool, device=drawn.device)
    outside = outside.scatter_(1, column[top], False)[:, :-1]  # drawn items that are not among the row's top
    p_rest = rest * (table.scores(before, drawn) - log_q).masked_fill(~outside, -torch.inf).softmax(1)
    p_rest = torch.where(outside, p_rest, 0.0)
    mine_top = torch.einsum("bd,btd->bt", hidden, model.encoder.items(top))
    mine_top = mine_top + F.embedding(top, model.bias, padding_idx=0, sparse=True).squeeze(2)
    mine_top = mine_top.masked_fill(table.gone[top], NEVER)
    mine_rest = scores(model, hidden, drawn)
    filled = (mine_rest - log_q).masked_fill(~outside, -torch.inf)
    normaliser = torch.cat([mine_top, filled], 1).logsumexp(1)
    mass = p_top.sum(1) + p_rest.sum(1)
    expected = (p_top * mine_top).sum(1) + (p_rest * mine_rest).sum(1)
    return (mass * normaliser - expected).mean()


def _draw(model: Factored, columns: int, gone: Tensor) -> tuple[Tensor, Tensor]:
    """Different items of those that are not `gone` [N], [C], and the log of the expected number of draws of each, [C].

    Every one that came up stands once, with log(1 - (1 - p)^n), the log of its chance to come up at all.
    """
    size = len(gone)
    weight = (model.popularity.support[:size].double() + 1.0).sqrt().masked_fill(gone, 0.0)
    weight[0] = 0.0
    p = weight / weight.sum()
    point = torch.rand(columns, generator=model.generator, dtype=torch.float64, device=model.generator.device)
    drawn = torch.searchsorted(p.cumsum(0), point.to(p.device), right=True).clamp(max=size - 1)
    drawn = torch.unique_consecutive(drawn.sort().values)
    return drawn, torch.log(-torch.expm1(columns * torch.log1p(-p[drawn]))).float()
