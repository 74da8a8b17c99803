"""What was shown and how people reacted, row behind row as the event log wants it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def with_reactions(shown: pa.Table, slate: NDArray[np.int64], *reactions: tuple[str, NDArray[np.bool_]]) -> pa.Table:
    """The impressions of each slate followed by the reactions to them.

    Args:
        shown: [rows] what was shown, with `slate`, `slot` and `time`; impressions of a slate next to each other.
        slate: [rows] number of the slate, not falling.
        reactions: kind of a reaction, and [rows] bool: this slot had it. In a slate they follow in this order.
    """
    parts, order = [_of(shown, "impression")], [slate * (len(reactions) + 1)]
    for at, (kind, had) in enumerate(reactions, 1):
        parts.append(_of(shown.filter(pa.array(had)), kind))
        order.append(slate[had] * (len(reactions) + 1) + at)
    joined = pa.concat_tables(parts).combine_chunks()
    return joined.take(pa.array(np.argsort(np.concatenate(order), kind="stable")))


def _of(table: pa.Table, kind: str) -> pa.Table:
    """The rows as events of one kind; only an impression has a propensity."""
    table = table.append_column("kind", pa.repeat(kind, table.num_rows))
    if kind != "impression" and "propensity" in table.schema.names:
        at = table.schema.get_field_index("propensity")
        table = table.set_column(at, "propensity", pa.nulls(table.num_rows, pa.float64()))
    return table


class Once:
    """Tells which numbers have not come before: a slate whose id comes again would be shown in two places.

    Memory: 8 bytes per number.
    """

    def __init__(self) -> None:
        self._seen: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def new(self, numbers: NDArray[np.int64], good: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """[rows] bool: the first good row with this number. Rows that are not good do not count."""
        at = np.flatnonzero(good)
        unique, first = np.unique(numbers[at], return_index=True)
        fresh = ~np.isin(unique, self._seen, assume_unique=True)
        self._seen = np.sort(np.concatenate([self._seen, unique[fresh]]))
        new = np.zeros(len(numbers), dtype=bool)
        new[at[first[fresh]]] = True
        return new


def numbered(prefix: str, numbers: Any) -> pa.Array:
    """[rows] text: `prefix` and a number each."""
    return pc.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")
