"""`streamrec bench continual`: models that go on from period to period, each tested on the period that comes next.

The protocol of ADER (Mi, Lin & Faltings, RecSys 2020): train on period t from the weights of period t - 1, test on
period t + 1. Clicks on items that no period so far had are taken out of the test, and so are sequences of which one
click is left; every click but the first of each sequence is then ranked among all items seen so far.

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

Rows and periods already in `runs.jsonl` of the directory are not run again, and a row that was interrupted goes on from
the weights at the end of the last period.
"""

from __future__ import annotations

import copy
import hashlib
import json
import resource
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from streamrec import checkpoint
from streamrec.build import BadSpec, build, did_you_mean
from streamrec.catalog import Catalog
from streamrec.data.sequences import Sequences, read_periods
from streamrec.evaluation.next_item import evaluate
from streamrec.ports import State

Table = dict[str, Any]
Say = Callable[[str], None]

KS = (10, 20)

_KEYS = {"about", "source", "length", "train", "rows"}
_ROW_KEYS = {"model", "optimiser", "schedule", "data", "warm", "train", "like", "blend"}

ADAM = {"use": "streamrec.nn.adam.Adam", "learning_rate": 5e-4, "beta2": 0.999}
"""What ADER was trained with."""


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
    whole: bool = True  # whole sequences through `sequence_loss`, or prefixes through `loss`

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or self.patience < 1:
            got = f"epochs={self.epochs}, batch={self.batch}, patience={self.patience}"
            raise ValueError(f"epochs, batch and patience must be at least 1, got {got}")
        if not 0.0 < self.validation < 1.0:
            raise ValueError(f"validation must be between 0 and 1, got {self.validation}")


# --- tables ------------------------------------------------------------------------------------------------------


def shipped() -> list[str]:
    """Names of the tables that come with the package."""
    return sorted(path.name.removesuffix(".toml") for path in _folder().iterdir() if path.name.endswith(".toml"))


def load(name: str) -> Table:
    """The table in the file `name`, or the shipped one of that name.

    Raises:
        BadSpec: no such table, bad TOML, or a key that tables do not have.
    """
    path = Path(name)
    if path.suffix == ".toml":
        text = path.read_text()
    elif name in shipped():
        text = (_folder() / f"{name}.toml").read_text()
    else:
        raise BadSpec(f"there is no table {name!r}{did_you_mean(name, shipped())}; a file's name ends in .toml")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSpec(f"{name} is not valid TOML: {error}") from error
    _known(name, table, _KEYS)
    rows = table.get("rows", {})
    table["rows"] = {row: _spelled_out(row, rows, name) for row in rows}
    for row, settings in table["rows"].items():
        _known(f"{name}: rows.{row}", settings, _ROW_KEYS)
        for member in settings.get("blend", {}).values():
            if member not in rows:
                raise BadSpec(f"{name}: rows.{row}.blend: there is no row {member!r}{did_you_mean(member, rows)}")
    return table


def _known(where: str, table: Mapping[str, Any], keys: set[str]) -> None:
    for key in table:
        if key not in keys:
            raise BadSpec(f"{where}: there is no {key!r}{did_you_mean(key, keys)}")


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


def _folder() -> Any:
    return resources.files("streamrec") / "specs" / "continual"


# --- the benchmark -----------------------------------------------------------------------------------------------


