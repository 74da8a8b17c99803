"""The live page: served whole and on loopback only, follows a file that grows, is cut back or half written."""

from __future__ import annotations

import http.client
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from consumers.dashboard import Dashboard
from consumers.metrics_tail import MetricsTail, read_chunk
from streamrec.evaluation.metrics_file import parse

LEVELS = {"random": 0.100, "popular": 0.138, "item-knn": 0.162, "gru4rec": 0.195, "dqn": 0.213}
FADE = {"random": 0.0, "popular": 0.034, "item-knn": 0.03, "gru4rec": 0.05, "dqn": 0.06}


def feed_run(seconds: int, shift: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Metrics of a made-up run with five policies: one line a second, tastes shift at `shift`."""
    noise, sums = random.Random(seed), dict.fromkeys(LEVELS, 0.0)
    for t in range(1, seconds + 1):
        policies, n = {}, 160 * t
        for name, level in LEVELS.items():
            since = t - shift
            learned = 1 - math.exp(-t / 6) if name in ("gru4rec", "dqn") else 1.0
            now = LEVELS["random"] + (level - LEVELS["random"]) * learned
            now -= FADE[name] * (math.exp(-since / 9) if name in ("gru4rec", "dqn") else 0.8) if since >= 0 else 0.0
            now += noise.gauss(0, 0.004)
            sums[name] += now
            half = 1.96 * math.sqrt(0.1 / n)
            mean = sums[name] / t
            policies[name] = {"reward": mean, "low": mean - half, "high": mean + half, "decisions": n, "recent": now}
        yield line(t, noise, shift) | {"meters": {"reward": {"policies": policies}}}


def line(t: int, noise: random.Random, shift: int = 0) -> dict[str, Any]:
    figures = {
        "t": float(t),
        "time": 1.7e9 + t,
        "events": 812 * t,
        "decisions": 800 * t,
        "updates": 3 * t,
        "events_per_s": 812 + noise.gauss(0, 40),
        "updates_per_s": 3 + noise.gauss(0, 0.3),
        "lag": max(0, int(noise.gauss(40, 30) + (160 if t == shift else 0))),
        "dead_letters": t // 20,
        "late": 0,
        "duplicate": 2,
        "unknown": 0,
        "event_to_weights_ms": {"p50": 210 + noise.gauss(0, 20), "p95": 480 + noise.gauss(0, 40)},
        "learning": {"gru4rec.loss": 6 * math.exp(-t / 40), "dqn.loss": 0.02 + abs(noise.gauss(0, 0.004))},
    }
    return figures | ({"mark": "tastes shift"} if t == shift else {})


def ranking_run(periods: int) -> Iterator[dict[str, Any]]:
    """Metrics of a made-up log replay: four models over weekly periods, one line per period."""
    noise, done, week = random.Random(1), [], 7 * 86_400
    ends = {"popular": 0.06, "item-knn": 0.31, "gru4rec frozen": 0.27, "gru4rec updated": 0.43}
    for period in range(1, periods + 1):
        models = {}
        for name, end in ends.items():
            way = 0.5 * (1 - period / periods) if name != "gru4rec frozen" else 0.5 * period / periods
            recall = end * (1 - way) + noise.gauss(0, 0.004)
            models[name] = {"recall20": recall, "mrr20": 0.31 * recall, "n": 41_000 + 100 * period}
        done.append({"period": period, "start": 1_459_728_000 + week * (period - 1), "models": models})
        total = {}
        for name in ends:
            mean = sum(p["models"][name]["recall20"] for p in done) / period
            total[name] = {"recall20": mean, "mrr20": 0.31 * mean, "n": 41_000 * period}
        yield line(period, noise) | {"meters": {"ranking": {"periods": list(done), "total": total}}}


def write(run_dir: Path, lines: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    run_dir.mkdir(exist_ok=True)
    kept = list(lines)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in kept))
    return kept


def get(url: str) -> tuple[int, dict[str, str], bytes]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def follow(url: str, cursor: dict[str, str] | None = None) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One request of the page: the new lines and the answer's headers."""
    start, check = (cursor["X-Next"], cursor["X-Check"]) if cursor else ("0", "")
    status, headers, body = get(f"{url}metrics.jsonl?from={start}&check={check}")
    assert status == 200
    return parse(body), headers


def test_page_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    with Dashboard(tmp_path) as dashboard:
        status, headers, body = get(dashboard.url)
    assert status == 200
    assert headers["Content-Security-Policy"].startswith("default-src 'self' 'unsafe-inline'")
    assert re.findall(rb"https?://[^\"' ]*", body) == [b"http://www.w3.org/2000/svg"]
    assert not re.search(rb"<(link|img|iframe)|src=|@import|url\((?!#)", body)


def test_name_of_the_run_is_escaped(tmp_path: Path) -> None:
    with Dashboard(tmp_path / "<b>run") as dashboard:
        body = get(dashboard.url)[2]
    assert b"&lt;b&gt;run" in body
    assert b"<b>run" not in body


def test_file_that_appears_grows_and_has_a_half_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    with Dashboard(tmp_path) as dashboard:
        lines, cursor = follow(dashboard.url)
        assert (lines, cursor["X-Run"]) == ([], "running")
        file.write_text('{"t": 1}\n{"t": 2}\n{"t"')
        lines, cursor = follow(dashboard.url, cursor)
        assert lines == [{"t": 1}, {"t": 2}]
        assert cursor["X-Reset"] == "0"
        with file.open("a") as more:
            more.write(': 3}\n{"t": 4}\n')
        lines, cursor = follow(dashboard.url, cursor)
        assert lines == [{"t": 3}, {"t": 4}]
        assert follow(dashboard.url, cursor)[0] == []


@pytest.mark.parametrize("rest", ["", '{"t": 7}\n', '{"t": 7}\n' * 5], ids=["shorter", "as long", "longer"])
def test_file_cut_back_by_a_resumed_run_is_read_again(tmp_path: Path, rest: str) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"t": 1}\n{"t": 2}\n{"t": 3}\n')
    with Dashboard(tmp_path) as dashboard:
        cursor = follow(dashboard.url)[1]
        file.write_text('{"t": 1}\n{"t": 2}\n' + rest)
        lines, after = follow(dashboard.url, cursor)
    assert after["X-Reset"] == "1"
    assert lines == [{"t": 1}, {"t": 2}, *({"t": 7} for _ in rest.splitlines())]


