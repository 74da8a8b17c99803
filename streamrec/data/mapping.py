"""Which column of a file, in which unit, is which column of an event: `"ms/1000"`, `"'click'"`, `"act[view:click]"`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamrec.data.formats import BadLog

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)|`(?P<quoted>[^`]+)`|(?P<name>[^\W\d][\w.]*)|(?P<sign>[-+*/]))"
)
_RENAMED = re.compile(r"\s*(?:`(?P<quoted>[^`]+)`|(?P<name>[^\[\]`]+?))\s*\[(?P<pairs>[^\[\]]*)\]\s*")
_FORMS = "a column, column[its word:ours, ...], 'text' in quotes, column*number, column/number, or a sum of such terms"


@dataclass
class Term:
    """`times / over * column`, or only `times / over` where `column` is None."""

    column: str | None = None
    times: float = 1.0
    over: float = 1.0  # kept apart: 1507/1000 is the nearest double, 1507*0.001 is not


@dataclass
class Expression:
    """One column of an event, computed from columns of a file.

    Attributes:
        constant: the same text in every row, else None.
        terms: the sum to compute where `constant` is None.
        words: texts of the column and what they are here; others stay as they are.
    """

    text: str
    constant: str | None
    terms: list[Term]
    words: dict[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        return [term.column for term in self.terms if term.column is not None]

    @property
    def is_column(self) -> bool:
        """One column as it is."""
        return bool(self.words) or (self.constant is None and self.terms == [Term(self.text.strip().strip("`"))])

    def texts(self, batch: pa.RecordBatch) -> pa.Array:
        """[rows] strings; null becomes "". Only for a column as it is or a constant."""
        if self.constant is not None:
            return pa.array(np.full(batch.num_rows, self.constant, dtype=object), pa.string())
        text = pc.fill_null(_plain(batch.column(self.columns[0])).cast(pa.string()), "")
        if not self.words:
            return text
        ours = pa.array(self.words.values(), pa.string())
        return pc.coalesce(ours.take(pc.index_in(text, value_set=pa.array(self.words))), text)

    def numbers(self, batch: pa.RecordBatch) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """[rows] float64, NaN where there is no number; [rows] bool: the file says nothing there."""
        total = np.zeros(batch.num_rows)
        missing = np.zeros(batch.num_rows, dtype=bool)
        if self.constant is not None:
            return total + float(pd.to_numeric(self.constant, errors="coerce")), missing
        for term in self.terms:
            if term.column is None:
                total += term.times / term.over
                continue
            values, absent = _numbers(batch.column(term.column))
            total += values * term.times / term.over
            missing |= absent
        return total, missing

    def seconds(self, batch: pa.RecordBatch) -> NDArray[np.float64]:
        """[rows] seconds since the epoch, NaN where there is none. Texts may be ISO 8601, UTC unless they say more."""
        number, missing = self.numbers(batch)
        unread = np.flatnonzero(np.isnan(number) & ~missing)
        if len(unread) == 0 or len(self.terms) != 1 or self.terms[0] != Term(self.terms[0].column):
            return number
        text = batch.column(self.columns[0]).take(pa.array(unread)).cast(pa.string()).to_pandas()
        read = pd.to_datetime(text, utc=True, format="ISO8601", errors="coerce")
        number[unread] = (read - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
        return number

    def came(self, batch: pa.RecordBatch, at: int) -> str:
        """What the file has in row `at` of `batch`, for a message."""
        if self.constant is not None:
            return repr(self.constant)
        raw = {name: batch.column(name)[at].as_py() for name in self.columns}
        said = {name: "nothing" if value in (None, "") else repr(value)[:60] for name, value in raw.items()}
        return said[self.columns[0]] if self.is_column else ", ".join(f"{name} = {v}" for name, v in said.items())


def _plain(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _numbers(array: pa.Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    array = _plain(array)
    if pa.types.is_timestamp(array.type):  # a point in time says its unit itself: seconds since the epoch
        array = pc.divide(array.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).cast(pa.float64()), 1e6)
    elif pa.types.is_boolean(array.type):
        array = array.cast(pa.string())
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        text = array.to_pandas().astype(object)
        missing = text.isna() | (text == "")
        return pd.to_numeric(text, errors="coerce").to_numpy(np.float64), missing.to_numpy(bool)
    values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values, np.isnan(values)


def parse(text: str, names: Sequence[str], path: Path, target: str) -> Expression:
    """The expression that `text` says, for the event column `target` of a file with the columns `names`.

    Forms: the name of a column; one whose words are others here, `column[view:click, buy:purchase]`; a constant in
    single quotes; a sum of `column*number`, `column/number` and numbers.
    A name with other signs than letters, digits, `_` and `.` goes in backquotes within a sum.

    Raises:
        BadLog: not one of these forms, or a column the file does not have.
    """
    stripped = text.strip()
    if stripped in names:
        return Expression(stripped, None, [Term(stripped)])
    if len(stripped) >= 2 and stripped[0] == stripped[-1] == "'":
        return Expression(stripped, stripped[1:-1], [])
    renamed = _RENAMED.fullmatch(stripped)
    words = _words(renamed["pairs"]) if renamed else {}
    terms = _sum(stripped) if renamed is None else [Term(renamed["quoted"] or renamed["name"])] if words else None
    if terms is None:
        raise BadLog(path, f"expected {_FORMS}, got the mapping {text!r}", column=target)
    found = Expression(stripped, None, terms, words)
    for name in found.columns:
        if name not in names:
            raise BadLog(path, f"the mapping {text!r} names {no_column(name, names)}", column=target)
    return found


def _words(pairs: str) -> dict[str, str]:
    """The words of `"a:b, c:d"`, {} where it is not that."""
    found = [tuple(word.strip() for word in pair.split(":")) for pair in pairs.split(",")]
    return {pair[0]: pair[1] for pair in found} if all(len(pair) == 2 for pair in found) else {}


def _sum(text: str) -> list[Term] | None:
    tokens = _tokens(text)
    if not tokens:
        return None
    terms = [Term()]
    operator, factor_due = "*", True
    for kind, value in tokens:
        if (kind == "sign") == factor_due:
            return None
        factor_due = kind == "sign"
        if kind == "sign":
            operator = value
            if value in "+-":
                terms.append(Term(times=-1.0 if value == "-" else 1.0))
        elif not _multiply(terms[-1], operator, kind, value):
            return None
    return None if factor_due else terms


def _multiply(term: Term, operator: str, kind: str, value: str) -> bool:
    if kind == "name":
        if term.column is not None or operator == "/":
            return False
        term.column = value
    elif operator == "/":
        term.over *= float(value)
    else:
        term.times *= float(value)
    return term.over != 0


def _tokens(text: str) -> list[tuple[str, str]] | None:
    found, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            return None
        kind = match.lastgroup or ""
        found.append(("name" if kind == "quoted" else kind, match[kind]))
        at = match.end()
    return found


def no_column(name: str, names: Sequence[str]) -> str:
    """Words for a column that is not there: what there is, and what was probably meant."""
    near = nearest(name, names)
    meant = f"; did you mean {near!r}?" if near else ""
    return f"column {name!r}, the file has {', '.join(map(repr, names))}{meant}"


def nearest(name: str, names: Sequence[str]) -> str | None:
    """The most similar of `names`, upper and lower case alike; a name that contains the other counts as similar."""
    folded = {other.casefold(): other for other in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    inside = [other for other in folded if name.casefold() in other]
    found = near or inside
    return folded[found[0]] if found else None
