"""`streamrec bench encoders`: models trained and evaluated on a data set, in quality, speed and memory.

An experiment is a TOML file, shipped in `streamrec/specs/encoders` or the reader's own:

    about = "one sentence"
    source = "where the settings come from"
    data = "yoochoose1_64"     # what the data set is called in the results
    epochs = 10
    ks = [20]
    [train]                    # a reader of `streamrec.data.sequences`; `path` is looked for in the data directory
    use = "streamrec.data.sequences.read_sessions"
    path = "train.tsv"
    [test]                     # the same for the held-out sequences: every click but the first is predicted.
                               # Without this table the newest click of each sequence is (leave-one-out)
    held_out = 2               # newest clicks of each sequence that are not trained on, without a test table; default 1
    [evaluation]               # keywords of `streamrec.evaluation.next_item.evaluate`
    [models.gru4rec]
    model = { use = "streamrec.models.next_item.NextItem", encoder = { use = "..." } }
    optimiser = { use = "streamrec.nn.adagrad.Adagrad", learning_rate = 0.05 }
    epoch = { use = "streamrec.training.lanes.epoch", lanes = 80 }
    shuffle = true             # a generator for `epoch`, which shuffles; default: the order of the data
    epochs = 5                 # in place of the number above
    averaged = 3               # the mean of the weights after each of the last 3 epochs is evaluated; default 1
    [models.knn]
    model = { use = "..." }    # one with nothing to train: `append(items, starts)` is told of all training sequences

Items that the training sequences do not have are taken out of the test sequences. Each run, one model with one seed,
has a process of its own, on one thread; runs already in `runs.jsonl` of the directory are not made again.

`*-gru4rec` have the settings of its authors' parameter files, so their code (hidasib/GRU4Rec_PyTorch_Official at
d1fc311) can be run beside them on the same tab-separated files with one thread:

    OMP_NUM_THREADS=1 python run.py train.tsv -t test.tsv -m 20 -e conservative -d cpu -ss 2000000 -ps loss=bpr-max,...

It needs two changes to run on numpy 2 and pandas 3: `np.float32(np.sqrt(...))` in `_init_numpy_weights`, and `.values`
behind `pop[...index.values]` where it counts items. Speed is compared in one process and in turns, some hundreds of
optimiser steps of each, by processor seconds: on a shared machine the same epoch took 43 s and 300 s.
"""

from __future__ import annotations

import hashlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from streamrec import lifeline, spec
from streamrec.bench.kept import Kept
from streamrec.build import BadSpec, build, did_you_mean, find
from streamrec.catalog import Catalog
from streamrec.data.sequences import Sequences
from streamrec.evaluation.next_item import evaluate
from streamrec.training.average import Average

Table = dict[str, Any]

_KEYS = {"about", "source", "data", "epochs", "ks", "train", "test", "held_out", "evaluation", "models"}
_MODEL_KEYS = {"model", "optimiser", "epoch", "shuffle", "epochs", "averaged"}


@dataclass(frozen=True)
class Job:
    """One run to make."""

    experiment: str
    settings: Table
    model: str
    seed: int
    data: Path
    device: str
    loud: bool

    @property
    def key(self) -> str:
        """What the run is made from."""
        about = {name: value for name, value in self.settings.items() if name not in ("about", "source", "models")}
        made_from = [about, self.settings["models"][self.model], self.seed, str(self.data.resolve()), self.device]
        return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]


