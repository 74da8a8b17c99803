"""The terminal panel: what the file says is on screen, at 80 columns too, and as plain lines without a terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from consumers.panel import Panel, sparkline


def policy(reward: float, half: float = 0.01, recent: float | None = None) -> dict[str, Any]:
    recent = reward if recent is None else recent
    return {"reward": reward, "low": reward - half, "high": reward + half, "decisions": 12_345, "recent": recent}


def line(t: float, **more: Any) -> dict[str, Any]:
    figures = {"events": 48_720, "decisions": 48_000, "updates": 180, "events_per_s": 812.4, "updates_per_s": 3.04}
    counts = {"lag": 17, "dead_letters": 2, "late": 0, "duplicate": 0, "unknown": 0}
    delay = {"event_to_weights_ms": {"p50": 212.3, "p95": 481.9}}
    return {"t": t, "time": 1.7e9 + t} | figures | counts | delay | {"learning": {}, "meters": {}} | more


def rewards(**found: dict[str, Any]) -> dict[str, Any]:
    return {"reward": {"policies": found}}


def write(run_dir: Path, *lines: dict[str, Any]) -> Path:
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return run_dir


def screen(run_dir: Path, width: int = 100, seconds: float | None = None) -> str:
    """The panel of a run as text."""
    out = io.StringIO()
    panel = Panel(run_dir, plain=False, console=Console(file=out, width=width, force_terminal=True, color_system=None))
    panel.seconds = seconds
    panel.tail.poll()
    panel.console.print(panel.render())
    return out.getvalue()


def test_sparkline() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([3.0, 3.0]) == "▄▄"
    assert sparkline([]) == ""


@pytest.mark.parametrize("width", [80, 120])
def test_policies_with_interval_trend_and_arrow(tmp_path: Path, width: int) -> None:
    found = rewards(random=policy(0.1), popular=policy(0.105), dqn=policy(0.2), anti=policy(0.05))
    fell = rewards(random=policy(0.1), popular=policy(0.105), dqn=policy(0.2, recent=0.1), anti=policy(0.05))
    text = screen(write(tmp_path, line(1, meters=found), line(2, meters=fell)), width)
    rows = {words[1]: " ".join(words[2:-1]) for words in map(str.split, text.splitlines()) if len(words) > 3}
    assert rows["random"] == "0.1000 [0.0900, 0.1100] 12,345 0.1000 ▄▄ baseline"
    assert rows["popular"] == "0.1050 [0.0950, 0.1150] 12,345 0.1050 ▄▄ ≈ +5.0 %"
    assert rows["dqn"] == "0.2000 [0.1900, 0.2100] 12,345 0.1000 █▁ ▲ +100.0 %"
    assert rows["anti"] == "0.0500 [0.0400, 0.0600] 12,345 0.0500 ▄▄ ▼ -50.0 %"
    assert "…" not in text  # nothing cut off


def test_figures_marks_and_progress(tmp_path: Path) -> None:
    text = screen(write(tmp_path, line(20, mark="tastes shift"), line(45)), seconds=90)
    for shown in ("812", "17", "3.0", "212 ms, p95 482 ms", "48,720", "┆ 0:20  tastes shift", "0:45 of 1:30"):
        assert shown in text


def test_ranking_per_period_drops_mrr_where_narrow(tmp_path: Path) -> None:
    names = ("popular", "item-knn", "gru4rec frozen", "gru4rec updated")
    models = {name: {"recall20": 0.37, "mrr20": 0.12, "n": 9} for name in names}
    periods = [{"period": p, "start": 1_459_728_000 + 604_800 * p, "models": models} for p in range(3)]
    write(tmp_path, line(5, meters={"ranking": {"periods": periods, "total": models}}))
    assert "2016-04-18  0.3700  0.1200" in screen(tmp_path, 100)
    narrow = screen(tmp_path, 80)
    assert "0.3700" in narrow
    assert "0.1200" not in narrow
    assert "…" not in narrow


def test_ranking_names_the_depth_that_the_run_was_scored_at(tmp_path: Path) -> None:
    periods = [{"period": 0, "start": 1_459_728_000, "models": {"popular": {"recall5": 0.25, "mrr5": 0.125, "n": 4}}}]
    write(tmp_path, line(5, meters={"ranking": {"periods": periods}}))
    shown = screen(tmp_path, 100)
    assert "R@5" in shown
    assert "0.2500  0.1250" in shown


def test_no_figures_yet_and_nulls(tmp_path: Path) -> None:
    assert "waiting for data" in screen(tmp_path)
    bare = policy(float("nan")) | {"low": None, "high": None}
    write(tmp_path, line(1, lag=None, event_to_weights_ms=None, meters=rewards(random=policy(0.1), odd=bare)))
    assert "[-, -]" in screen(tmp_path)


def plain(run_dir: Path, out: io.StringIO, **more: Any) -> Panel:
    return Panel(run_dir, console=Console(file=out, width=80), **more)


def test_without_a_terminal_lines_are_written_and_the_last_one_always(tmp_path: Path) -> None:
    out, asked = io.StringIO(), []
    write(tmp_path, line(1, meters=rewards(random=policy(0.1))))

    def done() -> bool:
        asked.append(1)
        if len(asked) == 3:
            write(tmp_path, line(1), line(60, mark="tastes shift", meters=rewards(random=policy(0.12))))
        return len(asked) > 3

    plain(tmp_path, out, every_s=1e9).follow(done, seconds=60, poll_s=0.0)
    first, last = out.getvalue().splitlines()
    assert first.startswith(
        "0:01  events 48,720 (812/s) | lag 17 | updates 180 (3.0/s) | event->weights p50 212 p95 482 ms"
    )
    assert "reward: random 0.1200 | marks: tastes shift at 1:00" in last
    assert out.getvalue().isascii()


def test_lines_are_rare(tmp_path: Path) -> None:
    out = io.StringIO()
    panel = plain(tmp_path, out, every_s=1e9)
    with panel:
        for _ in range(5):
            panel.refresh()
    assert out.getvalue() == "waiting for data\n" * 2


def test_on_a_terminal_the_panel_is_drawn_and_left_standing(tmp_path: Path) -> None:
    out = io.StringIO()
    write(tmp_path, line(7, meters=rewards(random=policy(0.1))))
    console = Console(file=out, width=100, force_terminal=True, color_system=None, legacy_windows=False)
    ticks = iter([False, False, True])
    Panel(tmp_path, plain=False, console=console).follow(lambda: next(ticks), poll_s=0.0)
    assert "baseline" in out.getvalue()
    assert out.getvalue().count("\x1b[?25h") == 1  # the cursor is given back


def test_the_cursor_comes_back_when_interrupted(tmp_path: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system=None, legacy_windows=False)

    def done() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Panel(tmp_path, plain=False, console=console).follow(done)
    assert out.getvalue().endswith("\x1b[?25h")
