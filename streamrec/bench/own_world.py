"""What each offline estimator says of a policy, beside what the policy earns in the world it shapes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from streamrec.ope.study import study, table


def measure(seconds: float, runs: int = 20) -> dict[str, Any]:
    """The study of `streamrec.ope.study`, and the same where choices have no consequences.

    Args:
        seconds: not used; the study takes as long as its runs.
        runs: simulated logs of each.

    Returns:
        `lines`: one per world, policy and estimator; `table`: the same as Markdown.
    """
    lines: list[dict[str, Any]] = []
    parts: list[str] = []
    for world, tiring in (("what is shown tires", 0.15), ("nothing tires", 0.0)):
        found = study(runs, tiring=tiring)
        lines += [{"tiring": tiring, **asdict(line)} for line in found]
        parts.append(f"{world}:\n\n{table(found)}")
    return {"runs": runs, "lines": lines, "table": "\n\n".join(parts)}