def run(
    out: Path,
    data: Path,
    names: Sequence[str],
    seeds: int = 3,
    jobs: int = 1,
    device: str = "cpu",
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Make the runs, write `results.json` into `out`, and return the results.

    Args:
        out: directory of this benchmark; runs found in it are kept.
        data: directory of the data set, or its file.
        names: experiments, shipped or files.
        seeds: runs per model, with the seeds 0, 1, ...
        jobs: processes at a time.
        device: where models live.
        say: told about progress, None = nobody; epochs are told on standard error.

    Returns:
        `results`: for each model its `model`, `experiment`, `data`, `seeds`; `recall{k}` and `mrr{k}` as means over
        the seeds with `recall{k}_se`, the standard error of the mean (null for one seed); `events_per_s`:
        clicks trained on per second of processor time; `predictions_per_s`; `peak_mb`, the most memory a run held in
        MiB; `runs`: what each seed gave, `epochs` with their loss and seconds among it.

    Raises:
        BadSpec: an experiment that does not exist or is wrong, or data that are not there.
    """
    tell = say or (lambda text: None)
    if not names:
        raise BadSpec(f"name an experiment for these data{did_you_mean('', shipped())}")
    experiments = {Path(name).stem: load(name) for name in names}
    todo = [
        Job(name, experiment, model, seed, data, device, say is not None)
        for name, experiment in experiments.items()
        for model in experiment["models"]
        for seed in range(seeds)
    ]
    for job in todo:
        check(job)
    out.mkdir(parents=True, exist_ok=True)
    runs = Kept(out / "runs.jsonl")
    missing = [job for job in todo if job.key not in runs.made]
    tell(f"{len(todo)} runs, {len(todo) - len(missing)} of them made before")
    for done, (job, made) in enumerate(_made(missing, jobs), 1):
        runs.add(job.key, {"experiment": job.experiment, "model": job.model, "seed": job.seed}, made)
        tell(f"{done}/{len(missing)} {job.experiment} {job.model} seed {job.seed}: {_told(made)}")
    results = {"results": [_row(jobs_of, runs) for jobs_of in _by_model(todo)]}
    (out / "results.json").write_text(json.dumps(results, indent=1))
    return results


# --- experiments -------------------------------------------------------------------------------------------------


def shipped() -> list[str]:
    """Names of the experiments that come with the package."""
    return spec.shipped("encoders")


def load(name: str) -> Table:
    """The experiment in the file `name`, or the shipped one of that name.

    Raises:
        BadSpec: it does not exist, is no TOML, or has an unknown or missing key.
    """
    experiment = spec.read(name, "encoders", "experiment")
    spec.check_keys(name, experiment, _KEYS, needed=("data", "train", "models"))
    for model, table in experiment["models"].items():
        spec.check_keys(f"{name}: models.{model}", table, _MODEL_KEYS, needed=("model",))
    return experiment


def check(job: Job) -> None:
    """Raises BadSpec if files of the data set are missing or a model cannot be trained as it says."""
    for part in ("train", "test"):
        if part in job.settings:
            file_of(job.data, job.settings[part].get("path", ""), f"{job.experiment}: {part}.path")
    table = job.settings["models"][job.model]
    if ("epoch" in table) != ("optimiser" in table):
        raise BadSpec(f"{job.experiment}: models.{job.model}: epoch and optimiser go together")
    averaged, epochs = table.get("averaged", 1), _epochs(job, table)
    if not 1 <= averaged <= epochs:
        raise BadSpec(
            f"{job.experiment}: models.{job.model}: averaged must be from 1 to the number of epochs, {epochs}, "
            f"got {averaged}"
        )


def file_of(data: Path, name: str, where: str) -> Path:
    """The file `name` of the data set, or its compressed form."""
    if data.is_file():
        return data
    found = next((path for path in (data / name, data / f"{name}.gz") if path.is_file()), None)
    if found is None:
        raise BadSpec(f"{where} = {name!r}: there is no such file in {data}, with or without .gz")
    return found


# --- making runs -------------------------------------------------------------------------------------------------


def _made(missing: Sequence[Job], jobs: int) -> Iterator[tuple[Job, Table]]:
    # A process for each run: memory is what that run took, and threads are set before anything is computed.
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), max_tasks_per_child=1, initializer=lifeline.tie_worker
    ) as pool:
        yield from zip(missing, pool.map(play, missing), strict=True)


def play(job: Job) -> Table:
    """Train and evaluate one model with one seed."""
    torch.set_num_threads(1)
    settings = job.settings["models"][job.model]
    catalog, train, test = read(job)
    context = {"catalog": catalog, "seed": job.seed, "device": job.device}
    where = f"{job.experiment}: models.{job.model}"
    model = build(settings["model"], context, f"{where}.model")
    epochs = _trained(job, settings, model, context, train)
    ks = tuple(job.settings.get("ks", (20,)))
    keywords = {"only_last": "test" not in job.settings, **job.settings.get("evaluation", {})}
    start = time.process_time()
    figures = evaluate(model, test, ks, job.device, **keywords)
    seconds = time.process_time() - start
    return {
        **figures,
        "epochs": epochs,
        "events_per_s": _rate(sum(e["events"] for e in epochs), sum(e["seconds"] for e in epochs)),
        "predictions_per_s": _rate(figures["n"], seconds),
        "peak_mb": peak_mb(job.device),
    }


def read(job: Job) -> tuple[Catalog, Sequences, Sequences]:
    """The catalogue, what is trained on and what is tested on.

    The catalogue is as large as the data: a table of item vectors starts within bounds that depend on its rows.
    """
    large = Catalog(_MOST)
    train = _read(job, "train", large)
    catalog = Catalog(max(large.size - 1, 1))
    catalog.see(catalog.rows(large.ids[1:]))
    if "test" not in job.settings:
        return catalog, train.older(int(job.settings.get("held_out", 1))), train
    test = _read(job, "test", large)
    return catalog, train, test.only(torch.arange(large.size) < catalog.size)


_MOST = 1_048_576
"""Items of a data set."""


def _read(job: Job, part: str, catalog: Catalog) -> Sequences:
    where = f"{job.experiment}: {part}"
    table = dict(job.settings[part])
    table["path"] = str(file_of(job.data, table.get("path", ""), f"{where}.path"))
    sequences: Sequences = build(table, {"catalog": catalog}, where)
    return sequences


def _trained(job: Job, settings: Table, model: Any, context: Table, train: Sequences) -> list[Table]:
    """Train the model; what each epoch said."""
    if "epoch" not in settings:
        start = time.process_time()
        model.append(train.items.to(job.device), train.starts.to(job.device))
        return [{"events": len(train.items), "seconds": time.process_time() - start}]
    where = f"{job.experiment}: models.{job.model}"
    named = {**context, "parameters": model.named_parameters(), "net": model}
    optimiser = build(settings["optimiser"], named, f"{where}.optimiser")
    keywords = {key: value for key, value in settings["epoch"].items() if key != "use"}
    if settings.get("shuffle", False):
        keywords["generator"] = Generator().manual_seed(job.seed)
    train_epoch = find(settings["epoch"].get("use"), f"{where}.epoch")
    told, average = [], Average(model)
    epochs, averaged = _epochs(job, settings), int(settings.get("averaged", 1))
    for number in range(epochs):
        told.append(train_epoch(model, train, optimiser, **keywords))
        if averaged > 1 and number >= epochs - averaged:
            average.add()
        if job.loud:
            print(f"{where} seed {job.seed} epoch {number + 1}: {_epoch_told(told[-1])}", file=sys.stderr, flush=True)
    if averaged > 1:
        average.apply()
    return told


def _epochs(job: Job, settings: Table) -> int:
    return int(settings.get("epochs") or job.settings.get("epochs") or 1)


def _epoch_told(epoch: Table) -> str:
    return f"loss {epoch['loss']:.4f}, {_rate(epoch['events'], epoch['seconds']):.0f} clicks/s"


def _rate(many: float, seconds: float) -> float:
    return many / seconds if seconds > 0 else 0.0


def peak_mb(device: str) -> float:
    """The most memory this process held, MiB: of the device, where it is none of the machine's processors."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte / 2**20


# --- what they say -----------------------------------------------------------------------------------------------


def _told(made: Table) -> str:
    quality = ", ".join(f"{name} {made[name]:.4f}" for name in made if name.startswith(("recall", "mrr")))
    return f"{quality}; {made['events_per_s']:.0f} clicks/s, {made['peak_mb']:.0f} MiB"


def _by_model(jobs: Sequence[Job]) -> list[list[Job]]:
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.experiment, job.model), []).append(job)
    return list(groups.values())


