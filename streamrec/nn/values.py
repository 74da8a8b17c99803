"""Values of items to users: a head over the vectors of both, one number per user and candidate."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.nn.inputs import Inputs
from streamrec.nn.items import uniform
from streamrec.records import History

_FEW = 16
"""Items per user up to which a matrix for each user costs more than it saves."""


class Values(nn.Module):
    """Q(s, i) of users and candidate items: b_i + MLP([s, e_i, s * e_i]), with s and e_i from `Inputs`.

    One number per user and item, not a layer as wide as the catalogue: what costs is the candidates, not the items.
    Where states and items differ in width, the product takes a learned projection of s.

    With `dueling` it is V(s) + A(s, i) - mean of A over the candidates (Wang et al., ICML 2016, equation 9), V an MLP
    of its own over s, A the formula above. Departure: actions are the candidates at hand, not a fixed set, so the mean
    is over other items from state to state; it makes V the mean value of what could be shown. The shared part
    is the inputs, where the paper shares all but the last layers.

    Args:
        inputs: makes s [B, S] of histories and e [..., I] of items.
        catalog: capacity of the table of biases.
        hidden: width of the one hidden layer.
        generator: start of the weights.
        dueling: a value of the state and advantages of the items apart.
    """

    def __init__(
        self, inputs: Inputs, catalog: Catalog, hidden: int, generator: Generator, dueling: bool = False
    ) -> None:
        super().__init__()
        states, items = inputs.state_dim, inputs.item_dim
        self.inputs, self.dueling = inputs, dueling
        self.bias = nn.Parameter(torch.zeros(catalog.capacity + 1, 1))
        self.state = nn.Parameter(uniform(hidden, states, generator))
        self.item = nn.Parameter(uniform(hidden, items, generator))
        self.both = nn.Parameter(uniform(hidden, items, generator))
        self.shift = nn.Parameter(torch.zeros(hidden))
        self.out = nn.Parameter(uniform(1, hidden, generator))
        self.level = nn.Parameter(torch.zeros(1))
        self.fit = None if states == items else nn.Parameter(uniform(items, states, generator))
        if dueling:
            self.worth = nn.Sequential(Dense(states, hidden, generator), nn.ReLU(), Dense(hidden, 1, generator))

    def forward(
        self,
        history: History,
        items: Tensor,
        generator: Generator | None = None,
        among: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Values [B, C] of `items` [B, C].

        Args:
            history: B rows.
            items: catalogue rows; what stands for 0 means nothing.
            generator: where the encoder's dropout draws from, None = no dropout.
            among: candidates [B, M] and which of them may be shown [B, M], over which advantages are centred; None =
                `items` without 0. Of no account without `dueling`.
        """
        state = self.inputs.state(history, generator)
        values = self._score(state, items)
        if not self.dueling:
            return values
        rest, mask = (items, items != 0) if among is None else among
        others = values if rest is items else self._score(state, rest)
        mean = others.where(mask, 0.0).sum(1) / mask.sum(1).clamp(min=1)
        level: Tensor = self.worth(state)
        return values - mean.unsqueeze(1) + level

    @torch.no_grad()
    def recycle(self, rows: Tensor) -> None:
        """Biases of items that are gone begin at 0 again."""
        self.bias[rows] = 0.0

    def _score(self, state: Tensor, items: Tensor) -> Tensor:
        """b_i + MLP([s, e_i, s * e_i]), [B, C]."""
        vectors = self.inputs.items(items)
        seen_as = state if self.fit is None else F.linear(state, self.fit)
        shift = F.linear(state, self.state, self.shift).unsqueeze(1)
        if items.shape[1] > _FEW:
            # Both products with e at once, by one matrix per user: W e + U (s * e) = (W + U diag(s)) e.
            weight = self.item + self.both * seen_as.unsqueeze(1)  # [B, H, I]
            hidden = F.relu(torch.baddbmm(shift, vectors, weight.transpose(1, 2)))
        else:
            hidden = F.relu(F.linear(vectors, self.item) + F.linear(vectors * seen_as.unsqueeze(1), self.both) + shift)
        bias = F.embedding(items, self.bias, padding_idx=0, sparse=True).squeeze(2)
        return F.linear(hidden, self.out, self.level).squeeze(2) + bias


class Dense(nn.Module):
    """A linear layer whose start comes from a generator."""

    def __init__(self, inputs: int, outputs: int, generator: Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(uniform(outputs, inputs, generator))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        return F.linear(x, self.weight, self.bias)
