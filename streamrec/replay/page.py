"""`report.html` of a replay: one self-contained page made from the figures of report.json, and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

from streamrec.evaluation.report_plots import Plot, Series, svg
from streamrec.replay.definitions import LISTS, RULES, VALUES
from streamrec.replay.drawings import against, bars, forest, strip
from streamrec.replay.moments import written
from streamrec.replay.tables import interval

Figures = Mapping[str, Any]

_STYLE = "<style>td small { display: inline-block; max-width: 12em; white-space: normal; }</style>"

FORESTS = ("snips", "dr", "ips", "rejection")


def page(figures: Figures) -> str:
    """The page as HTML. The same figures give the same bytes."""
    title = f"Policies on {figures['log']['name'].rstrip('/').rpartition('/')[2]}"
    template = resources.files("streamrec.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    parts = [
        _STYLE,
        _opening(figures),
        _warnings(figures),
        _values(figures),
        _weights(figures),
        _overlap(figures),
        _days(figures),
        _calibration(figures),
        _lists(figures),
        _segments(figures),
        _rejection(figures),
        _ledger(figures),
        _definitions(figures),
        _settings(figures),
    ]
    return Template(template).substitute(title=escape(title), body="\n".join(part for part in parts if part))


def _opening(figures: Figures) -> str:
    log, settings = figures["log"], figures["settings"]
    tiles = {
        "Decisions": f"{log['decisions']:,}",
        "Rows": f"{log['rows']:,}",
        "Items": f"{log['available']:,}",
        "Mode": escape(settings["mode"]),
        "From": f"<small>{written(log['scored'][0])}</small>",
        "Until": f"<small>{written(log['scored'][1])}</small>",
        "Learned until": f"<small>{written(log['learned_until'])}</small>",
        "Fingerprint": f"<small><code>{log['fingerprint'][:16]}<br>{log['fingerprint'][16:]}</code></small>",
    }
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles.items())
    return f'<dl class="tiles" aria-label="The replay in figures">{cells}</dl>'


def _warnings(figures: Figures) -> str:
    told: dict[str, list[str]] = {}
    for name, row in figures["policies"].items():
        for quantity, figure in row.items():
            for code, message in {**(figure["refused"] or {}), **figure["warnings"]}.items():
                told.setdefault(code, [f"{name}, {quantity}: {message}"])
                told[code].append(name)
    general = "".join(f"<p>{escape(message)}</p>" for message in figures["warnings"].values())
    parts = []
    for code, (first, *names) in told.items():
        who = ", ".join(dict.fromkeys(names))
        said = f'{escape(first)} <span class="soft">Policies: {escape(who)}.</span>'
        parts.append(f"<dt><code>{code}</code></dt><dd>{said}</dd>")
    found = f'<dl class="about">{"".join(parts)}</dl>' if parts else ""
    return _section("Read this first", general + found)


def _values(figures: Figures) -> str:
    names = [name for name in VALUES if any(name in row for row in figures["policies"].values())]
    if not names:
        return ""
    head = '<th scope="col">Policy</th>' + "".join(f'<th scope="col">{name.replace("_", " ")}</th>' for name in names)
    head += (
        '<th scope="col">ESS</th><th scope="col">Largest w</th><th scope="col">Rows</th><th scope="col">Sessions</th>'
    )
    rows = [_value_row(name, row, names) for name, row in figures["policies"].items()]
    level = f"{100 * (1 - figures['settings']['alpha']):g} %"
    caption = f"Values with {level} intervals, per shown slot unless the name says slate or session"
    return _section("Values", _table(caption, head, rows) + _forests(figures))


def _value_row(name: str, row: Figures, names: Sequence[str]) -> str:
    cells = "".join(_value_cell(row.get(quantity)) for quantity in names)
    first = row.get("snips", row.get("ips", row.get("logged")))
    ess = "–" if first is None or first["ess"] is None else f"{first['ess']:,.0f}"
    heaviest = "–" if first is None or first["max_w"] is None else f"{first['max_w']:,.4g}"
    n, sessions = ("–", "–") if first is None else (f"{first['n']:,}", f"{first['sessions']:,}")
    beside = "".join(f"<td>{text}</td>" for text in (ess, heaviest, n, sessions))
    return f'<tr><th scope="row">{escape(name)}</th>{cells}{beside}</tr>'


def _value_cell(figure: Figures | None) -> str:
    if figure is None:
        return '<td class="soft">–</td>'
    said = [*(figure["refused"] or {}), *figure["warnings"]]
    notes = f'<br><small class="down">{escape(" ".join(said))}</small>' if said else ""
    text = interval(figure).replace(" [", '<br><span class="soft">[').replace("]", "]</span>")
    return f"<td>{text}{notes}</td>"


def _forests(figures: Figures) -> str:
    logged = figures["policies"]["logged"].get("logged", {}).get("value")
    drawn = []
    for quantity in FORESTS:
        rows = [
            (name, figure["value"], figure["low"], figure["high"])
            for name, row in figures["policies"].items()
            if (figure := row.get(quantity)) is not None and figure["value"] is not None
        ]
        if rows:
            title = f"{quantity}, the dashed line is the mean of the log"
            drawn.append(_figure(title, forest(rows, logged, title)))
    return "".join(drawn)


def _weights(figures: Figures) -> str:
    drawn = []
    for name, found in figures["weights"].items():
        row = figures["policies"][name].get("snips", figures["policies"][name].get("ips"))
        if name == "logged" or not found["rows"] or row is None:
            continue
        title = f"{name}: effective sample size {row['ess']:,.0f} of {row['n']:,} rows, {found['zeros']:,} of weight 0"
        marks = [(1.0, "1"), (row["max_w"], f"largest {row['max_w']:,.4g}")]
        drawn.append(_figure(title, bars(found["edges"], found["rows"], marks, title)))
    note = (
        '<p class="soft">Rows by weight w = probability under the policy / propensity; both axes are logarithmic.</p>'
    )
    return _section("Weights", note + "".join(drawn)) if drawn else ""


def _overlap(figures: Figures) -> str:
    found = figures["overlap"]
    if not found:
        return ""
    rows = [(name, [*row["share"], row["never_shown"]]) for name, row in found["policies"].items()]
    items = found["items"]
    heads = [f"items shown most ({items[0]})", *(f"group {at + 1} ({n})" for at, n in enumerate(items[1:], 1))]
    note = (
        '<p class="soft">Where each policy puts its choices: groups of items with an equal share of what the log '
        "showed, the most shown on the left, and at the right end items it never showed.</p>"
    )
    return _section("Overlap with the log", note + strip(rows, [*heads, "never shown"], "overlap"))


def _days(figures: Figures) -> str:
    plots = []
    for estimator in ("snips", "dr"):
        series = []
        for name, row in figures["windows"].items():
            windows = row.get(estimator, row.get("logged") if name == "logged" else None) or []
            if len(windows) > 1:
                series.append(_by_window(name, windows))
        if series:
            names = {w["start"]: written(w["start"])[:10] for row in figures["windows"].values()
                     for windows in row.values() for w in windows}  # fmt: skip
            plots.append(Plot(f"{estimator} by day, with its 95 % interval", series, names=names))
    return _section("Value by day", _plots(plots, figures))


def _by_window(name: str, windows: Sequence[Figures]) -> Series:
    there = [w for w in windows if w["value"] is not None]
    points = [(w["start"], w["value"]) for w in there]
    band = [(w["start"], w["value"] - 1.96 * w["se"], w["value"] + 1.96 * w["se"]) for w in there if w["se"]]
    return Series(name, points, band if len(band) == len(points) else ())


def _calibration(figures: Figures) -> str:
    points = [(row["q"], row["reward"], row["rows"]) for row in figures["q_calibration"]]
    note = (
        '<p class="soft">What the reward model said of shown slots, before it knew them, against what came, in groups '
        "by what it said; points on the dashed line are right on average.</p>"
    )
    return _section("Calibration of the reward model", note + against(points, "calibration of q")) if points else ""


def _lists(figures: Figures) -> str:
    names = list(dict.fromkeys(n for row in figures["policies"].values() for n in row if n.partition("@")[0] in LISTS))
    if not names:
        return ""
    head = '<th scope="col">Policy</th>' + "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    head += '<th scope="col">Rows</th>'
    rows = []
    for policy, row in figures["policies"].items():
        if any(name in row for name in names):
            n = next(row[name]["n"] for name in names if name in row)
            cells = "".join(_value_cell(row.get(name)) for name in names)
            rows.append(f'<tr><th scope="row">{escape(policy)}</th>{cells}<td>{n:,}</td></tr>')
    note = (
        '<p class="soft">Another question than the value: would the list have held what was liked? A policy that ranks '
        "well need not earn more. The logged policy has no row: it showed what could be liked.</p>"
    )
    return _section("Lists", note + _table("Means over decisions with intervals", head, rows))


def _segments(figures: Figures) -> str:
    metric = next((name for row in figures["policies"].values() for name in row if name.startswith("ndcg@")), None)
    if metric is None or not figures["segments"]:
        return ""
    titles = {
        "position": "by place of the click in its session",
        "session_length": "by number of clicks in the session",
        "popularity": "by tenth of the items by popularity of what was liked, 10 the most popular",
    }
    plots = []
    for segment, title in titles.items():
        labels = list(dict.fromkeys(label for row in figures["segments"].values() for label in row[segment]))
        if not labels:
            continue
        labels.sort(key=_label)
        names = {float(at): label for at, label in enumerate(labels)}
        series = [
            Series(name, [(float(at), row[segment][label][metric]["value"]) for at, label in enumerate(labels)
                          if row[segment].get(label, {}).get(metric, {}).get("value") is not None])
            for name, row in figures["segments"].items()
        ]  # fmt: skip
        plots.append(Plot(f"{metric} {title}", series, names=names, zero=True))
    return _section("Where the lists are good", _plots(plots, figures) + _splits(figures, metric))


def _label(text: str) -> float:
    digits = text.removeprefix("decile ").partition("-")[0].rstrip("+")
    return float(digits) if digits.isdigit() else 0.0


def _splits(figures: Figures, metric: str) -> str:
    kinds = [
        ("user", "new"),
        ("user", "known"),
        ("item", "new"),
        ("item", "known"),
        ("repeat", "first time"),
        ("repeat", "repeat"),
    ]
    head = '<th scope="col">Policy</th>' + "".join(f'<th scope="col">{kind}: {label}</th>' for kind, label in kinds)
    rows = []
    for name, row in figures["segments"].items():
        cells = "".join(_value_cell(row[kind].get(label, {}).get(metric)) for kind, label in kinds)
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return _table(
        f"{metric} by what is known of the user and of what was liked, and by whether it was liked before", head, rows
    )


def _rejection(figures: Figures) -> str:
    found = figures["rejection"]
    if not found:
        return ""
    keys = ("asked", "accepted", "beyond", "learned", "updates", "bound")
    head = '<th scope="col">Policy</th>' + "".join(f'<th scope="col">{key}</th>' for key in keys)
    rows = [
        f'<tr><th scope="row">{escape(name)}</th>' + "".join(f"<td>{row[key]:,.6g}</td>" for key in keys) + "</tr>"
        for name, row in found.items()
    ]
    return _section("Rejection: what each policy lived through", _table("Decisions, and steps of learning", head, rows))


def _ledger(figures: Figures) -> str:
    rows = [f'<tr><th scope="row">{escape(c)}</th><td>{n:,}</td></tr>' for c, n in figures["dropped"].items()]
    left = "".join(f"<p>No {escape(n)}: {escape(why)}.</p>" for n, why in figures["about"]["left_out"].items())
    head = '<th scope="col">Cause</th><th scope="col">Rows</th>'
    return _section("Rows that count nowhere", _table("Left out, by cause", head, rows) + left)


def _definitions(figures: Figures) -> str:
    shown = {name for row in figures["policies"].values() for name in row}
    bare = {name.partition("@")[0] for name in shown}
    terms = {name.replace("_", " "): text for name, text in {**VALUES, **LISTS}.items() if name in bare} | RULES
    policies = {f"policy {name}": text for name, text in figures["about"]["policies"].items()}
    parts = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in (policies | terms).items())
    return _section("What the figures mean", f'<dl class="about">{parts}</dl>')


def _settings(figures: Figures) -> str:
    told = {"settings": figures["settings"], "log": figures["log"], "audit": figures["audit"]}
    return _section("Settings and audit", f"<pre>{escape(json.dumps(told, indent=1))}</pre>")


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>\n{content}</section>" if content else ""


def _figure(title: str, drawing: str) -> str:
    return f"<figure><h3>{escape(title)}</h3>{drawing}</figure>" if drawing else ""


def _plots(plots: Sequence[Plot], figures: Figures) -> str:
    order = list(figures["policies"])
    full = [plot for plot in plots if any(series.points for series in plot.series)]
    return "".join(f'<div class="wide">{_figure(plot.title, svg(plot, order))}</div>' for plot in full)


def _table(caption: str, head: str, rows: Sequence[str]) -> str:
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    table = f"<table><caption>{escape(caption)}</caption>{body}</table>"
    return f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0">{table}</div>'
