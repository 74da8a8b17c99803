"""Plots of a replay's report as inline SVG, drawn from shapes: colours are CSS variables of the page around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH = 760
LEFT = 150
"""Room for names on the left."""

Interval = tuple[str, float, float | None, float | None]
"""Name, value, low, high; None = no interval."""


def forest(rows: Sequence[Interval], line: float | None, title: str) -> str:
    """Values with their intervals, one below the other, and a vertical line at `line`."""
    ends = [x for _, value, low, high in rows for x in (value, low, high) if x is not None]
    ends += [] if line is None else [line]
    if not ends:
        return ""
    axis = _Axis(min(ends), max(ends))
    height = 26 * len(rows) + 30
    parts = [axis.ticks(height)]
    if line is not None:
        parts.append(
            f'<line x1="{axis(line)}" x2="{axis(line)}" y1="4" y2="{height - 24}" {_stroke("--ink", 1, "3 3")}/>'
        )
    for at, (name, value, low, high) in enumerate(rows):
        y = 26 * at + 18
        parts.append(_text(LEFT - 12, y + 4, name, "end"))
        if low is not None and high is not None:
            parts.append(f'<line x1="{axis(low)}" x2="{axis(high)}" y1="{y}" y2="{y}" {_stroke("--c0", 2)}/>')
        parts.append(f'<circle cx="{axis(value)}" cy="{y}" r="4.5" fill="var(--c0)"/>')
    return _svg(parts, height, title)


def bars(edges: Sequence[float], counts: Sequence[int], marks: Sequence[tuple[float, str]], title: str) -> str:
    """A histogram over the logarithm of `edges`, heights by the logarithm of counts, with named vertical lines."""
    if not counts:
        return ""
    axis = _Axis(math.log10(edges[0]), math.log10(edges[-1]))
    top = math.log10(max(counts) + 1)
    parts = [axis.ticks(150, power=True)]
    for at, count in enumerate(counts):
        if count:
            x, wide = axis(math.log10(edges[at])), axis(math.log10(edges[at + 1])) - axis(math.log10(edges[at]))
            tall = 100 * math.log10(count + 1) / top
            box = f'x="{x}" y="{122 - tall:.1f}" width="{max(wide - 1, 0.5):.1f}" height="{tall:.1f}"'
            parts.append(f'<rect {box} fill="var(--c0)"><title>{count:,} rows</title></rect>')
    for value, text in marks:
        if value > 0:
            x = axis(min(max(math.log10(value), axis.low), axis.high))
            parts.append(f'<line x1="{x}" x2="{x}" y1="14" y2="122" {_stroke("--c1", 1.5, "3 3")}/>')
            right = x > WIDTH - LEFT
            parts.append(_text(x + (-4 if right else 4), 14, text, "end" if right else "start"))
    return _svg(parts, 150, title)


def strip(rows: Sequence[tuple[str, Sequence[float]]], heads: Sequence[str], title: str) -> str:
    """A heat strip: a row of cells per name, darker where the share is larger."""
    if not rows:
        return ""
    wide = (WIDTH - LEFT - 10) / len(heads)
    most = max((share for _, shares in rows for share in shares), default=0.0) or 1.0
    parts = []
    for at, (name, shares) in enumerate(rows):
        y = 22 * at + 4
        parts.append(_text(LEFT - 12, y + 14, name, "end"))
        for cell, share in enumerate(shares):
            box = f'x="{LEFT + cell * wide:.1f}" y="{y}" width="{wide - 1:.1f}" height="20"'
            shade = f'fill="var(--c0)" fill-opacity="{0.04 + 0.96 * share / most:.3f}"'
            parts.append(f"<rect {box} {shade}><title>{escape(heads[cell])}: {share:.1%}</title></rect>")
    height = 22 * len(rows) + 26
    parts.append(_text(LEFT, height - 6, heads[0], "start"))
    parts.append(_text(WIDTH - 10, height - 6, heads[-1], "end"))
    return _svg(parts, height, title)


def against(points: Sequence[tuple[float, float, int]], title: str) -> str:
    """Points (said, came, rows) against the diagonal; the area of a point is its rows."""
    if not points:
        return ""
    ends = [x for said, came, _ in points for x in (said, came)]
    axis, height = _Axis(min(0.0, *ends), max(ends)), 300
    span = (axis.high - axis.low) or 1.0

    def up(y: float) -> float:
        return round(height - 30 - (height - 50) * (y - axis.low) / span, 1)

    parts = [axis.ticks(height)]
    diagonal = f'x1="{axis(axis.low)}" y1="{up(axis.low)}" x2="{axis(axis.high)}" y2="{up(axis.high)}"'
    parts.append(f"<line {diagonal} {_stroke('--soft', 1, '4 4')}/>")
    most = max(rows for _, _, rows in points)
    for said, came, rows in points:
        radius = 3 + 9 * math.sqrt(rows / most)
        label = f"<title>{rows:,} rows: said {said:.5g}, came {came:.5g}</title>"
        place = f'cx="{axis(said)}" cy="{up(came)}" r="{radius:.1f}"'
        parts.append(f'<circle {place} fill="var(--c2)" fill-opacity=".7">{label}</circle>')
    parts.append(_text(LEFT - 12, 24, "reward that came", "end"))
    return _svg(parts, height, title)


class _Axis:
    """Places on the horizontal axis."""

    def __init__(self, low: float, high: float) -> None:
        room = 0.04 * (high - low) or abs(high) * 0.1 or 1.0
        self.low, self.high = low - room, high + room

    def __call__(self, x: float) -> float:
        return round(LEFT + (WIDTH - LEFT - 20) * (x - self.low) / (self.high - self.low), 1)

    def ticks(self, height: int, power: bool = False) -> str:
        step = 10 ** math.floor(math.log10((self.high - self.low) / 4))
        step *= next(f for f in (1, 2, 5, 10) if (self.high - self.low) / (step * f) <= 6)
        step = max(step, 1.0) if power else step
        parts, at = [], math.ceil(self.low / step)
        while at * step <= self.high:
            x, value = self(at * step), at * step
            parts.append(f'<line x1="{x}" x2="{x}" y1="4" y2="{height - 24}" {_stroke("--grid", 1)}/>')
            label = f"{10.0 ** round(value):g}" if power else f"{value:.6g}" if abs(value) > step / 2 else "0"
            parts.append(_text(x, height - 8, label, "middle", "--soft"))
            at += 1
        return "".join(parts)


def _stroke(color: str, width: float, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'stroke="var({color})" stroke-width="{width}"{dashed}'


def _text(x: float, y: float, text: str, anchor: str, color: str = "--ink") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="var({color})">{escape(text)}</text>'


def _svg(parts: Sequence[str], height: int, title: str) -> str:
    style = 'font-size="12" font-family="system-ui, sans-serif"'
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" {style}>'
    return f"{head}{''.join(parts)}</svg>"