def run(
    out: Path,
    data: Path,
    name: str = "diginetica",
    rows: Sequence[str] = (),
    periods: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Run the rows of a table, write `results.json` into `out`, and return the results.

    Args:
        out: directory of this benchmark; what is found in it is gone on with.
        data: folder with one file of "sequence item" lines per period, `*period*`, in the order of their names with
            numbers read as numbers (`streamrec.data.sequences.read_periods`).
        name: the table, shipped or a file.
        rows: which rows, none = all.
        periods: the first so many periods only.
        seed: of weights and draws.
        device: where models live.
        say: told about progress.

    Returns:
        JSON values: `results`: one row each with `model`, `data`, `recall20`, `mrr20`, `recall10`, `mrr10` (means over
        the periods), `seconds` (of training), `epochs`, `peak_mb` (of the process so far) and `periods`: the same for
        every period.

    Raises:
        BadSpec: a table or row that does not exist or is wrong.
        BadLog: data that cannot be read.
    """
    table = load(name)
    for row in rows:
        if row not in table["rows"]:
            raise BadSpec(f"{name} has no row {row!r}{did_you_mean(row, table['rows'])}")
    torch.set_num_threads(torch.get_num_threads() if torch.device(device).type == "cuda" else 1)
    out.mkdir(parents=True, exist_ok=True)
    clicks = Periods.read(data, periods)
    runs = Runs(out, table, clicks, seed)
    results = []
    for row in rows or table["rows"]:
        for figures in _row(row, runs, torch.device(device)):
            say(f"{row} {figures['period']}/{len(clicks) - 1} {_told(figures)}")
        results.append(_summary(row, data.name, runs, len(clicks)))
        say(f"{row} mean {_told(results[-1])}")
    (out / "results.json").write_text(json.dumps({"results": results}, indent=1))
    return {"results": results}


def _told(figures: Mapping[str, Any]) -> str:
    say = f"Recall@20 {100 * figures['recall20']:.2f} MRR@20 {100 * figures['mrr20']:.2f}"
    return f"{say} ({figures['seconds']:.0f} s, {figures['epochs']} epochs)"


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
        self.path = out / "runs.jsonl"
        self._known: dict[str, Any] = {}
        if self.path.exists():
            text = self.path.read_text()
            whole = text[: text.rfind("\n") + 1]  # a kill may have cut off the last line
            if whole != text:
                self.path.write_text(whole)
            for line in whole.splitlines():
                entry = json.loads(line)
                self._known[entry["key"]] = entry["made"]

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
        _known(f"rows.{row}.train", settings, names)
        try:
            return Training(**settings)
        except ValueError as error:
            raise BadSpec(f"rows.{row}.train: {error}") from error

    def get(self, row: str, t: int) -> dict[str, Any] | None:
        return self._known.get(f"{self.key(row)}-{t}")

    def add(self, row: str, t: int, made: dict[str, Any]) -> None:
        key = f"{self.key(row)}-{t}"
        self._known[key] = made
        with self.path.open("a") as file:
            file.write(json.dumps({"key": key, "row": row, "period": t, "made": made}) + "\n")

    def place(self, row: str) -> Path:
        """Where the row's newest checkpoint lies."""
        return self.out / "rows" / f"{row}-{self.key(row)}"

    def weights(self, row: str, t: int) -> Path:
        return self.out / "weights" / f"{row}-{self.key(row)}-{t:02d}.safetensors"

    def blended(self, row: str) -> bool:
        """A blend needs the weights of this row at the end of every period."""
        return any(row in settings.get("blend", {}).values() for settings in self.table["rows"].values())


def _summary(row: str, data: str, runs: Runs, periods: int) -> dict[str, Any]:
    made = [figures for t in range(1, periods) if (figures := runs.get(row, t)) is not None]
    means = {f"{name}{k}": sum(m[f"{name}{k}"] for m in made) / len(made) for name in ("recall", "mrr") for k in KS}
    return {
        "model": row,
        "data": data,
        **means,
        "n": sum(m["n"] for m in made),
        "epochs": sum(m["epochs"] for m in made),
        "seconds": sum(m["seconds"] for m in made),
        "peak_mb": max(m["peak_mb"] for m in made),
        "seeds": 1,
        "periods": made,
    }


# --- rows --------------------------------------------------------------------------------------------------------


def _row(row: str, runs: Runs, device: torch.device) -> Iterator[dict[str, Any]]:
    """Figures of the periods that were not run before, as they are made."""
    periods = range(1, len(runs.clicks))
    if all(runs.get(row, t) for t in periods):
        return
    learner = _learner(row, runs, device)
    if isinstance(learner, Trained):
        learner.resume()
    for t in periods:
        start = time.perf_counter()
        epochs = learner.learn(t - 1)
        seconds = time.perf_counter() - start
        if runs.get(row, t) is None:
            known = torch.arange(len(runs.clicks.ids)) <= runs.clicks.known[t - 1]
            known[0] = False
            figures = evaluate(learner.model, runs.clicks.test(t), KS, device, runs.length, known=known)
            figures |= {"period": t, "epochs": epochs, "seconds": seconds, "peak_mb": _peak_mb(device)}
            runs.add(row, t, figures)
            yield figures


def _peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _learner(row: str, runs: Runs, device: torch.device) -> Counted | Blended | Trained:
    settings = runs.table["rows"][row]
    if "model" not in settings:
        raise BadSpec(f"rows.{row} needs a model")
    if "blend" in settings:
        return Blended(row, runs, device)
    catalog = runs.clicks.catalog(0, device)
    context = {"catalog": catalog, "seed": runs.seed, "device": device}
    model = build(copy.deepcopy(settings["model"]), context, f"rows.{row}.model")
    return Trained(row, runs, model, context) if hasattr(model, "loss") else Counted(runs, model, context)


class Counted:
    """A model that is told of new sequences and has nothing to train, such as neighbours."""

    def __init__(self, runs: Runs, model: Any, context: dict[str, Any]) -> None:
        self.runs, self.model = runs, model
        self.catalog, self.device = context["catalog"], context["device"]

    def learn(self, t: int) -> int:
        self.runs.clicks.grow(self.catalog, t)
        clicks = self.runs.clicks.train(t).to(self.device)
        self.model.append(clicks.items, clicks.starts)
        return 0


class Blended:
    """Other rows as one model: those with weights as they were at the end of each period, the others told again."""

    def __init__(self, row: str, runs: Runs, device: torch.device) -> None:
        self.row, self.runs = row, runs
        settings = runs.table["rows"][row]
        self.names = settings["blend"]
        self.members = {keyword: _learner(name, runs, device) for keyword, name in self.names.items()}
        context = {keyword: member.model for keyword, member in self.members.items()}
        self.model: Any = build(copy.deepcopy(settings["model"]), context, f"rows.{row}.model")

    def learn(self, t: int) -> int:
        for keyword, member in self.members.items():
            if not isinstance(member, Trained):
                member.learn(t)
                continue
            path = self.runs.weights(self.names[keyword], t)
            if not path.exists():
                raise BadSpec(f"rows.{self.row} is made of {self.names[keyword]}: run that one before it")
            member.recall(path, t)
        return 0


class Trained:
    """A model with weights, and what was remembered of the periods before.

    Departures from the protocol's authors (doublemul/ADER): whole sequences stand for their prefixes where `whole` is
    set; a share of the sequences rather than of the prefixes is kept for validation.
    """

    def __init__(self, row: str, runs: Runs, model: Any, context: dict[str, Any]) -> None:
        self.row, self.runs, self.context = row, runs, context
        self.model, self.catalog, self.device = model, context["catalog"], context["device"]
        settings = runs.table["rows"][row]
        self.everything, self.warm = settings.get("data") == "all", settings.get("warm", True)
        self.training = runs.training(row)
        self.model.to(self.device)
        self.optimiser = self._optimiser()
        self.schedule: Any = None
        if "schedule" in settings:
            self.schedule = build(copy.deepcopy(settings["schedule"]), context, f"rows.{row}.schedule")
        self.generator = Generator().manual_seed(runs.seed)
        self.learned = -1  # the last period that was learned

    def _optimiser(self) -> Any:
        settings = self.runs.table["rows"][self.row].get("optimiser", ADAM)
        context = {**self.context, "parameters": list(self.model.named_parameters())}
        return build(copy.deepcopy(settings), context, f"rows.{self.row}.optimiser")

    def learn(self, t: int) -> int:
        """Train on period t; nothing if that was done before. Returns the epochs."""
        if t <= self.learned:
            return 0
        self.runs.clicks.grow(self.catalog, t)
        if not self.warm and t:
            self._start_over()
        epochs = self._fit(self.runs.clicks.train(t, self.everything))
        if self.schedule is not None:
            self.schedule.end_period(self.model)
        self.learned = t
        self._save()
        return epochs

    def _start_over(self) -> None:
        fresh = build(copy.deepcopy(self.runs.table["rows"][self.row]["model"]), self.context, f"rows.{self.row}.model")
        self.model.load_state_dict(fresh.state_dict())
        self.optimiser = self._optimiser()

    # --- training ------------------------------------------------------------------------------------------------

    def _fit(self, clicks: Sequences) -> int:
        """Epochs until the held-out sequences are ranked no better; the best weights stay."""
        if self.schedule is not None:
            history, target = clicks.prefixes(*clicks.clicks(), self.runs.length)
            self.schedule.add(self.model, history.to(self.device), target.to(self.device))
        held = torch.rand(len(clicks), generator=self.generator) < self.training.validation
        train, valid = clicks.select(~held).to(self.device), clicks.select(held)
        best, best_state, waited, epochs = -1.0, self._weights(), 0, 0
        while epochs < self.training.epochs and waited < self.training.patience:
            self._epoch(train)
            epochs += 1
            recall = evaluate(self.model, valid, (20,), self.device, self.runs.length)["recall20"]
            waited = 0 if recall > best else waited + 1
            if recall > best:
                best, best_state = recall, self._weights()
        self.model.load_state_dict(best_state["model"])
        self.optimiser.load_state_dict(best_state["optimiser"])
        return epochs

    def _weights(self) -> State:
        model = {name: value.clone() for name, value in self.model.state_dict().items()}
        return {"model": model, "optimiser": self.optimiser.state_dict()}

    def _epoch(self, clicks: Sequences) -> None:
        for loss, many in self._losses(clicks):
            extra = None if self.schedule is None else self.schedule.penalty(self.model, many)
            self.optimiser.zero_grad()
            torch.autograd.backward(loss if extra is None else loss + extra)
            self.optimiser.step()

    def _losses(self, clicks: Sequences) -> Iterator[tuple[Tensor, int]]:
        """Loss of each step of an epoch, and of how many clicks."""
        length = self.runs.length
        if self.training.whole:
            for rows in _batches(clicks.lengths - 1, self.training.batch, self.generator):
                many = int((clicks.lengths[rows] - 1).sum())
                yield self.model.sequence_loss(clicks.history(rows, length + 1)), many
            return
        rows, ends = clicks.clicks()
        for some in _batches(torch.ones_like(rows), self.training.batch, self.generator):
            yield self.model.loss(*clicks.prefixes(rows[some], ends[some], length)), len(some)

    # --- going on ------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        state = {
            "row": {"learned": self.learned, "generator": self.generator.get_state(), **self._weights()},
            "schedule": {} if self.schedule is None else self.schedule.state_dict(),
        }
        checkpoint.save(self.runs.place(self.row), state, self.learned, keep=1)
        if self.runs.blended(self.row):
            path = self.runs.weights(self.row, self.learned)
            path.parent.mkdir(exist_ok=True)
            save_file({name: value.contiguous() for name, value in self.model.state_dict().items()}, path)

    def resume(self) -> None:
        """Go on from the row's newest checkpoint, where there is one."""
        found = checkpoint.load_newest(self.runs.place(self.row))
        if found is None:
            return
        state = found[0]
        self.learned = state["row"]["learned"]
        self.runs.clicks.grow(self.catalog, self.learned)
        self.generator.set_state(state["row"]["generator"])
        self.model.load_state_dict(state["row"]["model"])
        self.optimiser.load_state_dict(state["row"]["optimiser"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])

    def recall(self, path: Path, t: int) -> None:
        """Take the weights of the end of period t."""
        self.runs.clicks.grow(self.catalog, t)
        self.model.load_state_dict(load_file(path))


def _batches(sizes: Tensor, batch: int, generator: Generator) -> Iterator[Tensor]:
    """Shuffled rows in pieces whose `sizes` [M] add up to about `batch`."""
    order = torch.randperm(len(sizes), generator=generator).to(sizes.device)
    piece = torch.div(sizes[order].cumsum(0) - 1, batch, rounding_mode="floor")
    yield from torch.split(order, torch.unique_consecutive(piece, return_counts=True)[1].tolist())
