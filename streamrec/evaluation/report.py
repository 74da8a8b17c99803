"""`report.html` of a finished run: one self-contained page made from what the run wrote into its directory."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from streamrec.evaluation.metrics_file import (
    Line,
    depth,
    marks,
    number,
    periods,
    points,
    policies,
    read_metrics,
    recent,
    table,
)
from streamrec.evaluation.recovery import recovery
from streamrec.evaluation.report_plots import Plot, Series, clock, svg

__all__ = ["recovery", "write_report"]

_SETTLED = 200  # decisions; before that a mean swings between the extremes and must not set the scale of a plot

_DEFINITIONS = {
    "Reward": "Mean reward per closed decision of the policy over the whole run.",
    "95 % interval": "Where the mean reward per decision lies with 95 % confidence, as the meter of the run wrote it.",
    "Decisions": "Closed decisions: every shown slot had its feedback, or the user left, or patience ran out.",
    "Against random": "Reward relative to the policy named random; ▲ or ▼ only where the two intervals do not touch, "
    "≈ where they do.",
    "Of the way to the oracle": "(reward − random) / (oracle − random): 0 % is what random earns, 100 % what is "
    "possible in this simulator.",
    "Recovery": "Seconds from the shift of tastes until the recent reward is back at 95 % of its mean before the "
    "shift and stays there for three lines of the metrics; 0 if it did not fall.",
    "Recent reward": "Mean reward over the policy's last window of decisions.",
    "Recall@20": "Share of clicks whose item was among the model's first 20 of all items seen so far, scored before "
    "the model may learn from the click.",
    "MRR@20": "Mean of 1 / rank of the clicked item, 0 where it was not among the first 20.",
    "Events per second": "Events taken in, per second of wall time, since the line before.",
    "Lag": "Events that wait in the stream and were not taken in yet.",
    "Event → weights": "Wall time from an event to the end of the gradient step that learned from it: the median, and "
    "the value that 95 % stay below.",
    "Dead letters": "Records that could not be decoded or were out of bounds; they were set aside with the reason.",
    "Late, duplicate, unknown": "Feedback after its decision was closed, feedback given twice, and feedback to a "
    "decision that is not known.",
}


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into the directory of a run and return its path.

    Reads `metrics.jsonl`, and where they exist `spec.toml` and `summary.json`. Of the summary it uses
    `recovery_s: {policy: seconds or null}`, `scale: {random, myopic, oracle, verdict, fractions: {policy: share}}`
    and `command`. Without `recovery_s`, recovery is measured from the first mark of the metrics (`recovery`).

    Raises:
        FileNotFoundError: the directory has no `metrics.jsonl`.
    """
    run_dir = Path(run_dir)
    lines = read_metrics(run_dir / "metrics.jsonl")
    summary = _summary(run_dir / "summary.json")
    title = f"streamrec run {run_dir.resolve().name}"
    template = resources.files("streamrec.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    page = Template(template).substitute(title=escape(title), body="\n".join(_body(run_dir, lines, summary)))
    target, fresh = run_dir / "report.html", run_dir / "report.html.tmp"
    fresh.write_text(page, encoding="utf-8")
    os.replace(fresh, target)
    return target


def _summary(path: Path) -> Line:
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found if isinstance(found, dict) else {}


def _body(run_dir: Path, lines: list[Line], summary: Line) -> list[str]:
    last = lines[-1] if lines else {}
    spec = run_dir / "spec.toml"
    parts = [_opening(lines, summary)]
    if policies(last):
        parts.append(_rewards(lines, summary))
    if periods(last):
        parts.append(_ranking(last))
    parts += [_speed(lines), _learning(lines), _definitions(last, summary)]
    if spec.exists():
        parts.append(_section("Specification", f"<pre>{escape(spec.read_text(encoding='utf-8'))}</pre>"))
    return [part for part in parts if part]


def _opening(lines: list[Line], summary: Line) -> str:
    if not lines:
        return '<p class="soft">The run wrote no figures.</p>' + _command(summary)
    last, rates = lines[-1], points(lines, lambda line: line.get("events_per_s"))
    delay = table(last, "event_to_weights_ms")
    odd = ", ".join(_whole(last.get(key)) for key in ("late", "duplicate", "unknown"))
    mean = f"{sum(y for _, y in rates) / len(rates):,.0f}" if rates else "–"
    tiles = {
        "Run time": clock(last["t"]),
        "Events": _whole(last.get("events")),
        "Decisions": _whole(last.get("decisions")),
        "Events per second, mean": mean,
        "Updates": _whole(last.get("updates")),
        "Event → weights": f"{_ms(delay.get('p50'))} <small>ms · p95 {_ms(delay.get('p95'))} ms</small>"
        if delay
        else "–",
        "Dead letters": _whole(last.get("dead_letters")),
        "Late, duplicate, unknown": odd,
    }
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles.items())
    return f'{_command(summary)}<dl class="tiles" aria-label="The run in figures">{cells}</dl>'


def _command(summary: Line) -> str:
    command = summary.get("command")
    return f'<p class="soft">Made by <code>{escape(str(command))}</code></p>' if command else ""


