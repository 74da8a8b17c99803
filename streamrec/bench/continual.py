"""`streamrec bench continual`: models that go on from period to period, each tested on the period that comes next.

The protocol of ADER (Mi, Lin & Faltings, RecSys 2020): train on period t from the weights of period t - 1, test on
period t + 1. Clicks on items that no period so far had are taken out of the test, and so are sequences of which one
click is left; every click but the first of each sequence is then ranked among all items seen so far.

`streamrec.bench.continual_table` says what a table of rows looks like. Rows and periods already in `runs.jsonl` of the
directory are not run again, and a row that was interrupted goes on from the weights at the end of the last period.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from streamrec.bench.continual_rows import Trained, learner_of
from streamrec.bench.continual_table import Periods, Runs, load
from streamrec.build import BadSpec, did_you_mean
from streamrec.evaluation.next_item import evaluate

Say = Callable[[str], None]

KS = (10, 20)
"""List lengths of the published table."""


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


def _row(row: str, runs: Runs, device: torch.device) -> Iterator[dict[str, Any]]:
    """Figures of the periods that were not run before, as they are made."""
    periods = range(1, len(runs.clicks))
    if all(runs.get(row, t) for t in periods):
        return
    learner = learner_of(row, runs, device)
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
