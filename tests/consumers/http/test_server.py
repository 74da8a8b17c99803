"""Start, overload, faults behind the door, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from consumers import wire
from consumers.broker import BrokerUnavailable, EmbeddedBroker
from consumers.http.server import CannotListen, listen
from consumers.http.settings import Limits, Settings
from consumers.serving.engine import Engine
from consumers.serving.types import Answer, Ask, Verdict
from streamrec.build import BadSpec
from tests.consumers.http.running import Borrowed, Running

pytestmark = [pytest.mark.kafka, pytest.mark.usefixtures("running")]


class Slow(Borrowed):
    """Answers when it is allowed to."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.allowed = threading.Event()
        self.waiting = 0

    async def recommend(self, ask: Ask) -> Answer:
        self.waiting += 1
        while not self.allowed.is_set():
            await asyncio.sleep(0.005)
        return Answer(-1, [], "popular", "", "no_model", 0.1)


class Faulty(Borrowed):
    """Has a fault of ours in one place and an outage in another."""

    async def recommend(self, ask: Ask) -> Answer:
        raise KeyError(ask.user)

    async def append(self, events: Sequence[wire.Event]) -> list[Verdict]:
        raise BrokerUnavailable("at secret-broker:9092")


def settings(**limits: Any) -> Settings:
    return Settings(port=0, access_log=False, limits=Limits(**limits))


def ask(url: str) -> httpx.Response:
    return httpx.post(f"{url}v1/recommend", json={"user": "u"}, timeout=20.0, trust_env=False)


def wait_for(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("limits", "status"), [({"in_flight": 3}, 503), ({"in_flight_per_client": 3}, 429)])
def test_too_many_at_once_are_told_to_come_back(engine: Engine, limits: dict[str, int], status: int) -> None:
    slow = Slow(engine)
    with Running(slow, settings(**limits)) as service, ThreadPoolExecutor(3) as pool:
        service.await_start()
        held = [pool.submit(ask, service.url) for _ in range(3)]
        wait_for(lambda: slow.waiting == 3)
        refused = ask(service.url)
        with service.client() as http:
            alive = [http.get(path).status_code for path in ("/healthz", "/readyz", "/metrics")]
        slow.allowed.set()
        assert [one.result().status_code for one in held] == [200, 200, 200]
        assert ask(service.url).status_code == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (status, "1")
    assert alive[0] == alive[2] == 200, "overload hides neither health nor figures"


