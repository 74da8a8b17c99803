"""The service as it runs: its own event loop in a thread, a real socket, and ways to reach both."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

import httpx

from consumers.http.server import serve
from consumers.http.service import Service
from consumers.http.settings import Settings

T = TypeVar("T")


class Borrowed:
    """An engine that runs elsewhere already: neither started nor closed again, and open to changes by a test."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def start(self) -> None:
        """It runs."""

    async def close(self) -> None:
        """Who started it closes it."""


class Running:
    """`serve` in a thread, inside a `with` block."""

    def __init__(self, engine: Service, settings: Settings | None = None) -> None:
        self.engine = engine
        self.settings = settings or Settings(port=0, access_log=False)
        self.url = ""
        self.failure: BaseException | None = None
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._run, name="service")

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self.failure = error
        finally:
            self._listens.set()

    async def _serve(self) -> None:
        self._loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        await serve(self.engine, self.settings, self._on_listen, self.stop)

    def _on_listen(self, url: str) -> None:
        self.url = url
        self._listens.set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listens.wait(20.0)
        if self.failure is not None:
            raise self.failure
        return self

    def await_start(self, headers: dict[str, str] | None = None, seconds: float = 20.0) -> None:
        """Return once the engine has started."""
        deadline = time.monotonic() + seconds
        with self.client() as http:
            while not self._answers(http, headers):
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def _answers(self, http: httpx.Client, headers: dict[str, str] | None) -> bool:
        try:
            return http.get("/v1/models", headers=headers).status_code != 503
        except httpx.TransportError:
            self._thread.join(5.0)
            if self.failure is not None:
                raise self.failure from None
            raise

    def __exit__(self, *_: object) -> None:
        self.ask_to_stop()
        self._thread.join(30.0)
        assert not self._thread.is_alive()

    def ask_to_stop(self) -> None:
        """As a signal would."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.stop.set)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine where the engine lives."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20.0)

    def client(self, **headers: str) -> httpx.Client:
        """A client of this service."""
        return httpx.Client(base_url=self.url, headers=headers, timeout=20.0, trust_env=False)
