"""The table of item vectors: allocated once for the whole capacity of the catalogue, trained by rows."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog


class ItemVectors(nn.Module):
    """One vector per catalogue row, [capacity + 1, dim]; row 0 ("no item") is zero and stays zero.

    The table never moves: an item that turns up gets a row that is already there, with a small random vector, and
    the rows of other items keep their bits. Gradients are sparse, so a training step costs what its batch touches,
    not what the catalogue could hold; train it with `streamrec.nn.adagrad.Adagrad`.

    The start is uniform within +-sqrt(6 / (rows + dim)), as in the authors' GRU4Rec (hidasib/GRU4Rec_PyTorch_Official),
    with rows = capacity + 1 in place of the number of items, which nobody knows in a stream.

    Args:
        catalog: gives the capacity; nothing else of it is used here.
        dim: width D of a vector.
        generator: where the start is drawn from.

    Raises:
        ValueError: if `dim` is below 1.
    """

    def __init__(self, catalog: Catalog, dim: int, generator: Generator) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"the width of item vectors must be at least 1, got dim={dim}")
        self.dim = dim
        table = uniform(catalog.capacity + 1, dim, generator)
        table[0] = 0.0
        self.weight = nn.Parameter(table)

    def forward(self, rows: Tensor) -> Tensor:
        """Vectors of `rows`: [...] integer -> [..., D]. The gradient is sparse; row 0 gets none."""
        return F.embedding(rows, self.weight, padding_idx=0, sparse=True)


def uniform(rows: int, cols: int, generator: Generator) -> Tensor:
    """[rows, cols] uniform within +-sqrt(6 / (rows + cols)) (Glorot & Bengio 2010, eq. 16)."""
    bound = (6.0 / (rows + cols)) ** 0.5
    return torch.empty(rows, cols).uniform_(-bound, bound, generator=generator)
