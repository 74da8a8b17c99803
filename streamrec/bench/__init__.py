"""`streamrec bench`: ratios against a limit or a peer measured in the same run, because machines differ."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

import torch

from streamrec.build import BadSpec, did_you_mean

SPEEDS = ("simulators", "loop", "kafka", "dqn", "warmstart", "serving", "ranking", "cost", "live")
"""Benchmarks that measure one ratio: `streamrec.bench.NAME.measure(seconds)`."""

BESIDE = ("gru4rec", "vsknn")
"""Benchmarks beside a peer's own code, on real data, called the same way with `data` and `peer_code`."""

STUDIES = ("coverage", "own-world")
"""Simulated studies that end in a table, called the same way."""


def measure(name: str, seconds: float, **options: Any) -> dict[str, Any]:
    """Run the benchmark `name`, about `seconds` per measurement, on one thread. `options`: what it takes beside that.

    Returns:
        `{"bench", "threads", ...}`: rates per second and `ratio` = ours / the limit or peer of the same run.

    Raises:
        BadSpec: there is no such benchmark.
    """
    known = (*SPEEDS, *BESIDE, *STUDIES)
    if name not in known:
        raise BadSpec(f"there is no benchmark {name!r}{did_you_mean(name, known)}")
    torch.set_num_threads(1)
    module = importlib.import_module(f"streamrec.bench.{name.replace('-', '_')}")
    figures: dict[str, Any] = module.measure(seconds, **options)
    return {"bench": name, "threads": 1, **figures}


def rate(work: Callable[[], int], seconds: float) -> float:
    """Units per second of `work`, which returns how many it did; a first call is not counted."""
    work()
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        done += work()
    return done / spent
