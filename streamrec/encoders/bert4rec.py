"""BERT4Rec: bidirectional self-attention over the clicks of a user, which fills in clicks that are hidden from it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.nn import windows
from streamrec.nn.attention import Packed, attend, pack
from streamrec.nn.dropout import check, dropout
from streamrec.nn.items import ItemVectors
from streamrec.nn.windows import Scope
from streamrec.records import History


class BERT4Rec(nn.Module):
    """The sequence encoder of Sun et al. (CIKM 2019): a click is predicted from the clicks on both sides of it.

    Item vectors plus position vectors, then LayerNorm and dropout, go through blocks of LayerNorm(x + dropout(f(x))),
    where f is attention to the whole row and then a feed-forward net of width 4 D with GELU; a dense layer with GELU
    and LayerNorm follows (section 3.3 to 3.5 of the paper, the last LayerNorm from its code, FeiSun/BERT4Rec). A hidden
    click has the vector of the mask in place of its own. The vector of a history is the output at a mask behind its
    newest click, as the authors predict. Train it with `streamrec.models.cloze.Cloze`.

    Departures from the authors' code: position 0 is the end of the row (there it is the start), so that a longer
    history leaves the positions of the newest clicks as they were; item vectors start as all item vectors here
    do (`ItemVectors`), the other weights normal with deviation .02 (there truncated at two deviations); dropouts of
    weights and of components are one number.

    Args:
        catalog: capacity of the item table.
        dim: width D of item vectors and states.
        blocks: attention blocks.
        heads: attention heads; must divide `dim`.
        dropout: chance of dropping a component of the input, an attention weight, or a component of a sub-layer.
        length: places of a row, the mask behind the newest click included; as many position vectors are learned.
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
        dim: int = 64,
        blocks: int = 2,
        heads: int = 2,
        dropout: float = 0.2,
        length: int = 50,
        scope: Scope = "user",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if blocks < 1:
            raise ValueError(f"BERT4Rec needs at least 1 block, got blocks={blocks}")
        if heads < 1 or dim % heads:
            raise ValueError(f"heads must divide dim, got heads={heads} and dim={dim}")
        check("dropout", dropout)
        if length < 2:
            raise ValueError(f"length must be at least 2, a click and the mask, got {length}")
        windows.check(scope, length)
        self.dim = dim
        self.length = length
        self.scope: Scope = scope
        self.dropout = dropout
        generator = Generator().manual_seed(seed)
        self.items = ItemVectors(catalog, dim, generator)
        self.mask = nn.Parameter(_normal(1, dim, generator)[0])
        self.positions = nn.Parameter(_normal(length, dim, generator))
        self.norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout, generator) for _ in range(blocks))
        self.out = Dense(dim, dim, generator)
        self.norm_out = nn.LayerNorm(dim)

    def forward(self, history: History, generator: Generator | None = None) -> Tensor:
        """Output at a mask behind the newest click of each row, [B, D]; zero where there is no click.

        Args:
            generator: where dropout draws from; None = no dropout.
        """
        some = windows.lengths(history, self.scope, self.length) > 0
        # Any item does in the place that is masked; a row without clicks does not get one.
        items = torch.cat([history.items, some.unsqueeze(1).to(history.items.dtype)], dim=1)
        asked = replace(history, items=items, in_session=torch.where(some, history.in_session + 1, 0))
        hidden = torch.zeros_like(items, dtype=torch.bool)
        hidden[:, -1] = True
        packed = pack(asked, self.scope, self.length)
        return F.pad(self._outputs(asked, packed, hidden, generator), (0, 0, 0, 1))[packed.newest]

    def states(self, history: History, generator: Generator | None = None) -> Tensor:
        """State after each click, [B, L, D], in the places of `history.items`; zero where there is no click.

        Each is the encoding of the clicks up to there by themselves: what sees both sides has no states that do not
        look ahead, so this costs as many encodings as there are clicks.
        """
        width = history.items.shape[1]
        packed = pack(history, self.scope, self.length)
        row, column = packed.token // max(width, 1), packed.token % max(width, 1)
        step = torch.arange(width, device=row.device) - (width - 1 - column).unsqueeze(1)
        prefixes = torch.where(step >= 0, history.items[row.unsqueeze(1), step.clamp(min=0)], 0)
        before = History.of(user=row, items=prefixes, in_session=history.in_session[row] - (width - 1 - column))
        out = history.items.new_zeros(len(history) * width, self.dim, dtype=torch.float)
        return out.index_copy(0, packed.token, self(before, generator)).view(len(history), width, self.dim)

    def fill(self, history: History, hidden: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Outputs at the clicks that are hidden, for `Cloze` to learn from.

        Args:
            hidden: [B, L] bool, the clicks that the encoder must not see; the mask stands in their place.
            generator: where dropout draws from; None = no dropout.

        Returns:
            [M, D] outputs and [M] int64, the places of these clicks in the flattened windows [B * L]. Hidden clicks
            outside what the encoder reads are left out.
        """
        packed = pack(history, self.scope, self.length)
        chosen = hidden.flatten()[packed.token].nonzero().squeeze(1)
        return self._outputs(history, packed, hidden, generator)[chosen], packed.token[chosen]

    def _outputs(self, history: History, packed: Packed, hidden: Tensor, generator: Generator | None) -> Tensor:
        """[T, D]"""
        masked = hidden.flatten()[packed.token]
        items = self.items(history.items.flatten()[packed.token] * ~masked)
        x = torch.where(masked.unsqueeze(1), self.mask, items) + self.positions[packed.age]
        x = dropout(self.norm(x), self.dropout, generator)
        for block in self.blocks:
            x = block(x, packed, generator)
        out: Tensor = self.norm_out(F.gelu(self.out(x)))
        return out


class Block(nn.Module):
    """Attention to the whole row and a feed-forward net, each LayerNorm(x + dropout(f(x)))."""

    def __init__(self, dim: int, heads: int, p: float, generator: Generator) -> None:
        super().__init__()
        self.heads = heads
        self.p = p
        self.queries_keys_values = Dense(dim, 3 * dim, generator)
        self.mixed = Dense(dim, dim, generator)
        self.norm_attention = nn.LayerNorm(dim)
        self.inner = Dense(dim, 4 * dim, generator)
        self.outer = Dense(4 * dim, dim, generator)
        self.norm_forward = nn.LayerNorm(dim)

    def forward(self, x: Tensor, packed: Packed, generator: Generator | None) -> Tensor:
        """[T, D] -> [T, D], clicks in the order of `packed`."""
        parts = self.queries_keys_values(x)
        mixed = self.mixed(attend(parts, packed, self.heads, causal=False, p=self.p, generator=generator))
        x = self.norm_attention(x + dropout(mixed, self.p, generator))
        out: Tensor = self.norm_forward(x + dropout(self.outer(F.gelu(self.inner(x))), self.p, generator))
        return out


class Dense(nn.Module):
    """W x + b, with a start of its own generator."""

    def __init__(self, inputs: int, outputs: int, generator: Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(_normal(outputs, inputs, generator))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return F.linear(x, self.weight, self.bias)


def _normal(rows: int, cols: int, generator: Generator) -> Tensor:
    return torch.empty(rows, cols).normal_(0.0, 0.02, generator=generator)
