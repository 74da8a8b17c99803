"""The next click as a choice among all items: any session encoder, scored against the item table."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.nn import losses
from streamrec.nn.items import ItemVectors
from streamrec.nn.negatives import Popularity
from streamrec.records import History


class Encoder(Protocol):
    """What a model needs of an encoder."""

    dim: int
    items: ItemVectors
    reads: tuple[str, ...]

    def __call__(self, history: History, generator: Generator | None = None) -> Tensor:
        """[B, D]."""


class NextItem(nn.Module):
    """Scores h . w_i + b_i of all items i; learns from clicks against negatives that the batch shares.

    Input and output use one item table (the constrained embedding of Hidasi & Karatzoglou, CIKM 2018). Negatives are
    the other targets of the batch plus `n_sample` items drawn once per batch with P ~ support^sample_alpha, where
    support counts the targets seen in training so far. A catalogue of at most `n_sample` items is scored whole
    instead: that is exact and cheaper.

    Departures from the authors' GRU4Rec (hidasib/GRU4Rec_PyTorch_Official): a negative that is the row's own target
    is left out; support grows with the stream. The defaults were chosen on the first weeks of the Diginetica
    click stream, predicting each click before learning from it.

    Args:
        encoder: makes [B, D] of a history and owns the item table.
        catalog: which rows are in use.
        loss: "cross-entropy" or "bpr-max" (`streamrec.nn.losses`).
        n_sample: negatives drawn for each batch.
        sample_alpha: 0 draws uniformly among the items clicked so far, 1 by popularity.
        logq: strength of the correction of cross-entropy for how likely a column was drawn; 0 = none, 1 = full.
        bpreg: score regularisation of BPR-max.
        elu_param: below 0, BPR-max sees elu(score) with this alpha; 0 = the score itself.
        seed: negatives and dropout.
        device: where the weights live.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(
        self,
        encoder: Encoder,
        catalog: Catalog,
        loss: Literal["cross-entropy", "bpr-max"] = "bpr-max",
        n_sample: int = 2048,
        sample_alpha: float = 0.5,
        logq: float = 1.0,
        bpreg: float = 1.95,
        elu_param: float = 0.5,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        if loss not in ("cross-entropy", "bpr-max"):
            raise ValueError(f'loss must be "cross-entropy" or "bpr-max", got {loss!r}')
        if n_sample < 0:
            raise ValueError(f"n_sample must be at least 0, got {n_sample}")
        self.encoder = encoder
        self.catalog = catalog
        self.objective = loss
        self.n_sample = n_sample
        self.sample_alpha = sample_alpha
        self.logq = logq
        self.bpreg = bpreg
        self.elu_param = elu_param
        self.bias = nn.Parameter(torch.zeros(catalog.capacity + 1, 1))
        self.popularity = Popularity(catalog)
        self.to(device)
        self.generator = Generator(device).manual_seed(seed)

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of `History` that are used."""
        return self.encoder.reads

    def score(self, history: History, items: Tensor | None = None) -> Tensor:
        """Scores of every catalogue row in use, [B, catalog.size], or of `items` [B, C] alone, [B, C].

        No dropout. Row 0 and items that may not be shown are scored like any other: what to leave out is the
        business of who decides.
        """
        hidden = self.encoder(history)
        if items is None:
            size = self.catalog.size
            return torch.addmm(self.bias[:size, 0], hidden, self.encoder.items.weight[:size].t())
        vectors, bias = self._output(items)
        return torch.einsum("bd,bcd->bc", hidden, vectors) + bias

    def loss(self, history: History, target: Tensor) -> Tensor:
        """Mean loss of the clicked items `target` [B] int64 after `history`, a scalar to differentiate.

        A training step: the targets are counted as support, negatives and dropout are drawn.
        """
        self.popularity.count(target)
        hidden = self.encoder(history, self.generator)
        if self.catalog.size - 1 <= self.n_sample:
            columns = torch.arange(1, self.catalog.size, device=target.device)
            return self._loss(hidden, columns, target - 1, None, None)
        sampled = self.popularity.draw(self.n_sample, self.sample_alpha, self.generator)
        columns = torch.cat([target, sampled])
        valid = columns != target.unsqueeze(1)
        weight = [self.popularity.log_weight(target, 1.0), self.popularity.log_weight(sampled, self.sample_alpha)]
        return self._loss(hidden, columns, torch.arange(len(target), device=target.device), valid, torch.cat(weight))

    def _loss(
        self, hidden: Tensor, columns: Tensor, positive: Tensor, valid: Tensor | None, log_q: Tensor | None
    ) -> Tensor:
        vectors, bias = self._output(columns)
        scores = torch.addmm(bias, hidden, vectors.t())
        if self.objective == "cross-entropy":
            return losses.cross_entropy(scores, positive, valid, None if log_q is None else log_q * self.logq)
        if self.elu_param:
            scores = F.elu(scores, self.elu_param)
        return losses.bpr_max(scores, positive, valid, self.bpreg)

    def _output(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Output side of `items` [...]: vectors [..., D] and biases [...], with sparse gradients."""
        bias = F.embedding(items, self.bias, padding_idx=0, sparse=True)
        return self.encoder.items(items), bias.squeeze(-1)

    def get_extra_state(self) -> Tensor:
        """State of the random generator: `state_dict` carries it, so a resumed run draws what it would have drawn."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state)
