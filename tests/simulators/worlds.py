"""The registered worlds in small, for tests of what they have in common."""

from __future__ import annotations

import importlib.util
from typing import Any

from simulators import WORLDS

SMALL: dict[str, dict[str, Any]] = {
    "Feed-v0": {"items": 60, "topics": 6, "candidates": 12},
}
"""Settings that make a world quick to build."""


def worlds() -> list[str]:
    """Ids of the registered worlds whose modules exist."""
    return [name for name, core in WORLDS.items() if importlib.util.find_spec(core.partition(":")[0])]


def small(world: str) -> dict[str, Any]:
    """Keywords of `SlateVectorEnv` for a world."""
    return {"core": WORLDS[world], "horizon": 10, **SMALL.get(world, {})}
