"""The embedded broker behind TLS, for which clients must show a certificate: nobody gets in without the options."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from consumers import broker
from consumers.broker import BrokerUnavailable, EmbeddedBroker, cluster_id
from consumers.clients.settings import ClientSettings

KEY_PASSWORD = "a=b*c"
"""Of the client's key."""


@dataclass
class Guarded:
    """A broker, where it listens, and how to get in."""

    address: str
    table: dict[str, str]

    @property
    def settings(self) -> ClientSettings:
        return ClientSettings(self.table)


@contextlib.contextmanager
def guarded_broker(folder: Path) -> Iterator[Guarded]:
    """A broker that takes connections with TLS only, from those who show a certificate; files go to `folder`."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl, to make certificates")
    _certificate(folder, "server")
    _certificate(folder, "client", KEY_PASSWORD)
    with _Door(folder) as door:
        inside = _Inside(door.port)
        try:
            inside.start()
            door.behind = inside.behind
            guarded = Guarded(f"127.0.0.1:{door.port}", _table(folder))
            _wait(guarded)
            yield guarded
        finally:
            inside.stop()


def _table(folder: Path) -> dict[str, str]:
    return {
        "security_protocol": "SSL",
        "ssl_cafile": str(folder / "server.pem"),
        "ssl_certfile": str(folder / "client.pem"),
        "ssl_keyfile": str(folder / "client.key"),
        "ssl_password": KEY_PASSWORD,
    }


def _certificate(folder: Path, name: str, password: str = "") -> None:
    """`NAME.pem` and `NAME.key`, signed by itself, for 127.0.0.1."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", str(folder / f"{name}.key")]
    locked = ["-passout", f"pass:{password}"] if password else ["-nodes"]
    about = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    command = ["openssl", "req", "-x509", *key, *locked, *about, "-out", str(folder / f"{name}.pem")]
    subprocess.run(command, check=True, capture_output=True)


def _wait(guarded: Guarded, patience_s: float = 15.0) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            cluster_id(guarded.address, guarded.settings)
            return
        except BrokerUnavailable:
            if time.monotonic() > deadline:
                raise


class _Inside(EmbeddedBroker):
    """The broker, which tells its clients to come through the door."""

    def __init__(self, door: int) -> None:
        super().__init__()
        self.door, self.behind = door, 0

    def start(self, patience_s: float = 10.0) -> None:
        self.behind = broker._free_port(self.host)
        self._launch(broker._binary(), self.behind)

    def _advertised(self, port: int) -> str:
        return super()._advertised(self.door)


class _Door:
    """Ends TLS and passes on what comes, on a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.behind = self.port = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self._context.load_verify_locations(folder / "client.pem")
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._open, self._thread = threading.Event(), threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> _Door:
        self._thread.start()
        self._open.wait(10.0)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(lambda loop, context: None)  # who is refused is no news
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        self._open.set()
        await self._closing.wait()
        server.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            inner, out = await asyncio.open_connection("127.0.0.1", self.behind)
            ways = [asyncio.ensure_future(_pump(reader, out)), asyncio.ensure_future(_pump(inner, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                out.transport.abort()
        writer.transport.abort()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while some := await source.read(1 << 16):
            target.write(some)
            await target.drain()
