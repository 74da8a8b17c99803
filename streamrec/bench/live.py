"""The service under load, beside what it must not lose against: ingestion, answers, freshness, swaps, memory.

Everything is measured from outside: a `streamrec serve --embedded` with its learner runs as its users start it, and
this process is the crowd. It takes a part of the same processors, so times are those of the worse case.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np

from streamrec.bench import live_ingest
from streamrec.bench.live_load import Connection, Load, sight

HOST = "127.0.0.1"
ITEMS = 20_000
USERS = 5000
RATE = 200.0
"""Recommendations per second."""

CAPACITY = 2000
"""Users, and items, that the service of the memory measurement has room for."""


def measure(seconds: float, peer_python: str | None = None) -> dict[str, Any]:
    """About `seconds` per contender of the ingestion, six times that under load, and a minute for the memory.

    Returns:
        `ingest`: see `streamrec.bench.live_ingest.measure`. `service`: answers as callers saw them at 200 requests per
        second over 20,000 items while the learner learned, swaps meanwhile, and how soon a click was seen. `memory`:
        resident megabytes of service and learner when they had seen one, two and three times the users and items that
        they have room for, and how much the last is above the first.
    """
    return {
        "ingest": live_ingest.measure(seconds, peer_python),
        "service": asyncio.run(service(6.0 * seconds)),
        "memory": asyncio.run(memory()),
    }


async def service(seconds: float, items: int = ITEMS, rate: float = RATE) -> dict[str, Any]:
    """Answers, freshness and swaps under load.

    Returns:
        what `Load.figures` has; `click_to_state_ms`: from sending a click to seeing it in the user's state, by another
        caller; `click_to_weights_ms`: p95 from a click's being sent to an update that knows it, as the learner says;
        `weights_to_served_ms`: p95 from a version's being made to answers; `click_to_served_ms`: from a click's being
        sent to answers by weights that know it, the wait for the next version included, as the service says; `swaps`
        and `updates` during the load.
    """
    async with _running(items) as (port, connection, _):
        await _fill(connection, items)
        await Load(HOST, port, rate, USERS).run(max(10.0, seconds / 3))  # weights, caches, and a first model
        before = await _live(port)
        load, seen = Load(HOST, port, rate, USERS, seed=1), list[float]()
        await load.run(seconds, lambda: sight(HOST, port, seen))
        after = await _live(port)
    to_weights, to_served = (after["latency_ms"][name]["p95"] for name in ("event_to_weights", "weights_to_served"))
    quantiles = 1000 * np.quantile(seen or [np.nan], (0.5, 0.95))
    return {
        "client_library": client_library(),
        "items": items,
        "rate": rate,
        "seconds": seconds,
        **load.figures(),
        "click_to_state_ms": {"p50": quantiles[0], "p95": quantiles[1], "clicks": len(seen)},
        "event_to_state_ms": after["latency_ms"]["event_to_state"],
        "click_to_weights_ms": to_weights,
        "weights_to_served_ms": to_served,
        "click_to_served_ms": after["latency_ms"]["event_to_served"],
        "swaps": after["outcomes"].get("served", 0) - before["outcomes"].get("served", 0),
        "updates": after["learner"]["updates"] - before["learner"]["updates"],
    }


async def memory(capacity: int = CAPACITY) -> dict[str, Any]:
    """Resident memory at one, two and three times the users and items there is room for, and half as much again before.

    Items that nobody mentions for a while expire, or the catalogue would be full at once its capacity.
    """
    sets = [f"sessions.users={capacity}", f"catalog.capacity={2 * capacity}", "catalog.ttl_s=600"]
    resident: dict[str, list[float]] = {}
    async with _running(capacity, sets) as (port, connection, processes):
        clock = time.time() - 86_400.0
        for part in range(8):  # half a capacity each; the first one warms up
            for first in range(part * capacity // 2, (part + 1) * capacity // 2, 100):
                events = _strangers(first, clock)
                clock += 600.0 * 100 / capacity * 2
                await _patiently(connection, "POST", "/v1/events", events)
            await _settled(port)
            for name, process in processes().items():
                resident.setdefault(name, []).append(_resident_mb(process))
    grown = {name: sizes[-1] / sizes[2] for name, sizes in resident.items()}
    return {"capacity": capacity, "resident_mb": resident, "ratio": grown}


def _strangers(first: int, clock: float) -> list[dict[str, Any]]:
    """Three clicks each of a hundred users nobody has heard of, on items that are as new."""
    return [
        {"kind": "click", "user": f"u{user}", "item": f"i{user + step}", "time": clock + step}
        for user in range(first, first + 100)
        for step in range(3)
    ]


def client_library() -> str:
    """What service and learner speak to the broker with: confluent-kafka where it is installed."""
    return "confluent" if importlib.util.find_spec("confluent_kafka") else "kafka-python"


# --- the service -------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _running(items: int, sets: list[str] | None = None) -> AsyncIterator[tuple[int, Connection, Any]]:
    """A service with its learner, ready; ends with the block. Its port, a connection, and its processes by name."""
    port = _free_port()
    options = [*(sets or [f"catalog.capacity={items + 1000}"]), f"world.client_library={client_library()}"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "streamrec.cli", "serve", "--embedded", "--port", str(port)]
        command += [
            "--bootstrap-servers",
            f"{HOST}:0",
            "--run-dir",
            folder,
            *(part for option in options for part in ("--set", option)),
        ]
        with (Path(folder) / "serve.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            connection = Connection(HOST, port)
            await _answering(connection, process, Path(folder) / "serve.log")
            yield port, connection, lambda: _processes(process.pid)
            connection.close()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


async def _answering(connection: Connection, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        status, _ = await connection.call("GET", "/healthz")
        if status == 200:
            return
        if process.poll() is not None:
            break
        await asyncio.sleep(0.1)
    raise RuntimeError(f"streamrec serve did not answer: {log.read_text()[-2000:]}")


async def _fill(connection: Connection, items: int) -> None:
    for first in range(0, items, 1000):
        batch = [{"item": f"i{number}"} for number in range(first, min(first + 1000, items))]
        await _patiently(connection, "PUT", "/v1/items", batch)


async def _patiently(connection: Connection, method: str, path: str, body: Any) -> None:
    """Call until the service takes it: it may say for some seconds that it cannot yet."""
    for _ in range(60):
        status, answer = await connection.call(method, path, body)
        if 200 <= status < 300:
            return
        if status not in (0, 429, 503):
            break
        await asyncio.sleep(0.5)
    raise RuntimeError(f"the service did not take {path}: status {status}, {answer}")


async def _live(port: int) -> dict[str, Any]:
    """A record of `/v1/stream` made from now on: the first one may have been kept since the last reader."""
    asked = time.time()
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(f"GET /v1/stream HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode())
    try:
        while True:
            line = await asyncio.wait_for(reader.readline(), 20.0)
            if line.startswith(b"data: "):
                record: dict[str, Any] = json.loads(line[len(b"data: ") :])
                if record["t"] >= asked:
                    return record
            if not line:
                raise RuntimeError("the service closed its stream of figures")
    finally:
        writer.close()


async def _settled(port: int) -> None:
    """Everything that was posted has been read, and the learner has had a moment."""
    for _ in range(100):
        if (await _live(port))["lag"]["records"] == 0:
            break
    await asyncio.sleep(3.0)


def _processes(service: int) -> dict[str, int]:
    """Process ids of the service and of the learner it started."""
    children = Path(f"/proc/{service}/task/{service}/children").read_text().split()
    learner = [pid for pid in children if b"\0consume\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return {"service": service, **({"learner": int(learner[0])} if learner else {})}


def _resident_mb(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
