"""GRU4Rec: a recurrent network over the clicks of a session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.nn import windows
from streamrec.nn.dropout import check, dropout, mask
from streamrec.nn.items import ItemVectors, uniform
from streamrec.nn.products import affine
from streamrec.nn.recurrence import gru
from streamrec.nn.windows import Scope
from streamrec.records import History


class GRU4Rec(nn.Module):
    """The session encoder of Hidasi et al. (ICLR 2016) and Hidasi & Karatzoglou (CIKM 2018) with constrained embedding.

    Item vectors go through one or more GRU layers; the state after the newest click is the vector of the session.
    Start and dropouts are those of the authors' code (hidasib/GRU4Rec_PyTorch_Official): uniform within
    +-sqrt(6 / (rows + cols)) per gate, biases 0, and the dropped-out state is the one carried to the next click.

    Departures from the authors' code: the whole window is encoded at each call and gradients flow through all of it
    (theirs carries a state through session-parallel lanes and cuts the gradient after one step), so an encoding
    depends on nothing but the history; padding costs no arithmetic.

    Args:
        catalog: capacity of the item table.
        dim: width D of item vectors and states.
        layers: GRU layers.
        dropout_embed: chance that a component of an item vector is dropped.
        dropout_hidden: chance that a component of a state is dropped, in each layer.
        length: the newest clicks read, None = all that the history holds.
        scope: "session" reads the running session only, "user" all that the history holds.
        seed: start of the weights.

    Raises:
        ValueError: if a setting is out of its range.
    """

    reads: tuple[str, ...] = ("items", "in_session")
    """Columns of `History` that are used."""

    prefix_states = True
    """A state inside a longer sequence is that of the window that ends there, if both fit in `length`."""

    def __init__(
        self,
        catalog: Catalog,
        dim: int = 100,
        layers: int = 1,
        dropout_embed: float = 0.0,
        dropout_hidden: float = 0.0,
        length: int | None = None,
        scope: Scope = "session",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"GRU4Rec needs at least 1 layer, got layers={layers}")
        check("dropout_embed", dropout_embed)
        check("dropout_hidden", dropout_hidden)
        windows.check(scope, length)
        self.dim = dim
        self.length = length
        self.scope: Scope = scope
        self.dropout_embed = dropout_embed
        self.dropout_hidden = dropout_hidden
        generator = Generator().manual_seed(seed)
        self.items = ItemVectors(catalog, dim, generator)
        self.layers = nn.ModuleList(Layer(dim, generator) for _ in range(layers))

    def forward(self, history: History, generator: Generator | None = None) -> Tensor:
        """State after the newest click of each row, [B, D]; zero where there is no click.

        Args:
            generator: where dropout draws from; None = no dropout.
        """
        packed = pack(history, self.scope, self.length)
        hidden = self._hidden(history, packed, generator)
        # One more row of zeros stands for "no click".
        return F.pad(hidden, (0, 0, 0, 1))[packed.newest]

    def states(self, history: History, generator: Generator | None = None) -> Tensor:
        """State after each click, [B, L, D], in the places of `history.items`; zero where there is no click."""
        packed = pack(history, self.scope, self.length)
        hidden = self._hidden(history, packed, generator)
        shape = history.items.shape
        return hidden.new_zeros(shape.numel(), self.dim).index_copy(0, packed.token, hidden).view(*shape, self.dim)

    def run(
        self,
        vectors: Tensor,
        sizes: Sequence[int],
        generator: Generator | None = None,
        start: Sequence[Tensor] | None = None,
        goes_on: Tensor | None = None,
    ) -> list[Tensor]:
        """States of every layer after each of T clicks, each [T, D]; those of the last layer are the encoding.

        Args:
            vectors: [T, D] of the clicked items, step by step, see `streamrec.nn.recurrence.gru`.
            sizes: rows at each step.
            generator: where dropout draws from; None = no dropout.
            start: states of each layer [sizes[0], D] that the rows start from, None = 0. No gradient flows into them.
            goes_on: [T, 1] 0 for clicks that begin a session, 1 for others; None = all 1.
        """
        x, states = dropout(vectors, self.dropout_embed, generator), []
        for at, layer in enumerate(self.layers):
            x = layer(x, sizes, self.dropout_hidden, generator, None if start is None else start[at], goes_on)
            states.append(x)
        return states

    def _hidden(self, history: History, packed: Packed, generator: Generator | None) -> Tensor:
        return self.run(self.items(history.items.flatten()[packed.token]), packed.sizes, generator)[-1]


FEW = 32
"""Rows up to which a served state takes a quarter of the time in torch's own recurrence."""


class Layer(nn.Module):
    """One GRU layer over packed tokens. Gates in the order r, z, n."""

    def __init__(self, dim: int, generator: Generator) -> None:
        super().__init__()
        self.weight_input = nn.Parameter(torch.cat([uniform(dim, dim, generator) for _ in range(3)]))
        self.weight_hidden = nn.Parameter(torch.cat([uniform(dim, dim, generator) for _ in range(3)]))
        self.bias_input = nn.Parameter(torch.zeros(3 * dim))
        self.bias_hidden = nn.Parameter(torch.zeros(3 * dim))

    def forward(
        self,
        x: Tensor,
        sizes: Sequence[int],
        p: float,
        generator: Generator | None,
        start: Tensor | None = None,
        goes_on: Tensor | None = None,
    ) -> Tensor:
        """[T, D] -> [T, D]; see `streamrec.nn.recurrence.gru` for `start` and `goes_on`."""
        keep = None if generator is None or p == 0.0 else mask(x.shape, p, generator, x.device)
        plain = keep is None and start is None and goes_on is None
        if plain and sizes and sizes[0] <= FEW and x.is_cpu and not torch.is_grad_enabled():
            return self._few(x, sizes)
        gates = affine(x, self.weight_input, self.bias_input)
        return gru(gates, self.weight_hidden, self.bias_hidden, sizes, keep, start, goes_on)

    def _few(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """The same from torch's own recurrence, whose steps begin sooner; ours is the faster one for many rows.

        Not for states that were carried: its sums depend on where in memory they lie, and resuming changes that.
        """
        begin = x.new_zeros(1, sizes[0], self.weight_hidden.shape[1])
        weights: list[Tensor] = [self.weight_input, self.weight_hidden, self.bias_input, self.bias_hidden]
        states, _ = torch.gru(x, torch.tensor(sizes), begin, weights, True, 1, 0.0, False, False)
        return states


@dataclass
class Packed:
    """Where the T clicks of B windows stand when they are laid out step by step, longest row first."""

    token: Tensor  # [T] int64, place of each click in the flattened [B * L] windows
    sizes: list[int]  # rows at each step
    newest: Tensor  # [B] int64, token of each row's newest click, T where there is none


def pack(history: History, scope: Scope, length: int | None) -> Packed:
    """Lay out the part of the windows that `scope` and `length` choose; see `streamrec.nn.recurrence`."""
    many = windows.lengths(history, scope, length)
    width = history.items.shape[1]
    order = torch.argsort(many, descending=True, stable=True)
    ordered = many[order]
    step = torch.arange(int(ordered[0]) if len(ordered) else 0, device=many.device).unsqueeze(1)
    live = step < ordered  # [steps, B]
    place = order * width + width - ordered + step
    sizes = live.sum(1)
    start = F.pad(sizes.cumsum(0), (1, 0))  # token at which each step begins
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    newest = torch.where(many > 0, start[(many - 1).clamp(min=0)] + rank, start[-1])
    return Packed(place[live], sizes.tolist(), newest)
