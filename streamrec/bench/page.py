"""`agents.html`: table, learning curves and claims of `streamrec bench agents` on one self-contained page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from streamrec.evaluation.report_plots import Plot, Series, svg

Results = Mapping[str, Any]


def write_page(path: Path, results: Results) -> Path:
    """Write the page and return its path."""
    template = resources.files("streamrec.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    body = [_claims(results), *(_world(world, results) for world in results["worlds"])]
    page = Template(template).substitute(title="streamrec bench agents", body="\n".join(filter(None, body)))
    fresh = path.with_suffix(".tmp")
    fresh.write_text(page, encoding="utf-8")
    os.replace(fresh, path)
    return path


def _claims(results: Results) -> str:
    if not results["claims"]:
        return ""
    head = "<th>Claim</th><th>World</th><th>Difference</th><th>Holds</th><th>With the effect off</th><th>Tie</th>"
    rows = [
        f"<tr><th>{escape(c['claim'])}</th><td>{escape(c['world'])}</td>{_gap(c)}{_gap(c['control'])}</tr>"
        for c in results["claims"]
    ]
    about = (
        "Differences seed by seed with Student's 95 % interval, in the unit of the world; the control is the same runs "
    )
    about += "with the effect off that the claim needs."
    return _section("Claims", _table(about, head, rows))


def _gap(verdict: Mapping[str, Any] | None) -> str:
    if verdict is None:
        return "<td>–</td><td>–</td>"
    ends = "" if verdict["low"] is None else f" [{verdict['low']:.3g}, {verdict['high']:.3g}]"
    style, word = ("up", "yes") if verdict["holds"] else ("down", "no")
    return f'<td>{verdict["gap"]:.3g}{ends}</td><td class="{style}">{word}</td>'


def _world(world: Mapping[str, Any], results: Results) -> str:
    rows = [row for row in results["results"] if row["world"] == world["world"]]
    rows.sort(key=lambda row: -row["score"])
    order = [row["agent"] for row in rows]
    curves = [_curve(row) for row in rows if row["agent"] not in ("random", "oracle")]
    plot = Plot("Share of the way from random to oracle, against decisions", curves, names=_ticks(rows))
    head = "<th>Agent</th><th>Score</th><th>95 % interval</th><th>In the world's unit</th>"
    head += "<th>Decisions to 90 %</th><th>Seconds to 90 %</th><th>Wall seconds</th><th>Seeds</th>"
    about = f"{escape(world['about'])}. Looking ahead is worth {world['lookahead_share']:.0%} of the way."
    table = _table(about, head, [_row(row) for row in rows])
    return _section(escape(world["world"]), f"{table}<figure>{svg(plot, order)}</figure>")


def _curve(row: Mapping[str, Any]) -> Series:
    step = row["decisions"] / len(row["curve"])
    return Series(row["agent"], [(step * (at + 1), y) for at, y in enumerate(row["curve"])])


def _ticks(rows: list[Mapping[str, Any]]) -> dict[float, str]:
    most = max(row["decisions"] for row in rows)
    return {most * part / 4: f"{most * part / 4:,.0f}" for part in range(5)}


def _row(row: Mapping[str, Any]) -> str:
    ends = "–" if row["low"] is None else f"{row['low']:.3f} – {row['high']:.3f}"
    steps = "–" if row["steps"] is None else f"{row['steps']:,}"
    seconds = "–" if row["seconds"] is None else f"{row['seconds']:.0f}"
    cells = (f"{row['score']:.3f}", ends, f"{row['raw']:.4g}", steps, seconds, f"{row['wall_s']:.0f}", row["seeds"])
    return f"<tr><th>{escape(row['agent'])}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _section(title: str, inner: str) -> str:
    return f"<section><h2>{title}</h2>{inner}</section>"


def _table(caption: str, head: str, rows: list[str]) -> str:
    table = f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="scroll">{table}</div>'
