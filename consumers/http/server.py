"""The server: one socket, one event loop, an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette

from consumers.http.app import create_app
from consumers.http.service import Service
from consumers.http.settings import Settings

DRAIN_S = 20
"""Patience with answers in flight after the first signal."""

KEEP_ALIVE_S = 75
"""How long an idle connection is kept: longer than load balancers keep theirs (60 s as a rule), or they would send a
request into one that closes."""


class CannotListen(RuntimeError):
    """The address cannot be used; the message says what to do."""


class Server(uvicorn.Server):
    """uvicorn that ends the open streams first, since it waits for every answer, and leaves signals to `serve`."""

    def __init__(self, app: Starlette) -> None:
        config = uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            lifespan="on",
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_S,
            h11_max_incomplete_event_size=64 * 1024,
        )
        # Its lines have paths, and paths have user ids; `access_log` alone only lasts until somebody adds a handler.
        logging.getLogger("uvicorn.access").setLevel(logging.CRITICAL + 1)
        super().__init__(config)
        self._hub = app.state.hub

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: `serve` does."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then everything else."""
        await self._hub.close()
        await super().shutdown(sockets)


def listen(settings: Settings) -> socket.socket:
    """A socket at the address of the settings.

    Raises:
        BadSpec: it is public and no token is set.
        CannotListen: it is taken, or not ours.
    """
    settings.require_safe()
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        bound = socket.create_server((settings.host, settings.port), family=family, backlog=512)
    except OSError as error:
        raise CannotListen(
            f"cannot listen on {settings.host} port {settings.port} ({error.strerror or error}): choose another "
            "--port, or 0 for a free one"
        ) from error
    # Connections inherit it. asyncio sets it only on sockets made for IPPROTO_TCP by name, and without it the second
    # packet of an answer waits 40 ms for the caller to acknowledge the first.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return bound


def url(bound: socket.socket) -> str:
    """Where a browser on this machine finds the server."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


async def serve(
    engine: Service,
    settings: Settings,
    on_listen: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Answer until SIGTERM, SIGINT or `stop`; then no new connections, answers in flight finish, the engine closes.

    `/healthz` and `/readyz` answer while the engine still starts.

    Args:
        engine: started and closed here.
        settings: where and for whom.
        on_listen: told the URL once the socket is open.
        stop: somebody else may set it to end the service.

    Raises:
        BadSpec: a public address without a token.
        CannotListen: the address cannot be used.
    """
    bound = listen(settings)
    if settings.access_log:
        log_to_stderr()
    app = create_app(engine, settings)
    app.state.doors.starting = True
    server = Server(app)
    stop = stop or asyncio.Event()
    with _on_signals(server, stop), contextlib.closing(bound):
        serving = asyncio.create_task(server.serve([bound]))
        if on_listen is not None:
            on_listen(url(bound))
        starting = asyncio.create_task(_start(engine, app))
        asked = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({serving, starting, asked}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done() and starting.exception() is None:
                await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            server.should_exit = True
            starting.cancel()
            asked.cancel()
            outcomes = await asyncio.gather(starting, serving, return_exceptions=True)
            await engine.close()
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


async def _start(engine: Service, app: Starlette) -> None:
    await engine.start()
    app.state.doors.starting = False


@contextlib.contextmanager
def _on_signals(server: Server, stop: asyncio.Event) -> Iterator[None]:
    """The first signal asks for an orderly end, a second SIGINT for a quick one."""
    loop = asyncio.get_running_loop()

    def asked(number: int) -> None:
        server.force_exit = stop.is_set() and number == signal.SIGINT
        stop.set()

    signals: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT)
    try:
        for number in signals:
            loop.add_signal_handler(number, asked, number)
    except (RuntimeError, ValueError):  # not the main thread: who runs it there has `stop`
        signals = ()
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def log_to_stderr() -> None:
    """One line of JSON per request, and the faults, on standard error. Calling it twice is fine."""
    log = logging.getLogger("streamrec.http")
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stderr))
    log.setLevel(logging.INFO)
    log.propagate = False