def test_long_files_come_in_chunks_of_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    expected = [{"t": i, "text": "x" * (i % 97)} for i in range(300)]
    file.write_text("".join(json.dumps(one) + "\n" for one in expected))
    got, start, check, more = [], 0, "", True
    while more:
        chunk = read_chunk(file, start, check, limit=50)  # less than some lines
        got += parse(chunk.data)
        start, check, more = chunk.next, chunk.check, chunk.more
        assert not chunk.reset
    assert got == expected


def test_tail_forgets_what_a_resumed_run_took_back(tmp_path: Path) -> None:
    write(tmp_path, feed_run(30, shift=10))
    tail = MetricsTail(tmp_path / "metrics.jsonl", keep=8)
    assert tail.poll()
    assert tail.marks == [(10.0, "tastes shift")]
    assert len(tail.recent["dqn"]) == 8
    assert not tail.poll()
    kept = write(tmp_path, feed_run(5, shift=10))
    assert tail.poll()
    assert tail.last == kept[-1]
    assert (tail.marks, len(tail.recent["dqn"])) == ([], 5)


def test_run_is_finished_when_told_or_when_its_summary_is_there(tmp_path: Path) -> None:
    write(tmp_path, feed_run(3, shift=2))
    with Dashboard(tmp_path) as dashboard:
        assert follow(dashboard.url)[1]["X-Run"] == "running"
        (tmp_path / "summary.json").write_text("{}")
        assert follow(dashboard.url)[1]["X-Run"] == "finished"
        later = time.time() + 60  # a resumed run writes metrics after the summary of the first one
        os.utime(tmp_path / "metrics.jsonl", (later, later))
        assert follow(dashboard.url)[1]["X-Run"] == "running"
        dashboard.finish()
        assert follow(dashboard.url)[1]["X-Run"] == "finished"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org", ""])
def test_only_loopback(tmp_path: Path, host: str) -> None:
    with pytest.raises(ValueError, match="must be a loopback address"):
        Dashboard(tmp_path, host=host)


def test_taken_port_is_named(tmp_path: Path) -> None:
    with Dashboard(tmp_path) as dashboard:
        port = urlsplit(dashboard.url).port
        assert port is not None
        with pytest.raises(OSError, match=f"port {port} .*choose another port"):
            Dashboard(tmp_path, port=port)


def request(dashboard: Dashboard, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(dashboard.url).netloc, timeout=5)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_get_only_and_nothing_but_the_two_addresses(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    with Dashboard(tmp_path) as dashboard:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
            assert request(dashboard, method, "/", {})[0] == 405
        for path in ("/secret", "/../secret", "//secret", "/spec.toml"):
            assert request(dashboard, "GET", path, {})[0] == 404
        for start in ("-1", "x", "9" * 30, "%C2%B2"):
            assert request(dashboard, "GET", f"/metrics.jsonl?from={start}", {})[0] == 400


@pytest.mark.parametrize(("host", "status"), [("localhost:1", 200), ("[::1]:1", 200), ("evil.example", 403), ("", 403)])
def test_pages_of_other_names_cannot_read_it(tmp_path: Path, host: str, status: int) -> None:
    with Dashboard(tmp_path) as dashboard:
        assert request(dashboard, "GET", "/", {"Host": host})[0] == status


def test_close_is_quick_without_a_page_and_can_be_repeated(tmp_path: Path) -> None:
    dashboard = Dashboard(tmp_path)
    dashboard.finish()
    began = time.monotonic()
    dashboard.close()
    dashboard.close()
    assert time.monotonic() - began < 1.5
    with pytest.raises(urllib.error.URLError):
        get(dashboard.url)


def test_imports_nothing_heavy() -> None:
    code = "import sys, consumers.dashboard, consumers.panel; print({'torch', 'numpy', 'matplotlib'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---- in a browser ----------------------------------------------------------------------------------------------------

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH")


OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--window-size=1280,900", "--virtual-time-budget=4000", "--enable-logging=stderr", "--dump-dom"),
]


