"""The lines of a run's `metrics.jsonl`, read with tolerance: everything may be missing, null or not finite.

Imports nothing heavy: the command line's parent process reads metrics too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def parse(data: bytes) -> list[Line]:
    """The JSON objects in `data`. A line that a crash cut short is passed over."""
    lines = []
    for raw in data.splitlines():
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def read_metrics(path: Path) -> list[Line]:
    """All lines of a file, `t` in seconds since the run first started.

    Where a resumed run began to count its seconds again, its `t` goes on from the line before. Lines without a
    time are passed over.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"no {path.name} in {path.parent}: expected the directory of a run that was started")
    lines, base, before = [], 0.0, 0.0
    for line in parse(path.read_bytes()):
        t = number(line.get("t"))
        if t is None:
            continue
        base = before - t if t + base < before else base
        before = t + base
        lines.append(line | {"t": before})
    return lines


def number(value: Any) -> float | None:
    """`value` as a finite float, None for everything else (null, NaN, text)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def table(line: Mapping[str, Any], *keys: str) -> Line:
    """The table found by going down the keys, {} where there is none."""
    found: Any = line
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, dict) else {}


def policies(line: Mapping[str, Any]) -> dict[str, Line]:
    """`meters.reward.policies` of a line, {} where no reward is measured."""
    return table(line, "meters", "reward", "policies")


def periods(line: Mapping[str, Any]) -> list[Line]:
    """`meters.ranking.periods` of a line, [] where nothing is ranked."""
    found = table(line, "meters", "ranking").get("periods")
    return found if isinstance(found, list) else []


def depth(found: Iterable[Line]) -> str:
    """K of the Recall@K that periods hold, as text; 20 where they hold none."""
    names = (key for period in found for model in (period.get("models") or {}).values() for key in model)
    return next((key.removeprefix("recall") for key in names if key.startswith("recall")), "20")


def marks(lines: Iterable[Line]) -> list[tuple[float, str]]:
    """(seconds since start, text) of every mark."""
    return [(number(line.get("t")) or 0.0, str(line["mark"])) for line in lines if line.get("mark")]


def points(lines: Iterable[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], Any]) -> list[tuple[float, float]]:
    """(seconds since start, value) of every line in which `value` finds a finite number."""
    found = ((line["t"], number(value(line))) for line in lines)
    return [(t, y) for t, y in found if y is not None]


def recent(lines: Iterable[Mapping[str, Any]], policy: str) -> list[tuple[float, float]]:
    """(seconds since start, recent reward) of a policy."""
    return points(lines, lambda line: policies(line).get(policy, {}).get("recent"))
