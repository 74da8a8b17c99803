"""STAMP: what the session is about in general, times what was clicked last."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.nn import windows
from streamrec.nn.items import ItemVectors, uniform
from streamrec.nn.windows import Scope
from streamrec.records import History


class STAMP(nn.Module):
    """The short-term attention/memory priority model of Liu et al. (KDD 2018).

    With the vectors x_1 .. x_t of the clicks and their mean m_s, attention is a_i = w0 . sigmoid(W1 x_i + W2 x_t +
    W3 m_s + b) and m_a = sum_i a_i x_i + m_s. Then h_s = tanh(W_s m_a + b_s), h_t = tanh(W_t x_t + b_t), and the score
    of item j is the trilinear product <h_s, h_t, x_j>. So the vector of the session is h_s * h_t, and `NextItem` around
    it gives these scores. The attention is not normalised, in the paper as in the code.

    As in the authors' code (uestcnlp/STAMP) m_s is added to m_a, and scores go into the softmax as they are, where
    the paper squeezes them through a sigmoid first, which bounds the odds of any two items by e.

    Departures from it: item vectors longer than 1 are not cut; weights and vectors start uniform within
    +-sqrt(6 / (rows + cols)) instead of normal; `NextItem` adds a bias per item.

    Args:
        catalog: capacity of the item table.
        dim: width D of item vectors.
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
        length: int | None = None,
        scope: Scope = "session",
        seed: int = 0,
    ) -> None:
        super().__init__()
        windows.check(scope, length)
        self.dim, self.length = dim, length
        self.scope: Scope = scope
        generator = Generator().manual_seed(seed)
        self.items = ItemVectors(catalog, dim, generator)
        self.each, self.last, self.mean = (nn.Parameter(uniform(dim, dim, generator)) for _ in range(3))  # W1, W2, W3
        self.bias = nn.Parameter(torch.zeros(dim))
        self.energy = nn.Parameter(uniform(1, dim, generator))  # w0
        self.general, self.current = (nn.Parameter(uniform(dim, dim, generator)) for _ in range(2))  # W_s, W_t
        self.general_bias, self.current_bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, history: History, generator: Generator | None = None) -> Tensor:
        """Vector of the session at its newest click, [B, D]; zero where there is no click. Nothing is dropped."""
        x, live = self._clicks(history)
        if not x.shape[1]:
            return x.new_zeros(len(history), self.dim)
        return self._product(x[:, -1:], x, live.unsqueeze(1), live[:, -1:]).squeeze(1)

    def states(self, history: History, generator: Generator | None = None) -> Tensor:
        """Vector of the session at each click, [B, L, D], in the places of `history.items`; zero without a click."""
        x, live = self._clicks(history)
        width = x.shape[1]
        earlier = torch.ones(width, width, dtype=torch.bool, device=live.device).tril()
        states = self._product(x, x, live.unsqueeze(1) & earlier, live)
        return F.pad(states, (0, 0, history.items.shape[1] - width, 0))

    def attention(self, history: History) -> Tensor:
        """The weight of each click for the newest one, [B, L]; 0 where there is no click. Weights may be negative."""
        x, live = self._clicks(history)
        visible = live.unsqueeze(1)
        weights = self._weights(x[:, -1:], x, _mean(x, visible), visible).flatten(1)
        return F.pad(weights, (history.items.shape[1] - x.shape[1], 0))

    def _clicks(self, history: History) -> tuple[Tensor, Tensor]:
        """Vectors of the clicks [B, W, D] and where there are any [B, W]; W is the longest row."""
        many = windows.lengths(history, self.scope, self.length)
        width = int(many.max()) if len(many) else 0
        live = torch.arange(width, 0, -1, device=many.device) <= many.unsqueeze(1)
        return self.items(history.items[:, history.items.shape[1] - width :] * live), live

    def _weights(self, last: Tensor, x: Tensor, mean: Tensor, visible: Tensor) -> Tensor:
        """[B, Q, W]: of each click `x` [B, W, D], for the clicks `last` [B, Q, D] after means `mean` [B, Q, D]."""
        asked = F.linear(last, self.last) + F.linear(mean, self.mean, self.bias)
        inner = (F.linear(x, self.each).unsqueeze(1) + asked.unsqueeze(2)).sigmoid()
        return F.linear(inner, self.energy).squeeze(3) * visible

    def _product(self, last: Tensor, x: Tensor, visible: Tensor, live: Tensor) -> Tensor:
        """[B, Q, D]: h_s * h_t, zero where not `live` [B, Q]."""
        mean = _mean(x, visible)
        memory = self._weights(last, x, mean, visible) @ x + mean
        general = F.linear(memory, self.general, self.general_bias).tanh()
        return general * F.linear(last, self.current, self.current_bias).tanh() * live.unsqueeze(2)


def _mean(x: Tensor, visible: Tensor) -> Tensor:
    """Mean of the vectors `x` [B, W, D] that are `visible` [B, Q, W]: [B, Q, D]."""
    share = visible.to(x.dtype)
    return (share / share.sum(2, keepdim=True).clamp(min=1.0)) @ x
