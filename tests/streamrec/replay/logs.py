"""Small logs with known propensities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from streamrec.data.events import write

ITEMS = 8


def slates(
    decisions: int = 240, slots: int = 1, users: int = 90, seed: int = 0, uniform: bool = False, sessions: bool = True
) -> pd.DataFrame:
    """Slates drawn without replacement by a softmax, clicks on them, and propensities given the slots above."""
    draw = np.random.default_rng(seed)
    taste = np.zeros(ITEMS) if uniform else draw.normal(size=ITEMS)
    liked = 1 / (1 + np.exp(1.0 - draw.normal(size=ITEMS)))
    rows, time = [], 1.7e9
    for number in range(decisions):
        time += draw.exponential(20.0)
        user = int(draw.integers(users))
        common = {"user": f"u{user}", "session": f"s{user}-{number // 80}" if sessions else "", "slate": f"d{number}"}
        left, shown = list(range(ITEMS)), []
        for slot in range(slots):
            chance = np.exp(taste[left])
            chance /= chance.sum()
            at = int(draw.choice(len(left), p=chance))
            shown.append((slot, left.pop(at), float(chance[at])))
        for slot, item, chance_of in shown:
            rows.append(common | {"item": f"i{item}", "kind": "impression", "time": time, "slot": slot,
                                  "propensity": chance_of})  # fmt: skip
        for slot, item, _ in shown:
            if draw.random() < liked[item]:
                rows.append(common | {"item": f"i{item}", "kind": "click", "time": time + 0.5, "slot": slot,
                                      "propensity": np.nan})  # fmt: skip
    return pd.DataFrame(rows).sort_values("time", kind="stable")


def clicks(number: int = 300, users: int = 40, seed: int = 0) -> pd.DataFrame:
    """A click stream in which an item is followed by its neighbour."""
    draw = np.random.default_rng(seed)
    last = np.zeros(users, dtype=int)
    rows = []
    for at in range(number):
        user = int(draw.integers(users))
        last[user] = (last[user] + 1) % ITEMS if draw.random() < 0.8 else draw.integers(ITEMS)
        rows.append({"user": f"u{user}", "item": f"i{last[user]}", "kind": "click", "time": 1.7e9 + 5.0 * at})
    return pd.DataFrame(rows)


def saved(path: Path, frame: pd.DataFrame) -> str:
    """The log as a file; its name."""
    write(path, [frame])
    return str(path)


def items_file(path: Path) -> str:
    """A table of all items."""
    pd.DataFrame({"item": [f"i{item}" for item in range(ITEMS)]}).to_csv(path, index=False)
    return str(path)
