"""The network of DEERS: a stream and a tower for what was taken, another for what was passed over."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.encoders.gru4rec import pack
from streamrec.nn.items import ItemVectors, uniform
from streamrec.nn.recurrence import gru
from streamrec.nn.values import Dense
from streamrec.records import History


class Towers(nn.Module):
    """Q(s+, s-, a) of Zhao et al. (KDD 2018, figure 3): joint([f+([h+, e_a]), f-([h-, e_a])]).

    h+ and h- are the last states of two GRUs, with weights of their own, over the vectors of the items taken and of
    those skipped; f+ and f- are separate layers, and the item under judgement enters both. The two streams and the
    candidates share one item table.

    Args:
        catalog: capacity of the item table.
        dim: E, width of item vectors.
        hidden: H, width of the GRUs.
        towers: widths of the layers of each tower.
        joint: width of the layer over both.
        length: N, newest items read of each list.
        negatives: with the second stream and its tower. Off: the ablation -p.
        split: off = the ablation -f: one tower of twice the width over [h+, h-, e_a].
        recurrent: off = the ablation -t: means of item vectors in place of the GRUs.
        generator: start of the weights.

    Raises:
        ValueError: a width below 1, or no layer in the towers.
    """

    def __init__(
        self,
        catalog: Catalog,
        dim: int,
        hidden: int,
        towers: Sequence[int],
        joint: int,
        length: int,
        negatives: bool,
        split: bool,
        recurrent: bool,
        generator: Generator,
    ) -> None:
        super().__init__()
        if not towers or min(*towers, joint, hidden, dim) < 1:
            raise ValueError(
                f"widths must be at least 1 and towers need a layer, got towers={list(towers)}, joint={joint}, "
                f"hidden={hidden}, dim={dim}"
            )
        self.length, self.joined = length, negatives and not split
        self.items = ItemVectors(catalog, dim, generator)
        self.taken = Recurrent(dim, hidden, generator) if recurrent else Mean(dim)
        self.skipped = None if not negatives else Recurrent(dim, hidden, generator) if recurrent else Mean(dim)
        width = self.taken.width
        if self.joined:
            self.left = Tower(2 * width, dim, [2 * one for one in towers], generator)
        else:
            self.left = Tower(width, dim, towers, generator)
        self.right = Tower(width, dim, towers, generator) if negatives and split else None
        both = self.left.width + (self.right.width if self.right is not None else 0)
        self.joint = nn.Sequential(Dense(both, joint, generator), nn.ReLU(), Dense(joint, 1, generator))

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of `History` that are used."""
        return ("items",) if self.skipped is None else ("items", "skipped")

    def forward(self, history: History, items: Tensor) -> Tensor:
        """Values [B, C] of `items` [B, C]."""
        vectors = self.items(items)
        taken = self.taken(history.items[:, -self.length :], self.items)
        if self.skipped is None:
            return self._join(self.left(taken, vectors))
        skipped = self.skipped(history.skipped[:, -self.length :], self.items)
        if self.right is None:
            return self._join(self.left(torch.cat([taken, skipped], dim=1), vectors))
        return self._join(torch.cat([self.left(taken, vectors), self.right(skipped, vectors)], dim=2))

    def _join(self, x: Tensor) -> Tensor:
        value: Tensor = self.joint(x)
        return value.squeeze(2)


class Tower(nn.Module):
    """Layers with ReLU over [h, e_a]; the part of the first layer that reads h is computed once per user.

    Args:
        state: width of h.
        item: width of e_a.
        widths: of the layers.
        generator: start of the weights.
    """

    def __init__(self, state: int, item: int, widths: Sequence[int], generator: Generator) -> None:
        super().__init__()
        first = uniform(widths[0], state + item, generator)  # one layer over [h, e_a], its columns apart
        self.state = nn.Parameter(first[:, :state].contiguous())
        self.item = nn.Parameter(first[:, state:].contiguous())
        self.shift = nn.Parameter(torch.zeros(widths[0]))
        self.rest = nn.ModuleList(Dense(a, b, generator) for a, b in pairwise(widths))
        self.width = widths[-1]

    def forward(self, state: Tensor, items: Tensor) -> Tensor:
        """[B, S] and [B, C, E] -> [B, C, W]."""
        x = F.relu(F.linear(items, self.item) + F.linear(state, self.state, self.shift).unsqueeze(1))
        for layer in self.rest:
            x = F.relu(layer(x))
        return x


class Recurrent(nn.Module):
    """The last state of a GRU over the vectors of a window of items; zero where the window is empty.

    Args:
        dim: width of item vectors.
        hidden: width of the state.
        generator: start of the weights.
    """

    def __init__(self, dim: int, hidden: int, generator: Generator) -> None:
        super().__init__()
        self.width = hidden
        self.weight_input = nn.Parameter(torch.cat([uniform(hidden, dim, generator) for _ in range(3)]))
        self.weight_hidden = nn.Parameter(torch.cat([uniform(hidden, hidden, generator) for _ in range(3)]))
        self.bias_input = nn.Parameter(torch.zeros(3 * hidden))
        self.bias_hidden = nn.Parameter(torch.zeros(3 * hidden))

    def forward(self, window: Tensor, items: ItemVectors) -> Tensor:
        """[B, N] items, newest last, 0 = empty -> [B, H]."""
        packed = pack(History.of(user=window.new_zeros(len(window), dtype=torch.int64), items=window), "user", None)
        gates = F.linear(items(window.flatten()[packed.token]), self.weight_input, self.bias_input)
        hidden = gru(gates, self.weight_hidden, self.bias_hidden, packed.sizes)
        # One more row of zeros stands for the empty window.
        return F.pad(hidden, (0, 0, 0, 1))[packed.newest]


class Mean(nn.Module):
    """The mean vector of a window of items; zero where it is empty.

    Args:
        dim: width of item vectors.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.width = dim

    def forward(self, window: Tensor, items: ItemVectors) -> Tensor:
        """[B, N] items, 0 = empty -> [B, E]."""
        total: Tensor = items(window).sum(1)
        return total / (window != 0).sum(1, keepdim=True).clamp(min=1)
