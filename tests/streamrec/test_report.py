"""The report of a run: what the files say is on the page, whatever is missing; recovery on known curves."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from streamrec.evaluation.metrics_file import read_metrics
from streamrec.evaluation.report import recovery, write_report


def policy(reward: float, recent: float, decisions: int = 9_600) -> dict[str, Any]:
    return {"reward": reward, "low": reward - 0.01, "high": reward + 0.01, "decisions": decisions, "recent": recent}


def line(t: float, **more: Any) -> dict[str, Any]:
    counts = {"events": 812 * t, "decisions": 800 * t, "updates": 3 * t, "lag": 5, "dead_letters": 0, "late": 1}
    rates = {"duplicate": 0, "unknown": 0, "events_per_s": 812.0, "updates_per_s": 3.0}
    delay = {"event_to_weights_ms": {"p50": 212.0, "p95": 480.0}, "learning": {"dqn.loss": 1 / t, "dqn.norm": 2.0}}
    return {"t": t, "time": 1.7e9 + t, "meters": {}} | counts | rates | delay | more


def feed_lines(seconds: int = 30, shift: int = 10) -> list[dict[str, Any]]:
    """Three policies; dqn falls at the shift and is back 6 s later, popular stays down."""
    lines = []
    for t in range(1, seconds + 1):
        down = 0.5 if t >= shift else 1.0
        found = {
            "random": policy(0.1, 0.1),
            "popular": policy(0.15, 0.15 * down),
            "dqn": policy(0.2, 0.2 if t < shift or t >= shift + 6 else 0.1),
        }
        mark = {"mark": "tastes shift"} if t == shift else {}
        lines.append(line(float(t), meters={"reward": {"policies": found}}) | mark)
    return lines


def ranking_lines(weeks: int = 4) -> list[dict[str, Any]]:
    def models(at: int) -> dict[str, Any]:
        return {
            name: {"recall20": top + 0.01 * at, "mrr20": top / 3, "n": 41_000 + at}
            for name, top in (("gru4rec frozen", 0.2), ("gru4rec updated", 0.4))
        }

    periods = [{"period": at, "start": 1_459_728_000 + 604_800 * at, "models": models(at)} for at in range(weeks)]
    return [line(1.0, meters={"ranking": {"periods": periods, "total": models(9)}})]


def run(tmp_path: Path, lines: list[dict[str, Any]], spec: str = "", summary: dict[str, Any] | None = None) -> str:
    """The report of a run with these files."""
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    if spec:
        (tmp_path / "spec.toml").write_text(spec)
    if summary is not None:
        (tmp_path / "summary.json").write_text(json.dumps(summary))
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    assert not list(tmp_path.glob("*.tmp"))
    return path.read_text(encoding="utf-8")


def plots(page: str) -> list[ElementTree.Element]:
    """All plots, each checked to be well-formed."""
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def titles(page: str) -> list[str]:
    return re.findall(r"<h3>(.*?)</h3>", page)


def row(page: str, name: str) -> list[str]:
    """The cells of the table row with this head."""
    found = re.search(rf'<tr[^>]*><th scope="row">{re.escape(name)}.*?</tr>', page)
    assert found is not None, f"no row {name}"
    return re.findall(r"<td[^>]*>(.*?)</td>", found[0])


def test_headline_with_summary(tmp_path: Path) -> None:
    scale = {"random": 0.1, "myopic": 0.24, "oracle": 0.3, "verdict": "Looking ahead pays.", "fractions": {"dqn": 0.5}}
    summary = {"command": "streamrec demo --seconds 30", "scale": scale, "recovery_s": {"dqn": 6.4, "popular": None}}
    page = run(tmp_path, feed_lines(), '[world]\nuse = "a<b"\n', summary)
    assert row(page, "dqn") == ["0.2000", "0.1900 – 0.2100", "9,600", "▲ +100.0 %", "50 %", "6 s"]
    assert row(page, "popular")[-2:] == ["–", "not recovered"]
    assert row(page, "random")[3:] == ["baseline", "–", "–"]
    for shown in ("streamrec demo --seconds 30", "Looking ahead pays.", "oracle 0.3000", "use = &quot;a&lt;b&quot;"):
        assert shown in page
    assert titles(page) == [
        "Recent reward over time", "Reward since the start, with its 95 % interval",
        "Events per second", "Lag, events", "Event → weights, ms", "dqn.loss", "dqn.norm",
    ]  # fmt: skip
    assert len(plots(page)) == 7
    assert page.count(">tastes shift</text>") == 7


def test_recovery_is_measured_where_the_summary_has_none(tmp_path: Path) -> None:
    page = run(tmp_path, feed_lines())
    assert row(page, "dqn")[-1] == "6 s"
    assert row(page, "popular")[-1] == "not recovered"
    assert row(page, "random")[-1] == "0 s"


def test_intervals_that_touch_are_not_told_apart(tmp_path: Path) -> None:
    found = {"random": policy(0.1, 0.1), "near": policy(0.115, 0.1), "worse": policy(0.05, 0.1)}
    page = run(tmp_path, [line(1.0, meters={"reward": {"policies": found}})])
    assert row(page, "near")[3] == "≈ +15.0 %"
    assert row(page, "worse")[3] == "▼ -50.0 %"


def test_ranking_without_policies(tmp_path: Path) -> None:
    page = run(tmp_path, ranking_lines())
    assert titles(page)[:2] == ["Recall@20 per period", "MRR@20 per period"]
    assert row(page, '3 <span class="soft">2016-04-25</span>') == ["41,003", "0.2300", "0.0667", "0.4300", "0.1333"]
    assert row(page, "all")[3] == "0.4900"
    assert page.count('class="best"') == 2 * (4 + 1)
    assert "Reward per decision" not in page
    plots(page)


def test_nothing_to_show(tmp_path: Path) -> None:
    page = run(tmp_path, [])
    assert "The run wrote no figures" in page
    assert "<svg" not in page


def test_no_metrics_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no metrics\.jsonl .* expected the directory of a run"):
        write_report(tmp_path)


def test_nulls_and_values_that_are_not_finite(tmp_path: Path) -> None:
    bare = {"reward": math.nan, "low": None, "high": None, "decisions": 0, "recent": math.inf}
    found = {"random": policy(0.1, 0.1), "bare": bare}
    lines = [
        line(1.0, lag=None, event_to_weights_ms=None, learning={"a.loss": math.nan}),
        line(2.0, lag=None, event_to_weights_ms=None, meters={"reward": {"policies": found}}, learning={}),
    ]
    page = run(tmp_path, lines)
    assert row(page, "bare") == ["–", "– – –", "0", "–"]
    assert "Lag, events" not in titles(page)
    assert "nan" not in page.lower().replace("nance", "")
    plots(page)


@pytest.mark.parametrize("name", ["a & b", "<script>x()</script>", "--><b>", "$x_1$ \\frac", "新推荐", 'id="q"'])
def test_names_are_text(tmp_path: Path, name: str) -> None:
    found = {"random": policy(0.1, 0.1), name: policy(0.2, 0.2)}
    lines = [line(float(t), mark=name, meters={"reward": {"policies": found}}) for t in (1, 2)]
    page = run(tmp_path, lines)
    assert not re.search(r"<script|<b>", page)
    for plot in plots(page)[:2]:
        assert any((text.text or "").endswith(name[-2:]) for text in plot.iter("{http://www.w3.org/2000/svg}text"))


def test_page_is_self_contained_and_ids_are_unique(tmp_path: Path) -> None:
    lines = feed_lines()
    lines[-1]["meters"] |= ranking_lines()[0]["meters"]
    page = run(tmp_path, lines)
    assert set(re.findall(r"https?://[^\"' <]*", page)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not re.search(r"<(link|img|iframe|script)|src=|@import|url\((?!#)", page)
    ids = Counter(re.findall(r'\bid="([^"]*)"', page))
    assert ids.most_common(1)[0][1] == 1
    used = re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', page)
    assert used
    assert {a or b for a, b in used} <= set(ids)


def test_colours_are_left_to_the_page(tmp_path: Path) -> None:
    drawn = "".join(re.findall(r"<svg.*?</svg>", run(tmp_path, feed_lines()), re.DOTALL))
    assert not re.search(r"(fill|stroke): #", drawn)
    assert {"var(--c-base)", "var(--c0)", "var(--c1)", "var(--ink)"} <= set(re.findall(r"var\(--[\w-]+\)", drawn))


def test_same_files_same_bytes(tmp_path: Path) -> None:
    assert run(tmp_path, feed_lines()) == run(tmp_path, feed_lines())


def test_a_long_run_stays_a_small_page(tmp_path: Path) -> None:
    assert len(run(tmp_path, feed_lines(4000, 1000))) < 1_000_000


def test_imports_neither_torch_nor_pyplot() -> None:
    code = "import sys, streamrec.evaluation.report; print({'torch', 'matplotlib.pyplot'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_lines_of_a_run_that_crashed_and_counts_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"t": 1}\n{"t": 4, "x": 1}\n{"t": 5, "ev{"t": 1}\n[]\n{"t": 1.5}\n{"t": 3}\n{"t"')
    assert [one["t"] for one in read_metrics(path)] == [1.0, 4.0, 4.0, 5.5]


# ---- recovery ----------------------------------------------------------------------------------------


def curve(value: Callable[[int], float | None], mark: int = 30, seconds: int = 90) -> list[dict[str, Any]]:
    """One line a second from 0 on, one policy whose `recent` is value(t), a mark at `mark`."""
    lines = []
    for t in range(seconds + 1):
        found = {"p": {"recent": value(t)}}
        lines.append(
            {"t": float(t), "meters": {"reward": {"policies": found}}} | ({"mark": "shift"} if t == mark else {})
        )
    return lines


def test_recovery_time_of_a_step() -> None:
    assert recovery(curve(lambda t: 1.0 if t < 30 or t >= 47 else 0.5), 30.0) == {"p": 17.0}


def test_recovery_time_of_an_exponential() -> None:
    """1 - exp(-s / 10) / 2 reaches 0.95 at s = 10 ln 10 = 23.03, so the first line at or above it is at 24 s."""
    assert recovery(curve(lambda t: 1.0 if t < 30 else 1 - math.exp(-(t - 30) / 10) / 2), 30.0) == {"p": 24.0}


def test_recovery_when_the_mean_sinks_only_some_time_after_the_mark() -> None:
    assert recovery(curve(lambda t: 0.5 if 35 <= t < 50 else 1.0), 30.0) == {"p": 20.0}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (lambda t: 1.0, 0.0),
        (lambda t: 0.96 if t >= 30 else 1.0, 0.0),  # fell, but not below 95 %
        (lambda t: 0.94 if t >= 30 else 1.0, None),
        (lambda t: 0.5 if t in (40, 41) else 1.0, 0.0),  # two lines below are noise
        (lambda t: 1.0 if t < 30 or t in (40, 41) else 0.5, None),  # two lines above are noise too
        (lambda t: 1.0 if t < 30 or t >= 89 else 0.5, None),  # the run ends before it is certain
        (lambda t: None if t < 30 else 1.0, None),  # there is nothing to come back to
        (lambda t: 0.2 if t < 20 else 1.0 if t < 30 else 0.5, None),  # learning at first does not lower the target
        (lambda t: -1.0 if t < 30 or t >= 40 else -2.0, 10.0),  # 95 % of a negative reward is a lower one
        (lambda t: None if t % 2 else (1.0 if t < 30 or t >= 40 else 0.5), 10.0),  # lines without the policy
    ],
)
def test_recovery_at_its_edges(value: Callable[[int], float | None], expected: float | None) -> None:
    assert recovery(curve(value), 30.0) == {"p": expected}


def test_recovery_ends_at_the_next_mark() -> None:
    lines = curve(lambda t: 1.0 if t < 30 or t >= 60 else 0.5)
    assert recovery(lines, 30.0) == {"p": 30.0}
    lines[50]["mark"] = "another shift"
    assert recovery(lines, 30.0) == {"p": None}


def test_recovery_needs_a_mark_within_the_run() -> None:
    with pytest.raises(ValueError, match="mark at 200 s was given but the metrics are from 0 to 90 s"):
        recovery(curve(lambda t: 1.0), 200.0)
    with pytest.raises(ValueError, match="the metrics are empty"):
        recovery([], 0.0)
