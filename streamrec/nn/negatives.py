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

    def draw(self, n: int, generator: Generator) -> Tensor:
        """`n` items with replacement, [n] int64."""
        point = torch.rand(n, dtype=torch.float64, generator=generator, device=generator.device).to(self.table.device)
        # Rounding can put a point on the total, behind every item.
        return torch.minimum(torch.searchsorted(self.table, point * self.table[-1], right=True), self.last)


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
