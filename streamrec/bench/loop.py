"""How fast the whole loop is, against the simulator alone."""

from __future__ import annotations

from typing import Any

import torch

from agents.random import Random
from simulators.feed import Feed
from simulators.world import SimulatorWorld
from streamrec.bench import rate
from streamrec.catalog import Catalog
from streamrec.loop import Loop
from streamrec.sessions import SessionStore

USERS, ITEMS, SLATE = 4096, 1000, 5


def measure(seconds: float) -> dict[str, Any]:
    """Decisions of the whole loop with a random agent, against stepping the same simulator without sessions."""
    catalog = Catalog(4 * ITEMS)
    sessions = SessionStore(users=USERS, slate=SLATE)
    world = SimulatorWorld(Feed(users=USERS, items=ITEMS, slate=SLATE), catalog, sessions, tick_s=10.0)
    run = Loop(world, sessions, catalog, Random(catalog, SLATE))
    core = Feed(users=USERS, items=ITEMS, slate=SLATE)
    users, slates = torch.arange(USERS), torch.randint(1, ITEMS + 1, (USERS, SLATE))

    def whole() -> int:
        before = run.counts["requests"]
        run.step()
        return run.counts["requests"] - before

    def bare() -> int:
        core.step(users, slates)
        return USERS

    ours, limit = rate(whole, seconds), rate(bare, seconds)
    return {"decisions_per_s": ours, "simulator_steps_per_s": limit, "ratio": ours / limit}
