"""The next click as a choice among all items: any session encoder, scored against the item table."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal, Protocol, cast, get_args

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.nn import losses, shared_columns, windows
from streamrec.nn.items import ItemVectors
from streamrec.nn.negatives import Popularity
from streamrec.nn.shared_columns import Loss, Slope
from streamrec.nn.windows import Scope
from streamrec.records import History

Objective = Literal["cross-entropy", "bpr-max", "top1", "bpr", "top1-max", "bce"]
"""Losses of `streamrec.nn.losses` by their names in the papers."""


class Encoder(Protocol):
    """What a model needs of an encoder."""

    dim: int
    items: ItemVectors
    reads: tuple[str, ...]

    def __call__(self, history: History, generator: Generator | None = None) -> Tensor:
        """[B, D]."""


class CausalEncoder(Encoder, Protocol):
    """An encoder whose state after a click knows nothing of later clicks: what `NextItem.sequence_loss` needs."""

    scope: Scope
    length: int | None

    def states(self, history: History, generator: Generator | None = None) -> Tensor:
        """State after each click, [B, L, D]."""


class NextItem(nn.Module):
    """Scores h . w_i + b_i of all items i; learns from clicks against negatives that the batch shares.

    Input and output use one item table (the constrained embedding of Hidasi & Karatzoglou, CIKM 2018). Negatives are
    the other targets of the batch plus `n_sample` items drawn once per batch with P ~ support^sample_alpha, where
    support counts the targets seen in training so far. A catalogue of at most `n_sample` items is scored whole
    instead: that is exact and cheaper. `sequence_loss` learns all clicks of whole sequences at once.

    Departures from the authors' GRU4Rec (hidasib/GRU4Rec_PyTorch_Official): a negative that is the row's own target
    is left out; support grows with the stream. The defaults were chosen on the first weeks of the Diginetica
    click stream, predicting each click before learning from it. Departures from gSASRec (Petrov & Macdonald, RecSys
    2023), whose loss "bce" with `calibration` is: its negatives are drawn for each click, uniformly among all items;
    here the batch shares them, and only items clicked so far are drawn, uniformly with `sample_alpha` = 0. As there,
    targets of others are no negatives.

    Args:
        encoder: makes [B, D] of a history and owns the item table.
        catalog: which rows are in use.
        loss: "cross-entropy", "bpr-max", "top1", "bpr", "top1-max" or "bce" (`streamrec.nn.losses`).
        n_sample: negatives drawn for each batch; None = all items, always.
        sample_alpha: 0 draws uniformly among the items clicked so far, 1 by popularity.
        logq: strength of the correction of cross-entropy for how likely a column was drawn; 0 = none, 1 = full.
        bpreg: score regularisation of BPR-max.
        elu_param: below 0, BPR-max sees elu(score) with this alpha; 0 = the score itself.
        calibration: t of gBCE (`streamrec.nn.losses.calibration`): 0 is plain binary cross-entropy, 1 undoes all of
            the overconfidence that sampled negatives cause.
        company: an item that becomes a target for the first time starts this share of the mean vector of the session's
            items away from its random start, see `ItemVectors.welcome`; 0 = at random, as in the papers.
        seed: negatives and dropout.
        device: where the weights live.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(
        self,
        encoder: Encoder,
        catalog: Catalog,
        loss: Objective = "bpr-max",
        n_sample: int | None = 2048,
        sample_alpha: float = 0.5,
        logq: float = 1.0,
        bpreg: float = 1.95,
        elu_param: float = 0.5,
        calibration: float = 0.75,
        company: float = 0.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        if loss not in get_args(Objective):
            raise ValueError(f"loss must be one of {', '.join(get_args(Objective))}, got {loss!r}")
        least = 1 if loss == "bce" else 0
        if n_sample is not None and n_sample < least:
            raise ValueError(f"n_sample must be at least {least} or None with the loss {loss}, got {n_sample}")
        if not 0.0 <= calibration <= 1.0:
            raise ValueError(f"calibration must be between 0 and 1, got {calibration}")
        if company < 0.0:
            raise ValueError(f"company must be at least 0, got {company}")
        self.encoder = encoder
        self.catalog = catalog
        self.objective = loss
        self.n_sample = n_sample
        self.sample_alpha = sample_alpha
        self.logq = logq
        self.bpreg = bpreg
        self.elu_param = elu_param
        self.calibration = calibration
        self.company = company
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
        if self.company:
            age = torch.arange(history.items.shape[1] - 1, -1, -1, device=target.device)
            self._welcome(target, history.items * (age < history.in_session.unsqueeze(1)))
        self.popularity.count(target)
        hidden = self.encoder(history, self.generator)
        if self._scored_whole():
            columns = torch.arange(1, self.catalog.size, device=target.device)
            return self._loss(hidden, columns, target - 1, None, None)
        sampled = self._draw()
        columns = torch.cat([target, sampled])
        valid = columns != target.unsqueeze(1)
        if self.objective == "bce":
            valid[:, : len(target)] = False
        weight = [self.popularity.log_weight(target, 1.0), self.popularity.log_weight(sampled, self.sample_alpha)]
        return self._loss(hidden, columns, torch.arange(len(target), device=target.device), valid, torch.cat(weight))

    def _welcome(self, target: Tensor, beside: Tensor) -> None:
        """Start items [T] that were no target before from the items `beside` [T, L] clicked before them, 0 = none."""
        new = self.popularity.support[target] == 0
        if bool(new.any()):
            self.encoder.items.welcome(target[new], beside[new], self.company)

    def sequence_loss(self, history: History) -> Tensor:
        """Mean loss of every click inside the windows after the clicks before it, a scalar; 0 where there is none.

        A training step on whole sequences, for encoders that have `states`: the encoder runs once over a window and
        each of its states meets the click that follows. As in `loss`, targets are counted and dropout is drawn; the
        batch shares `n_sample` drawn negatives, targets of other clicks are none (they would be as many as the
        batch has clicks). Give windows of one click more than the encoder's `length`: the newest is target only.

        Scores are made for some states at a time and never held for the whole batch.

        Raises:
            ValueError: if `n_sample` is 0, so that there is nothing to compare with.
        """
        encoder = cast(CausalEncoder, self.encoder)
        before, place, target = following(history, encoder.scope, encoder.length)
        if self.company:
            self._welcome(target, _clicked_before(before, place))
        hidden = encoder.states(before, self.generator).flatten(0, 1).index_select(0, place)
        return self._mean_loss(hidden, target)

    def _mean_loss(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Of states `hidden` [T, D] whose clicks are `target` [T], T of any size; counts the targets."""
        self.popularity.count(target)
        if not len(target):
            return hidden.sum()
        if self._scored_whole():
            vectors, bias = self._output(torch.arange(1, self.catalog.size, device=target.device))
            return shared_columns.whole(self._slope(), hidden, vectors, bias, target - 1)
        return self._against_sample(hidden, target)

    def _against_sample(self, hidden: Tensor, target: Tensor) -> Tensor:
        if self.n_sample == 0:
            raise ValueError("sequence_loss needs negatives: n_sample must be at least 1 or None, got 0")
        sampled, many = self._draw(), len(target)
        vectors, bias = self._output(torch.cat([target, sampled]))
        own, free = (hidden * vectors[:many]).sum(1) + bias[:many], bias[many:]
        if self.objective == "cross-entropy":
            own = own - self.logq * self.popularity.log_weight(target, self.sample_alpha)
            free = free - self.logq * self.popularity.log_weight(sampled, self.sample_alpha)
        return shared_columns.sampled(self._slope(), hidden, own, vectors[many:], free, target, sampled)

    def _scored_whole(self) -> bool:
        return self.n_sample is None or self.catalog.size - 1 <= self.n_sample

    def _draw(self) -> Tensor:
        return self.popularity.draw(cast(int, self.n_sample), self.sample_alpha, self.generator)

    def _loss(
        self, hidden: Tensor, columns: Tensor, positive: Tensor, valid: Tensor | None, log_q: Tensor | None
    ) -> Tensor:
        vectors, bias = self._output(columns)
        scores = torch.addmm(bias, hidden, vectors.t())
        if self.objective == "cross-entropy":
            return losses.cross_entropy(scores, positive, valid, None if log_q is None else log_q * self.logq)
        return self._criterion()(scores, positive, valid)

    def _criterion(self) -> Loss:
        """The loss as a function of scores, logQ apart."""
        if self.objective == "bpr-max":
            return self._bpr_max
        if self.objective == "bce":
            return partial(losses.binary_cross_entropy, beta=self._beta())
        return _PLAIN[self.objective]

    def _bpr_max(self, scores: Tensor, positive: Tensor, valid: Tensor | None) -> Tensor:
        if self.elu_param:
            scores = F.elu(scores, self.elu_param)
        return losses.bpr_max(scores, positive, valid, self.bpreg)

    def _beta(self) -> float:
        if self.n_sample is None or self._scored_whole():
            return 1.0
        return losses.calibration(self.n_sample, self.catalog.size - 1, self.calibration)

    def _slope(self) -> Slope:
        if self.objective == "cross-entropy":
            return shared_columns.cross_entropy
        return shared_columns.by_autograd(self._criterion())

    def _output(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Output side of `items` [...]: vectors [..., D] and biases [...], with sparse gradients."""
        bias = F.embedding(items, self.bias, padding_idx=0, sparse=True)
        return self.encoder.items(items), bias.squeeze(-1)

    @torch.no_grad()
    def recycle(self, rows: Tensor) -> None:
        """Biases of items that are gone begin at 0 again; tables of other modules do the like themselves."""
        self.bias[rows] = 0.0

    def get_extra_state(self) -> Tensor:
        """State of the random generator: `state_dict` carries it, so a resumed run draws what it would have drawn."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state)


_PLAIN: dict[str, Loss] = {"top1": losses.top1, "bpr": losses.bpr, "top1-max": losses.top1_max}
"""Losses without settings."""


def _clicked_before(before: History, place: Tensor) -> Tensor:
    """Items [T, M] of the running session up to each `place` [T] in the windows `before` [B, M], 0 elsewhere."""
    width = before.items.shape[1]
    row, column = place // max(width, 1), place % max(width, 1)
    first = width - windows.lengths(before, "session", None)[row]
    at = torch.arange(width, device=place.device)
    return before.items[row] * ((at >= first.unsqueeze(1)) & (at <= column.unsqueeze(1)))


def following(history: History, scope: Scope, length: int | None) -> tuple[History, Tensor, Tensor]:
    """Every click of the windows that an encoder of this `scope` and `length` can predict, T of them.

    Returns:
        The windows without their newest click and without columns that nothing reads, [B, M]; the place of the T
        clicks before in them when they are flattened [B * M], [T] int64; and the T clicks that followed, [T] int64.
    """
    windowed = {name: getattr(history, name) for name in ("items", "kinds", "times")}
    before = replace(
        history,
        **{name: column[:, :-1] for name, column in windowed.items()},
        in_session=(history.in_session - 1).clamp(min=0),
    )
    many = windows.lengths(before, scope, length)
    longest = int(many.max()) if len(many) else 0
    width = before.items.shape[1]
    before = replace(before, **{name: getattr(before, name)[:, width - longest :] for name in windowed})
    live = torch.arange(longest, 0, -1, device=many.device) <= many.unsqueeze(1)
    place = live.flatten().nonzero().squeeze(1)
    return before, place, history.items[:, history.items.shape[1] - longest :][live].long()
