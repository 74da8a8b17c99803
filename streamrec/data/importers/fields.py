"""Raw fields to ids, numbers and times, whole columns at a time; rows that do not fit are dropped with their cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamrec.data.importers.ledger import Page

Mask = NDArray[np.bool_]

NUMBER_ID = r"^[0-9]{1,20}$"
"""Ids of nearly all data sets are whole numbers."""

_WHOLE = r"^-?[0-9]{1,18}$"
_DECIMAL = r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?$"


class Fields:
    """The columns of one batch of an original file. A row is dropped once, for the first thing wrong with it.

    Args:
        batch: columns of bytes or text, as `streamrec.data.importers.text.batches` gives them; others are turned
            into text.
        page: the account that is told what was dropped.
    """

    def __init__(self, batch: pa.RecordBatch, page: Page) -> None:
        self._batch, self._page = batch, page
        self.number: NDArray[np.int64] = np.arange(page.parsed - batch.num_rows, page.parsed)
        """[rows] which row of the file this is, from 0."""
        self.good: Mask = np.ones(batch.num_rows, dtype=bool)

    def require(self, fits: Mask, cause: str) -> None:
        """Drop the rows where `fits` [rows] is false."""
        self._page.drop(cause, int((self.good & ~fits).sum()))
        self.good &= fits

    def raw(self, name: str) -> pa.Array:
        """[rows] bytes; nothing = b""."""
        column = self._batch.column(name)
        if not pa.types.is_binary(column.type):
            column = column.cast(pa.string()).cast(pa.binary())
        return pc.fill_null(column, b"")

    def text(self, name: str) -> pa.Array:
        """[rows] text; nothing = null. What is no UTF-8 is read as Latin-1, as old files are written."""
        raw = self.raw(name)
        try:
            text = raw.cast(pa.string())
        except pa.ArrowInvalid:
            text = pa.array([_decoded(value) for value in raw.to_pylist()], pa.string())
        return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)

    def texts(self, *names: str) -> dict[str, pa.Array]:
        """Columns as text under their own names."""
        return {name: self.text(name) for name in names}

    def has(self, name: str) -> bool:
        return name in self._batch.schema.names

    def matches(self, name: str, pattern: str) -> Mask:
        """[rows] bool."""
        found: Mask = pc.match_substring_regex(self.raw(name), pattern).to_numpy(zero_copy_only=False)
        return found

    def ids(self, name: str, pattern: str = NUMBER_ID, prefix: str = "") -> pa.Array:
        """[rows] text with `prefix` in front; rows that do not match `pattern` are dropped."""
        fits = self.matches(name, pattern)
        self.require(fits, f"{name}: no id")
        text = pc.if_else(pa.array(fits), self.raw(name), b"").cast(pa.string())
        return pc.binary_join_element_wise(prefix, text, "") if prefix else text

    def optional_ids(self, name: str, pattern: str = NUMBER_ID, prefix: str = "") -> pa.Array:
        """[rows] text with `prefix` in front; null where the field does not match `pattern`. Drops nothing."""
        fits = pa.array(self.matches(name, pattern))
        text = pc.if_else(fits, self.raw(name), b"").cast(pa.string())
        return pc.if_else(fits, pc.binary_join_element_wise(prefix, text, ""), pa.scalar(None, pa.string()))

    def whole(self, name: str, low: int | None = None, high: int | None = None) -> NDArray[np.int64]:
        """[rows] int64; rows without a whole number, or with one outside of `low` to `high`, are dropped."""
        fits = self.matches(name, _WHOLE)
        self.require(fits, f"{name}: no whole number")
        text = pc.if_else(pa.array(fits), self.raw(name), b"0").cast(pa.string())
        values: NDArray[np.int64] = text.cast(pa.int64()).to_numpy()
        self._within(name, values, low, high)
        return values

    def decimal(self, name: str, low: float | None = None, high: float | None = None) -> NDArray[np.float64]:
        """[rows] float64; rows without a number, or with one outside of `low` to `high`, are dropped."""
        fits = self.matches(name, _DECIMAL)
        self.require(fits, f"{name}: no number")
        text = pc.if_else(pa.array(fits), self.raw(name), b"0").cast(pa.string())
        values: NDArray[np.float64] = text.cast(pa.float64()).to_numpy()
        self.require(np.isfinite(values), f"{name}: no finite number")
        self._within(name, values, low, high)
        return values

    def _within(self, name: str, values: NDArray[Any], low: float | None, high: float | None) -> None:
        if low is not None:
            self.require(values >= low, f"{name}: below {low}")
        if high is not None:
            self.require(values <= high, f"{name}: above {high}")

    def moments(self, name: str, form: str) -> NDArray[np.float64]:
        """[rows] seconds since the epoch of written times, UTC where they say no zone; others are dropped.

        Args:
            name: the column.
            form: as for `pandas.to_datetime`.
        """
        fits = self.matches(name, r"^[\x20-\x7e]{1,64}$")
        text = pc.if_else(pa.array(fits), self.raw(name), b"").cast(pa.string())
        parsed = pd.to_datetime(text.to_pandas(), format=form, errors="coerce", utc=True)
        self.require(parsed.notna().to_numpy(bool), f"{name}: no time")
        micros = parsed.astype("datetime64[us, UTC]").astype("int64").to_numpy(np.int64)
        return np.asarray(np.where(parsed.notna(), micros, 0) / 1e6, dtype=np.float64)

    def one_of(self, name: str, meanings: Mapping[str, str]) -> pa.Array:
        """[rows] text: what each word means; rows with another word are dropped."""
        words = pa.array([word.encode() for word in meanings], pa.binary())
        at = pc.index_in(self.raw(name), value_set=words)
        self.require(at.is_valid().to_numpy(zero_copy_only=False), f"{name}: none of {', '.join(meanings)}")
        return pa.array(list(meanings.values()), pa.string()).take(at)

    def table(self, **columns: Any) -> pa.Table:
        """The columns, only the rows that are good. A text stands for the same text in every row."""
        size = len(self.good)
        arrays = {name: pa.repeat(value, size) if isinstance(value, str) else value for name, value in columns.items()}
        return pa.table(arrays).filter(pa.array(self.good))


def _decoded(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
