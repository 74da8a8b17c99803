"""How fast worlds run, against the least a world must compute."""

from __future__ import annotations

from typing import Any

import torch

from simulators.feed import Feed
from streamrec.bench import rate

USERS, ITEMS, SLATE = 4096, 1000, 5


def measure(seconds: float) -> dict[str, Any]:
    """User-item interactions of `Feed` with every effect on, against the least such a world must compute.

    The limit draws a number per slot and compares it with the sigmoid of <taste, item>: no skips, boredom, leaving,
    drift or clock.
    """
    core = Feed(users=USERS, items=ITEMS, slate=SLATE)
    users = torch.arange(USERS)
    slates = torch.randint(1, ITEMS + 1, (64, USERS, SLATE))
    at = 0

    def full() -> int:
        nonlocal at
        at += 1
        core.step(users, slates[at % 64])
        return USERS * SLATE

    def least() -> int:
        nonlocal at
        at += 1
        affinity = (core.vectors[slates[at % 64]] * core.taste.unsqueeze(1)).sum(2)
        _ = torch.rand(USERS, SLATE) < torch.sigmoid(affinity)
        return USERS * SLATE

    ours, limit = rate(full, seconds), rate(least, seconds)
    return {"interactions_per_s": ours, "bare_clicks_per_s": limit, "ratio": ours / limit, "users": USERS}
