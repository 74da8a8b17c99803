"""Simulated users who come over HTTP: the load of a service, and a measure of it."""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch

from consumers.messages import from_events
from consumers.produce import play
from streamrec.build import BadSpec
from streamrec.catalog import Catalog
from streamrec.ports import World
from streamrec.records import Decision, Events, Kind
from streamrec.sessions import SessionStore

BATCH = 500
"""Events, or items, of one body; a service takes 1000 unless told otherwise."""

PATIENCE_S = 10.0
"""How long to wait for an answer."""

PAUSE_S = 0.5
"""How long to leave a service alone that answers nobody."""

_TIMES = 100_000
"""Newest answers whose times are kept."""


class Caller:
    """A service at `url`, over kept connections, one for each thread that calls.

    Args:
        url: such as http://127.0.0.1:8700.
        token: what it asks for, if it does; to play, one of scope admin.

    Attributes:
        answers: how often each operation was answered with each status; "none" = nobody answered.

    Raises:
        BadSpec: the address is none of plain HTTP.
    """

    def __init__(self, url: str, token: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise BadSpec(f"expected the address of a service such as http://127.0.0.1:8700, got {url!r}")
        self._host, self._port = parts.hostname, parts.port or 80
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._kept = threading.local()
        self._all: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self.answers: Counter[str] = Counter()

    def call(self, method: str, path: str, body: bytes, media: str = "application/json") -> Any:
        """The JSON of a good answer; None for any other, and where nobody answers."""
        status, content = self._ask(method, path, body, media)
        with self._lock:
            self.answers[f"{method} {path} {status}"] += 1
        return json.loads(content) if status.startswith("2") and content else None

    def close(self) -> None:
        """Close the connections of all threads; none may be calling."""
        for connection in self._all:
            connection.close()
        self._all.clear()

    def _ask(self, method: str, path: str, body: bytes, media: str) -> tuple[str, bytes]:
        connection = self._connection()
        try:
            connection.request(method, path, body, {**self._headers, "Content-Type": media})
            answer = connection.getresponse()
            return str(answer.status), answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()  # opens again by itself with the next request
            return "none", b""

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._kept, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=PATIENCE_S)
            self._kept.connection = connection
            with self._lock:
                self._all.add(connection)
        return connection


