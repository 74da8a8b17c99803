"""SASRec: self-attention over the clicks of a user."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.nn import windows
from streamrec.nn.attention import Packed, attend, pack
from streamrec.nn.dropout import check, dropout
from streamrec.nn.items import ItemVectors, uniform
from streamrec.nn.windows import Scope
from streamrec.records import History


class SASRec(nn.Module):
    """The sequence encoder of Kang & McAuley (ICDM 2018): causal self-attention with learned positions.

    Item vectors times sqrt(D) plus position vectors go through blocks of x + dropout(f(LayerNorm(x))), where f is
    causal attention and then a point-wise feed-forward net of width D (section III.B and eq. 5-6 of the paper); a last
    LayerNorm follows. Position 0 is the newest click: with windows that end at the newest click this is the paper's
    numbering backwards, and a longer window leaves the encoding of a short history as it was.

    Departures from the authors' code (kang205/SASRec): it normalises the queries alone and adds the normalised queries
    back; here the whole input of a sub-layer is normalised and x itself is added, as the paper writes it. Queries,
    keys and values are made without biases, as in the paper's eq. 3.

    The authors train it against one negative per click. With the cross-entropy over all items
    (`NextItem(loss="cross-entropy", n_sample=None)`) or with gBCE (loss="bce") the same net ranks far better (Petrov &
    Macdonald, RecSys 2023; Klenitskiy & Vasilev, RecSys 2023). Train it on whole sequences (`NextItem.sequence_loss`)
    with `streamrec.nn.adam.Adam`.

    Args:
        catalog: capacity of the item table.
        dim: width D of item vectors and states.
        blocks: attention blocks.
        heads: attention heads; must divide `dim`.
        dropout: chance of dropping a component of the input, an attention weight, or a component of a sub-layer.
        length: the newest clicks read; as many position vectors are learned.
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
        blocks: int = 2,
        heads: int = 1,
        dropout: float = 0.2,
        length: int = 50,
        scope: Scope = "user",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if blocks < 1:
            raise ValueError(f"SASRec needs at least 1 block, got blocks={blocks}")
        if heads < 1 or dim % heads:
            raise ValueError(f"heads must divide dim, got heads={heads} and dim={dim}")
        check("dropout", dropout)
        windows.check(scope, length)
        self.dim = dim
        self.length = length
        self.scope: Scope = scope
        self.dropout = dropout
        generator = Generator().manual_seed(seed)
        self.items = ItemVectors(catalog, dim, generator)
        self.positions = nn.Parameter(uniform(length, dim, generator))
        self.blocks = nn.ModuleList(Block(dim, heads, dropout, generator) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)

    def forward(self, history: History, generator: Generator | None = None) -> Tensor:
        """State at the newest click of each row, [B, D]; zero where there is no click.

        Args:
            generator: where dropout draws from; None = no dropout.
        """
        packed = pack(history, self.scope, self.length)
        # One more row of zeros stands for "no click".
        return F.pad(self._hidden(history, packed, generator), (0, 0, 0, 1))[packed.newest]

    def states(self, history: History, generator: Generator | None = None) -> Tensor:
        """State at each click, [B, L, D], in the places of `history.items`; zero where there is no click."""
        packed = pack(history, self.scope, self.length)
        hidden = self._hidden(history, packed, generator)
        shape = history.items.shape
        return hidden.new_zeros(shape.numel(), self.dim).index_copy(0, packed.token, hidden).view(*shape, self.dim)

    def _hidden(self, history: History, packed: Packed, generator: Generator | None) -> Tensor:
        """[T, D]"""
        items = self.items(history.items.flatten()[packed.token])
        x = dropout(items * self.dim**0.5 + self.positions[packed.age], self.dropout, generator)
        for block in self.blocks:
            x = block(x, packed, generator)
        hidden: Tensor = self.norm(x)
        return hidden


class Block(nn.Module):
    """Causal attention and a point-wise feed-forward net, each x + dropout(f(LayerNorm(x)))."""

    def __init__(self, dim: int, heads: int, p: float, generator: Generator) -> None:
        super().__init__()
        self.heads = heads
        self.p = p
        self.norm_attention = nn.LayerNorm(dim)
        self.norm_forward = nn.LayerNorm(dim)
        self.queries_keys_values = nn.Parameter(torch.cat([uniform(dim, dim, generator) for _ in range(3)]))
        self.inner = nn.Parameter(uniform(dim, dim, generator))
        self.inner_bias = nn.Parameter(torch.zeros(dim))
        self.outer = nn.Parameter(uniform(dim, dim, generator))
        self.outer_bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, packed: Packed, generator: Generator | None) -> Tensor:
        """[T, D] -> [T, D], clicks in the order of `packed`."""
        parts = F.linear(self.norm_attention(x), self.queries_keys_values)
        mixed = attend(parts, packed, self.heads, causal=True, p=self.p, generator=generator)
        x = x + dropout(mixed, self.p, generator)
        inner = dropout(F.relu(F.linear(self.norm_forward(x), self.inner, self.inner_bias)), self.p, generator)
        return x + dropout(F.linear(inner, self.outer, self.outer_bias), self.p, generator)
