"""Names, origins and tokens."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from consumers.http.access import Access, Need
from consumers.http.problems import Refusal
from consumers.http.settings import Settings


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


GUARDED = Settings(
    tokens={"ingest": [digest("in")], "serve": [digest("out"), digest("out2")], "admin": [digest("all")]}
)


def status(access: Access, need: Need, **headers: str) -> int:
    try:
        access.check_token(Headers(headers), need)
    except Refusal as refusal:
        return refusal.status
    return 200


def test_who_comes_without_a_token_is_told_what_is_asked() -> None:
    for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic aW46"}):
        with pytest.raises(Refusal) as refusal:
            Access(GUARDED).check_token(Headers(header), "any")
        assert refusal.value.status == 401
        assert refusal.value.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("token", "need", "expected"),
    [
        ("in", "ingest", 200),
        ("in", "serve", 403),
        ("in", "any", 200),
        ("out", "serve", 200),
        ("out2", "serve", 200),
        ("out", "admin", 403),
        ("all", "ingest", 200),
        ("all", "admin", 200),
        ("wrong", "any", 401),
        ("wrong", "open", 200),
    ],
)
def test_a_scope_opens_its_own_doors_and_admin_all(token: str, need: Need, expected: int) -> None:
    assert status(Access(GUARDED), need, authorization=f"Bearer {token}") == expected
    assert status(Access(Settings()), need, authorization=f"Bearer {token}") == 200


@given(st.text(max_size=80))
def test_no_other_header_opens_a_door(text: str) -> None:
    if text.strip().lower() not in {"bearer in", "bearer all", "bearer out", "bearer out2"}:
        headers = Headers(raw=[(b"authorization", text.encode("utf-8", "surrogatepass"))])
        with pytest.raises(Refusal):
            Access(GUARDED).check_token(headers, "any")


def test_every_known_digest_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    real = hmac.compare_digest
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: seen.append(a) or real(a, b))
    access = Access(GUARDED)
    for token in ("in", "nobody's"):
        seen.clear()
        status(access, "any", authorization=f"Bearer {token}")
        assert len(seen) == 4, "as many comparisons for a known token as for an unknown one"


def host_status(settings: Settings, *hosts: bytes) -> int:
    try:
        Access(settings).check_host(Headers(raw=[(b"host", host) for host in hosts]))
    except Refusal as refusal:
        return refusal.status
    return 200


@pytest.mark.parametrize("host", [b"127.0.0.1:8700", b"localhost", b"[::1]:80", b"LOCALHOST:1", b"shop.example:8700"])
def test_own_names_are_answered(host: bytes) -> None:
    assert host_status(Settings(allowed_hosts=["Shop.example"]), host) == 200


@pytest.mark.parametrize("host", [b"evil.example", b"127.0.0.1.evil.example", b"localhost.evil", b"10.0.0.1:8700"])
def test_other_names_are_not(host: bytes) -> None:
    assert host_status(Settings(), host) == 421
    assert host_status(Settings(allowed_hosts=["a"], tokens=GUARDED.tokens), host) == 421
    assert host_status(GUARDED, host) == 200, "a page that reaches us under its own name has no token"


@pytest.mark.parametrize(
    "host", [b"", b"a b", b"a/b", b"user@localhost", b"localhost:port", b"local\nhost", b"[::1", b"\xff"]
)
def test_what_is_no_name_is_400(host: bytes) -> None:
    assert host_status(Settings(), host) == 400
    assert host_status(GUARDED, host) == 400


def test_there_is_one_host_header() -> None:
    assert host_status(Settings(), b"localhost", b"localhost") == 400
    assert host_status(Settings()) == 400


def origin_status(settings: Settings, method: str = "POST", **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()} | {"host": "127.0.0.1:8700"}
    try:
        Access(settings).check_origin(method, Headers(named))
    except Refusal as refusal:
        return refusal.status
    return 200


def test_only_own_pages_post() -> None:
    allowed = Settings(allowed_origins=["https://shop.example/"])
    assert origin_status(Settings()) == 200, "no browser"
    assert origin_status(Settings(), origin="http://127.0.0.1:8700", sec_fetch_site="same-origin") == 200
    assert origin_status(allowed, origin="https://shop.example", sec_fetch_site="cross-site") == 200
    for origin in (
        "null",
        "http://evil.example",
        "http://127.0.0.1:9999",
        "http://127.0.0.1",
        "https://shop.example",
        "",
    ):
        assert origin_status(Settings(), origin=origin) == 403, origin
    for method in ("PUT", "DELETE", "PATCH", "TRACE"):
        assert origin_status(Settings(), method, origin="http://evil.example") == 403
    assert origin_status(Settings(), sec_fetch_site="cross-site") == 403
    assert origin_status(Settings(), sec_fetch_site="same-site") == 403
    assert origin_status(Settings(), "GET", origin="http://evil.example") == 200
