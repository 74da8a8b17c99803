"""How long a policy needs to win back its reward after the world changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from streamrec.evaluation.metrics_file import policies, recent


def recovery(
    metrics_lines: Iterable[Mapping[str, Any]], mark: float, share: float = 0.95, hold: int = 3
) -> dict[str, float | None]:
    """Seconds each policy needs after a mark until its recent reward is back.

    `before` is the mean of the policy's `recent` over the lines in the last third of the time from the first line to
    the mark, the mark itself not included: late enough that learners have warmed up, in proportion to the run. The
    target is `before - (1 - share) * |before|`, that is `share * before` for a positive reward. From the mark on, up
    to the next line that carries a mark:

    - 0.0 if `recent` is never below the target on `hold` lines in a row: the policy did not fall;
    - else the seconds from the mark to the first of the first `hold` lines in a row that are at or above the
      target, counted after that fall;
    - None if there are no such lines, or if the policy has no `recent` in the time that makes up `before`.

    One line above the target is not enough, nor one below, since `recent` is a mean over a short window and noisy.
    Lines in which the policy has no finite `recent` are passed over.

    Args:
        metrics_lines: lines of `metrics.jsonl` in order of `t`.
        mark: time of the mark, `t` of its line; seconds since the start of the run.
        share: part of the old reward that counts as recovered.
        hold: lines in a row.

    Raises:
        ValueError: the mark lies outside the lines.
    """
    lines = list(metrics_lines)
    if not lines or not lines[0]["t"] <= mark <= lines[-1]["t"]:
        span = f"from {lines[0]['t']:g} to {lines[-1]['t']:g} s" if lines else "empty"
        raise ValueError(f"a mark at {mark:g} s was given but the metrics are {span}: give `t` of the marked line")
    start = mark - (mark - lines[0]["t"]) / 3
    earlier = [line for line in lines if start <= line["t"] < mark]
    later = [line for line in lines if line["t"] >= mark]
    end = next((i for i, line in enumerate(later) if line.get("mark") and line["t"] > mark), len(later))
    out = {}
    for name in dict.fromkeys(name for line in lines for name in policies(line)):
        old = [reward for _, reward in recent(earlier, name)]
        out[name] = _back(recent(later[:end], name), mark, old, share, hold) if old else None
    return out


def _back(points: list[tuple[float, float]], mark: float, old: list[float], share: float, hold: int) -> float | None:
    before = sum(old) / len(old)
    target = before - (1 - share) * abs(before)
    fell = _run([y < target for _, y in points], hold)
    if fell is None:
        return 0.0
    back = _run([y >= target for _, y in points[fell:]], hold)
    return None if back is None else points[fell + back][0] - mark


def _run(flags: Sequence[bool], length: int) -> int | None:
    """Where the first `length` true flags in a row begin."""
    return next((i for i in range(len(flags) - length + 1) if all(flags[i : i + length])), None)
