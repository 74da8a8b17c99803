"""What happens to every request, whatever it asks: a number, checks, headers, figures, one line in the log."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
import traceback
from dataclasses import dataclass, field
from urllib.parse import quote

import msgspec
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Asgi

from consumers.http.access import Access
from consumers.http.meters import Meters
from consumers.http.problems import TITLES, Refusal

log = logging.getLogger("streamrec.http")
access_log = logging.getLogger("streamrec.http.access")

GONE = 499
"""Status in log and figures of a request whose client went away; nobody receives it."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_HEADER_PAIRS = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_WITHOUT_HOST = frozenset({"/healthz", "/readyz"})
"""Asked by probes under whatever address a container has; they tell nothing about anybody."""

_SALT = secrets.token_bytes(16)


def mark(user: str) -> str:
    """What stands for a user in the log: the same within one process, and not to be guessed by trying ids."""
    return hashlib.blake2b(user.encode("utf-8", "surrogatepass"), digest_size=8, key=_SALT).hexdigest()


@dataclass(slots=True)
class Trace:
    """What is known of one request. `route` is the template that matched; `user` is only ever logged as a mark."""

    id: str
    method: str
    began: float = field(default_factory=time.perf_counter)
    route: str = "unmatched"
    user: str = ""
    status: int = 0


def trace(request: Request) -> Trace:
    """The trace of a request that came through the gate."""
    found: Trace = request.scope["streamrec"]
    return found


class Gate:
    """ASGI middleware around the whole application.

    Paths are matched percent-encoded, segment by segment, so that an id may hold a `/` as `%2F`.

    Args:
        app: the application behind.
        access: names and origins.
        meters: counts every request, refused ones too.
    """

    def __init__(self, app: ASGIApp, access: Access, meters: Meters) -> None:
        self._app, self._access, self._meters = app, access, meters

    async def __call__(self, scope: Asgi, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        seen = Trace(_request_id(headers), scope["method"])
        scope = {**scope, "path": encoded_path(scope), "streamrec": seen}

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
                message = {**message, "headers": _with_fixed(message["headers"], seen.id)}
            await send(message)

        try:
            response = self._refused(scope, headers)
            await (response or self._app)(scope, receive, answer)
        except ClientDisconnect:
            seen.status = GONE
        except Exception as error:
            if seen.status:  # too late for another answer
                _tell(error, seen)
                return
            await mistake(error, seen)(scope, receive, answer)
        finally:
            self._account(seen)

    def _refused(self, scope: Asgi, headers: Headers) -> Response | None:
        try:
            if scope["path"] not in _WITHOUT_HOST:
                self._access.check_host(headers)
            self._access.check_origin(scope["method"], headers)
        except Refusal as refusal:
            return refusal.response(scope["streamrec"].id)
        return None

    def _account(self, seen: Trace) -> None:
        seconds = time.perf_counter() - seen.began
        status = seen.status or GONE
        self._meters.answered(seen.route, seen.method, status, seconds)
        if not access_log.isEnabledFor(logging.INFO):
            return
        line = {
            "time": round(time.time(), 3),
            "request": seen.id,
            "method": seen.method[:16],
            "route": seen.route,
            "status": status,
            "ms": round(1000 * seconds, 3),
        }
        if seen.user:
            line["user"] = mark(seen.user)
        access_log.info("%s", msgspec.json.encode(line).decode())


def encoded_path(scope: Asgi) -> str:
    """The path as it was sent, still percent-encoded."""
    raw = scope.get("raw_path")
    if raw is None:
        return quote(scope["path"], safe="/:@!$&'()*+,;=-._~")
    return str(raw.partition(b"?")[0].decode("latin-1"))


def mistake(error: Exception, seen: Trace) -> Response:
    """A 500 for a fault of ours; the log has where it happened."""
    _tell(error, seen)
    return Refusal(500, "the server made a mistake; its log has more under this request").response(seen.id)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What the router refuses (404), as a problem."""
    assert isinstance(error, HTTPException)
    status = error.status_code if error.status_code in TITLES else 400
    known = "see /openapi.json for what is answered here" if status == 404 else error.detail
    return Refusal(status, known, headers=error.headers).response(trace(request).id)


async def on_refusal(request: Request, error: Exception) -> Response:
    """What an operation refuses, as a problem."""
    assert isinstance(error, Refusal)
    return error.response(trace(request).id)


def _tell(error: Exception, seen: Trace) -> None:
    """Log where, and the kind of error. Not its message: that may quote an id or a token."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    places = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
    log.error("request %s failed in %s: %s at %s", seen.id, seen.route, type(error).__name__, places)


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def _with_fixed(headers: list[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    given = {name.lower() for name, _ in headers}
    fixed = [pair for pair in _HEADER_PAIRS if pair[0] not in given]
    return [*headers, *fixed, (b"x-request-id", request_id.encode())]
