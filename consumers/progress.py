"""What the command line says while a run goes on and when it is over."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from consumers.panel import Panel


@contextmanager
def following(run_dir: Path, quiet: bool) -> Iterator[None]:
    """Show the run in `run_dir` on standard error while the body runs in this thread."""
    if quiet:
        yield
        return
    over = threading.Event()
    show = threading.Thread(target=lambda: Panel(run_dir).follow(over.is_set), name="panel", daemon=True)
    show.start()
    try:
        yield
    finally:
        over.set()
        show.join(5.0)


def print_summary(summary: Mapping[str, Any]) -> None:
    """The figures of a finished run for people: tables first, then the rest, then what to do next."""
    console = Console()
    if policies := summary.get("policies"):
        console.print(_policies(policies, summary.get("recovery_s") or {}))
    if periods := summary.get("periods"):
        console.print(_periods(periods))
    if scale := summary.get("scale"):
        console.print(scale["verdict"])
    if table := summary.get("table"):
        console.print(table, highlight=False, soft_wrap=True)
    hidden = {"policies", "periods", "total", "scale", "table", "lines", "recovery_s", "next", "command", "report"}
    for name, value in summary.items():
        if name not in hidden and value is not None:
            console.print(f"{name:>20}  {_plain(value)}", highlight=False)
    if report := summary.get("report"):
        console.print(f"{'report':>20}  {report}", highlight=False, soft_wrap=True)
    for number, command in enumerate(summary.get("next", ()), 1):
        console.print(f"{'try next' if number == 1 else '':>20}  {command}", highlight=False, soft_wrap=True)


def _policies(policies: Mapping[str, Any], recovery_s: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2), title="reward per decision", title_justify="left")
    for head in ("policy", "reward", "95 % interval", "decisions", *(["recovery"] if recovery_s else [])):
        table.add_column(head, justify="left" if head == "policy" else "right")
    for name, row in sorted(policies.items(), key=lambda item: -item[1]["reward"]):
        cells = [name, f"{row['reward']:.4f}", f"{row['low']:.4f} to {row['high']:.4f}", f"{row['decisions']:,}"]
        if recovery_s:
            back = recovery_s.get(name)
            cells.append("not recovered" if back is None else f"{back:.0f} s")
        table.add_row(*cells)
    return table


def _periods(periods: list[dict[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for period in periods for name in period["models"]))
    depth = next(iter(periods[0]["models"][names[0]])).removeprefix("recall")
    title = f"Recall@{depth} / MRR@{depth} by period, over all items seen so far"
    table = Table(box=None, padding=(0, 1), title=title, title_justify="left")
    table.add_column("period", justify="right")
    table.add_column("n", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    for period in periods:
        models = period["models"]
        cells = [_pair(models.get(name), depth) for name in names]
        table.add_row(str(period["period"] + 1), f"{max(m['n'] for m in models.values()):,}", *cells)
    return table


def _pair(model: Mapping[str, float] | None, depth: str) -> str:
    return "-" if model is None else f"{model[f'recall{depth}']:.3f} / {model[f'mrr{depth}']:.3f}"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def print_agents(results: Mapping[str, Any]) -> None:
    """What `streamrec bench agents` found, for people: a table per world, then the claims."""
    console = Console()
    for world in results["worlds"]:
        console.print(_arena(world, [row for row in results["results"] if row["world"] == world["world"]]))
    if results["claims"]:
        console.print(_verdicts(results["claims"]))
    console.print(f"report  {results['report']}", highlight=False, soft_wrap=True)


def _arena(world: Mapping[str, Any], rows: list[dict[str, Any]]) -> Table:
    ahead = f"looking ahead is worth {world['lookahead_share']:.0%} of the way from random to oracle"
    table = Table(box=None, padding=(0, 2), title=f"{world['world']}: {ahead}", title_justify="left")
    for head in ("agent", "of the way", "95 % interval", "raw", "decisions to 90 %", "wall s", "seeds"):
        table.add_column(head, justify="left" if head == "agent" else "right")
    for row in sorted(rows, key=lambda row: -row["score"]):
        ends = "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
        steps = "" if row["steps"] is None else f"{row['steps']:,}"
        cells = (f"{row['score']:.3f}", ends, f"{row['raw']:.4g}", steps, f"{row['wall_s']:.0f}", str(row["seeds"]))
        table.add_row(row["agent"], *cells)
    return table


def _verdicts(claims: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2), title="claims", title_justify="left")
    for head in ("world", "claim", "difference", "holds", "with the effect off", "tie"):
        table.add_column(head)
    for claim in claims:
        table.add_row(claim["world"], claim["claim"], *_verdict(claim), *_verdict(claim["control"]))
    return table


def _verdict(verdict: Mapping[str, Any] | None) -> tuple[str, str]:
    if verdict is None:
        return "", ""
    ends = "" if verdict["low"] is None else f" ({verdict['low']:.3g} to {verdict['high']:.3g})"
    return f"{verdict['gap']:.3g}{ends}", "yes" if verdict["holds"] else "no"
