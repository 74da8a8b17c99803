"""What one more click costs when the session has 5 clicks and when it has 500: states carried, and encoded again."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Generator, Tensor, nn

from streamrec.carried import Carried
from streamrec.catalog import Catalog
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.records import Events, Kind
from streamrec.sessions import SessionStore

SHORT, LONG, WINDOW = 5, 500, 512
USERS, BATCH, ITEMS, WIDTH, ROUNDS = 256, 64, 10_000, 100, 5


def measure(seconds: float) -> dict[str, Any]:
    """Processor time of a step: a click enters the session store, the history is read, its state is made.

    Both kinds of sessions live in stores of the same width, so what differs is the work of the encoder. Each step
    starts from exactly 5 or 500 clicks; putting the store back to that is not timed.

    Returns:
        `carried_us` and `encoded_us` (encoded again): microseconds per user, by clicks in the session.
        `ratio`: carried at 500 clicks / carried at 5; 1 is what is wanted. `encoded_ratio`: the same, encoded again.
        `gain`: encoded again / carried, at 500 clicks.
    """
    encoder = GRU4Rec(Catalog(ITEMS), dim=WIDTH)
    spent: dict[tuple[str, int], list[float]] = {}
    stores = {clicks: _store(clicks) for clicks in (SHORT, LONG)}
    for _ in range(ROUNDS):  # in turns, so that a slow moment of the machine hits all of them
        for clicks, sessions in stores.items():
            for name, one in (("carried", Carried(encoder, sessions)), ("encoded", encoder)):
                spent.setdefault((name, clicks), []).extend(_steps(sessions, one, clicks, seconds / ROUNDS))
    cost = {key: 1e6 * float(torch.tensor(times, dtype=torch.float64).median()) / BATCH for key, times in spent.items()}
    return {
        "users": BATCH,
        **{f"{name}_us": {str(clicks): cost[name, clicks] for clicks in stores} for name in ("carried", "encoded")},
        "ratio": cost["carried", LONG] / cost["carried", SHORT],
        "encoded_ratio": cost["encoded", LONG] / cost["encoded", SHORT],
        "gain": cost["encoded", LONG] / cost["carried", LONG],
    }


def _store(clicks: int) -> SessionStore:
    """Users who have clicked so many random items in their running session."""
    sessions = SessionStore(users=USERS, length=WINDOW, skips=1)
    rows, draws = sessions.rows([f"u{user}" for user in range(USERS)]), Generator().manual_seed(0)
    for click in range(clicks):
        sessions.take(_clicks(rows, float(click), draws))
    return sessions


def _clicks(rows: Tensor, at: float, draws: Generator) -> Events:
    item = torch.randint(1, ITEMS + 1, rows.shape, generator=draws)
    return Events.of(rows, Kind.CLICK, torch.full(rows.shape, at, dtype=torch.float64), item=item)


@torch.no_grad()
def _steps(sessions: SessionStore, encoder: nn.Module, clicks: int, seconds: float) -> list[float]:
    """Seconds of each batch of steps."""
    rows, draws = torch.arange(USERS), Generator().manual_seed(1)
    encoder(sessions.read(rows, torch.full(rows.shape, float(clicks), dtype=torch.float64)))
    before, states = sessions.state_dict(), encoder.state_dict()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while not times or time.perf_counter() < until:
        for batch in torch.split(rows, BATCH):
            events = _clicks(batch, float(clicks), draws)
            start = time.thread_time()  # of the processor: other programs on the machine do not count
            sessions.take(events)
            encoder(sessions.read(batch, events.time))
            times.append(time.thread_time() - start)
        sessions.load_state_dict(before)
        encoder.load_state_dict(states)
    return times
