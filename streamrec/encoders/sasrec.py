"""SASRec: self-attention over the clicks of a user."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.nn import windows
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

    Departure from the authors' code: it normalises the queries alone and adds the normalised queries back; here the
    whole input of a sub-layer is normalised and x itself is added, as the paper writes it.

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
        hidden = self._hidden(history, generator)
        return hidden[:, -1] if hidden.shape[1] else history.items.new_zeros(len(history), self.dim, dtype=torch.float)

    def states(self, history: History, generator: Generator | None = None) -> Tensor:
        """State at each click, [B, L, D], in the places of `history.items`; zero where there is no click."""
        hidden = self._hidden(history, generator)
        return F.pad(hidden, (0, 0, history.items.shape[1] - hidden.shape[1], 0))

    def _hidden(self, history: History, generator: Generator | None) -> Tensor:
        """[B, longest row, D]: columns in which no row has a click cost nothing."""
        many = windows.lengths(history, self.scope, self.length)
        longest = int(many.max()) if len(many) else 0
        age = torch.arange(longest - 1, -1, -1, device=many.device)
        live = age < many.unsqueeze(1)  # [B, longest]
        items = history.items[:, history.items.shape[1] - longest :]
        x = self.items(items * live) * self.dim**0.5 + self.positions[age]
        x = dropout(x, self.dropout, generator) * live.unsqueeze(2)
        for block in self.blocks:
            x = block(x, live, generator)
        hidden: Tensor = self.norm(x) * live.unsqueeze(2)
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

    def forward(self, x: Tensor, live: Tensor, generator: Generator | None) -> Tensor:
        """[B, L, D] -> [B, L, D]; `live` [B, L] says where clicks are."""
        x = x + dropout(self._attention(self.norm_attention(x), live, generator), self.p, generator)
        inner = dropout(F.relu(F.linear(self.norm_forward(x), self.inner, self.inner_bias)), self.p, generator)
        x = x + dropout(F.linear(inner, self.outer, self.outer_bias), self.p, generator)
        return x * live.unsqueeze(2)

    def _attention(self, x: Tensor, live: Tensor, generator: Generator | None) -> Tensor:
        rows, length, dim = x.shape
        parts = F.linear(x, self.queries_keys_values).view(rows, length, 3, self.heads, dim // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # [B, heads, L, D / heads] each
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        visible = causal & live[:, None, None, :]
        logits = query @ key.transpose(2, 3) * (dim // self.heads) ** -0.5
        # A finite floor, not -inf: a place without any click before it must give zeros, not NaN.
        weights = logits.masked_fill(~visible, torch.finfo(x.dtype).min).softmax(3) * visible
        mixed = dropout(weights, self.p, generator) @ value
        joined: Tensor = mixed.transpose(1, 2).reshape(rows, length, dim)
        return joined
