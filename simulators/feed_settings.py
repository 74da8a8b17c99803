"""What the settings of a feed may be, and what its feedback is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from streamrec.records import Kind

KINDS = ("click", "purchase", "skip", "impression", "leave")
"""What can have a weight in `rewards`."""


def reward_table(weights: Mapping[str, float]) -> Tensor:
    """[kinds] float32.

    Raises:
        ValueError: a kind that a feed does not have.
    """
    table = torch.zeros(len(Kind))
    for name, weight in weights.items():
        if name not in KINDS:
            raise ValueError(f"feed.rewards knows {', '.join(KINDS)}, got {name!r}")
        table[Kind[name.upper()]] = weight
    return table


def check(settings: dict[str, Any]) -> None:
    """Raises ValueError if a setting is out of its range."""
    for name in ("users", "items", "topics", "dim", "slate", "groups"):
        if settings[name] < 1:
            raise ValueError(f"feed.{name} must be at least 1, got {settings[name]}")
    effects = ("position_bias", "boredom", "monotony", "gap_s", "drift", "shift_at", "repulsion", "group_spread")
    for name in (*effects, "new_items_per_hour", "life_hours", "max_items"):
        if settings[name] < 0:
            raise ValueError(f"feed.{name} must not be negative, got {settings[name]}")
    for name in ("recover_s", "forgive_s", "think_s", "day_s"):
        if settings[name] <= 0:
            raise ValueError(f"feed.{name} must be above 0, got {settings[name]}")
    for name in ("skip", "leave", "shift_fraction", "haste", "purchase", "tide", "jumps"):
        if not 0 <= settings[name] <= 1:
            raise ValueError(f"feed.{name} must be between 0 and 1, got {settings[name]}")
    if not 0 <= settings["mix"] < 1:
        raise ValueError(f"feed.mix must be at least 0 and below 1, got {settings['mix']}")
    names = ("items", "slate", "max_items", "life_hours", "new_items_per_hour")
    _check_items(**{name: settings[name] for name in names})


def _check_items(items: int, slate: int, max_items: int, life_hours: float, new_items_per_hour: float) -> None:
    if items < slate:
        raise ValueError(f"feed.items must be at least feed.slate = {slate}, got {items}")
    if max_items and max_items < items:
        raise ValueError(f"feed.max_items must be at least feed.items = {items}, got {max_items}")
    if life_hours and new_items_per_hour * life_hours < slate:
        raise ValueError(
            f"feed.life_hours * feed.new_items_per_hour must keep at least feed.slate = {slate} items, "
            f"got {life_hours * new_items_per_hour}"
        )
