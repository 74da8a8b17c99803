"""NARM: a recurrent network over the session whose states are read a second time with attention."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.encoders.gru4rec import pack
from streamrec.nn import windows
from streamrec.nn.dropout import check, dropout
from streamrec.nn.items import ItemVectors, uniform
from streamrec.nn.recurrence import gru
from streamrec.nn.windows import Scope
from streamrec.records import History


class NARM(nn.Module):
    """The neural attentive recommendation machine of Li et al. (CIKM 2017).

    A GRU runs over the session. Its newest state h_t is what the user does (global encoder); the sum of all states h_j
    weighted by softmax_j(v . sigmoid(A1 h_t + A2 h_j)) is what she is after (local encoder). Both are joined and mapped
    to the width of the item vectors by a matrix B, so that the score of item i is emb_i . B [h_t, c_t]: the bilinear
    decoder of the paper (eq. 10), with `NextItem` around it.

    As in the authors' code (lijingsong/sessionRec_NARM) one GRU serves both encoders, weights are normalised over the
    clicks that are there (the paper's eq. 7 leaves that open), the newest 19 clicks are read, and .25 of the item
    vectors and .5 of the joined vector are dropped.

    Departures from it: a logistic sigmoid, as in the paper, where the code has a piecewise linear one; weights start
    uniform within +-sqrt(6 / (rows + cols)) instead of normal and orthogonal; `NextItem` adds a bias per item.

    Args:
        catalog: capacity of the item table.
        dim: width D of item vectors.
        hidden: width of the GRU's states.
        dropout_embed: chance that a component of an item vector is dropped.
        dropout_hidden: chance that a component of the joined vector is dropped.
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
        dim: int = 50,
        hidden: int = 100,
        dropout_embed: float = 0.25,
        dropout_hidden: float = 0.5,
        length: int | None = 19,
        scope: Scope = "session",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}")
        check("dropout_embed", dropout_embed)
        check("dropout_hidden", dropout_hidden)
        windows.check(scope, length)
        self.dim, self.hidden, self.length = dim, hidden, length
        self.scope: Scope = scope
        self.dropout_embed, self.dropout_hidden = dropout_embed, dropout_hidden
        generator = Generator().manual_seed(seed)
        self.items = ItemVectors(catalog, dim, generator)
        self.weight_input = nn.Parameter(torch.cat([uniform(hidden, dim, generator) for _ in range(3)]))
        self.weight_hidden = nn.Parameter(torch.cat([uniform(hidden, hidden, generator) for _ in range(3)]))
        self.bias_input = nn.Parameter(torch.zeros(3 * hidden))
        self.bias_hidden = nn.Parameter(torch.zeros(3 * hidden))
        self.newest = nn.Parameter(uniform(hidden, hidden, generator))  # A1
        self.each = nn.Parameter(uniform(hidden, hidden, generator))  # A2
        self.energy = nn.Parameter(uniform(1, hidden, generator))  # v
        self.decoder = nn.Parameter(uniform(dim, 2 * hidden, generator))  # B

    def forward(self, history: History, generator: Generator | None = None) -> Tensor:
        """Vector of the session at its newest click, [B, D]; zero where there is no click.

        Args:
            generator: where dropout draws from; None = no dropout.
        """
        hidden, live = self._hidden(history, generator)
        if not hidden.shape[1]:
            return hidden.new_zeros(len(history), self.dim)
        joined = self._joined(hidden[:, -1:], hidden, live.unsqueeze(1), generator)
        return (joined * live[:, -1:, None]).squeeze(1)

    def states(self, history: History, generator: Generator | None = None) -> Tensor:
        """Vector of the session at each click, [B, L, D], in the places of `history.items`; zero without a click."""
        hidden, live = self._hidden(history, generator)
        width = hidden.shape[1]
        earlier = torch.ones(width, width, dtype=torch.bool, device=live.device).tril()
        joined = self._joined(hidden, hidden, live.unsqueeze(1) & earlier, generator)
        return F.pad(joined * live.unsqueeze(2), (0, 0, history.items.shape[1] - width, 0))

    def attention(self, history: History) -> Tensor:
        """How much the newest state reads of each click, [B, L]: rows sum to 1, or 0 without a click."""
        hidden, live = self._hidden(history, None)
        weights = self._weights(hidden[:, -1:], hidden, live.unsqueeze(1)).flatten(1)
        return F.pad(weights, (history.items.shape[1] - hidden.shape[1], 0))

    def _hidden(self, history: History, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """States of the GRU [B, W, H] and where there are clicks [B, W]; W is the longest row."""
        packed = pack(history, self.scope, self.length)
        vectors = dropout(self.items(history.items.flatten()[packed.token]), self.dropout_embed, generator)
        gates = F.linear(vectors, self.weight_input, self.bias_input)
        states = gru(gates, self.weight_hidden, self.bias_hidden, packed.sizes)
        rows, length = history.items.shape
        wide = states.new_zeros(rows * length, self.hidden).index_copy(0, packed.token, states)
        width = len(packed.sizes)
        many = windows.lengths(history, self.scope, self.length)
        live = torch.arange(width, 0, -1, device=many.device) <= many.unsqueeze(1)
        return wide.view(rows, length, self.hidden)[:, length - width :], live

    def _weights(self, newest: Tensor, hidden: Tensor, visible: Tensor) -> Tensor:
        """[B, Q, W] of the states `newest` [B, Q, H] that read `hidden` [B, W, H] where `visible` [B, Q, W]."""
        one, other = F.linear(newest, self.newest), F.linear(hidden, self.each)
        energy = F.linear((one.unsqueeze(2) + other.unsqueeze(1)).sigmoid(), self.energy).squeeze(3)
        # A finite floor, not -inf: where nothing is visible there must be zeros, not NaN.
        return energy.masked_fill(~visible, torch.finfo(energy.dtype).min).softmax(2) * visible

    def _joined(self, newest: Tensor, hidden: Tensor, visible: Tensor, generator: Generator | None) -> Tensor:
        """[B, Q, D]."""
        local = self._weights(newest, hidden, visible) @ hidden
        return F.linear(dropout(torch.cat([newest, local], dim=2), self.dropout_hidden, generator), self.decoder)
