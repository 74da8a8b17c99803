"""What `streamrec bench continual` runs: tables of rows, the periods they go through, and what was run before.

A table is a TOML file, shipped in `streamrec/specs/continual` or the reader's own:

    about = "one sentence"
    source = "where the rows come from"
    length = 50                # the newest clicks a model reads
    [train]                    # settings of `Training`, for all rows
    [rows.a]
    model = { use = "..." }    # any model; `catalog`, `seed` and `device` are filled in
    optimiser = { use = "..." } # `parameters` is filled in; default: Adam
    schedule = { use = "..." } # adds its penalty to the loss, sees the clicks of a period and its end
    data = "all"               # every period so far instead of the newest
    warm = false               # from new weights in each period
    train = { epochs = 3 }     # in place of what [train] says
    [rows.b]
    like = "a"                 # the row a, with what stands here in place of what stands there
    [rows.c]
    model = { use = "..." }    # one with nothing to train: `append(items, starts)` is told of each period's sequences
    [rows.d]
    model = { use = "..." }
    blend = { model = "a", neighbours = "c" }  # other rows, of which this one is made, by keywords of its model
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from streamrec import spec
from streamrec.bench.kept import Kept
from streamrec.build import BadSpec, did_you_mean
from streamrec.catalog import Catalog
from streamrec.data.sequences import Sequences, read_periods

Table = dict[str, Any]

_KEYS = {"about", "source", "length", "train", "rows"}
_ROW_KEYS = {"model", "optimiser", "schedule", "data", "warm", "train", "like", "blend"}


@dataclass(frozen=True)
class Training:
    """How a model with weights is trained on one period.

    Raises:
        ValueError: a setting out of its range.
    """

    epochs: int = 100  # at most
    batch: int = 256  # clicks in a step
    validation: float = 0.1  # share of the sequences that is not trained on
    patience: int = 5  # epochs without a better recall on those before training ends
    refit: int = 0  # passes over those once the best weights are chosen, so that no click goes unlearned; 0 = none
    average: float = 0.0  # share of the epochs before in the average of weights that is kept; 0 = the last epoch alone
    later: float = 1.0  # learning rate of the periods after the first, as a share of the optimiser's; if `warm`
    whole: bool = True  # whole sequences through `sequence_loss`, or prefixes through `loss`

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or self.patience < 1:
            got = f"epochs={self.epochs}, batch={self.batch}, patience={self.patience}"
            raise ValueError(f"epochs, batch and patience must be at least 1, got {got}")
        if self.refit < 0:
            raise ValueError(f"refit must be at least 0, got {self.refit}")
        if not 0.0 < self.validation < 1.0:
            raise ValueError(f"validation must be between 0 and 1, got {self.validation}")
        if not self.later > 0.0:
            raise ValueError(f"later must be above 0, got {self.later}")
        if not 0.0 <= self.average < 1.0:
            raise ValueError(f"average must be at least 0 and below 1, got {self.average}")


def shipped() -> list[str]:
    """Names of the tables that come with the package."""
    return spec.shipped("continual")


def load(name: str) -> Table:
    """The table in the file `name`, or the shipped one of that name.

    Raises:
        BadSpec: no such table, bad TOML, or a key that tables do not have.
    """
    table = spec.read(name, "continual", "table")
    spec.check_keys(name, table, _KEYS)
    rows = table.get("rows", {})
    table["rows"] = {row: _spelled_out(row, rows, name) for row in rows}
    for row, settings in table["rows"].items():
        spec.check_keys(f"{name}: rows.{row}", settings, _ROW_KEYS)
        for member in settings.get("blend", {}).values():
            if member not in rows:
                raise BadSpec(f"{name}: rows.{row}.blend: there is no row {member!r}{did_you_mean(member, rows)}")
    return table


def _spelled_out(row: str, rows: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = dict(rows[row])
    model = table.pop("like", None)
    if model is None:
        return table
    if model not in rows or "like" in rows[model]:
        whole = [other for other in rows if "like" not in rows[other]]
        raise BadSpec(f"{name}: rows.{row}.like = {model!r} must name a whole row{did_you_mean(model, whole)}")
    return _merged(rows[model], table)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above`; tables are merged unless they say anew what to `use`."""
    out = dict(below)
    for key, value in above.items():
        mine = out.get(key)
        merge = isinstance(mine, Mapping) and isinstance(value, Mapping) and "use" not in value
        out[key] = _merged(mine, value) if merge and isinstance(mine, Mapping) else value
    return out


