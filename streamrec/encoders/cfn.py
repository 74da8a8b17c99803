"""The Chaos-Free Network: a gated recurrence that settles when nothing comes in."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.encoders.gru4rec import Packed, pack
from streamrec.nn import windows
from streamrec.nn.dropout import check, dropout
from streamrec.nn.items import ItemVectors, uniform
from streamrec.nn.windows import Scope
from streamrec.records import History


class CFN(nn.Module):
    """The recurrent network of Laurent & von Brecht (ICLR 2017), which Chen et al. (WSDM 2019) use for user states.

        s' = z * tanh(s) + i * tanh(W u),  z = sigmoid(U_z s + W_z u + b_z),  i = sigmoid(U_i s + W_i u + b_i)

    with u the vector of a clicked item and s the state before it. Without input the state decays to 0, whatever the
    weights: there is no chaotic dynamics of its own in it.

    Departures from Chen et al.: u is the item vector alone, without a vector of the page or device it was clicked on.
    Biases start at 0 and weights uniform within +-sqrt(6 / (rows + cols)).

    Args:
        catalog: capacity of the item table.
        dim: width D of item vectors and states.
        dropout_embed: chance that a component of an item vector is dropped.
        length: the newest clicks read, None = all that the history holds.
        scope: "session" reads the running session only, "user" all that the history holds.
        seed: start of the weights.

    Raises:
        ValueError: if a setting is out of its range.
    """

    reads: tuple[str, ...] = ("items", "in_session")
    """Columns of `History` that are used."""

    def __init__(
        self,
        catalog: Catalog,
        dim: int = 100,
        dropout_embed: float = 0.0,
        length: int | None = None,
        scope: Scope = "session",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check("dropout_embed", dropout_embed)
        windows.check(scope, length)
        self.dim, self.length, self.dropout_embed = dim, length, dropout_embed
        self.scope: Scope = scope
        generator = Generator().manual_seed(seed)
        self.items = ItemVectors(catalog, dim, generator)
        self.weight_input = nn.Parameter(torch.cat([uniform(dim, dim, generator) for _ in range(3)]))  # z, i, candidate
        self.weight_hidden = nn.Parameter(torch.cat([uniform(dim, dim, generator) for _ in range(2)]))  # z, i
        self.bias = nn.Parameter(torch.zeros(2 * dim))

    def forward(self, history: History, generator: Generator | None = None) -> Tensor:
        """State after the newest click of each row, [B, D]; zero where there is no click.

        Args:
            generator: where dropout draws from; None = no dropout.
        """
        packed = pack(history, self.scope, self.length)
        # One more row of zeros stands for "no click".
        return F.pad(self._states(history, packed, generator), (0, 0, 0, 1))[packed.newest]

    def states(self, history: History, generator: Generator | None = None) -> Tensor:
        """State after each click, [B, L, D], in the places of `history.items`; zero where there is no click."""
        packed = pack(history, self.scope, self.length)
        states = self._states(history, packed, generator)
        shape = history.items.shape
        return states.new_zeros(shape.numel(), self.dim).index_copy(0, packed.token, states).view(*shape, self.dim)

    def _states(self, history: History, packed: Packed, generator: Generator | None) -> Tensor:
        """[T, D], step by step over the rows that have so many clicks."""
        u = dropout(self.items(history.items.flatten()[packed.token]), self.dropout_embed, generator)
        inputs = F.linear(u, self.weight_input)
        gates, candidate = inputs[:, : 2 * self.dim], inputs[:, 2 * self.dim :]
        state = u.new_zeros(packed.sizes[0] if packed.sizes else 0, self.dim)
        after, start = [u.new_zeros(0, self.dim)], 0
        for size in packed.sizes:
            rows = slice(start, start + size)
            state = self._step(state[:size], gates[rows], candidate[rows])
            after.append(state)
            start += size
        return torch.cat(after)

    def _step(self, state: Tensor, gates: Tensor, candidate: Tensor) -> Tensor:
        forget, take = (gates + F.linear(state, self.weight_hidden, self.bias)).sigmoid().chunk(2, dim=1)
        return forget * state.tanh() + take * candidate.tanh()
