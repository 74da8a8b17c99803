"""What SlateQ learns: what users choose, and what that is worth, as products of users and items."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.nn.inputs import Inputs
from streamrec.nn.items import uniform
from streamrec.records import History

Choice = Literal["learned", "mnl", "proportional"]


class Pairs(nn.Module):
    """f(s, i) = <g(s), h(i)> of states and items: g is a hidden layer and a direct path past it, h one layer.

    Two towers and not one network of pairs: what is deep is computed once per user and not once per candidate. g starts
    at 0, so that all items are alike until there is a reason.

    Args:
        state_dim: S.
        item_dim: I.
        hidden: width of the hidden layer.
        rank: width of g and h.
        generator: start of the weights.
    """

    def __init__(self, state_dim: int, item_dim: int, hidden: int, rank: int, generator: Generator) -> None:
        super().__init__()
        self.state = nn.Parameter(uniform(hidden, state_dim, generator))
        self.state_shift = nn.Parameter(torch.zeros(hidden))
        self.deep = nn.Parameter(torch.zeros(rank, hidden))
        self.deep_shift = nn.Parameter(torch.zeros(rank))
        self.direct = nn.Parameter(torch.zeros(rank, state_dim))
        self.item = nn.Parameter(uniform(rank, item_dim, generator))
        self.item_shift = nn.Parameter(torch.zeros(rank))

    def forward(self, state: Tensor, items: Tensor) -> Tensor:
        """States [B, S], items [B, C, I] -> [B, C]."""
        user = F.linear(F.relu(F.linear(state, self.state, self.state_shift)), self.deep, self.deep_shift)
        user = user + F.linear(state, self.direct)
        # Leaky: an item all of whose units are cut off would never learn again.
        item = F.leaky_relu(F.linear(items, self.item, self.item_shift), 0.1)
        return (item @ user.unsqueeze(2)).squeeze(2)


class Single(nn.Module):
    """f(s) of states: one hidden layer; 0 at the start.

    Args:
        state_dim: S.
        hidden: width of the layer.
        generator: start of the weights.
    """

    def __init__(self, state_dim: int, hidden: int, generator: Generator) -> None:
        super().__init__()
        self.state = nn.Parameter(uniform(hidden, state_dim, generator))
        self.shift = nn.Parameter(torch.zeros(hidden))
        self.out = nn.Parameter(torch.zeros(1, hidden))
        self.level = nn.Parameter(torch.zeros(1))

    def forward(self, state: Tensor) -> Tensor:
        """States [B, S] -> [B]."""
        return F.linear(F.relu(F.linear(state, self.state, self.shift)), self.out, self.level).squeeze(1)


class Nets(nn.Module):
    """What users choose and what that is worth, on the same inputs.

    Args:
        inputs: reads users and items; its encoder, if any, is learned by both.
        hidden: width of the hidden layers.
        rank: width of the product of users and items.
        null_value: choosing nothing is worth the level that all items share, else 0.
        choice: "learned" or the form that is known.
        generator: start of the weights.
    """

    def __init__(
        self, inputs: Inputs, hidden: int, rank: int, null_value: bool, choice: Choice, generator: Generator
    ) -> None:
        super().__init__()
        self.inputs, self.form, self.null_value = inputs, choice, null_value
        self.gains = Pairs(inputs.state_dim, inputs.item_dim, hidden, rank, generator)
        self.level = Single(inputs.state_dim, hidden, generator)
        learned = choice == "learned"
        self.choice = Pairs(inputs.state_dim, inputs.item_dim, hidden, rank, generator) if learned else None

    def log_odds(self, history: History, state: Tensor, rows: Tensor, vectors: Tensor) -> Tensor:
        """log(v(s, i) / v(s, nothing)) of catalogue `rows` [B, C] with `vectors` [B, C, I]: [B, C]."""
        if self.choice is not None:
            learned: Tensor = self.choice(state, vectors)
            return learned
        features = self.inputs.catalog.features[rows]
        interest = (features * history.context[:, : features.shape[2]].unsqueeze(1)).sum(2)
        return interest - 1 if self.form == "mnl" else ((interest + 1) / 2).clamp_min(1e-9).log()

    def values(self, state: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Q(s, i) of items with `vectors` [B, C, I], [B, C], and Q(s, nothing), [B]."""
        level: Tensor = self.level(state)
        items = self.gains(state, vectors) + level.unsqueeze(1)
        return items, level if self.null_value else torch.zeros_like(level)
