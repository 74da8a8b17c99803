"""What a user costs: bytes in memory, in a checkpoint and on the state topic, and events a second on one core.

Each row changes one size of a plain setting: windows of 20, slates of 10. The stream is the same for all: users ask,
are shown random items and click one of them.
"""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import torch
from kafka.codec import lz4_encode

from consumers.handover.chunk import Head, encode
from consumers.handover.keeper import CHUNK_BYTES
from streamrec.catalog import Catalog
from streamrec.moving import pack, unpack
from streamrec.records import Decision, Events, Kind
from streamrec.sessions import SessionStore
from streamrec.users import Users

PLAIN = {"users": 20_000, "length": 20, "skips": 20, "slate": 10, "pages": 0, "batch": 500, "items": 10_000}
ROWS: dict[str, dict[str, int]] = {
    "plain": {},
    "length 5": {"length": 5, "skips": 5},
    "length 50": {"length": 50, "skips": 50},
    "length 200": {"length": 200, "skips": 200},
    "slate 1": {"slate": 1},
    "slate 50": {"slate": 50},
    "pages 10": {"pages": 10},
    "users 200_000": {"users": 200_000},
    "items 1_000_000": {"items": 1_000_000},
    "batch 50": {"batch": 50},
    "batch 5000": {"batch": 5000},
}
WAVES = 12
"""Waves in which everybody is active before the state is measured, so that windows are full of something."""


def measure(seconds: float) -> dict[str, Any]:
    """A table: for each of `ROWS` the sizes that differ, `bytes_per_user`, `users_per_gb`, `events_per_s`, and moving.

    `state_bytes` and `log_bytes` are what one user adds to a base and one event to a changelog that writes whoever was
    touched after every batch, as it would travel: compressed with lz4.
    """
    name = name_bytes()
    rows = {row: _row({**PLAIN, **changes}, seconds, name) for row, changes in ROWS.items()}
    return {"plain": PLAIN, "name_bytes": name, "rows": rows}


def _row(sizes: dict[str, int], seconds: float, name: int) -> dict[str, Any]:
    catalog = Catalog(sizes["items"])
    items = catalog.rows([f"item-{at}" for at in range(sizes["items"])])
    catalog.see(items)
    sessions = SessionStore(sizes["users"], sizes["length"], sizes["skips"], sizes["slate"], patience_s=1e12)
    sessions.reserve(pages=sizes["pages"])
    crowd = _Crowd(sessions, catalog, sizes["slate"], sizes["batch"])
    for _ in range(WAVES):
        crowd.everybody()
    rate = crowd.rate(seconds)
    per_user = sessions.row_bytes
    return {
        "bytes_per_user": per_user + name,
        "users_per_gb": int(1e9 / (per_user + name)),
        "events_per_s": round(rate),
        **_moving(sessions, catalog),
    }


def name_bytes(users: int = 50_000) -> int:
    """Of a user's id of 12 letters in memory: the text, and its places in the dictionary, the list and the LRU."""
    tracemalloc.start()
    held = Users(users)
    held.rows([f"user-{at:07d}" for at in range(users)])
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return size // users


def _moving(sessions: SessionStore, catalog: Catalog) -> dict[str, Any]:
    """Bytes on the state topic and seconds per million users, packed, compressed, and unpacked into an empty store."""
    count = min(4000, len(sessions.users.ids))
    rows = torch.arange(count)
    most = max(1, CHUNK_BYTES // (sessions.row_bytes + 128))
    start = time.perf_counter()
    chunks = [_chunk(sessions, catalog, part) for part in torch.split(rows, most)]
    packed = time.perf_counter()
    sent = [lz4_encode(value) for _, value in chunks]
    other = SessionStore(count, sessions.length, sessions.skips, sessions.slots)
    other.reserve(pages=sessions.read(rows[:1], torch.zeros(1)).pages.shape[1])
    names = Catalog(catalog.capacity)
    again = time.perf_counter()
    for parcel, _ in chunks:
        unpack(other, names, parcel)
    done = time.perf_counter()
    one = [lz4_encode(_chunk(sessions, catalog, rows[at : at + 1])[1]) for at in range(20)]
    some = [lz4_encode(_chunk(sessions, catalog, part)[1]) for part in torch.split(rows[:2000], 200)]
    return {
        "state_bytes": round(sum(map(len, sent)) / count),
        "log_bytes_one": round(sum(map(len, one)) / 20),
        "log_bytes_batch": round(sum(map(len, some)) / 2000),
        "pack_s_per_million": round((packed - start) * 1e6 / count, 1),
        "restore_s_per_million": round((done - again) * 1e6 / count, 1),
    }


def _chunk(sessions: SessionStore, catalog: Catalog, rows: torch.Tensor) -> tuple[dict[str, Any], bytes]:
    parcel = pack(sessions, catalog, rows)
    head = Head(
        "log", 0, 0, False, "chain", 0, 0, 0, 1,
        users=parcel["users"], items=parcel["items"], widths=parcel["widths"],
    )  # fmt: skip
    return parcel, encode(head, parcel)


class _Crowd:
    """Everybody in turn: asks, is shown something, clicks one of it and skips another."""

    def __init__(self, sessions: SessionStore, catalog: Catalog, slate: int, batch: int) -> None:
        self.sessions, self.catalog, self.slate = sessions, catalog, slate
        users = sessions.users.capacity
        self.batches = [
            [f"user-{at:07d}" for at in range(start, min(start + batch, users))] for start in range(0, users, batch)
        ]
        self.draw = torch.Generator().manual_seed(0)
        self.time, self.turn = 1.7e9, 0

    def everybody(self) -> None:
        for _ in self.batches:
            self.step()

    def step(self) -> int:
        """One batch of requests and their answers; returns the number of events."""
        names = self.batches[self.turn % len(self.batches)]
        self.turn += 1
        self.time += 10.0
        rows = self.sessions.rows(names)
        asked = Events.of(rows, Kind.REQUEST, torch.full((len(rows),), self.time))
        self.sessions.take(asked)
        history = self.sessions.read(rows, asked.time)
        slates = torch.randint(1, self.catalog.size, (len(rows), self.slate), generator=self.draw)
        shown = Decision.of(rows, slates)
        shown.id = self.sessions.number(rows)
        self.sessions.open(shown, shown, history, asked)
        self._answer(rows, shown, Kind.CLICK, 0)
        if self.slate == 1:
            return 2 * len(rows)
        self._answer(rows, shown, Kind.SKIP, 1)
        return 3 * len(rows)

    def _answer(self, rows: torch.Tensor, shown: Decision, kind: Kind, slot: int) -> None:
        where = {"item": shown.slate[:, slot], "decision": shown.id, "slot": torch.full_like(rows, slot)}
        self.sessions.take(Events.of(rows, kind, torch.full((len(rows),), self.time + 1 + slot), **where))

    def rate(self, seconds: float) -> float:
        """Events a second of processor time: ids to rows, windows, decisions and their answers; no agent."""
        start, done = time.process_time(), 0
        while (spent := time.process_time() - start) < seconds:
            done += self.step()
        return done / spent
