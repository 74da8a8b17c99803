"""What an attacker tries, and what must never be written down."""

from __future__ import annotations

import hashlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from consumers.broker import EmbeddedBroker
from consumers.http.gate import mark
from consumers.http.settings import Settings
from tests.consumers.http.conftest import make_engine
from tests.consumers.http.running import Running
from tests.consumers.http.test_access import GUARDED

pytestmark = pytest.mark.kafka

TOKENS = {"ingest": "in", "serve": "out", "admin": "all"}


@pytest.fixture(scope="module")
def guarded(broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    engine = make_engine(broker.address, tmp_path_factory.mktemp("guarded"))
    with Running(engine, Settings(port=0, access_log=False, tokens=GUARDED.tokens)) as service:
        service.await_start({"authorization": "Bearer all"})
        yield service


def bearer(scope: str) -> dict[str, str]:
    return {"authorization": f"Bearer {TOKENS[scope]}"}


def test_every_operation_asks_for_its_scope(guarded: Running) -> None:
    with guarded.client() as http:
        document = http.get("/openapi.json").json()
        asked = 0
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                url = path.replace("{id}", "nobody").replace("{version}", "nothing")
                if "security" not in operation:
                    assert not path.startswith("/v1/")
                    assert http.request(method, url).status_code in (200, 503)
                    continue
                asked += 1
                needed = operation["security"][0]["token"]
                assert http.request(method, url).status_code == 401, url
                for scope in TOKENS:
                    if path == "/v1/stream":
                        continue
                    status = http.request(method, url, headers=bearer(scope)).status_code
                    may = scope == "admin" or not needed or scope in needed
                    assert (status not in (401, 403)) == may, (method, url, scope, status)
        assert asked >= 18


def test_no_user_and_no_token_is_written_down(guarded: Running, caplog: pytest.LogCaptureFixture) -> None:
    user, secret = "very-private-user", "very-secret-token"
    texts = []
    with (
        guarded.client() as http,
        caplog.at_level(logging.DEBUG, logger="streamrec"),
        caplog.at_level(logging.DEBUG, "uvicorn"),
    ):
        for headers in ({"authorization": f"Bearer {secret}"}, bearer("admin")):
            for method, path, body in (
                ("POST", "/v1/recommend", {"user": user}),
                (
                    "POST",
                    "/v1/events",
                    [{"kind": "click", "user": user, "item": "i1"}, {"kind": "click", "user": user}],
                ),
                ("GET", f"/v1/users/{user}", None),
                ("GET", f"/nowhere/{user}?token={secret}", None),
                ("GET", f"/v1/users?query={user}", None),
                ("DELETE", f"/v1/users/{user}", None),
            ):
                answer = http.request(method, path, json=body, headers=headers)
                texts += [answer.text if path != f"/v1/users/{user}" else "", str(answer.headers)]
        texts.append(http.get("/metrics", headers=bearer("serve")).text)
    written = "".join(texts)
    assert secret not in written + caplog.text
    assert user not in caplog.text
    assert user not in texts[-1], "figures name no users"
    assert mark(user) in caplog.text, "the log still tells one user from another"
    lines = [record for record in caplog.records if record.name == "streamrec.http.access"]
    assert len(lines) >= 12


def test_marks_are_not_the_hash_of_the_id_alone() -> None:
    assert mark("u1") == mark("u1") != mark("u2")
    assert mark("u1") != hashlib.blake2b(b"u1", digest_size=8).hexdigest()


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "localhost evil", "localhost\t", "[::1", "a" * 5000]
)
def test_a_foreign_host_gets_nothing(running: Running, host: str) -> None:
    answer = raw(running, b"GET /v1/users HTTP/1.1\r\nHost: " + host.encode() + b"\r\nConnection: close\r\n\r\n")
    assert answer[:12] in (b"HTTP/1.1 421", b"HTTP/1.1 400") or host == "localhost\t"
    assert b'"users"' not in answer or host == "localhost\t"


def test_hostile_requests_do_not_stop_the_server(running: Running) -> None:
    attacks = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET http://evil.example/v1/users HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /v1/users/%2e%2e%2f%2e%2e%2fetc%2fpasswd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ]
    for attack in attacks:
        answer = raw(running, attack)
        assert b"HTTP/1.1 5" not in answer, attack[:60]
        assert b"root:" not in answer
    with running.client() as http:
        assert http.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        (b"[" * 900_000, {400, 422}),
        (b'{"user":' * 100_000, {400, 422}),
        (b'{"user":"' + b"x" * 1_000_000 + b'"}', {422}),
        (b'{"user":"u","k":' + b"9" * 900_000 + b"}", {422, 400}),
        (b'{"user":"u","candidates":[' + b",".join([b'"i"'] * 200_000) + b"]}", {422}),
        (b"x" * (2 << 20), {413}),
        (b'{"user":"\\ud800"}', {400}),
        (b'{"user":"u","user":"v"}', {200}),
        (b'{"user":"u","deadline_ms":1e999}', {422, 400}),
        (b"\x1f\x8b\x08\x00", {400}),
    ],
)
def test_bombs_are_refused(http: httpx.Client, body: bytes, statuses: set[int]) -> None:
    for path in ("/v1/recommend", "/v1/events"):
        answer = http.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (statuses if path == "/v1/recommend" else {400, 413, 422}), answer.text[:300]
    assert http.get("/healthz").status_code == 200


def test_a_packed_body_is_not_unpacked(http: httpx.Client) -> None:
    for coding in ("gzip", "br", "deflate, gzip"):
        headers = {"content-type": "application/json", "content-encoding": coding}
        assert http.post("/v1/events", content=b"\x1f\x8b\x08", headers=headers).status_code == 415


def test_pages_of_others_can_neither_post_nor_read(http: httpx.Client) -> None:
    for origin in ("http://evil.example", "null"):
        answer = http.post("/v1/events", json={"kind": "leave", "user": "u"}, headers={"origin": origin})
        assert answer.status_code == 403
    answer = http.get("/v1/models", headers={"origin": "http://evil.example"})
    assert not any(name.startswith("access-control") for name in answer.headers)
    assert http.options("/v1/events", headers={"origin": "http://evil.example"}).status_code == 405


def test_every_answer_carries_the_policy_of_its_page(http: httpx.Client) -> None:
    for path in ("/", "/docs", "/v1/models", "/nothing", "/metrics"):
        headers = http.get(path).headers
        assert "unsafe" not in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    assert http.get("/v1/models").headers["cache-control"] == "no-store"


def test_pages_need_nothing_from_elsewhere() -> None:
    import consumers.http

    for path in (Path(consumers.http.__file__).parent / "pages").iterdir():
        text = path.read_text()
        assert "https://" not in text
        assert "http://" not in text
        assert "innerHTML" not in text
        assert "style=" not in text


def raw(running: Running, request: bytes) -> bytes:
    """Bytes over a socket, and what comes back."""
    host, port = running.url.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=3.0) as line:
        try:
            line.sendall(request)
            line.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := line.recv(65_536):
                answer += chunk
        except OSError:
            return b""
    return answer
