"""The live terminal panel of a run: figures, policies with their intervals, marks, ranking per period."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel as Frame
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from consumers.metrics_tail import MetricsTail
from streamrec.evaluation.metrics_file import Line, depth, number, periods, policies

_BLOCKS = "▁▂▃▄▅▆▇█"
_SHOWN_PERIODS = 12  # the newest; more would push the figures off a usual terminal


class Panel:
    """Shows a run by reading its `metrics.jsonl`; knows nothing else about it.

    On a terminal the panel is drawn in place. Elsewhere (a pipe, a log, a terminal that cannot show block
    characters), or with `plain`, one line of progress is written every `every_s` seconds.

    Use `follow(done, seconds)`, or `with panel:` and call `refresh()` whenever convenient.

    Args:
        run_dir: directory of the run; its `metrics.jsonl` may appear later.
        plain: lines instead of a panel; None = where the console is no terminal or cannot show block characters.
        every_s: seconds between two plain lines.
        console: where to draw; standard error by default, so that standard output stays for results.
    """

    def __init__(
        self, run_dir: Path, plain: bool | None = None, every_s: float = 5.0, console: Console | None = None
    ) -> None:
        self.tail = MetricsTail(Path(run_dir) / "metrics.jsonl")
        self.name = Path(run_dir).resolve().name
        self.console = console or Console(stderr=True)
        blocks = self.console.encoding.startswith("utf")
        self.plain = not (self.console.is_terminal and blocks) if plain is None else plain
        self.every_s = every_s
        self.seconds: float | None = None
        self._live: Live | None = None
        self._grown_at = time.monotonic()
        self._said_at = float("-inf")

    def follow(self, done: Callable[[], bool], seconds: float | None = None, poll_s: float = 0.25) -> None:
        """Show the run until `done()` is true, and its last line. `seconds`: expected length, for the progress bar."""
        self.seconds = seconds
        with self:
            while not done():
                self.refresh()
                time.sleep(poll_s)

    def __enter__(self) -> Panel:
        if not self.plain:
            self._live = Live(self.render(), console=self.console, auto_refresh=False)
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._said_at = float("-inf")  # the end of the run is always said
        try:
            self.refresh()
        finally:
            if self._live:
                self._live.stop()
                self._live = None

    def refresh(self) -> None:
        """Read what is new and show it."""
        now = time.monotonic()
        if self.tail.poll():
            self._grown_at = now
        if self._live:
            self._live.update(self.render(), refresh=True)
        elif self.plain and now - self._said_at >= self.every_s:
            self._said_at = now
            print(self.line(), file=self.console.file, flush=True)

    def line(self) -> str:
        """One line of progress in plain ASCII."""
        last = self.tail.last
        if last is None:
            return "waiting for data"
        delay = last.get("event_to_weights_ms") or {}
        parts = [
            f"{_clock(last.get('t'))}  events {_whole(last.get('events'))} ({_rate(last.get('events_per_s'))}/s)",
            f"lag {_whole(last.get('lag'))}",
            f"updates {_whole(last.get('updates'))} ({_rate(last.get('updates_per_s'))}/s)",
            f"event->weights p50 {_rate(delay.get('p50'))} p95 {_rate(delay.get('p95'))} ms",
            f"dead letters {_whole(last.get('dead_letters'))}",
        ]
        if policies(last):
            parts.append(
                "reward: " + ", ".join(f"{name} {_fixed(p.get('reward'))}" for name, p in policies(last).items())
            )
        for period in periods(last)[-1:]:
            k = depth([period])
            ranked = ", ".join(f"{name} {_fixed(model.get(f'recall{k}'))}" for name, model in _models([period]))
            parts.append(f"Recall@{k} of period {period.get('period')}: {ranked}")
        if self.tail.marks:
            parts.append("marks: " + ", ".join(f"{text} at {_clock(at)}" for at, text in self.tail.marks))
        return " | ".join(parts).encode("ascii", "replace").decode()

    def render(self) -> RenderableType:
        """The panel as it stands now."""
        last = self.tail.last
        body: list[RenderableType] = [Text("waiting for data", style="dim")] if last is None else self._body(last)
        bar = self._progress()
        title = Text.assemble(("streamrec live", "bold"), "  ", (self.name, "dim"))
        return Frame(
            Group(*body, *([bar] if bar else [])), title=title, title_align="left", border_style="dim", padding=(1, 1)
        )

    def _body(self, last: Line) -> list[RenderableType]:
        parts: list[RenderableType] = [_figures(last), Text()]
        if policies(last):
            parts += [self._policies(policies(last)), Text()]
        if periods(last):
            parts += [_ranking(periods(last), self._width()), Text()]
        parts += [Text(f"┆ {_clock(at)}  {text}", style="bold") for at, text in self.tail.marks[-4:]]
        return parts

    def _policies(self, found: dict[str, Line]) -> Table:
        used = max(map(len, found)) + 58  # the other columns with their gaps
        room = min(self.tail.keep, self._width() - used)
        table = _table("policy", "reward", "95 % interval", "decisions", "recent", *[""] * (room > 4), "vs random")
        base = found.get("random")
        for name, policy in found.items():
            spark = Text(sparkline(list(self.tail.recent.get(name, ()))[-room:] if room > 4 else ()), style="cyan")
            table.add_row(
                Text(name, style="bold"),
                _fixed(policy.get("reward")),
                Text(f"[{_fixed(policy.get('low'))}, {_fixed(policy.get('high'))}]", style="dim"),
                _whole(policy.get("decisions")),
                _fixed(policy.get("recent")),
                *[spark] * (room > 4),
                _against(policy, base) if base else "",
            )
        return table

    def _width(self) -> int:
        return self.console.width - 4  # the frame and its padding

    def _progress(self) -> RenderableType | None:
        """Elapsed time as the run counts it, moved on between its lines by the clock here."""
        elapsed = number((self.tail.last or {}).get("t"))
        if not self.seconds or elapsed is None:
            return None
        elapsed = min(self.seconds, elapsed + min(2.0, time.monotonic() - self._grown_at))
        row = Table.grid(padding=(0, 2), expand=True)
        row.add_column(ratio=1)
        row.add_column(justify="right", no_wrap=True)
        row.add_row(ProgressBar(total=self.seconds, completed=elapsed), f"{_clock(elapsed)} of {_clock(self.seconds)}")
        return row


def sparkline(values: Collection[float]) -> str:
    """Values as block characters, lowest to highest; a flat series is drawn at half height."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if high <= low:
        return _BLOCKS[3] * len(values)
    return "".join(_BLOCKS[min(7, int((v - low) / (high - low) * 8))] for v in values)


