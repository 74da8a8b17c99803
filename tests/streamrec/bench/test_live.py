"""The load of `bench live`: what it counts and from when, against a service that says what it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from streamrec.bench import live
from streamrec.bench.live_load import Connection, Load, sight

HOST = "127.0.0.1"


class Stub:
    """Answers each request with the status and JSON that `say` gives for its method, path and body."""

    def __init__(self, say: Callable[[str, str, Any], tuple[int, Any]], slow_s: float = 0.0) -> None:
        self.say, self.slow_s, self.port = say, slow_s, 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Stub:
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                size = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
                body = await reader.readexactly(size)
                method, path, _ = head.split(" ", 2)
                await asyncio.sleep(self.slow_s)
                status, said = self.say(method, path, json.loads(body) if body else None)
                content = json.dumps(said).encode()
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def answer(user: str) -> dict[str, Any]:
    return {"decision": -7, "items": [{"item": f"for-{user}"}], "model": "1", "fallback": None}


def test_failures_fallbacks_and_clicks_are_counted() -> None:
    clicks: list[dict[str, Any]] = []
    asked = 0

    def say(method: str, path: str, body: Any) -> tuple[int, Any]:
        nonlocal asked
        if path == "/v1/events":
            clicks.extend(body)
            return 202, {}
        asked += 1
        if asked % 5 == 0:
            return 503, {}
        return 200, answer(body["user"]) | {"fallback": "deadline" if asked % 5 == 1 else None}

    async def go() -> Load:
        async with Stub(say) as stub:
            load = Load(HOST, stub.port, rate=100.0, users=10, clicks=1.0)
            await load.run(1.0)
            return load

    made = asyncio.run(go()).figures()
    assert made["requests"] == asked > 50
    assert made["failed"] == asked // 5
    assert made["fallbacks"] == {"deadline": (asked + 4) // 5}
    assert clicks
    assert all(c["item"] == f"for-{c['user']}" and c["decision"] == -7 for c in clicks)


def test_a_time_counts_from_when_a_request_was_due() -> None:
    async def go() -> Load:
        async with Stub(lambda method, path, body: (200, answer(body["user"])), slow_s=0.2) as stub:
            load = Load(HOST, stub.port, rate=50.0, users=10, clicks=0.0)
            await load.run(1.0)
            return load

    load = asyncio.run(go())
    assert min(load.times) >= 0.2
    assert len(load.times) > 25, "the load does not wait for answers"


def test_a_connection_that_the_service_closed_meanwhile_is_opened_again() -> None:
    async def go() -> list[int]:
        async with Stub(lambda method, path, body: (200, {})) as stub:
            connection = Connection(HOST, stub.port)
            statuses = [(await connection.call("GET", "/healthz"))[0]]
            stub.hang_up()
            await asyncio.sleep(0.1)
            statuses.append((await connection.call("GET", "/healthz"))[0])
            connection.close()
        return statuses

    assert asyncio.run(go()) == [200, 200]


def test_nobody_there_is_a_failure_and_no_crash() -> None:
    async def go() -> tuple[int, Any]:
        async with Stub(lambda method, path, body: (200, {})) as stub:
            port = stub.port
        connection = Connection(HOST, port)
        return await connection.call("GET", "/healthz")

    assert asyncio.run(go()) == (0, None)


def test_a_click_is_seen_when_the_state_has_it() -> None:
    posted: list[dict[str, Any]] = []

    def say(method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "POST":
            posted.extend(body)
            return 202, {}
        shown = [{"item": one["item"], "time": one["time"]} for one in posted] if len(posted) % 3 else []
        return 200, {"items": shown}

    async def go() -> list[float]:
        times: list[float] = []
        async with Stub(say) as stub:
            task = asyncio.create_task(sight(HOST, stub.port, times, every_s=0.0))
            while len(times) < 2:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return times

    assert all(0.0 < seconds < 2.0 for seconds in asyncio.run(go()))


@pytest.mark.slow
@pytest.mark.kafka
def test_a_real_service_under_a_light_load() -> None:
    made = asyncio.run(live.service(8.0, items=500, rate=20.0))
    assert made["requests"] > 80
    assert made["failed"] == 0
    assert made["swaps"] > 0
    assert made["updates"] > 0
    assert made["click_to_state_ms"]["clicks"] > 5
