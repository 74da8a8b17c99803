"""What audit, replay, compare and plan say in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from streamrec.replay.moments import written

Figures = Mapping[str, Any]

RANKED = ("recall", "ndcg")
"""Metrics of lists that have a column."""


def print_report(figures: Figures) -> None:
    """The policies of a report, one line each, and what must be read beside them."""
    console = _console()
    log = figures["log"]
    told = f"{log['decisions']:,} decisions, {log['rows']:,} rows from {written(log['scored'][0])} to "
    console.print(f"{log['name']}: {told}{written(log['scored'][1])} UTC", highlight=False, soft_wrap=True)
    if log["learned_until"] is not None:
        console.print(f"policies learned until {written(log['learned_until'])} and are fixed since", highlight=False)
    legend = list(_messages(figures))
    console.print(_policies(figures, legend))
    for cause, many in figures["dropped"].items():
        if many:
            console.print(f"left out: {many:,} {cause}", highlight=False)
    for name, reason in figures["about"]["left_out"].items():
        console.print(f"no {name}: {reason}", highlight=False)
    for message in figures["warnings"].values():
        console.print(message, highlight=False, soft_wrap=True)
    for at, message in enumerate(_messages(figures).values(), 1):
        console.print(f"  {at} {message}", highlight=False, soft_wrap=True)
    console.print(f"fingerprint {log['fingerprint']}", highlight=False)


def _console() -> Console:
    """As wide as the terminal; wide enough for tables where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _policies(figures: Figures, legend: list[str]) -> Table:
    table = Table(box=None, padding=(0, 1))
    ranked = _ranked(figures)
    valued = any("snips" in row or "ips" in row for row in figures["policies"].values())
    heads = ["policy"]
    heads += ["SNIPS", "DR", "above the log", "ESS"] if valued else []
    heads += ["rejection"] if figures["rejection"] else []
    heads += [*ranked, "see"]
    for head in heads:
        table.add_column(head, justify="left" if head in ("policy", "see") else "right", no_wrap=head != "see")
    for name, row in figures["policies"].items():
        cells = [name]
        if valued:
            above = row.get("dr_minus_logged", row.get("snips_minus_logged"))
            cells += [interval(row.get("snips", row.get("logged"))), interval(row.get("dr")), interval(above)]
            cells.append(_ess(row))
        cells += [interval(row.get("rejection"))] if figures["rejection"] else []
        cells += [_value(row.get(metric)) for metric in ranked]
        table.add_row(*cells, " ".join(str(1 + legend.index(code)) for code in codes(row)))
    return table


def _ranked(figures: Figures) -> list[str]:
    names = dict.fromkeys(name for row in figures["policies"].values() for name in row)
    return [name for name in names if name.partition("@")[0] in RANKED]


_SHOWN = ("logged", "snips", "dr", "rejection")
"""Quantities that have a column, besides metrics of lists: codes of others stand in the report."""


def codes(row: Figures) -> list[str]:
    """Every code that stands at a value shown here, in order."""
    shown = [figure for name, figure in row.items() if name in _SHOWN or name.partition("@")[0] in RANKED]
    found = [code for figure in shown for part in ("refused", "warnings") for code in figure[part] or {}]
    return list(dict.fromkeys(found))


def _messages(figures: Figures) -> dict[str, str]:
    """Each code with what it says of the first policy that has it."""
    told: dict[str, str] = {}
    for name, row in figures["policies"].items():
        for code in codes(row):
            said = [{**(figure["refused"] or {}), **figure["warnings"]} for figure in row.values()]
            told.setdefault(code, f"{name}: {next(one[code] for one in said if code in one)}")
    return told


def interval(figure: Figures | None) -> str:
    """`.00301 [.0015, .0045]`, `refused` where there is no number."""
    if figure is None:
        return "–"
    if figure["value"] is None:
        return "refused"
    if figure["low"] is None:
        return number(figure["value"])
    return f"{number(figure['value'])} [{number(figure['low'])}, {number(figure['high'])}]"


def number(value: float) -> str:
    """Four digits that mean something."""
    return f"{value:.5f}" if abs(value) < 0.1 else f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}"


def _value(figure: Figures | None) -> str:
    return "–" if figure is None or figure["value"] is None else f"{figure['value']:.4f}"


def _ess(row: Figures) -> str:
    figure = row.get("snips", row.get("ips"))
    return "–" if figure is None or figure["ess"] is None else f"{figure['ess']:,.0f}"