def _rewards(lines: list[Line], summary: Line) -> str:
    names, marked = list(policies(lines[-1])), marks(lines)
    now = [Series(name, recent(lines, name)) for name in names]
    total = [_total(lines, name) for name in names]
    plots = [
        Plot("Recent reward over time", now, marked, limits=_limits(lines, ("recent",))),
        Plot("Reward since the start, with its 95 % interval", total, marked, limits=_limits(lines, ("low", "high"))),
    ]
    return _section("Reward per decision", _headline(lines, summary) + _scale(summary) + _figures(plots, names))


def _total(lines: list[Line], name: str) -> Series:
    """The mean since the start with its interval; only lines that have both."""
    rows = [
        (line["t"], *(number(policies(line).get(name, {}).get(k)) for k in ("reward", "low", "high"))) for line in lines
    ]
    full = [(t, y, low, high) for t, y, low, high in rows if y is not None and low is not None and high is not None]
    if not full:
        return Series(name, points(lines, lambda line: policies(line).get(name, {}).get("reward")))
    return Series(name, [(t, y) for t, y, _, _ in full], [(t, low, high) for t, _, low, high in full])


def _limits(lines: list[Line], keys: Sequence[str]) -> tuple[float, float] | None:
    settled = [p for line in lines for p in policies(line).values() if (number(p.get("decisions")) or 0) >= _SETTLED]
    values = [y for p in settled for key in keys if (y := number(p.get(key))) is not None]
    return (min(values), max(values)) if values else None


def _headline(lines: list[Line], summary: Line) -> str:
    found, marked = policies(lines[-1]), marks(lines)
    base, shares = found.get("random"), table(summary, "scale", "fractions")
    times = table(summary, "recovery_s") or (recovery(lines, marked[0][0]) if marked else {})
    heads = ["Policy", "Reward", "95 % interval", "Decisions"]
    heads += ["Against random"] * bool(base) + ["Of the way to the oracle"] * bool(shares) + ["Recovery"] * bool(times)
    rows = []
    for name, policy in found.items():
        cells = [
            _cell(_fixed(policy.get("reward"))),
            _cell(_interval(policy), "soft"),
            _cell(_whole(policy.get("decisions"))),
        ]
        cells += [_against(policy, base)] if base else []
        cells += [_cell(_percent(shares.get(name)))] if shares else []
        cells += [_recovered(times, name)] if times else []
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    return _table("Every policy over the whole run", head, rows)


def _recovered(times: Line, name: str) -> str:
    if name not in times:
        return _cell("–", "soft")
    seconds = number(times[name])
    return _cell("not recovered", "down") if seconds is None else _cell(f"{seconds:,.0f} s")


def _against(policy: Line, base: Line) -> str:
    """▲ or ▼ only where the two intervals do not touch."""
    if policy is base:
        return _cell("baseline", "soft")
    values = [number(p.get(key)) for p, key in ((policy, "low"), (policy, "high"), (base, "low"), (base, "high"))]
    reward, other = number(policy.get("reward")), number(base.get("reward"))
    low, high, under, over = values
    if low is None or high is None or under is None or over is None or reward is None or other is None:
        return _cell("–", "soft")
    sign, style = ("▲", "up") if low > over else ("▼", "down") if high < under else ("≈", "soft")
    lift = f"{100 * (reward / other - 1):+.1f} %" if other > 0 else f"{reward - other:+.4f}"
    return _cell(f"{sign} {lift}", style)


def _scale(summary: Line) -> str:
    scale = table(summary, "scale")
    ends = [
        f"{name} {_fixed(scale[name])}"
        for name in ("random", "myopic", "oracle")
        if number(scale.get(name)) is not None
    ]
    if not ends:
        return ""
    verdict = f" {escape(str(scale['verdict']))}" if scale.get("verdict") else ""
    return f'<p class="soft">Ends of the scale, reward per decision: {", ".join(ends)}.{verdict}</p>'


def _ranking(last: Line) -> str:
    found, total = periods(last), table(last, "meters", "ranking", "total")
    names = list(dict.fromkeys(name for period in found for name in period.get("models") or {}))
    days = {float(i): _day(period) for i, period in enumerate(found)}
    k = depth(found)
    plots = [
        Plot(f"{title} per period", [_ranked(found, name, key) for name in names], names=days, size=(6.2, 3.4))
        for title, key in ((f"Recall@{k}", f"recall{k}"), (f"MRR@{k}", f"mrr{k}"))
    ]
    over = "".join(f'<th scope="colgroup" colspan="2">{escape(name)}</th>' for name in names)
    head = f'<th scope="col" rowspan="2">Period</th><th scope="col" rowspan="2">Clicks</th>{over}</tr><tr>'
    head += f'<th scope="col">Recall@{k}</th><th scope="col">MRR@{k}</th>' * len(names)
    rows = [_ranking_row(f"{p.get('period')}", _day(p), p.get("models") or {}, names, k) for p in found]
    rows += [_ranking_row("all", "", total, names, k)] if total else []
    shown = _table("Every click is scored before the model may learn from it; ★ is the best of its row", head, rows)
    return _section("Ranking per period", shown + _figures(plots, names))


