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
    rows = _Rows(raw, mapping)
    kind = rows.kinds()
    texts = rows.texts(kind)
    numbers = rows.numbers(in_slate=pc.not_equal(texts["slate"], "").to_numpy(zero_copy_only=False), kind=kind)
    names = pa.DictionaryArray.from_arrays(pa.array(kind), pa.array(KINDS))
    columns = texts | {"kind": names} | {name: pa.array(values) for name, values in numbers.items()}
    return pa.RecordBatch.from_arrays([columns[name] for name in COLUMNS], schema=SCHEMA), rows.faults


class _Rows:
    """The columns of one batch, and what is wrong with them.

    Args:
        raw: as the file has them.
        mapping: event column -> where it comes from.
    """

    def __init__(self, raw: pa.RecordBatch, mapping: Mapping[str, Expression]) -> None:
        self.raw, self.mapping = raw, mapping
        self.faults: list[Fault] = []

    def _fault(
        self, reason: str, column: str, bad: Mask, expected: str, remedy: str, came: Callable[[int], str] | None = None
    ) -> None:
        if bad.any():
            self.faults.append(Fault(reason, column, bad, expected, came or self._came(column), remedy))

    def _came(self, column: str) -> Callable[[int], str]:
        return lambda at: self.mapping[column].came(self.raw, at) if column in self.mapping else "nothing"

    def kinds(self) -> NDArray[np.int8]:
        """[rows] numbers of kinds, 0 = unknown."""
        text = self.mapping["kind"].texts(self.raw)
        found = pc.fill_null(pc.index_in(text, value_set=pa.array(KINDS[1:])), -1)
        kind: NDArray[np.int8] = (found.to_numpy(zero_copy_only=False) + 1).astype(np.int8)
        unknown = kind == 0
        near = nearest(text[int(unknown.argmax())].as_py(), KINDS[1:]) if unknown.any() else None
        meant = f"did you mean {near!r}? " if near else ""
        remedy = (
            f'{meant}to read words of yours: columns={{"kind": "action[view:click, buy:purchase]"}}, or "\'click\'"'
        )
        self._fault("unknown_kind", "kind", unknown, f"one of {', '.join(KINDS[1:])}", remedy)
        return kind

    def texts(self, kind: NDArray[np.int8]) -> dict[str, pa.Array]:
        """The ids, by column."""
        itemless = np.isin(kind, _ITEMLESS)
        return {
            "user": self._ids("user", np.zeros_like(itemless)),
            "item": self._ids("item", itemless),
            "session": self._ids("session", np.ones_like(itemless)),
            "slate": self._ids("slate", np.ones_like(itemless)),
        }

    def _ids(self, name: str, may_be_empty: Mask) -> pa.Array:
        if name not in self.mapping:
            return pa.array([""] * self.raw.num_rows, pa.string())
        text = self.mapping[name].texts(self.raw)
        size = pc.utf8_length(text).to_numpy(zero_copy_only=False)
        expected, remedy = f"an id of at most {MAX_ID} characters", "shorten or hash the ids"
        self._fault("long_id", name, size > MAX_ID, expected, remedy, lambda at: f"one of {size[at]}")
        expected, remedy = f"an id of 1 to {MAX_ID} characters", "leave the row out, or map another column"
        self._fault("empty_id", name, (size == 0) & ~may_be_empty, expected, remedy)
        return text

    def numbers(self, in_slate: Mask, kind: NDArray[np.int8]) -> dict[str, NDArray[Any]]:
        """Time, value, slot and propensity, by column."""
        time = self.mapping["time"].seconds(self.raw)
        expected = "a finite number of seconds since the epoch, or a time as in 2026-11-20T08:00:19"
        remedy = 'fix it, or map it, as in columns={"time": "ms/1000"}'
        self._fault("bad_time", "time", ~np.isfinite(time), expected, remedy)
        value, absent = self._optional("value", 1.0)
        bad = ~absent & ~np.isfinite(value)
        self._fault("bad_value", "value", bad, "a finite number", "fix it or leave it empty")
        propensity, unknown = self._optional("propensity", np.nan)
        bad = ~unknown & ~((propensity > 0) & (propensity <= 1))
        remedy = "fix it, or leave it empty if unknown"
        self._fault("bad_propensity", "propensity", bad, "a probability in (0, 1]", remedy)
        slot = self._slots((kind == int(Kind.IMPRESSION)) & in_slate)
        return {"time": time, "value": value, "slot": slot, "propensity": propensity}

    def _slots(self, needed: Mask) -> NDArray[np.int64]:
        slot, unplaced = self._optional("slot", -1.0)
        bad = ~unplaced & ~((slot >= 0) & (slot < MAX_SLOTS) & (slot == np.floor(slot)))
        remedy = "number the slots from 0"
        self._fault("bad_slot", "slot", bad, f"a whole number from 0 to {MAX_SLOTS - 1}", remedy)
        expected = "the slot of an impression that has a slate"
        self._fault("no_slot", "slot", needed & unplaced, expected, remedy)
        return np.where(bad, -1, slot).astype(np.int64)

    def _optional(self, name: str, default: float) -> tuple[NDArray[np.float64], Mask]:
        """[rows] numbers with `default` where the log says nothing; [rows] bool: it says nothing."""
        if name not in self.mapping:
            return np.full(self.raw.num_rows, default), np.ones(self.raw.num_rows, dtype=bool)
        values, missing = self.mapping[name].numbers(self.raw)
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
