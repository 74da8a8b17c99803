"""How often the intervals of offline values cover the truth when rows of a session depend on each other."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from streamrec.ope.coverage import coverage, table

SETTINGS = ((20_000, 5), (400, 10))
"""Sessions and rows of each: a log as it should be, and a short one."""


def measure(seconds: float, runs: int = 500) -> dict[str, Any]:
    """The study of `streamrec.ope.coverage` at both settings.

    Args:
        seconds: not used; the study takes as long as its runs.
        runs: simulated logs per setting.

    Returns:
        `lines`: one per setting, estimator and interval; `table`: the same as Markdown.
    """
    lines: list[dict[str, Any]] = []
    parts: list[str] = []
    for sessions, rows in SETTINGS:
        found = coverage(runs, sessions, rows)
        lines += [{"sessions": sessions, "rows": rows, **asdict(line)} for line in found]
        parts.append(f"{runs} logs of {sessions:,} sessions of {rows} rows:\n\n{table(found)}")
    return {"runs": runs, "lines": lines, "table": "\n\n".join(parts)}
