"""Caser: convolutions over the newest clicks as over an image, beside a vector of the user."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.models.next_item import NextItem, Objective
from streamrec.nn import windows
from streamrec.nn.dropout import check, dropout
from streamrec.nn.items import ItemVectors, uniform
from streamrec.nn.windows import Scope
from streamrec.records import History


class Caser(NextItem):
    """The convolutional sequence embedding model of Tang & Wang (WSDM 2018).

    The vectors of the newest `window` clicks form an image of `window` x D. Horizontal filters of every height see
    items next to each other in their order; of each the largest answer counts. Vertical filters are weighted sums of
    the clicks. A layer of width D makes z of both, and item j is scored w_j . [z, p_u] + b_j with p_u a vector of the
    user and w_j of width 2 D: input and output have item tables of their own (eq. 2 to 10).

    Departures from the authors' code (graytowne/caser_pytorch): users share `users` vectors by a hash of their id,
    since nobody knows in a stream how many there will be; places before the first click are zero, where theirs have a
    trained vector; a click is predicted from those before it alone (they predict the next three at once); negatives
    are those of `NextItem`, shared by the batch, where they draw three for each click.

    Args:
        catalog: which rows are in use.
        dim: width D of item and user vectors.
        window: the newest clicks read, their L.
        horizontal: filters of each height 1 to `window`.
        vertical: filters over all heights.
        users: vectors for users, 0 = none: scores then depend on the clicks alone.
        dropout: chance that an output of the convolutions is dropped.
        scope: "session" reads the running session only, "user" all that the history holds.
        loss: as in `NextItem`; the paper's is "bce".
        n_sample: as in `NextItem`.
        sample_alpha: as in `NextItem`; the paper draws uniformly, 0.
        seed: start of the weights, negatives and dropout.
        device: where the weights live.

    Raises:
        ValueError: if a setting is out of its range.
    """

    encoder: _Convolutions

    def __init__(
        self,
        catalog: Catalog,
        dim: int = 50,
        window: int = 5,
        horizontal: int = 16,
        vertical: int = 4,
        users: int = 8192,
        dropout: float = 0.5,
        scope: Scope = "user",
        loss: Objective = "bce",
        n_sample: int | None = 512,
        sample_alpha: float = 0.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        encoder = _Convolutions(catalog, dim, window, horizontal, vertical, users, dropout, scope, seed)
        super().__init__(encoder, catalog, loss, n_sample, sample_alpha, calibration=0.0, seed=seed, device=device)


class _Convolutions(nn.Module):
    """[z, p_u] of histories, [B, 2 D], or z alone [B, D] without users; `items` is the output table."""

    reads: tuple[str, ...] = ("items", "in_session", "key")

    def __init__(
        self,
        catalog: Catalog,
        dim: int,
        window: int,
        horizontal: int,
        vertical: int,
        users: int,
        p: float,
        scope: Scope,
        seed: int,
    ) -> None:
        super().__init__()
        for name, value in (("horizontal", horizontal), ("vertical", vertical), ("users", users)):
            if value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if horizontal + vertical == 0:
            raise ValueError("there must be horizontal or vertical filters, got none of both")
        check("dropout", p)
        windows.check(scope, window)
        self.length, self.users, self.p = window, users, p
        self.scope: Scope = scope
        self.dim = 2 * dim if users else dim
        generator = Generator().manual_seed(seed)
        self.inputs = ItemVectors(catalog, dim, generator)
        self.items = ItemVectors(catalog, self.dim, generator)
        heights = range(1, window + 1) if horizontal else ()
        self.filters = nn.ParameterList(
            uniform(horizontal, dim * height, generator).view(horizontal, dim, height) for height in heights
        )
        self.filter_bias = nn.ParameterList(torch.zeros(horizontal) for _ in heights)
        self.columns = nn.Parameter(uniform(vertical, window, generator))
        self.column_bias = nn.Parameter(torch.zeros(vertical))
        self.joined = nn.Parameter(uniform(dim, horizontal * len(heights) + vertical * dim, generator))
        self.joined_bias = nn.Parameter(torch.zeros(dim))
        self.user = nn.Parameter(torch.randn(max(users, 1), dim, generator=generator) / dim)

    def forward(self, history: History, generator: Generator | None = None) -> Tensor:
        """[B, width of `items`]; dropout draws from `generator`, None = no dropout."""
        newest = F.pad(history.items, (self.length, 0))[:, -self.length :]
        return self._encode(newest, windows.lengths(history, self.scope, self.length), history.key, generator)

    def states(self, history: History, generator: Generator | None = None) -> Tensor:
        """After each click, [B, L, width of `items`], in the places of `history.items`; zero without a click."""
        rows, width = history.items.shape
        seen = F.pad(history.items, (self.length - 1, 0)).unfold(1, self.length, 1).reshape(-1, self.length)
        many = windows.lengths(history, self.scope, None)
        many = (many.unsqueeze(1) - torch.arange(width - 1, -1, -1, device=many.device)).flatten()
        key = history.key.repeat_interleave(width)
        states = self._encode(seen, many.clamp(0, self.length), key, generator) * (many > 0).unsqueeze(1)
        return states.view(rows, width, self.dim)

    def _encode(self, items: Tensor, many: Tensor, key: Tensor, generator: Generator | None) -> Tensor:
        """Of windows `items` [B, window] with `many` [B] clicks each."""
        live = torch.arange(self.length, 0, -1, device=many.device) <= many.unsqueeze(1)
        x = self.inputs(items * live)  # [B, window, D]
        image = x.transpose(1, 2)
        parts = [
            F.conv1d(image, weight, bias).relu().amax(2)
            for weight, bias in zip(self.filters, self.filter_bias, strict=True)
        ]
        parts.append((self.columns @ x + self.column_bias.unsqueeze(1)).flatten(1))
        z = F.linear(dropout(torch.cat(parts, dim=1), self.p, generator), self.joined, self.joined_bias).relu()
        if not self.users:
            return z
        return torch.cat([z, F.embedding(key % self.users, self.user, sparse=True)], dim=1)