def print_audit(told: Figures) -> None:
    """What was found in a log, then what it can be used for."""
    console = _console()
    span = told["time"]
    console.print(f"{told['log']}", highlight=False, soft_wrap=True)
    if span:
        console.print(f"  {told['rows']:,} rows from {written(span[0])} to {written(span[1])} UTC", highlight=False)
    kinds = ", ".join(f"{name} {many:,}" for name, many in sorted(told["kinds"].items()))
    console.print(f"  kinds: {kinds or 'none'}", highlight=False)
    found = ", ".join(f"{told[name]:,} {name}" for name in ("users", "sessions", "items", "slates"))
    console.print(f"  {found}", highlight=False)
    _order(console, told["order"])
    _propensities(console, told)
    for what, answer in told["abilities"].items():
        console.print(f"  {what:>9}: {answer}", highlight=False, soft_wrap=True)
    for message in told["warnings"].values():
        console.print(f"  warning {message}", highlight=False, soft_wrap=True)
    for message in told["refused"].values():
        console.print(f"  REFUSED {message}", highlight=False, soft_wrap=True)
    for example in told["examples"]:
        console.print(f"    {example}", highlight=False, soft_wrap=True)


def _order(console: Console, order: Figures) -> None:
    names = {"ties": "ties of a user's rows", "duplicates": "duplicates", "orphans": "reactions to slates not shown",
             "early": "reactions before what was shown", "disorder": "rows older than one before",
             "cut": "rows of sessions that the split cuts"}  # fmt: skip
    text = ", ".join(f"{order[key]:,} {name}" for key, name in names.items())
    console.print(f"  order: {text}", highlight=False, soft_wrap=True)


def _propensities(console: Console, told: Figures) -> None:
    seen = told["propensities"]
    if not seen["rows"]:
        console.print("  propensities: none", highlight=False)
        return
    console.print(
        f"  propensities: {seen['rows']:,} ({seen['missing']:,} missing), {seen['smallest']:.3g} to "
        f"{seen['largest']:.3g}, uniform: {'yes' if seen['uniform'] else 'no'}; "
        f"mean of 1/p {seen['mean_inverse']:.4g}; effective rows for a uniform policy {seen['ess_uniform']:,.0f}",
        highlight=False,
        soft_wrap=True,
    )
    for slot, figures in told["slots"].items():
        chance = "not enough rows" if figures["p"] is None else f"p = {figures['p']:.3g}"
        console.print(
            f"    slot {slot}: shown {figures['shown']:,}, items {figures['items']:,} "
            f"(effective {figures['effective_items']:.1f}), equally often? chi-square {figures['chi_square']:.1f} "
            f"on {figures['freedom']}, {chance}",
            highlight=False,
            soft_wrap=True,
        )
    for one, row in told["overlap"].items():
        others = ", ".join(f"{other} {share:.2f}" for other, share in row.items() if other > one)
        if others:
            console.print(f"    overlap of {one} with {others}", highlight=False)


def print_loggers(between: Figures) -> None:
    """What logs of several loggers have in common."""
    console = _console()
    for one, row in between.items():
        for other, found in row.items():
            console.print(
                f"{one} against {other}: overlap {found['overlap']:.3f}, never shown there {found['gap']:.2%}",
                highlight=False,
                soft_wrap=True,
            )


def print_comparison(told: Figures) -> None:
    """Differences of two reports."""
    console = _console()
    console.print(f"same rows: fingerprint {told['fingerprint']}", highlight=False)
    table = Table(box=None, padding=(0, 2))
    for head in ("A", "B", "quantity", "A", "B", "A - B", "p, Holm"):
        table.add_column(head, justify="left" if head in ("quantity",) else "right")
    for row in told["differences"]:
        p = "–" if row["p"] is None else f"{row['p']:.3g}"
        mine, theirs = (number(row[key]) if row[key] is not None else "–" for key in ("a", "b"))
        table.add_row(row["policy_a"], row["policy_b"], row["quantity"], mine, theirs, interval(row["difference"]), p)
    console.print(table)


def print_plan(told: Figures) -> None:
    """Rows needed, as the log was made and with exploration mixed in."""
    console = _console()
    title = f"rows for an interval {told['width']:g} wide ({told['rows']:,} rows here)"
    table = Table(box=None, padding=(0, 2), title=title, title_justify="left")
    shares = told["explorations"]
    for head in ("policy", "width here", "as logged", *(f"{share:.0%} uniform" for share in shares)):
        table.add_column(head, justify="left" if head == "policy" else "right")
    for name, row in told["policies"].items():
        cells = ["–" if rows is None else f"{rows:,}" for rows in (row["rows"], *row["mixed"])]
        table.add_row(name, "–" if row["width"] is None else f"{row['width']:.5f}", *cells)
    console.print(table)
    for message in told["notes"]:
        console.print(message, highlight=False, soft_wrap=True)