def _ranked(periods: list[Line], name: str, key: str) -> Series:
    values = [(float(i), number(table(period, "models", name).get(key))) for i, period in enumerate(periods)]
    return Series(name, [(x, y) for x, y in values if y is not None])


def _day(period: Line) -> str:
    start = number(period.get("start"))
    return str(period.get("period")) if start is None else datetime.fromtimestamp(start, tz=UTC).strftime("%Y-%m-%d")


def _ranking_row(period: str, day: str, models: Line, names: list[str], k: str) -> str:
    best = {
        key: max((number(table(models, n).get(key)) or 0.0 for n in names), default=0.0)
        for key in (f"recall{k}", f"mrr{k}")
    }
    cells = []
    for name in names:
        for key, top in best.items():
            value = number(table(models, name).get(key))
            cells.append(_cell(_fixed(value), "best" if len(names) > 1 and value == top else ""))
    clicks = max((number(table(models, name).get("n")) or 0.0 for name in names), default=0.0)
    head = f'{escape(period)} <span class="soft">{escape(day if day != period else "")}</span>'
    style = ' class="total"' if period == "all" else ""
    return f'<tr{style}><th scope="row">{head}</th>{_cell(_whole(clicks), "soft")}{"".join(cells)}</tr>'


def _speed(lines: list[Line]) -> str:
    shown = {
        "Events per second": [Series("events", points(lines, lambda line: line.get("events_per_s")))],
        "Lag, events": [Series("lag", points(lines, lambda line: line.get("lag")))],
        "Event → weights, ms": [Series(key, _delay(lines, key)) for key in ("p50", "p95")],
    }
    plots = [Plot(title, series, marks(lines), zero=True, size=(6.2, 2.6)) for title, series in shown.items()]
    return _section("Speed", _figures(plots, ["p50", "p95"]))


def _delay(lines: list[Line], key: str) -> list[tuple[float, float]]:
    return points(lines, lambda line: table(line, "event_to_weights_ms").get(key))


def _learning(lines: list[Line]) -> str:
    keys = list(dict.fromkeys(key for line in lines for key in table(line, "learning")))
    keys.sort(key=lambda key: not key.endswith("loss"))
    owners = list(policies(lines[-1])) if lines else []
    plots = []
    for key in keys:
        owner = key.partition(".")[0]  # the same look as the policy has in the other plots
        plots.append(Plot(key, [Series(owner, _learned(lines, key))], marks(lines), size=(6.2, 2.6)))
    return _section("Learning", _figures(plots, owners))


def _learned(lines: list[Line], key: str) -> list[tuple[float, float]]:
    return points(lines, lambda line: table(line, "learning").get(key))


def _definitions(last: Line, summary: Line) -> str:
    policy = (
        {"Reward", "95 % interval", "Decisions", "Against random", "Recovery", "Recent reward"}
        if policies(last)
        else set()
    )
    oracle = {"Of the way to the oracle"} if table(summary, "scale", "fractions") else set()
    ranked = {"Recall@20", "MRR@20"} if periods(last) else set()
    always = {"Events per second", "Lag", "Event → weights", "Dead letters", "Late, duplicate, unknown"}
    shown = policy | oracle | ranked | always
    terms = "".join(f"<dt>{term}</dt><dd>{escape(text)}</dd>" for term, text in _DEFINITIONS.items() if term in shown)
    return _section("What the figures mean", f'<dl class="about">{terms}</dl>')


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>\n{content}</section>" if content else ""


def _table(caption: str, head: str, rows: list[str]) -> str:
    """A table that scrolls sideways by itself where it is too wide; `head`: the cells of its head."""
    table = f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0">{table}</div>'


def _figures(plots: list[Plot], order: list[str]) -> str:
    """Plots that have something to show: narrow ones side by side, wide ones one below the other."""
    full = [p for p in plots if any(s.points for s in p.series)]
    drawn = [f"<figure><h3>{escape(p.title)}</h3>{svg(p, order)}</figure>" for p in full]
    if not drawn:
        return ""
    wide = full[0].size[0] > 7
    return f'<div class="{"wide" if wide else "pair"}">{"".join(drawn)}</div>'


def _cell(text: str, style: str = "") -> str:
    return f'<td class="{style}">{text}</td>' if style else f"<td>{text}</td>"


def _interval(policy: Line) -> str:
    return f"{_fixed(policy.get('low'))} – {_fixed(policy.get('high'))}"


def _fixed(value: Any) -> str:
    found = number(value)
    return "–" if found is None else f"{found:.4f}"


def _whole(value: Any) -> str:
    found = number(value)
    return "–" if found is None else f"{found:,.0f}"


def _ms(value: Any) -> str:
    found = number(value)
    return "–" if found is None else f"{found:,.1f}" if found < 10 else f"{found:,.0f}"


def _percent(value: Any) -> str:
    found = number(value)
    return "–" if found is None else f"{100 * found:.0f} %"
