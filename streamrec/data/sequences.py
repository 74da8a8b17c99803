"""Click sequences as two tensors, for training and measuring next-item models on whole logs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamrec.catalog import Catalog
from streamrec.data.formats import BadLog
from streamrec.records import History


@dataclass(frozen=True)
class Sequences:
    """S sequences of clicks (sessions, or users), one after the other, T clicks in total.

    Sequence s is `items[starts[s]:starts[s + 1]]`, oldest click first. Sequences stand in the order in which they
    began; they may be empty.
    """

    items: Tensor  # [T] int64, catalogue rows
    starts: Tensor  # [S + 1] int64, from 0 to T, never falling
    period: Tensor | None = None  # [S] int64, the period a sequence belongs to, where the data have periods

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> Sequences:
        """Sequences of catalogue rows written out."""
        rows = list(rows)
        flat = [item for row in rows for item in row]
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        return cls(torch.tensor(flat, dtype=torch.int64), _starts(lengths))

    @classmethod
    def cat(cls, parts: Sequence[Sequences]) -> Sequences:
        """The sequences of all parts, in order; `period` is kept where all parts have it.

        Raises:
            ValueError: there are no parts.
        """
        if not parts:
            raise ValueError("Sequences.cat needs at least one part, got none")
        periods = [part.period for part in parts if part.period is not None]
        return cls(
            torch.cat([part.items for part in parts]),
            _starts(torch.cat([part.lengths for part in parts])),
            torch.cat(periods) if len(periods) == len(parts) else None,
        )

    def __len__(self) -> int:
        """S."""
        return len(self.starts) - 1

    @property
    def lengths(self) -> Tensor:
        """[S] int64, clicks of each sequence."""
        return self.starts.diff()

    def to(self, device: torch.device | str) -> Sequences:
        period = None if self.period is None else self.period.to(device)
        return Sequences(self.items.to(device), self.starts.to(device), period)

    def select(self, index: Tensor | slice) -> Sequences:
        """The sequences at `index`: [S] bool, [M] int64 in any order, or a slice."""
        rows = torch.arange(len(self), device=self.starts.device)[index]
        lengths = self.lengths[rows]
        starts = _starts(lengths)
        offset = torch.repeat_interleave(self.starts[rows] - starts[:-1], lengths)
        items = self.items[offset + torch.arange(len(offset), device=offset.device)]
        return Sequences(items, starts, None if self.period is None else self.period[rows])

    def only(self, known: Tensor) -> Sequences:
        """The same S sequences without the clicks on items that are not `known` [rows] bool: gaps close."""
        keep = known.to(self.items.device)[self.items]
        before = torch.nn.functional.pad(keep.cumsum(0), (1, 0))
        return replace(self, items=self.items[keep], starts=before[self.starts])

    def older(self, clicks: int) -> Sequences:
        """The same S sequences without their newest `clicks`: what is left when these are held out."""
        age = torch.repeat_interleave(self.starts[1:], self.lengths) - torch.arange(len(self.items)).to(self.starts)
        kept = (self.lengths - clicks).clamp(min=0)
        return replace(self, items=self.items[age > clicks], starts=_starts(kept))

    def support(self, size: int) -> Tensor:
        """How often each catalogue row was clicked, [size] int64."""
        return torch.bincount(self.items, minlength=size)

    def clicks(self) -> tuple[Tensor, Tensor]:
        """Every click that has one before it, as (rows, ends) for `prefixes`: [M] int64 each, in order."""
        lengths = self.lengths
        rows = torch.repeat_interleave(torch.arange(len(self), device=lengths.device), lengths)
        ends = torch.arange(len(rows), device=rows.device) - self.starts[rows]
        later = ends > 0
        return rows[later], ends[later]

    def history(self, rows: Tensor, length: int | None = None) -> History:
        """Windows that end at the newest click of sequences `rows` [B].

        Args:
            rows: [B] int64; they stand in `History.user` too.
            length: width L of the windows, None = as wide as the longest of these sequences.

        Returns:
            B rows; `items` [B, L] int32 right-aligned, 0 on the left; `in_session` counts the whole sequence.
        """
        return self._windows(rows, self.lengths[rows], length)

    def prefixes(self, rows: Tensor, ends: Tensor, length: int | None = None) -> tuple[History, Tensor]:
        """What was known before a click, and the click.

        Args:
            rows: [B] int64, sequences.
            ends: [B] int64, which click of the sequence is the target, counted from 0; that many are before it.
            length: width L of the windows, None = as wide as the longest prefix.

        Returns:
            Histories of the clicks before `ends`, and the targets [B] int64.

        Raises:
            ValueError: a sequence has no click at that place.
        """
        wrong = (ends < 0) | (ends >= self.lengths[rows])
        if wrong.any():
            at = int(wrong.nonzero()[0])
            row, end = int(rows[at]), int(ends[at])
            raise ValueError(f"ends must be below the length of the sequence, {int(self.lengths[row])}, got {end}")
        return self._windows(rows, ends, length), self.items[self.starts[rows] + ends]

    def _windows(self, rows: Tensor, many: Tensor, length: int | None) -> History:
        if length is None:
            length = int(many.max()) if len(many) else 0
        first = self.starts[rows].unsqueeze(1)
        place = first + many.unsqueeze(1) - length + torch.arange(length, device=rows.device)
        items = self.items[place.clamp(min=0)] if len(self.items) else torch.zeros_like(place)
        items = torch.where(place >= first, items, 0)
        return History.of(user=rows, key=rows, items=items.int(), in_session=many)


def _starts(lengths: Tensor) -> Tensor:
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0))


# --- readers -----------------------------------------------------------------------------------------------------


def read_sessions(
    path: Path | str,
    catalog: Catalog,
    session: str = "SessionId",
    item: str = "ItemId",
    order: str | None = "Time",
    period: str | None = None,
) -> Sequences:
    """Read a table with one row per click.

    Args:
        path: .parquet, .csv or .tsv/.txt (tab between the columns); text may be compressed (.gz, .bz2, .xz, .zip).
        catalog: gets a row for every new item.
        session: column that says which sequence a click belongs to. Its rows need not stand together.
        item: column with the item id.
        order: column that clicks are sorted by, a number or an ISO time; equal values keep the order of the file.
            None = the order of the file.
        period: column with a whole number; a sequence belongs to the period of its newest click.

    Returns:
        Sequences in the order of their first clicks.

    Raises:
        BadLog: a column is missing, a value is missing or of the wrong kind, or the catalogue is full.
    """
    path = Path(path)
    wanted = {"session": session, "item": item, "order": order, "period": period}
    table = _table(path, {role: name for role, name in wanted.items() if name is not None})
    sessions, items = _ids(path, table[session], session), _ids(path, table[item], item)
    ordered = None if order is None else _numbers(path, table[order], order)
    periods = None if period is None else _numbers(path, table[period], period)
    return _grouped(path, sessions, items, catalog, ordered, periods)


def read_lines(path: Path | str, catalog: Catalog) -> Sequences:
    """Read "sequence item" lines, blanks between the two, clicks in order (as in ml-1m.txt of SASRec).

    Raises:
        BadLog: a line with more or fewer than two words, or the catalogue is full.
    """
    path = Path(path)
    names = ["sequence", "item", "more"]
    try:
        table = pd.read_csv(path, sep=r"\s+", header=None, names=names, dtype=str, keep_default_na=False, quoting=3)
    except FileNotFoundError as error:
        raise BadLog(path, "there is no such file") from error
    except pd.errors.ParserError as error:
        raise BadLog(path, f"expected two words on every line, a sequence and an item: {error}") from error
    table = table.fillna("")
    wrong = ((table["item"] == "") | (table["more"] != "")).to_numpy()
    if wrong.any():
        at = int(np.argmax(wrong))
        words = [word for word in table.iloc[at] if word]
        raise BadLog(path, f"expected two words on every line, a sequence and an item, got {words}", row=at + 1)
    return _grouped(path, table["sequence"], table["item"], catalog, None, None)


def read_periods(paths: Sequence[Path | str], catalog: Catalog) -> Sequences:
    """Read one file of "sequence item" lines per period; an id that comes again in a later file is a new sequence.

    Raises:
        BadLog: see `read_lines`.
        ValueError: no files.
    """
    parts = [read_lines(path, catalog) for path in paths]
    return Sequences.cat([replace(part, period=torch.full((len(part),), at)) for at, part in enumerate(parts)])


def _table(path: Path, wanted: dict[str, str]) -> pd.DataFrame:
    columns = list(dict.fromkeys(wanted.values()))
    suffixes = [s for s in path.suffixes if s not in (".gz", ".bz2", ".xz", ".zip", ".zst")]
    suffix = suffixes[-1] if suffixes else ""
    try:
        if suffix in (".parquet", ".pq"):
            import pyarrow.parquet as pq

            _all_there(path, pq.read_schema(path).names, wanted)
            return pd.read_parquet(path, columns=columns)
        separator = "," if suffix == ".csv" else "\t"
        names = pd.read_csv(path, sep=separator, nrows=0).columns
        _all_there(path, [str(name) for name in names], wanted)
        return pd.read_csv(path, sep=separator, usecols=columns, dtype=str, keep_default_na=False, na_values=[])
    except FileNotFoundError as error:
        raise BadLog(path, "there is no such file") from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise BadLog(path, f"expected a table with the columns {columns}: {error}") from error


def _all_there(path: Path, names: Sequence[str], wanted: dict[str, str]) -> None:
    for role, name in wanted.items():
        if name not in names:
            raise BadLog(path, f"expected a column with the {role}, found {list(names)}", column=name)


def _ids(path: Path, column: pd.Series[Any], name: str) -> pd.Series[Any]:
    """Checked ids, as they are; anything but text and whole numbers is refused, since 7 and 7.0 would be two items."""
    if not (pd.api.types.is_integer_dtype(column) or pd.api.types.is_string_dtype(column)):
        raise BadLog(path, f"expected ids, text or whole numbers, got {column.dtype}", column=name)
    missing = column.isna()
    if pd.api.types.is_string_dtype(column):
        missing |= column == ""
    if missing.any():
        raise BadLog(path, "expected an id, got nothing", row=int(np.argmax(missing.to_numpy())) + 1, column=name)
    return column


def _numbers(path: Path, column: pd.Series[Any], name: str) -> NDArray[Any]:
    """Numbers of a column, times as nanoseconds."""
    if pd.api.types.is_datetime64_any_dtype(column):
        values = column
    else:
        values = pd.to_numeric(column, errors="coerce")
        if len(values) and values.isna().all():
            values = pd.to_datetime(column, errors="coerce", format="ISO8601", utc=True)
    missing = values.isna().to_numpy()
    if missing.any():
        at = int(np.argmax(missing))
        raise BadLog(path, f"expected a number or an ISO time, got {column.iloc[at]!r}", row=at + 1, column=name)
    return values.to_numpy() if pd.api.types.is_numeric_dtype(values) else values.astype("int64").to_numpy()


def _grouped(
    path: Path,
    sessions: pd.Series[Any],
    items: pd.Series[Any],
    catalog: Catalog,
    order: NDArray[Any] | None,
    periods: NDArray[Any] | None,
) -> Sequences:
    by_time = np.arange(len(sessions)) if order is None else np.argsort(order, kind="stable")
    # Codes in the order of first appearance: sequences come out in the order in which they began.
    code, _ = pd.factorize(sessions.iloc[by_time])
    by_session = np.argsort(code, kind="stable")
    rows = _rows(path, items.iloc[by_time], catalog)[by_session]
    starts = _starts(torch.from_numpy(np.bincount(code)) if len(code) else torch.zeros(0, dtype=torch.int64))
    period = None
    if periods is not None:
        whole = periods[by_time][by_session].astype(np.int64)
        period = torch.from_numpy(whole)[starts[1:] - 1]
    return Sequences(torch.from_numpy(rows), starts, period)


def _rows(path: Path, items: pd.Series[Any], catalog: Catalog) -> NDArray[np.int64]:
    code, ids = pd.factorize(items)
    known = catalog.rows([str(item) for item in ids])
    if (known == 0).any():
        raise BadLog(
            path,
            f"there are more items than catalog.capacity={catalog.capacity}: "
            f"{int((known == 0).sum())} of {len(ids)} found no row",
        )
    rows: NDArray[np.int64] = known.numpy()[code]
    return rows