class HttpPlayers:
    """Simulated users over HTTP: they ask `/v1/recommend`, react through `/v1/events`; their items go to `/v1/items`.

    Users who wait for an answer wait, the others go on. A request that was not answered is made again. Reactions that
    the service did not take are lost, as those of a page that is left.

    Args:
        world: a simulator on the wall clock, since the service dates requests by it. Must hand out no request of a user
            who still waits for an answer.
        catalog, sessions: the ones that `world` was made with.
        slate: K, slots of a slate.
        url, token: see `Caller`.
        rate: most requests for a slate per second; None = as they come. With more users than ask that often it is the
            rate.
        callers: requests under way at the same time.

    Raises:
        BadSpec: `url` is none of plain HTTP.
    """

    def __init__(
        self,
        world: World,
        catalog: Catalog,
        sessions: SessionStore,
        slate: int,
        url: str,
        token: str = "",
        rate: float | None = None,
        callers: int = 16,
    ) -> None:
        if (rate is not None and rate <= 0) or callers < 1:
            raise BadSpec(f"expected rate above 0 and at least 1 caller, got rate={rate} and callers={callers}")
        self.world, self.catalog, self.sessions, self.slate = world, catalog, sessions, slate
        self.requests = self.answered = self.fallbacks = self.events = 0
        self._caller = Caller(url, token)
        self._pool = ThreadPoolExecutor(callers)
        self._waiting = Events.empty()  # requests without an answer, in their order
        self._told = 1  # rows of the catalogue that the service knows, with row 0
        self._row: dict[str, int] = {}  # of those items
        self._times: deque[float] = deque(maxlen=_TIMES)  # seconds from request to answer
        self._rate = rate
        self._room, self._last = 0.0, time.monotonic()  # requests that may be made, and when that was so

    def step(self, timeout_s: float = 0.01) -> bool:
        """Tell the service what the users do, hand them its answers. False: the world is over."""
        happened = self.world.poll(0.0)
        if happened is None:
            return False
        self._tell_items()
        self._tell_events(happened)
        asks = happened.only(Kind.REQUEST)
        self.requests += len(asks)
        self._waiting = Events.cat([self._waiting, asks]) if len(asks) else self._waiting
        room = self._allowed()
        asked, self._waiting = self._waiting[:room], self._waiting[room:]
        if not len(asked):
            time.sleep(timeout_s)  # the world's clock has to move first
        elif not self._ask(asked):
            time.sleep(PAUSE_S)
        return True

    def finish(self) -> None:
        """Nothing: a service goes on without these users."""

    def close(self) -> None:
        self._pool.shutdown()
        self._caller.close()
        self.world.close()

    def report(self) -> dict[str, Any]:
        """Counts, and quantiles of the newest times from request to answer as a caller sees them, in milliseconds."""
        counts = {"requests": self.requests, "answered": self.answered, "fallbacks": self.fallbacks}
        times = 1000 * np.quantile(self._times, (0.5, 0.95, 0.99)) if self._times else ()
        took = {name: float(value) for name, value in zip(("p50", "p95", "p99"), times, strict=False)}
        return {**counts, "unanswered": len(self._waiting), "answer_ms": took, "answers": dict(self._caller.answers)}

    def _allowed(self) -> int:
        """How many requests may be made now; what was not used of the last second is not lost."""
        if self._rate is None:
            return len(self._waiting)
        now = time.monotonic()
        self._room = min(self._room + self._rate * (now - self._last), max(self._rate, 1.0))
        self._last = now
        used = min(int(self._room), len(self._waiting))
        self._room -= used
        return used

    def _tell_items(self) -> None:
        while self._told < len(self.catalog.ids):
            ids = list(islice(self.catalog.ids, self._told, self._told + BATCH))
            body = json.dumps([{"item": item} for item in ids if item]).encode()
            if self._caller.call("PUT", "/v1/items", body) is None:
                return  # the next step tries again
            self._row |= {item: row for row, item in enumerate(ids, self._told)}
            self._told += len(ids)

    def _tell_events(self, happened: Events) -> None:
        acts = happened[happened.kind != int(Kind.REQUEST)]
        lines = [value for _, value in from_events(acts, self.catalog, self.sessions)]
        self.events += len(lines)
        for at in range(0, len(lines), BATCH):
            self._caller.call("POST", "/v1/events", b"\n".join(lines[at : at + BATCH]), "application/x-ndjson")

    def _ask(self, asked: Events) -> bool:
        """Ask for slates and show them; False if nobody got one."""
        answers = list(self._pool.map(self._recommend, self.sessions.user_ids(asked.user)))
        known = [at for at, answer in enumerate(answers) if answer is not None]
        unknown = [at for at, answer in enumerate(answers) if answer is None]
        if unknown:
            self._waiting = Events.cat([asked[torch.tensor(unknown)], self._waiting])
        if known:
            self._show([answers[at] for at in known], asked[torch.tensor(known)])
        return bool(known)

    def _recommend(self, user: str) -> Any:
        started = time.perf_counter()
        answer = self._caller.call("POST", "/v1/recommend", json.dumps({"user": user, "k": self.slate}).encode())
        if answer is not None:
            self._times.append(time.perf_counter() - started)
        return answer

    def _show(self, answers: Sequence[Any], asked: Events) -> None:
        self.answered += len(answers)
        self.fallbacks += sum(answer.get("fallback") is not None for answer in answers)
        slates = [self._slots([self._row.get(shown["item"], 0) for shown in answer["items"]], 0) for answer in answers]
        logps = [self._slots([_logp(shown["propensity"]) for shown in answer["items"]], math.nan) for answer in answers]
        decision = Decision.of(asked.user, torch.tensor(slates), torch.tensor(logps))
        decision.id = torch.tensor([answer["decision"] for answer in answers])
        self.world.send(decision, asked)

    def _slots(self, values: list[Any], empty: float) -> list[Any]:
        """K values, `empty` where the answer is shorter."""
        return values[: self.slate] + [empty] * (self.slate - len(values))


def _logp(propensity: float | None) -> float:
    return math.log(propensity) if propensity else math.nan


def over_http(
    spec: Mapping[str, Any], url: str, token_file: Path | None, rate: float | None, seconds: float, quiet: bool
) -> dict[str, Any]:
    """Let the simulated users of a spec's `[world]` play over HTTP, from now on by the wall clock.

    Args:
        spec: as of `consumers.produce.play`.
        url, rate: see `HttpPlayers`.
        token_file: holds a token of scope admin.
        seconds: wall time to play; 0 = until a signal.
        quiet: say nothing while playing.

    Returns:
        What `HttpPlayers.report` has, with events, seconds and events_per_s.

    Raises:
        BadSpec: the world cannot be built, the address is none, or the token cannot be read.
    """
    try:
        token = token_file.read_text().strip() if token_file else ""
    except OSError as error:
        raise BadSpec(f"cannot read the token in {token_file}: {error.strerror}") from error
    if "world" in spec:
        spec = {**spec, "world": {"start": time.time(), **spec["world"]}}
    through = partial(HttpPlayers, url=url, token=token, rate=rate)
    return play(spec, "", seconds=seconds, pace=1.0, quiet=quiet, through=through)
