"""A trained model and session neighbours in one: each is asked, their scores are added up."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from streamrec.nn.negatives import Popularity
from streamrec.records import History


class Trained(Protocol):
    """A model that learns from a loss, as `streamrec.models.next_item.NextItem`."""

    popularity: Popularity  # of the items it was trained to predict

    @property
    def reads(self) -> tuple[str, ...]: ...

    def score(self, history: History) -> Tensor: ...

    def loss(self, history: History, target: Tensor) -> Tensor: ...


class Counted(Protocol):
    """A model that counts, as `streamrec.models.vsknn.VSKNN`."""

    @property
    def reads(self) -> tuple[str, ...]: ...

    def score(self, history: History) -> Tensor: ...

    def observe(self, history: History, target: Tensor) -> None: ...

    def append(self, items: Tensor, starts: Tensor) -> None: ...


class Blend(nn.Module):
    """(1 - weight) * what a trained model thinks of an item + weight * what session neighbours say.

    Neighbours know the sessions of the last minutes and rare items, a network generalises; together they beat either
    (Jannach & Ludewig, RecSys 2017, who add up normalised scores of GRU4Rec and session-kNN). Here both are shares of a
    whole: probabilities of the network, a softmax at `temperature`, and the neighbours' scores divided by their sum.
    The softmax is over the items the network was trained to predict; another item has its odds against these and
    takes nothing from them, so that scores stay as they are when the catalogue grows. Where nobody shares an item with
    the session the network alone decides the order.

    The loss is the network's. `observe` is the neighbours': they learn a click when it is seen, the network when it is
    trained.

    Args:
        model: the network; its weights are the blend's.
        neighbours: the model that counts.
        weight: of the neighbours, 0 to 1.
        temperature: above 1 the network's odds are flatter; 1 is right for one trained with cross-entropy.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(self, model: Trained, neighbours: Counted, weight: float = 0.5, temperature: float = 1.0) -> None:
        super().__init__()
        if not 0.0 <= weight <= 1.0:
            raise ValueError(f"weight must be between 0 and 1, got {weight}")
        if temperature <= 0.0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.model, self.neighbours = model, neighbours
        self.weight, self.temperature = weight, temperature

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of `History` that are used by either."""
        return tuple(dict.fromkeys((*self.model.reads, *self.neighbours.reads)))

    @torch.no_grad()
    def score(self, history: History, items: Tensor | None = None) -> Tensor:
        """Scores of every catalogue row in use, [B, catalog.size], or of `items` [B, C] alone, [B, C]."""
        near = self.neighbours.score(history)
        near *= (self.weight / _sum(near).clamp(min=1e-30)).float()
        scores = near.add_(self._odds(self.model.score(history)), alpha=1.0 - self.weight)
        return scores if items is None else scores.gather(1, items)

    def _odds(self, scores: Tensor) -> Tensor:
        """Probabilities among the items that were targets, and odds of the others against them, [B, N]."""
        trained = self.model.popularity.support[: scores.shape[1]] > 0
        best = scores.masked_fill(~trained, -torch.inf).amax(1, keepdim=True)
        odds = ((scores - torch.where(best > -torch.inf, best, 0.0)) / self.temperature).exp_()
        return odds.div_(_sum(odds * trained).clamp(min=1.0).float())

    def loss(self, history: History, target: Tensor) -> Tensor:
        """The network's loss of the clicks `target` [B] int64 after `history`."""
        return self.model.loss(history, target)

    @torch.no_grad()
    def observe(self, history: History, target: Tensor) -> None:
        """Have the neighbours take in the clicks `target` [B] int64 after `history`: each once, oldest first."""
        self.neighbours.observe(history, target)

    @torch.no_grad()
    def append(self, items: Tensor, starts: Tensor) -> None:
        """Have the neighbours take in finished sessions, see `SessionKNN.append`."""
        self.neighbours.append(items, starts)


def _sum(shares: Tensor) -> Tensor:
    """Of each row, [B, 1] float64: zeros of new items must not change how it is rounded."""
    return shares.sum(1, keepdim=True, dtype=torch.float64)
