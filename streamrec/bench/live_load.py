"""Requests to a service over HTTP at times that do not depend on its answers, and how long each took."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

CONNECTIONS = 32


class Connection:
    """One kept HTTP/1.1 connection; opens again where the service closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of the answer; (0, None) where nobody answers."""
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
        try:
            if self._reader is not None and self._reader.at_eof():  # it stood idle for longer than services keep one
                self.close()
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
            self._writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            return await self._answer()
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self.close()
            return 0, None

    async def _answer(self) -> tuple[int, Any]:
        assert self._reader is not None
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        content = await self._reader.readexactly(int(fields.get("content-length", 0)))
        if fields.get("connection") == "close":
            self.close()
        return int(head[0].split()[1]), json.loads(content) if content else None

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class Load:
    """People who ask at a constant rate, whether or not earlier ones were answered, and who click on some answers.

    A time counts from the moment a request was due, so a service that stops for a second has a second of late answers,
    not one.

    Args:
        host, port: of the service.
        rate: requests per second, at random moments.
        users: ids of users are drawn from so many.
        clicks: share of the answers whose first item is clicked; clicks go out ten times a second.
        slots: items per answer.
        seed: of the moments and the users.
    """

    def __init__(
        self, host: str, port: int, rate: float, users: int, clicks: float = 0.4, slots: int = 10, seed: int = 0
    ) -> None:
        self.address, self.rate, self.users, self.clicks, self.slots = (host, port), rate, users, clicks, slots
        self.times: list[float] = []  # seconds from when a request was due to its answer
        self.statuses: Counter[int] = Counter()
        self.fallbacks: Counter[str] = Counter()
        self.models: Counter[str] = Counter()
        self._draws = random.Random(seed)
        self._idle = [Connection(host, port) for _ in range(CONNECTIONS)]
        self._clicked: list[dict[str, Any]] = []

    async def run(self, seconds: float, beside: Callable[[], Awaitable[None]] | None = None) -> None:
        """Ask for so many seconds; `beside` runs at the same time and is cancelled at the end."""
        others = [asyncio.create_task(self._click())]
        if beside is not None:
            others.append(asyncio.ensure_future(beside()))
        asked: set[asyncio.Task[None]] = set()
        due = start = time.perf_counter()
        while due < start + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            asked.add(asyncio.create_task(self._ask(due)))
            asked = {task for task in asked if not task.done()}
            due += self._draws.expovariate(self.rate)
        await asyncio.gather(*asked)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for connection in self._idle:
            connection.close()

    async def _ask(self, due: float) -> None:
        connection = self._idle.pop() if self._idle else Connection(*self.address)
        user = f"load{self._draws.randrange(self.users)}"
        status, answer = await connection.call("POST", "/v1/recommend", {"user": user, "k": self.slots})
        self.times.append(time.perf_counter() - due)
        self._idle.append(connection)
        self.statuses[status] += 1
        if status != 200:
            return
        self.fallbacks[answer["fallback"] or "none"] += 1
        self.models[answer["model"]] += 1
        if answer["items"] and self._draws.random() < self.clicks:
            item = answer["items"][0]["item"]
            self._clicked.append({"kind": "click", "user": user, "item": item, "decision": answer["decision"]})

    async def _click(self) -> None:
        connection = Connection(*self.address)
        try:
            while True:
                await asyncio.sleep(0.1)
                clicks, self._clicked = self._clicked[:1000], self._clicked[1000:]
                if clicks:
                    await connection.call("POST", "/v1/events", clicks)
        finally:
            connection.close()

    def figures(self) -> dict[str, Any]:
        """Counts, and quantiles of the times in milliseconds."""
        times = 1000 * np.array(self.times or [np.nan])
        quantiles = dict(zip(("p50", "p95", "p99"), np.quantile(times, (0.5, 0.95, 0.99)).tolist(), strict=True))
        return {
            "requests": len(self.times),
            "failed": sum(many for status, many in self.statuses.items() if status != 200),
            "fallbacks": {why: many for why, many in self.fallbacks.items() if why != "none"},
            "models": len(self.models),
            "answer_ms": {**quantiles, "max": float(times.max())},
        }


async def sight(host: str, port: int, times: list[float], every_s: float = 0.25) -> None:
    """Click again and again, and note the seconds until the click stands in the state that the service tells."""
    connection = Connection(host, port)
    try:
        for number in itertools.count():
            await _click_and_look(connection, f"sight{number % 50}", times)
            await asyncio.sleep(every_s)
    finally:
        connection.close()


async def _click_and_look(connection: Connection, item: str, times: list[float]) -> None:
    event, start = {"kind": "click", "user": "sight", "item": item, "time": time.time()}, time.perf_counter()
    await connection.call("POST", "/v1/events", [event])
    while time.perf_counter() < start + 5.0:
        status, state = await connection.call("GET", "/v1/users/sight/state")
        if status == 200 and any(one["item"] == item and one["time"] == event["time"] for one in state["items"]):
            break
        await asyncio.sleep(0.002)
    times.append(time.perf_counter() - start)