class Periods:
    """The clicks, period by period, and which items there are by then."""

    def __init__(self, clicks: Sequences, ids: list[str]) -> None:
        assert clicks.period is not None
        self.clicks, self.ids, self.period = clicks, ids, clicks.period
        newest = torch.zeros(len(self), dtype=torch.int64)
        of = torch.repeat_interleave(self.period, clicks.lengths)
        newest.scatter_reduce_(0, of, clicks.items, "amax")
        self.known = newest.cummax(0).values.tolist()  # items seen up to the end of each period

    @classmethod
    def read(cls, folder: Path, most: int | None) -> Periods:
        files = sorted((path for path in folder.rglob("*period*") if path.is_file()), key=_number)
        if len(files) < 2:
            raise BadSpec(f"{folder} must hold at least two files *period*, one per period; it has {len(files)}")
        catalog = Catalog(capacity=1 << 20)
        return cls(read_periods(files[:most], catalog), catalog.ids)

    def __len__(self) -> int:
        return int(self.period.max()) + 1

    def train(self, t: int, everything: bool = False) -> Sequences:
        """What period t, or every one up to it, has to learn from."""
        some = self.clicks.select(self.period <= t if everything else self.period == t)
        return some.select(some.lengths > 1)

    def test(self, t: int) -> Sequences:
        """Period t, without items that were not seen before it."""
        known = torch.arange(len(self.ids)) <= self.known[t - 1]
        some = self.clicks.select(self.period == t).only(known)
        return some.select(some.lengths > 1)

    def catalog(self, t: int, device: torch.device) -> Catalog:
        """Room for all items; those seen up to the end of period t are there."""
        made = Catalog(len(self.ids) - 1, device)
        self.grow(made, t)
        return made

    def grow(self, catalog: Catalog, t: int) -> None:
        """Add the items of the periods up to t."""
        catalog.see(catalog.rows(self.ids[1 : self.known[t] + 1]).to(catalog.available.device))

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for column in (self.clicks.items, self.clicks.starts, self.period):
            digest.update(column.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def _number(path: Path) -> tuple[list[int], str]:
    """Numbers in a file's name, so that period_10 comes after period_9."""
    digits = "".join(c if c.isdigit() else " " for c in path.name)
    return [int(number) for number in digits.split()], path.name


class Runs:
    """What was run: figures in `runs.jsonl`, where rows have got to in `rows/`, weights that blends need in `weights/`.

    Everything is found again by what it was made from: the row, the training settings, the data and the seed.
    """

    def __init__(self, out: Path, table: Table, clicks: Periods, seed: int) -> None:
        self.out, self.table, self.clicks, self.seed = out, table, clicks, seed
        self.data = clicks.fingerprint()
        self._kept = Kept(out / "runs.jsonl")

    @property
    def length(self) -> int:
        return int(self.table.get("length", 50))

    def key(self, row: str) -> str:
        """What a row is made from."""
        settings = self.table["rows"][row]
        members = [self.key(member) for member in settings.get("blend", {}).values()]
        made_from = [settings, self.table.get("train"), self.length, members, self.data, self.seed]
        return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]

    def training(self, row: str) -> Training:
        settings = {**self.table.get("train", {}), **self.table["rows"][row].get("train", {})}
        names = {f.name for f in fields(Training)}
        spec.check_keys(f"rows.{row}.train", settings, names)
        try:
            return Training(**settings)
        except ValueError as error:
            raise BadSpec(f"rows.{row}.train: {error}") from error

    def get(self, row: str, t: int) -> dict[str, Any] | None:
        return self._kept.made.get(f"{self.key(row)}-{t}")

    def add(self, row: str, t: int, made: dict[str, Any]) -> None:
        self._kept.add(f"{self.key(row)}-{t}", {"row": row, "period": t}, made)

    def place(self, row: str) -> Path:
        """Where the row's newest checkpoint lies."""
        return self.out / "rows" / f"{row}-{self.key(row)}"

    def weights(self, row: str, t: int) -> Path:
        return self.out / "weights" / f"{row}-{self.key(row)}-{t:02d}.safetensors"

    def blended(self, row: str) -> bool:
        """A blend needs the weights of this row at the end of every period."""
        return any(row in settings.get("blend", {}).values() for settings in self.table["rows"].values())
