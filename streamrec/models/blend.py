"""A trained model and session neighbours in one: each is asked, their scores are added up."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from streamrec.records import History


class Trained(Protocol):
    """A model that learns from a loss, as `streamrec.models.next_item.NextItem`."""

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
    (Jannach & Ludewig, RecSys 2017, who add up normalised scores of GRU4Rec and session-kNN). Here both are shares of
    the best item's: exp(score / temperature) of the network, which are the odds of a softmax, and the neighbours'
    scores as they are. Where nobody shares an item with the session the network alone decides the order.

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
        """Scores of every catalogue row in use, [B, catalog.size], or of `items` [B, C] alone, [B, C]; 0 to 1."""
        near = self.neighbours.score(history)
        near *= self.weight / near.amax(1, keepdim=True).clamp(min=1e-30)
        scores = self.model.score(history)
        odds = ((scores - scores.amax(1, keepdim=True)) / self.temperature).exp()
        scores = near.add_(odds, alpha=1.0 - self.weight)
        return scores if items is None else scores.gather(1, items)

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
