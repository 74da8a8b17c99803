"""What an event log must be: its columns and their types, and the rules for rows and for slates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamrec.data.mapping import Expression, nearest
from streamrec.records import Kind

KINDS = [kind.name.lower() for kind in Kind]
"""Names of the kinds; the position is the number of the `Kind`."""

NEEDED = ("user", "item", "kind", "time")
OPTIONAL = ("session", "value", "slate", "slot", "propensity")
COLUMNS = (*NEEDED, *OPTIONAL)

MAX_ID = 128
"""Longest id, in characters."""

MAX_SLOTS = 1000
"""Most slots of a slate."""

_ITEMLESS = [int(kind) for kind in (Kind.REQUEST, Kind.LEAVE, Kind.RETURN)]
SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("item", pa.string()),
        ("kind", pa.dictionary(pa.int8(), pa.string())),
        ("time", pa.float64()),
        ("session", pa.string()),
        ("value", pa.float64()),
        ("slate", pa.string()),
        ("slot", pa.int64()),
        ("propensity", pa.float64()),
    ]
)
STORED = SCHEMA.set(2, pa.field("kind", pa.string()))

Mask = NDArray[np.bool_]


@dataclass
class Fault:
    """Rows of one batch that break one rule."""

    reason: str
    column: str
    bad: Mask  # [rows]
    expected: str
    came: Callable[[int], str]
    remedy: str

    def says(self, at: int) -> str:
        return f"expected {self.expected}, got {self.came(at)}; {self.remedy}"


def canonical(raw: pa.RecordBatch, mapping: Mapping[str, Expression]) -> tuple[pa.RecordBatch, list[Fault]]:
    """One batch in the event format, and what is wrong with single rows of it."""
    faults: list[Fault] = []

    def fault(reason: str, column: str, bad: Mask, expected: str, remedy: str, came: Any = None) -> None:
        if bad.any():
            came = came or (lambda at: mapping[column].came(raw, at) if column in mapping else "nothing")
            faults.append(Fault(reason, column, bad, expected, came, remedy))

    ids = {name: _ids(name, raw, mapping) for name in ("user", "item", "session", "slate")}
    kind_text, kind = _kinds(raw, mapping["kind"])
    needs_item = ~np.isin(kind, _ITEMLESS)
    for name, (_, length) in ids.items():
        fault("long_id", name, length > MAX_ID, f"an id of at most {MAX_ID} characters", "shorten or hash the ids",
              came=lambda at, length=length: f"one of {length[at]}")  # fmt: skip
    remedy = "leave the row out, or map another column"
    fault("empty_id", "user", ids["user"][1] == 0, f"an id of 1 to {MAX_ID} characters", remedy)
    fault("empty_id", "item", (ids["item"][1] == 0) & needs_item, f"an id of 1 to {MAX_ID} characters", remedy)
    fault("unknown_kind", "kind", kind == 0, f"one of {', '.join(KINDS[1:])}", _kind_remedy(kind, kind_text))

    time, _ = mapping["time"].numbers(raw)
    expected = "a finite number of seconds since the epoch"
    fault("bad_time", "time", ~np.isfinite(time), expected, 'fix it, or map it, as in columns={"time": "ms/1000"}')
    value, absent = _optional("value", raw, mapping, 1.0)
    fault("bad_value", "value", ~absent & ~np.isfinite(value), "a finite number", "fix it or leave it empty")
    slot, unplaced = _optional("slot", raw, mapping, -1.0)
    bad_slot = ~unplaced & ~((slot >= 0) & (slot < MAX_SLOTS) & (slot == np.floor(slot)))
    fault("bad_slot", "slot", bad_slot, f"a whole number from 0 to {MAX_SLOTS - 1}", "number the slots from 0")
    shown = (kind == int(Kind.IMPRESSION)) & (ids["slate"][1] > 0)
    fault("no_slot", "slot", shown & unplaced, "the slot of an impression that has a slate", "number the slots from 0")
    propensity, unknown = _optional("propensity", raw, mapping, np.nan)
    bad = ~unknown & ~((propensity > 0) & (propensity <= 1))
    fault("bad_propensity", "propensity", bad, "a probability in (0, 1]", "fix it, or leave it empty if unknown")

    whole = np.where(bad_slot, -1, slot).astype(np.int64)
    names = pa.DictionaryArray.from_arrays(pa.array(kind), pa.array(KINDS))
    text = {name: array for name, (array, _) in ids.items()}
    arrays = text | {"kind": names, "time": time, "value": value, "slot": whole, "propensity": propensity}
    return pa.RecordBatch.from_arrays([_arrow(arrays[name]) for name in COLUMNS], schema=SCHEMA), faults


def _arrow(array: Any) -> pa.Array:
    return array if isinstance(array, pa.Array) else pa.array(array)


def _ids(name: str, raw: pa.RecordBatch, mapping: Mapping[str, Expression]) -> tuple[pa.Array, NDArray[np.int64]]:
    """[rows] text, and its length in characters."""
    text = mapping[name].texts(raw) if name in mapping else pa.array([""] * raw.num_rows, pa.string())
    return text, pc.utf8_length(text).to_numpy(zero_copy_only=False)


def _kinds(raw: pa.RecordBatch, expression: Expression) -> tuple[pa.Array, NDArray[np.int8]]:
    text = expression.texts(raw)
    found = pc.fill_null(pc.index_in(text, value_set=pa.array(KINDS[1:])), -1)
    return text, (found.to_numpy(zero_copy_only=False) + 1).astype(np.int8)


def _kind_remedy(kind: NDArray[np.int8], text: pa.Array) -> str:
    unknown = kind == 0
    near = nearest(text[int(unknown.argmax())].as_py(), KINDS[1:]) if unknown.any() else None
    meant = f"did you mean {near!r}? " if near else ""
    return f'{meant}to read every row as one kind: columns={{"kind": "\'click\'"}}'


def _optional(
    name: str, raw: pa.RecordBatch, mapping: Mapping[str, Expression], default: float
) -> tuple[NDArray[np.float64], Mask]:
    """[rows] numbers with `default` where the log says nothing; [rows] bool: it says nothing."""
    if name not in mapping:
        return np.full(raw.num_rows, default), np.ones(raw.num_rows, dtype=bool)
    values, missing = mapping[name].numbers(raw)
    return np.where(missing, default, values), missing


class Shown:
    """The impressions of one batch by slate.

    Args:
        batch: of `SCHEMA`, with whole slates.
        before: slates that began in the batch before and must not go on here.
    """

    def __init__(self, batch: pa.RecordBatch, before: NDArray[np.object_] | None = None) -> None:
        self.batch = batch
        shown = pc.and_(pc.equal(batch["kind"].indices, int(Kind.IMPRESSION)), pc.not_equal(batch["slate"], ""))
        self._at = np.flatnonzero(shown.to_numpy(zero_copy_only=False))
        slate = batch["slate"].take(pa.array(self._at)).to_numpy(zero_copy_only=False)
        self._begins = np.ones(len(slate), dtype=bool)
        self._begins[1:] = (slate[1:] != slate[:-1]) | (self._at[1:] != self._at[:-1] + 1)
        self.slates = slate[self._begins]
        begun = pd.Series(self.slates, dtype=object)
        self._again = (begun.duplicated() | begun.isin([] if before is None else before)).to_numpy()

    def faults(self) -> Iterator[Fault]:
        """What is wrong with slates as a whole."""
        if len(self._at) == 0:
            return
        rows = self.batch.select(["user", "item", "slot"]).take(pa.array(self._at)).to_pandas()
        rows["run"] = run = np.cumsum(self._begins) - 1
        user = rows["user"].to_numpy(object)
        scattered = self._begins.copy()
        scattered[self._begins] = self._again
        twice_slot = (rows.duplicated(["run", "slot"]) & (rows["slot"] >= 0)).to_numpy()
        twice_item = rows.duplicated(["run", "item"]).to_numpy()
        found = [
            self._fault("duplicate_slot", "slot", twice_slot, "each slot of a slate once", "{slot} twice in"),
            self._fault("duplicate_item", "item", twice_item, "each item of a slate once", "{item!r} twice in"),
            self._fault("scattered_slate", "slate", scattered, _TOGETHER, "more of"),
            self._fault("two_users", "user", user != user[self._begins][run], "one user for all impressions of a slate",
                        "another user in"),
        ]  # fmt: skip
        yield from (fault for fault in found if fault.bad.any())

    def _fault(self, reason: str, column: str, bad: Mask, expected: str, came: str) -> Fault:
        of_batch = np.zeros(self.batch.num_rows, dtype=bool)
        of_batch[self._at[bad]] = True

        def says(at: int) -> str:
            row = self.batch.slice(at, 1).to_pylist()[0]
            return f"{came.format(**row)} slate {row['slate']!r}"

        remedy = "sort the log by time, then slate, then slot" if column == "slate" else _OWN_SLATE
        return Fault(reason, column, of_batch, expected, says, remedy)


_TOGETHER = "the impressions of a slate next to each other"
_OWN_SLATE = "give each decision its own slate id"