def _figures(last: Line) -> Table:
    delay = last.get("event_to_weights_ms") or {}
    dead = number(last.get("dead_letters")) or 0
    grid = Table.grid(padding=(0, 3))
    figures = [
        ("events/s", Text(_rate(last.get("events_per_s")), style="bold")),
        ("lag", Text(_whole(last.get("lag")), style="bold")),
        ("updates/s", Text(_rate(last.get("updates_per_s")), style="bold")),
        ("event → weights", _delay(delay)),
        ("dead letters", Text(_whole(last.get("dead_letters")), style="bold red" if dead else "bold")),
        ("events", Text(_whole(last.get("events")), style="bold")),
    ]
    for _ in figures:
        grid.add_column(no_wrap=True)
    grid.add_row(*(Text(name, style="dim") for name, _ in figures))
    grid.add_row(*(value for _, value in figures))
    return grid


def _delay(delay: Line) -> Text:
    if number(delay.get("p50")) is None:
        return Text("-", style="bold")
    return Text.assemble((_rate(delay.get("p50")), "bold"), " ms, p95 ", (_rate(delay.get("p95")), "bold"), " ms")


def _ranking(found: list[Line], width: int) -> Table:
    """Recall per period and model, the best of each period in green; MRR beside it where there is room."""
    k = depth(found)
    names = list(dict.fromkeys(name for name, _ in _models(found)))
    wide = 16 + sum(2 + max(14, len(name)) for name in names) <= width
    table = _table("period\n", *(f"{name}\nR@{k}" + f"    MRR@{k}" * wide for name in names))
    for period in found[-_SHOWN_PERIODS:]:
        models = dict(_models([period]))
        best = max((number(m.get(f"recall{k}")) or 0.0 for m in models.values()), default=0.0)
        cells = [_cell(models.get(name, {}), k, best, wide) for name in names]
        table.add_row(
            Text.assemble((f"{period.get('period')!s:>3}  ", "bold"), (_day(period.get("start")), "dim")), *cells
        )
    return table


def _cell(model: Line, k: str, best: float, wide: bool) -> Text:
    recall = number(model.get(f"recall{k}"))
    style = "bold green" if recall is not None and recall == best else ""
    return Text.assemble((_fixed(recall), style), *[(f"  {_fixed(model.get(f'mrr{k}'))}", "dim")] * wide)


def _models(found: list[Line]) -> list[tuple[str, Line]]:
    return [(name, model) for period in found for name, model in (period.get("models") or {}).items()]


def _table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for at, head in enumerate(heads):
        table.add_column(head, justify="right" if at else "left", no_wrap=True)
    return table


def _against(policy: Line, base: Line) -> Text:
    """▲ or ▼ where the two 95 % intervals do not touch, ≈ where they do."""
    if policy is base:
        return Text("baseline", style="dim")
    low, high = number(policy.get("low")), number(policy.get("high"))
    under, over = number(base.get("low")), number(base.get("high"))
    if low is None or high is None or under is None or over is None:
        return Text("-", style="dim")
    sign, style = ("▲", "green") if low > over else ("▼", "red") if high < under else ("≈", "dim")
    return Text(f"{sign} {_lift(number(policy.get('reward')), number(base.get('reward')))}", style=style)


def _lift(reward: float | None, base: float | None) -> str:
    if reward is None or base is None:
        return "-"
    return f"{100 * (reward / base - 1):+.1f} %" if base > 0 else f"{reward - base:+.4f}"


def _fixed(value: Any) -> str:
    found = number(value)
    return "-" if found is None else f"{found:.4f}"


def _whole(value: Any) -> str:
    found = number(value)
    return "-" if found is None else f"{found:,.0f}"


def _rate(value: Any) -> str:
    found = number(value)
    return "-" if found is None else f"{found:,.1f}" if abs(found) < 10 else f"{found:,.0f}"


def _clock(value: Any) -> str:
    found = number(value)
    if found is None:
        return "-"
    minutes, seconds = divmod(max(0, round(found)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _day(value: Any) -> str:
    found = number(value)
    return "" if found is None else datetime.fromtimestamp(found, tz=UTC).strftime("%Y-%m-%d")