def dump(url: str, profile: Path) -> tuple[str, list[str]]:
    """The page after four virtual seconds, and what it wrote to the console: breaches of its policy, errors."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *OPTIONS, "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    command += [f"--user-data-dir={profile}", url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout, [text for text in done.stderr.splitlines() if "CONSOLE" in text]


def text_of(page: str, identity: str) -> str:
    """The text of the element with this id, up to the next section."""
    part = page[page.index(f'id="{identity}"') :]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", part[part.index(">") + 1 : part.index("</section>")]))


@pytest.mark.browser
@needs_chromium
def test_page_shows_the_policies(tmp_path: Path) -> None:
    last = write(tmp_path / "run", feed_run(60, shift=20))[-1]
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"t": 61.0, "meters": {"rew')  # a line that is being written
    with Dashboard(tmp_path / "run") as dashboard:
        page, console = dump(dashboard.url, tmp_path / "profile")
    assert console == []
    shown = text_of(page, "reward")
    for name, policy in last["meters"]["reward"]["policies"].items():
        figures = f"{policy['reward']:.4f} {policy['low']:.4f} – {policy['high']:.4f}"
        assert re.search(rf"{name} {figures} +{policy['decisions']:,} +{policy['recent']:.4f}", shown)
    assert "tastes shift · 0:20" in shown
    assert "▲ +" in shown
    assert f"{last['events_per_s']:.0f}" in text_of(page, "tiles")
    assert page.count('<section class="card" id="card-') == 5  # events/s, lag, latency and two losses
    assert 'data-state="live"' in page


@pytest.mark.browser
@needs_chromium
def test_page_shows_ranking_instead_of_reward(tmp_path: Path) -> None:
    last = write(tmp_path / "run", ranking_run(8))[-1]
    with Dashboard(tmp_path / "run") as dashboard:
        dashboard.finish()
        page, console = dump(dashboard.url, tmp_path / "profile")
    assert console == []
    shown = text_of(page, "ranking")
    for period in last["meters"]["ranking"]["periods"]:
        for model in period["models"].values():
            assert f"{model['recall20']:.4f}" in shown
    assert "2016-04-04" in shown
    assert re.search(r'id="reward"[^>]*hidden', page)
    assert 'data-state="finished"' in page


@pytest.mark.browser
@needs_chromium
def test_page_waits_for_data_and_takes_names_as_text(tmp_path: Path) -> None:
    with Dashboard(tmp_path) as dashboard:
        page, console = dump(dashboard.url, tmp_path / "profile")
        assert 'data-state="waiting"' in page
        assert console == []
        policy = {"reward": 0.5, "low": None, "high": None, "decisions": 1, "recent": 0.5}
        odd = {
            "t": 1.0,
            "mark": "<script>bad()</script>",
            "learning": {"a.loss": math.nan},
            "event_to_weights_ms": None,
        }
        odd["meters"] = {"reward": {"policies": {"<img src=x>": policy}}}
        (tmp_path / "metrics.jsonl").write_text(json.dumps(odd) + "\n")
        page, console = dump(dashboard.url, tmp_path / "profile")
    assert console == []
    assert "&lt;img src=x&gt;" in page
    assert "<img" not in page


@pytest.mark.browser
@needs_chromium
def test_page_says_that_the_connection_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "run", feed_run(5, shift=2))
    answers = []

    def once(self: Dashboard, start: int, check: str) -> tuple[bytes, dict[str, str]]:
        answers.append(start)
        if len(answers) > 1:
            raise ConnectionResetError
        return metrics(self, start, check)

    metrics = Dashboard.metrics
    monkeypatch.setattr(Dashboard, "metrics", once)
    with Dashboard(tmp_path / "run") as dashboard:
        page, _ = dump(dashboard.url, tmp_path / "profile")
    assert len(answers) > 1
    assert "connection lost" in page
    assert "gru4rec" in text_of(page, "reward")  # the figures stay


@pytest.mark.browser
@needs_chromium
def test_policy_of_the_page_refuses_the_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also shows that the silence the other tests find in the console means something."""
    page = Dashboard.page
    picture = b'<img src="http://outside.example/x.png">'
    monkeypatch.setattr(Dashboard, "page", lambda self: page(self).replace(b"<main>", b"<main>" + picture))
    with Dashboard(tmp_path) as dashboard:
        _, console = dump(dashboard.url, tmp_path / "profile")
    assert any("outside.example" in text and "Content Security Policy" in text for text in console)
