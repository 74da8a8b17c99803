"""Code of others, run beside ours: loaded from where its users have it, and measured in turns."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import torch

from streamrec.bench import encoders
from streamrec.build import BadSpec

Work = Callable[[float], int]
"""Works for about so many seconds and returns how many units it did."""


def job(name: str, data: Path) -> encoders.Job:
    """The first model of an experiment, on `data`.

    Raises:
        BadSpec: there is no such experiment, it has no test sessions of its own, or files are missing.
    """
    experiment = encoders.load(name)
    if "test" not in experiment:
        raise BadSpec(f"{name}: expected an experiment with a [test] table: peers are tested on sessions of their own")
    made = encoders.Job(Path(name).stem, experiment, next(iter(experiment["models"])), 0, data, "cpu", loud=False)
    encoders.check(made)
    return made


def clicks(job: encoders.Job, kinds: Mapping[str, Any] | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and test clicks as the peers read them, without test clicks on items that the training has not."""
    names = (job.settings[part]["path"] for part in ("train", "test"))
    files = (encoders.file_of(job.data, name, f"{job.experiment}: path") for name in names)
    train, test = (pd.read_csv(file, sep="\t", dtype=kinds) for file in files)
    return train, test[test["ItemId"].isin(train["ItemId"])]


def work_for(seconds: float, steps: Iterator[int]) -> int:
    """Take steps, each of which says how many units it did, until the time is over."""
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        done += next(steps)
    return done


def load(name: str, file: Path, changes: Mapping[str, str], needs: Mapping[str, ModuleType] | None = None) -> Any:
    """A module of a peer from its source.

    Args:
        name: under which its own files may import it.
        file: of the source.
        changes: lines that do not run with the libraries of today -> what they must be; none changes a result.
        needs: modules it imports and does not use here.

    Raises:
        BadSpec: there is no such file.
    """
    if not file.is_file():
        raise BadSpec(f"the peer's code: expected a file {file}; clone the repository and name its folder")
    source = file.read_text()
    for old, new in changes.items():
        source = source.replace(old, new)
    module = ModuleType(name)
    module.__file__ = str(file)
    for needed, stub in (needs or {}).items():
        sys.modules.setdefault(needed, stub)
    sys.modules[name] = module
    exec(compile(source, str(file), "exec"), module.__dict__)
    return module


def in_turns(work: Mapping[str, Work], peer: str, seconds: float, turns: int) -> dict[str, Any]:
    """Let everybody work in turns, after a turn that does not count.

    With one thread rates are per second of processor time, which other processes disturb least, else of wall time.

    Returns:
        `rates`: medians by name; `ratios`: medians of the ratios to the `peer` in the same turn; `turns`: all rates.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    rates: list[dict[str, float]] = []
    for turn in range(turns + 1):
        rates.append({})
        for name, job in work.items():
            start = clock()
            done = job(seconds if turn else min(seconds, 1.0))
            rates[-1][name] = done / max(clock() - start, 1e-9)
    counted = rates[1:]
    return {
        "rates": {name: statistics.median(turn[name] for turn in counted) for name in work},
        "ratios": {
            name: statistics.median(turn[name] / turn[peer] for turn in counted) for name in work if name != peer
        },
        "turns": counted,
    }


@contextmanager
def threads(many: int) -> Iterator[None]:
    """So many threads for torch meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(many)
    try:
        yield
    finally:
        torch.set_num_threads(before)
