"""Simulated users over HTTP, with a service that says no at first, forgets nothing and shows what it was told of."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from consumers.http_players import HttpPlayers, over_http
from consumers.produce import play
from streamrec import spec as specs
from streamrec.build import BadSpec

USERS = 40


class Shop(ThreadingHTTPServer):
    """Shows the first items it was told of; `refuse` so many recommendations first."""

    daemon_threads = True

    def __init__(self, refuse: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.refuse, self.decision = refuse, 0
        self.items: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.shown: dict[int, tuple[str, list[str]]] = {}
        self.tokens: set[str] = set()
        self.times: list[float] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/v1/items":
            self.items += [item["item"] for item in json.loads(body)]
            return 200, {"items": len(self.items)}
        if path == "/v1/events":
            self.events += [json.loads(line) for line in body.splitlines()]
            return 202, {"events": []}
        if self.refuse > 0:
            self.refuse -= 1
            return 503, {"title": "not yet"}
        return 200, self.recommend(json.loads(body))

    def recommend(self, ask: dict[str, Any]) -> dict[str, Any]:
        self.decision -= 1
        self.times.append(time.monotonic())
        items = [*self.items[: ask["k"] - 1], "unheard of"]
        self.shown[self.decision] = (ask["user"], items)
        slots = [{"item": item, "propensity": 0.5, "score": None} for item in items]
        return {"decision": self.decision, "items": slots, "fallback": "no_model" if self.decision == -1 else None}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Shop

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.tokens.add(self.headers.get("Authorization", ""))
            status, answer = self.server.answer(self.path, body)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_PUT = do_POST

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    thread = threading.Thread(target=shop.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield shop
    shop.shutdown()
    thread.join()
    shop.server_close()


def people(*sets: str) -> dict[str, Any]:
    """A spec of few people who think fast."""
    quick = [f"world.core.users={USERS}", "world.core.think_s=0.2", "world.core.leave=0.0", "world.core.items=30"]
    return specs.load("players", [*quick, *sets])


def test_everybody_is_answered_and_reacts_to_what_was_shown(shop: Shop) -> None:
    report = over_http(people(), shop.url, None, rate=None, seconds=2.0, quiet=True)
    assert report["answered"] == len(shop.shown) > USERS
    assert report["answered"] + report["unanswered"] == report["requests"]
    assert report["fallbacks"] == 1
    assert report["events"] == len(shop.events) > 0
    assert 0 < report["answer_ms"]["p50"] <= report["answer_ms"]["p99"]
    assert set(shop.items) == {f"i{number}" for number in range(1, 31)}
    assert {user for user, _ in shop.shown.values()} == {f"u{user}" for user in range(USERS)}
    for event in shop.events:
        user, items = shop.shown[event["decision"]]
        assert event["user"] == user
        assert event["item"] == items[event["slot"]] != "unheard of"
        assert abs(event["time"] - time.time()) < 60
    assert shop.tokens == {""}


def test_what_was_refused_is_asked_for_again(shop: Shop) -> None:
    shop.refuse = 3 * USERS
    report = over_http(people(), shop.url, None, rate=None, seconds=4.0, quiet=True)
    assert report["answers"]["POST /v1/recommend 503"] == 3 * USERS
    assert {user for user, _ in shop.shown.values()} == {f"u{user}" for user in range(USERS)}
    assert report["answered"] + report["unanswered"] == report["requests"]


def test_no_more_than_the_rate(shop: Shop) -> None:
    report = over_http(people(), shop.url, None, rate=40.0, seconds=2.5, quiet=True)
    assert 40 < report["answered"] <= 101
    for start in shop.times:
        assert sum(start <= other < start + 0.5 for other in shop.times) <= 60


def test_the_token_is_sent(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    over_http(people(), shop.url, tmp_path / "token", rate=None, seconds=0.3, quiet=True)
    assert shop.tokens == {"Bearer secret"}
    with pytest.raises(BadSpec, match="cannot read the token"):
        over_http(people(), shop.url, tmp_path / "none", rate=None, seconds=0.3, quiet=True)


def test_nobody_there_is_waited_for() -> None:
    report = over_http(people(), "http://127.0.0.1:9", None, rate=None, seconds=0.5, quiet=True)
    assert report["answered"] == 0
    assert report["unanswered"] == report["requests"] > 0
    assert report["answer_ms"] == {}
    assert set(report["answers"]) == {"PUT /v1/items none", "POST /v1/recommend none"}


@pytest.mark.parametrize("url", ["127.0.0.1:8700", "https://127.0.0.1:8700", "http://", "ftp://127.0.0.1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(BadSpec, match="address of a service"):
        over_http(people(), url, None, rate=None, seconds=0.1, quiet=True)


def test_a_rate_of_nothing_is_refused(shop: Shop) -> None:
    with pytest.raises(BadSpec, match="rate above 0"):
        play(people(), "", seconds=0.1, pace=1.0, through=lambda *made: HttpPlayers(*made, url=shop.url, rate=0.0))


@pytest.mark.slow
@pytest.mark.kafka
def test_with_the_real_service(tmp_path: Path) -> None:
    """As the container files start it: tokens, no root, ready only with a model; SIGTERM ends it in order."""
    docker = Path(__file__).resolve().parents[2] / "docker"
    subprocess.run([sys.executable, str(docker / "make_secrets.py"), str(tmp_path / "secrets")], check=True)
    command = [sys.executable, "-m", "streamrec.cli", "serve", "--embedded", "--port", "0", "--resume"]
    command += ["--bootstrap-servers", "127.0.0.1:0", "--run-dir"]
    options = [str(tmp_path / "run"), "--token-file", str(tmp_path / "secrets" / "streamrec_tokens")]
    log = tmp_path / "log"
    with log.open("w") as file:
        service = subprocess.Popen([*command, *options], stderr=file, cwd=tmp_path, env={**os.environ})
    try:
        port = wait_for(lambda: re.search(r"serves on http://127\.0\.0\.1:(\d+)", log.read_text()))[1]
        check = [sys.executable, "-I", str(docker / "healthcheck.py"), port]
        wait_for(lambda: subprocess.run(check, capture_output=True).returncode == 0)
        token, url = tmp_path / "secrets" / "players_token", f"http://127.0.0.1:{port}"
        report = over_http(people("run.slate=10"), url, token, rate=50.0, seconds=8.0, quiet=True)
    finally:
        service.send_signal(signal.SIGTERM)
        code = service.wait(60)
    assert code == 0, log.read_text()[-2000:]
    assert report["answered"] > 100
    assert set(report["answers"]) == {"PUT /v1/items 200", "POST /v1/recommend 200", "POST /v1/events 202"}


def wait_for(condition: Any, seconds: float = 90.0) -> Any:
    """What `condition` returns once it is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError("waited in vain")
