"""Line plots of a run as inline SVG: text stays text, colours are CSS variables of the page around them."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

Point = tuple[float, float]

# Okabe and Ito's palette lives in the page's style sheet, once for light and once for dark. The plots are drawn in
# placeholder colours that no other element uses, and these are replaced by var(--name) in the finished SVG.
_INK, _SOFT, _GRID = "#010203", "#010204", "#010205"
_SERIES = tuple(f"#0203{i:02x}" for i in range(7))
_BASE = "#020407"  # the policy called random
_VARIABLES = {_INK: "--ink", _SOFT: "--soft", _GRID: "--grid", _BASE: "--c-base"} | {
    color: f"--c{i}" for i, color in enumerate(_SERIES)
}
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.6)), (0, (7, 2, 1.5, 2)), (0, (4, 1.5)), (0, (8, 3)), (0, (1, 3)))
_MARKERS = ("o", "s", "^", "D", "x", "P", "v")
_UNWANTED = ("Date", "Creator", "Format", "Type")  # metadata; without it the same run gives the same bytes
_MOST_POINTS = 500  # per line; a screen shows no more, and a long run must not make a huge page


@dataclass(frozen=True)
class Series:
    """One line of a plot, `points` (x, y) in order of x, with the band [(x, low, high)] around it."""

    name: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Plot:
    """One plot. `limits`: what the y axis must hold; None = all points and bands."""

    title: str
    series: Sequence[Series]
    marks: Sequence[tuple[float, str]] = ()  # (x, text)
    names: Mapping[float, str] = field(default_factory=dict)  # x -> tick text; empty = x is seconds
    limits: tuple[float, float] | None = None
    zero: bool = False  # the y axis starts at 0
    size: tuple[float, float] = (11.0, 3.9)  # inches; the page stretches it to its column


def svg(plot: Plot, order: Sequence[str]) -> str:
    """The plot as an `<svg>` element. `order`: all names of the run, so that a name has one look in all its plots."""
    out = io.StringIO()
    with mpl.rc_context({
        "svg.fonttype": "none", "svg.hashsalt": plot.title, "text.parse_math": False, "font.size": 10.0,
        "text.color": _INK, "axes.labelcolor": _SOFT, "xtick.color": _SOFT, "ytick.color": _SOFT,
        "axes.edgecolor": _GRID, "grid.color": _GRID,
    }), warnings.catch_warnings():  # fmt: skip
        # names are drawn by the browser's fonts, so a glyph missing from Matplotlib's font does not matter
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        _figure(plot, order).savefig(out, format="svg", transparent=True, metadata=dict.fromkeys(_UNWANTED))
    return _inline(out.getvalue(), plot.title)


def _figure(plot: Plot, order: Sequence[str]) -> Figure:
    figure = Figure(figsize=plot.size, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, pad=6)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    for series in plot.series:
        _draw(axes, series, order, alone=len(plot.series) == 1, dots=bool(plot.names))
    _scale(axes, plot)
    _mark(axes, plot)
    if len(plot.series) > 1:
        entry = 60 + 6.5 * max(len(series.name) for series in plot.series)  # points: the handle and the name
        columns = max(1, int(72 * plot.size[0] / entry))
        figure.legend(loc="outside upper left", ncols=columns, frameon=False, handlelength=3.2)
    return figure


def _mark(axes: Axes, plot: Plot) -> None:
    """A vertical line per mark with its text above the plot, in a second row where the first is too close."""
    width, before, row = max((s.points[-1][0] for s in plot.series if s.points), default=1.0), float("-inf"), 0
    for x, text in plot.marks:
        row = 1 - row if x - before < 0.15 * width else 0
        before = x
        axes.axvline(x, color=_INK, linewidth=1, linestyle=(0, (2, 2)))
        axes.annotate(
            text, (x, 1), (0, 4 + 12 * row), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", weight="bold", fontsize=9,
        )  # fmt: skip


def _draw(axes: Axes, series: Series, order: Sequence[str], alone: bool, dots: bool) -> None:
    color, dash, marker = _look(series.name, order)
    stride = -(-len(series.points) // _MOST_POINTS) or 1
    points = [p for i, p in enumerate(series.points) if i % stride == 0 or i == len(series.points) - 1]
    (line,) = axes.plot([x for x, _ in points], [y for _, y in points], color=color, linewidth=1.8, label=series.name)
    if not alone or dots:  # else there is nothing to tell apart
        line.set(linestyle=dash, marker=marker, markersize=5, markevery=1 if dots else max(1, len(points) // 6))
        line.set_markerfacecolor("none" if series.name == "random" else color)
    if series.band:
        band = series.band[::stride]
        xs, lows, highs = zip(*band, strict=True)
        axes.fill_between(xs, lows, highs, color=color, alpha=0.16, linewidth=0)


def _look(name: str, order: Sequence[str]) -> tuple[str, str | tuple[float, tuple[float, ...]], str]:
    if name == "random":
        return _BASE, (0, (3, 2)), "o"
    at = [other for other in order if other != "random"].index(name) % 7 if name in order else 0
    return _SERIES[at], _DASHES[at], _MARKERS[at]


def _scale(axes: Axes, plot: Plot) -> None:
    if plot.limits and plot.limits[1] > plot.limits[0]:
        room = 0.06 * (plot.limits[1] - plot.limits[0])
        axes.set_ylim(plot.limits[0] - room, plot.limits[1] + room)
    if plot.zero:
        axes.set_ylim(bottom=0, top=max(axes.get_ylim()[1], 1e-9))
    if plot.names:
        xs = sorted(plot.names)
        xs = xs[:: -(-len(xs) // 9)]
        axes.set_xticks(xs, [plot.names[x] for x in xs])
        return
    last = max((s.points[-1][0] for s in plot.series if s.points), default=1.0)
    axes.set_xlim(0, max(last, 1e-9))
    axes.xaxis.set_major_locator(FixedLocator(_time_ticks(last)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: clock(x)))


def _time_ticks(last: float) -> list[float]:
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)
    step = next((s for s in steps if last / s <= 8), 86_400 * max(1, round(last / 86_400 / 6)))
    return [float(step * i) for i in range(int(last / step) + 1)]


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _inline(document: str, title: str) -> str:
    """The `<svg>` element alone, its ids made unique in the page, colours and fonts left to the page's style."""
    text = document[document.index("<svg") :]
    prefix = re.sub(r"\W+", "-", title).lower()
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)  # would reach the whole page
    # one property or the shorthand, depending on the version of Matplotlib
    text = re.sub(r'font-family: [^;"]*', "font-family: system-ui, sans-serif", text)
    text = re.sub(r'font: ([^;"]*?px) [^;"]*', r"font: \1 system-ui, sans-serif", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    text = re.sub(r' width="[^"]*pt"| height="[^"]*pt"', "", text, count=2)
    return text.replace("<svg", '<svg aria-hidden="true"', 1)