def _row(jobs: Sequence[Job], runs: Kept) -> Table:
    made = [runs.made[job.key] for job in jobs]
    row: Table = {"model": jobs[0].model, "experiment": jobs[0].experiment, "data": jobs[0].settings["data"]}
    for name in made[0]:
        if name.startswith(("recall", "mrr", "ndcg")):
            values = [one[name] for one in made]
            row[name] = statistics.fmean(values)
            row[f"{name}_se"] = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    for name in ("events_per_s", "predictions_per_s"):
        row[name] = statistics.fmean(one[name] for one in made)
    row |= {"n": made[0]["n"], "peak_mb": max(one["peak_mb"] for one in made), "seeds": len(made)}
    return row | {"runs": [{"seed": job.seed, **one} for job, one in zip(jobs, made, strict=True)]}


def as_text(results: Table) -> str:
    """The results as lines of a table."""
    lines = []
    for row in results["results"]:
        quality = ", ".join(
            f"{name} {row[name]:.4f}" + ("" if row[f"{name}_se"] is None else f" ± {row[f'{name}_se']:.4f}")
            for name in row
            if name.startswith(("recall", "mrr", "ndcg")) and not name.endswith("_se")
        )
        speed = f"{row['events_per_s']:.0f} clicks/s, {row['predictions_per_s']:.0f} predictions/s"
        lines.append(
            f"{row['data']} {row['model']} ({row['seeds']} seeds): {quality}; {speed}, {row['peak_mb']:.0f} MiB"
        )
    return "\n".join(lines)
