"""What schedules that compare a model with another self ask of it: features, and scores of any items from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeGuard

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.models.next_item import Encoder
from streamrec.nn.negatives import Popularity
from streamrec.records import History


class Factored(Protocol):
    """A model whose scores are features . item vectors + biases, such as `streamrec.models.next_item.NextItem`."""

    catalog: Catalog
    encoder: Encoder
    bias: nn.Parameter  # [capacity + 1, 1]
    popularity: Popularity
    generator: Generator

    def loss(self, history: History, target: Tensor) -> Tensor:
        """Scalar to differentiate."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


NEVER = -1e30
"""Score of what cannot be: finite, so that probability 0 times its logarithm is 0."""

PARTS = ("catalog", "encoder", "bias", "popularity", "generator", "loss")


def check(model: Any, who: str) -> TypeGuard[Factored]:
    """True; raises ValueError where the model is not `Factored`."""
    missing = [part for part in PARTS if not hasattr(model, part)]
    if missing:
        raise ValueError(
            f"{who} needs a model with {', '.join(PARTS)}, such as streamrec.models.next_item.NextItem; "
            f"{type(model).__name__} has no {', '.join(missing)}"
        )
    return True


def parameters(model: Factored) -> list[tuple[str, nn.Parameter]]:
    """The weights that are trained, by name."""
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]


def features(model: Factored, history: History, learn: bool = False) -> Tensor:
    """What the scores are made of, [B, D]: the last layer. With `learn` dropout is drawn, as in a training step."""
    return model.encoder(history, model.generator if learn else None)


def scores(model: Factored, hidden: Tensor, columns: Tensor | int) -> Tensor:
    """Scores of items for features [B, D], to differentiate: [B, C].

    Args:
        columns: [C] catalogue rows, with sparse gradients; or the number of rows N: items 1..N - 1, dense.
    """
    if isinstance(columns, int):
        return torch.addmm(model.bias[1:columns, 0], hidden, model.encoder.items.weight[1:columns].t())
    bias = F.embedding(columns, model.bias, padding_idx=0, sparse=True).squeeze(-1)
    return torch.addmm(bias, hidden, model.encoder.items(columns).t())


class Table:
    """Item vectors and biases as they were at one time: scores of a former self from its features."""

    def __init__(self, vectors: Tensor, bias: Tensor) -> None:
        self.vectors = vectors  # [N, D], rows 0..N - 1 of the catalogue
        self.bias = bias  # [N]

    @classmethod
    def of(cls, model: Factored) -> Table:
        size = model.catalog.size
        return cls(model.encoder.items.weight[:size].detach().clone(), model.bias[:size, 0].detach().clone())

    @property
    def gone(self) -> Tensor:
        """[N] bool: rows whose items have expired since."""
        return self.bias == NEVER

    def forget(self, rows: Tensor) -> None:
        """The items of `rows` are not among those that this self can have meant."""
        mine = rows[rows < len(self.bias)].to(self.bias.device)
        self.vectors[mine], self.bias[mine] = 0.0, NEVER

    def scores(self, hidden: Tensor, columns: Tensor | None = None) -> Tensor:
        """[B, C] of `columns` [C], or [B, N - 1] of all items."""
        if columns is None:
            return torch.addmm(self.bias[1:], hidden, self.vectors[1:].t())
        return torch.addmm(self.bias[columns], hidden, self.vectors[columns].t())
