"""The live page: one HTML file and the tail of `metrics.jsonl`, served on loopback by the standard library."""

from __future__ import annotations

import html
import ipaddress
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from socketserver import TCPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from consumers.metrics_tail import read_chunk

# `unsafe-inline`: script and style stand in the page itself, so that it is one file; nothing else may load.
POLICY = "default-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class Dashboard:
    """Serves the live page of a run from a daemon thread, on loopback only, to GET requests only.

    The page asks for `/metrics.jsonl?from=<byte offset>` about once a second. The answer holds whole lines only;
    `X-Next` and `X-Check` are the cursor for the next request, `X-Reset: 1` says that the file was rewritten and
    the answer starts at byte 0, `X-More: 1` that there is more at once, `X-Run` is `running` or `finished`.

    A run is finished once `finish` was called or a `summary.json` no older than the metrics lies in the directory;
    an open page then keeps its last figures when the server is gone.

    Args:
        run_dir: directory of the run; its `metrics.jsonl` may appear later.
        port: TCP port, 0 for a free one.
        host: a loopback address or `localhost`.

    Raises:
        ValueError: `host` is not a loopback address.
        OSError: the port is taken.
    """

    def __init__(self, run_dir: Path, port: int = 0, host: str = "127.0.0.1") -> None:
        _require_loopback(host)
        self.run_dir = Path(run_dir)
        try:
            self._server = _Server(self, host, port)
        except OSError as error:
            raise OSError(
                f"the dashboard could not listen on {host} port {port} ({error.strerror or error}): "
                "choose another port, or 0 for a free one"
            ) from error
        self._finished = False
        self._asked_at = float("-inf")
        self._told = threading.Event()
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="dashboard", daemon=True)
        self._thread.start()

    def page(self) -> bytes:
        """The HTML of the page, with the name of the run in it."""
        text = resources.files("consumers").joinpath("dashboard.html").read_text(encoding="utf-8")
        return text.replace("{{run}}", html.escape(self.run_dir.resolve().name)).encode()

    def metrics(self, start: int, check: str) -> tuple[bytes, dict[str, str]]:
        """Lines from byte `start` on, and the headers that go with them."""
        finished = self.finished  # before reading: what is written until it turns true must still be handed out
        chunk = read_chunk(self.run_dir / "metrics.jsonl", start, check)
        self._asked_at = time.monotonic()
        if finished and not chunk.more:
            self._told.set()
        return chunk.data, {
            "X-Next": str(chunk.next),
            "X-Check": chunk.check,
            "X-Reset": str(int(chunk.reset)),
            "X-More": str(int(chunk.more)),
            "X-Run": "finished" if finished else "running",
        }

    @property
    def finished(self) -> bool:
        if self._finished:
            return True
        try:
            summary = (self.run_dir / "summary.json").stat().st_mtime
            # 2 s: a resumed run leaves the old summary behind, but writes metrics after it
            return summary >= (self.run_dir / "metrics.jsonl").stat().st_mtime - 2.0
        except FileNotFoundError:
            return False

    def finish(self) -> None:
        """The run is over: open pages will say so. Call it after the last line was written, before `close`."""
        self._finished = True

    def close(self) -> None:
        """Stop serving. Where the run is finished, an open page first gets up to two seconds to fetch its end."""
        watched = time.monotonic() - self._asked_at < 3.0
        if watched and self.finished and self._thread.is_alive():
            self._told.wait(2.0)
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Dashboard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _require_loopback(host: str) -> None:
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(
            f"the dashboard shows a run without asking who looks, so its host must be a loopback address, "
            f"got {host!r}: use 127.0.0.1, and a tunnel (ssh -L) to look from elsewhere"
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, dashboard: Dashboard, host: str, port: int) -> None:
        self.dashboard = dashboard
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer also asks the DNS for a full name, which can hang without a network
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):  # a closed tab is no error
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "streamrec"
    sys_version = ""
    timeout = 10.0

    def do_GET(self) -> None:
        if not self._is_local():
            self._answer(403, "the dashboard answers to loopback addresses only\n")
            return
        url = urlsplit(self.path)
        if url.path == "/":
            self._answer(200, self.server.dashboard.page(), "text/html; charset=utf-8")
        elif url.path == "/metrics.jsonl":
            self._metrics(parse_qs(url.query))
        elif url.path == "/favicon.ico":
            self._answer(204, b"")
        else:
            self._answer(404, "not here: there are / and /metrics.jsonl\n")

    def _metrics(self, query: dict[str, list[str]]) -> None:
        start = query.get("from", ["0"])[0]
        if not (start.isascii() and start.isdigit() and len(start) < 16):
            self._answer(400, "from: expected a byte offset, such as /metrics.jsonl?from=0\n")
            return
        data, headers = self.server.dashboard.metrics(int(start), query.get("check", [""])[0])
        self._answer(200, data, "application/x-ndjson; charset=utf-8", headers)

    def _is_local(self) -> bool:
        """Whether the page was asked for by a loopback name: else any web site could read it by DNS rebinding."""
        try:
            _require_loopback(urlsplit(f"//{self.headers.get('Host', '')}").hostname or "")
        except ValueError:
            return False
        return True

    def _refuse(self) -> None:
        self._answer(405, "only GET is answered here\n", headers={"Allow": "GET"})

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse

    def _answer(
        self,
        status: int,
        body: bytes | str,
        kind: str = "text/plain; charset=utf-8",
        headers: dict[str, str] | None = None,
    ) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        fixed = {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        for name, value in (fixed | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal belongs to the panel."""
