"""Negatives by popularity, counted while the stream goes by."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from streamrec.catalog import Catalog


class Frozen:
    """Draws with P ~ support^alpha from counts as they are now.

    Args:
        support: [N] how often each item occurred; those with 0 are not drawn.
        alpha: 0 draws uniformly, 1 by popularity.

    Raises:
        ValueError: if nothing was counted.
    """

    def __init__(self, support: Tensor, alpha: float) -> None:
        self.table = torch.where(support > 0, support.double().pow(alpha), 0.0).cumsum(0)
        if not len(self.table) or self.table[-1] == 0:
            raise ValueError("no item was counted yet: call count(items) before draw")
        self.last = torch.searchsorted(self.table, self.table[-1:])
        self._guide: Tensor | None = None  # item at the beginning of each of `_PLACES` equal parts, and at the end

    def draw(self, n: int, generator: Generator) -> Tensor:
        """`n` items with replacement, [n] int64."""
        point = torch.rand(n, dtype=torch.float64, generator=generator, device=generator.device).to(self.table.device)
        if n < _PLACES:
            return self._at(point)
        if self._guide is None:
            self._guide = self._at(torch.arange(_PLACES + 1, dtype=torch.float64, device=self.table.device) / _PLACES)
        # Most parts lie within one item: for these there is nothing to search (the guide table of Chen & Asau 1974).
        part = (point * _PLACES).long()
        items = self._guide.index_select(0, part)
        torn = (self._guide.index_select(0, part + 1) != items).nonzero().squeeze(1)
        return items.index_copy_(0, torn, self._at(point.index_select(0, torn)))

    def _at(self, point: Tensor) -> Tensor:
        """Items at points between 0 and 1."""
        # Rounding can put a point on the total, behind every item.
        return torch.minimum(torch.searchsorted(self.table, point * self.table[-1], right=True), self.last)


_PLACES = 131_072
"""Parts of the guide table."""


class Popularity(nn.Module):
    """How often each item was a target so far, and draws with P ~ support^alpha from that.

    The counts are a buffer of `capacity + 1` rows: they are saved with the model that owns them. `draw` makes the
    cumulative table anew each time; at 50 thousand items that takes under half a millisecond, and nothing can be stale.

    Args:
        catalog: gives the capacity.
    """

    support: Tensor  # [capacity + 1] int64

    def __init__(self, catalog: Catalog) -> None:
        super().__init__()
        self.register_buffer("support", torch.zeros(catalog.capacity + 1, dtype=torch.int64))

    def count(self, items: Tensor) -> None:
        """Add one for every entry of `items` [M] int64; repeated entries count each time."""
        self.support.index_add_(0, items, torch.ones_like(items))

    def recycle(self, rows: Tensor) -> None:
        """Forget the counts of items that are gone."""
        self.support[rows] = 0

    def recount(self, items: Tensor) -> None:
        """Forget all counts and count `items` [M] int64: for training on a log that is known as a whole."""
        self.support.zero_()
        self.count(items)

    def draw(self, n: int, alpha: float, generator: Generator) -> Tensor:
        """`n` items with P ~ support^alpha, with replacement, [n] int64. Items never counted are not drawn.

        Raises:
            ValueError: if nothing was counted yet.
        """
        return Frozen(self.support, alpha).draw(n, generator)

    def log_weight(self, items: Tensor, alpha: float) -> Tensor:
        """alpha * log(support) of `items` [M], float32: the log of their chance up to a constant."""
        return self.support[items].double().log().mul(alpha).float()
