"""`streamrec bench`: speed as ratios against a limit or peer measured in the same run, because machines differ."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from streamrec.build import BadSpec, build, did_you_mean, find


def measure(name: str, seconds: float) -> dict[str, Any]:
    """Run the benchmark `name`, about `seconds` per measurement.

    Raises:
        BadSpec: there is no such benchmark.
    """
    if name not in BENCHMARKS:
        raise BadSpec(f"there is no benchmark {name!r}{did_you_mean(name, BENCHMARKS)}")
    torch.set_num_threads(1)
    return {"bench": name, "threads": 1, **BENCHMARKS[name](seconds)}


def rate(work: Callable[[], int], seconds: float) -> float:
    """Units per second of `work`, which returns how many it did; a first call is not counted."""
    work()
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        done += work()
    return done / spent