def test_a_fault_is_a_500_without_what_was_in_it(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    with Running(Faulty(engine), settings()) as service, service.client() as http, caplog.at_level(logging.INFO):
        service.await_start()
        fault = http.post("/v1/recommend", json={"user": "user-with-a-name"})
        outage = http.post("/v1/events", json={"kind": "leave", "user": "u"})
        assert http.get("/healthz").status_code == 200
    assert fault.status_code == 500
    assert fault.headers["content-type"] == "application/problem+json"
    assert (outage.status_code, outage.headers["retry-after"]) == (503, "2")
    assert "secret-broker" not in outage.text
    assert "user-with-a-name" not in fault.text + caplog.text
    assert fault.headers["x-request-id"] in caplog.text
    assert "KeyError" in caplog.text


def test_health_is_answered_while_the_engine_starts(engine: Engine) -> None:
    go = threading.Event()

    class Starting(Borrowed):
        async def start(self) -> None:
            while not go.is_set():
                await asyncio.sleep(0.01)

    with Running(Starting(engine), settings()) as service, service.client() as http:
        assert http.get("/healthz").status_code == 200
        ready = http.get("/readyz")
        early = http.post("/v1/recommend", json={"user": "u"})
        stream = http.get("/v1/stream")
        figures = http.get("/metrics").text
        go.set()
        service.await_start()
        assert http.post("/v1/recommend", json={"user": "u"}).status_code == 200
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert early.status_code == stream.status_code == 503
    assert "retry-after" in early.headers
    assert "streamrec_ready 0.0" in figures


def test_an_engine_that_cannot_start_ends_the_service_with_its_reason(engine: Engine) -> None:
    class Broken(Borrowed):
        async def start(self) -> None:
            await asyncio.sleep(0.2)
            raise BrokerUnavailable("nobody answers")

    service = Running(Broken(engine), settings())
    with service:
        wait_for(lambda: service.failure is not None)
    assert isinstance(service.failure, BrokerUnavailable)


def test_at_the_end_streams_end_answers_finish_and_the_engine_closes(engine: Engine) -> None:
    closed = threading.Event()

    class Closing(Slow):
        async def close(self) -> None:
            closed.set()

    slow = Closing(engine)
    with Running(slow, settings()) as service, ThreadPoolExecutor(2) as pool:
        service.await_start()
        held = pool.submit(ask, service.url)
        stream = pool.submit(lambda: httpx.get(f"{service.url}v1/stream", timeout=20.0, trust_env=False).text)
        time.sleep(0.4)
        service.ask_to_stop()
        assert "event: live" in stream.result(), "the stream ended, and not by breaking"
        assert not closed.is_set()
        slow.allowed.set()
        assert held.result().status_code == 200
    assert closed.is_set()
    assert service.failure is None


def test_a_body_that_trickles_in_is_not_waited_for(running: Running, engine: Engine) -> None:
    with Running(Borrowed(engine), settings(body_seconds=0.2)) as service:
        service.await_start()
        host, port = service.url.removeprefix("http://").rstrip("/").split(":")
        with socket.create_connection((host, int(port)), timeout=10.0) as line:
            line.sendall(
                b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 1000\r\n\r\n{"
            )
            assert line.recv(64).startswith(b"HTTP/1.1 408")
        with socket.create_connection((host, int(port)), timeout=10.0) as line:
            line.sendall(b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n")
            line.sendall(b"Content-Type: application/json\r\n\r\n")
            assert line.recv(64).startswith(b"HTTP/1.1 4")
        with service.client() as http:
            assert http.get("/healthz").status_code == 200


def test_a_client_that_goes_away_is_counted_and_harms_nobody(engine: Engine) -> None:
    with Running(Borrowed(engine), settings()) as service:
        service.await_start()
        host, port = service.url.removeprefix("http://").rstrip("/").split(":")
        for _ in range(3):
            with socket.create_connection((host, int(port)), timeout=10.0) as line:
                line.sendall(b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
                line.sendall(b"Content-Length: 1000\r\n\r\n[")
        with service.client() as http:
            gone = 'streamrec_http_requests_total{code="499",method="POST",route="/v1/events"} 3.0'
            wait_for(lambda: gone in http.get("/metrics").text)


def test_a_taken_port_and_a_public_address_are_refused_with_what_to_do() -> None:
    with listen(Settings(port=0)) as bound, pytest.raises(CannotListen, match="--port"):
        listen(Settings(port=bound.getsockname()[1]))
    with pytest.raises(BadSpec, match="streamrec token"):
        listen(Settings(host="0.0.0.0", port=0))


def test_sigterm_ends_the_process_in_order(broker: EmbeddedBroker, tmp_path: Path) -> None:
    script = (
        "import asyncio, sys; from pathlib import Path\n"
        "from consumers.http.server import serve\nfrom consumers.http.settings import Settings\n"
        "from tests.consumers.http.conftest import make_engine\n"
        "engine = make_engine(sys.argv[1], Path(sys.argv[2]))\n"
        "asyncio.run(serve(engine, Settings(port=0), lambda url: print(url, flush=True)))\n"
        "print('ended', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, broker.address, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    wait_for(lambda: httpx.get(f"{url}v1/models", trust_env=False).status_code == 200, 30.0)
    assert httpx.get(f"{url}v1/users/somebody-by-name", trust_env=False).status_code == 404
    process.send_signal(signal.SIGTERM)
    out, log = process.communicate(timeout=30.0)
    assert (process.returncode, out) == (0, "ended\n"), log
    assert '"route":"/v1/users/{id}"' in log
    assert "somebody-by-name" not in log
