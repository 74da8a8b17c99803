"""One optimiser step of `NextItem` against negatives that the batch shares: targets of other rows, and drawn items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from streamrec.data.sequences import Sequences
from streamrec.models.next_item import NextItem
from streamrec.nn import merged_columns
from streamrec.nn.adagrad import Adagrad
from streamrec.nn.negatives import Frozen

BATCHES_DRAWN = 64
"""Batches of negatives drawn at a time."""


@dataclass(frozen=True)
class Columns:
    """What a step scores and reads, each item once."""

    items: Tensor  # [C] int64, rising
    positive: Tensor  # [B] int64, place of each target in `items`
    read: Tensor  # [T] int64, place of each input in `items`
    as_target: Tensor  # [C] int64, how many rows have the item for a target
    as_drawn: Tensor  # [C] int64, how often it was drawn

    @property
    def listed(self) -> Tensor:
        """[C] int64, in how many columns each item stands; 0 = it was only read and has no bias in this step."""
        return self.as_target + self.as_drawn


class SharedNegatives:
    """Trains a model whose item vectors go into the encoder and come out of it, looked up once per step.

    All clicks of the sequences are counted as support at once. Targets of the batch and `model.n_sample` drawn items
    are the negatives of a row, whether or not they equal its own target.

    Args:
        model: its loss is any but "bce"; its generator draws.
        sequences: what is trained on.
        optimiser: of the model's parameters.

    Raises:
        ValueError: a model without drawn negatives, or a loss that does not go with them.
    """

    def __init__(self, model: NextItem, sequences: Sequences, optimiser: Adagrad) -> None:
        if model.objective == "bce" or model.n_sample is None:
            raise ValueError(
                "targets and drawn items are shared as negatives: expected a number for n_sample and another loss "
                f'than "bce", got n_sample={model.n_sample}, loss={model.objective!r}'
            )
        self.model, self.optimiser, self.device = model, optimiser, model.bias.device
        model.popularity.recount(sequences.items.to(self.device))
        self._log_support = model.popularity.support.double().log().float()
        self._draws: Frozen | None = None
        self._drawn: list[Tensor] = []

    def update(self, inputs: Tensor, targets: Tensor, rows: int, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Move the parameters by one step and return the loss.

        Args:
            inputs: [T] int64, clicked items.
            targets: [B] int64, what was clicked next.
            rows: what the sum of the loss over the targets is divided by.
            encode: states [B, D] of the vectors [T, D] of `inputs`.
        """
        columns = self.columns(inputs, targets)
        vectors = self.model.encoder.items.weight.detach().index_select(0, columns.items).requires_grad_()
        bias = self.model.bias.detach().view(-1).index_select(0, columns.items).requires_grad_()
        read = vectors.detach().index_select(0, columns.read).requires_grad_()
        slope = partial(_SLOPES[self.model.objective], **self.arguments(columns))
        loss = merged_columns.loss(slope, encode(read), vectors, bias, columns.positive, rows)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self._descend(columns, (vectors, bias, read))
        return loss.detach()

    def columns(self, inputs: Tensor, targets: Tensor) -> Columns:
        """Of a step with `inputs` [T] and `targets` [B]; draws."""
        drawn, own = self._draw(), len(targets)
        items, place = torch.unique(torch.cat([targets, drawn, inputs]), return_inverse=True)
        listed = own + len(drawn)
        as_target = torch.bincount(place[:own], minlength=len(items))
        as_drawn = torch.bincount(place[own:listed], minlength=len(items))
        return Columns(items, place[:own], place[listed:], as_target, as_drawn)

    def arguments(self, columns: Columns) -> dict[str, Tensor | float]:
        """What the loss in `streamrec.nn.merged_columns` wants to know beside scores and targets, by name."""
        model = self.model
        if model.objective == "cross-entropy":
            log_q = -model.logq * self._log_support.index_select(0, columns.items)
            mass = columns.as_target * log_q.exp() + columns.as_drawn * (model.sample_alpha * log_q).exp()
            return {"log_mass": mass.log(), "log_own": log_q}
        weight = columns.listed.float()
        if model.objective == "bpr-max":
            return {"weight": weight, "regularisation": model.bpreg, "elu_param": model.elu_param}
        return {"weight": weight}

    def _draw(self) -> Tensor:
        if self._draws is None:
            self._draws = Frozen(self.model.popularity.support, self.model.sample_alpha)
        if not self._drawn:
            generator, n = self.model.generator, self.model.n_sample or 0
            self._drawn = list(self._draws.draw(BATCHES_DRAWN * n, generator).view(BATCHES_DRAWN, n))
        return self._drawn.pop()

    def _descend(self, columns: Columns, leaves: tuple[Tensor, Tensor, Tensor]) -> None:
        at_vectors, at_bias, at_read = (leaf.grad for leaf in leaves)
        assert at_vectors is not None
        assert at_bias is not None
        assert at_read is not None
        at_vectors.index_add_(0, columns.read, at_read)
        _by_rows(self.model.encoder.items.weight, columns.items, at_vectors)
        scored = columns.listed.nonzero().squeeze(1)  # momentum must not move the others
        _by_rows(self.model.bias, columns.items[scored], at_bias[scored].unsqueeze(1))
        self.optimiser.step()


def _by_rows(table: nn.Parameter, rows: Tensor, grad: Tensor) -> None:
    """Set the gradient of a table: `grad` [R, D] at `rows` [R], which rise."""
    table.grad = torch.sparse_coo_tensor(
        rows.unsqueeze(0), grad, table.shape, is_coalesced=True, check_invariants=False
    )


_SLOPES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "cross-entropy": merged_columns.cross_entropy,
    "bpr-max": merged_columns.bpr_max,
    "top1": merged_columns.top1,
    "bpr": merged_columns.bpr,
    "top1-max": merged_columns.top1_max,
}
