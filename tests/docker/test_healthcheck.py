"""The health check of the image, as the engine runs it, against a server that answers."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "docker" / "healthcheck.py"


@contextmanager
def server(status: int) -> Iterator[int]:
    """Answers `/readyz` with `status`, anything else with 404; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(b'{"ready": false, "parts": {}}')

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield listening.server_address[1]
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def check(port: int) -> subprocess.CompletedProcess[str]:
    # -I: nothing of ours is importable, as in an image that is broken. A proxy of the environment must not be asked.
    environment = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    command = [sys.executable, "-I", str(SCRIPT), str(port)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, env=environment)


def test_ready() -> None:
    with server(200) as port:
        assert check(port).returncode == 0


def test_not_ready_says_why() -> None:
    with server(503) as port:
        done = check(port)
    assert done.returncode == 1
    assert "parts" in done.stdout


def test_nobody_there() -> None:
    with server(200) as port:
        pass
    done = check(port)
    assert done.returncode == 1
    assert "nobody answers" in done.stdout
