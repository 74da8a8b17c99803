"""What metrics know of items: how many there are, what they are like, to which categories they belong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Items:
    """Tables by catalogue row; row 0 is no item."""

    size: int  # largest catalogue row
    features: NDArray[np.float64] | None  # [size + 1, D] of length 1, or 0 where nothing is known
    categories: NDArray[np.int64] | None  # [size + 1, M] above 0, 0 = none

    @classmethod
    def of(cls, size: int, features: ArrayLike | None, categories: ArrayLike | None) -> Items:
        """Checked.

        Args:
            size: largest catalogue row.
            features: [size + 1, D] numbers, any scale: angles count.
            categories: [size + 1], or [size + 1, M] where items have several, filled up with 0; one of an item's must
                not come twice.

        Raises:
            ValueError: a table of another length, numbers that are not finite, categories below 0 or repeated.
        """
        if size < 1:
            raise ValueError(f"items must be the largest catalogue row, at least 1, got {size}")
        return cls(
            size,
            None if features is None else _unit(_rows(np.asarray(features, dtype=np.float64), size)),
            None if categories is None else _sets(_rows(np.asarray(categories, dtype=np.int64), size)),
        )


def _rows(table: NDArray[Any], size: int) -> NDArray[Any]:
    wide = table[:, None] if table.ndim == 1 else table
    if wide.ndim != 2 or len(wide) != size + 1:
        raise ValueError(f"an item table must have {size} + 1 rows, row 0 for no item, got shape {table.shape}")
    return wide


def _unit(features: NDArray[np.float64]) -> NDArray[np.float64]:
    if not np.isfinite(features).all():
        raise ValueError("item features must be finite; use 0 where nothing is known")
    length = np.sqrt((features * features).sum(1, keepdims=True))
    unit: NDArray[np.float64] = np.divide(features, length, out=np.zeros_like(features), where=length > 0)
    return unit


def _sets(categories: NDArray[np.int64]) -> NDArray[np.int64]:
    ordered = np.sort(categories, axis=1)
    if ordered.size and ordered.min() < 0:
        raise ValueError("categories must be above 0, or 0 for none")
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any():
        raise ValueError("an item has a category twice; name each once and fill up with 0")
    return categories
