"""Clicks in memory: a ring of the newest, and the mixture of new and old in one step."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Generator, Tensor

from streamrec.expiry import blank
from streamrec.ports import State
from streamrec.records import History, Rows


@dataclass
class Click(Rows):
    """What was clicked after which history."""

    history: History
    target: Tensor  # [B] int64


def check_columns(reads: tuple[str, ...]) -> None:
    """Raises ValueError if `reads` names a column that `History` does not have."""
    unknown = set(reads) - {f.name for f in fields(History)}
    if unknown:
        raise ValueError(f"the model reads {sorted(unknown)}, which History does not have: see its attribute reads")


def slim(history: History, reads: tuple[str, ...]) -> History:
    """The history without the windows that are not in `reads`: they come back with width 0."""
    windows = {f.name: getattr(history, f.name) for f in fields(History)}
    return replace(history, **{name: x[:, :0] for name, x in windows.items() if x.dim() > 1 and name not in reads})


class Clicks:
    """The newest clicks of the stream, each with the history it came after, as ids in a ring.

    Click number i stands in row i % capacity.

    Args:
        capacity: clicks kept.
        device: where they are kept.

    Raises:
        ValueError: if `capacity` is below 1.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        if capacity < 1:
            raise ValueError(f"memory must be at least 1, got {capacity}")
        self.capacity = capacity
        self.device = device
        self.added = 0  # clicks ever added
        self.trained = 0  # clicks handed out as new, or overwritten before they could be
        self.ring: Click | None = None  # allocated by the first clicks, whose widths it takes

    @property
    def oldest(self) -> int:
        """Number of the oldest click still held."""
        return max(self.added - self.capacity, 0)

    def add(self, history: History, target: Tensor) -> Tensor:
        """Append rows, oldest first, overwriting the oldest; returns the numbers of those that were kept (the last)."""
        clicks = Click(history, target)
        if self.ring is None:
            self.ring = clicks.allocate(self.capacity)
        kept = slice(max(len(clicks) - self.capacity, 0), len(clicks))
        numbers = self.added + torch.arange(len(clicks), device=self.device)[kept]
        self.ring.put(numbers % self.capacity, clicks[kept])
        self.added += len(clicks)
        self.trained = max(self.trained, self.added - self.capacity)
        return numbers

    def take(self, most: int) -> Tensor:
        """Numbers of clicks not handed out before, oldest first and at most `most`; they count as handed out now."""
        first = self.trained
        self.trained = min(self.added, first + most)
        return torch.arange(first, self.trained, device=self.device)

    def __getitem__(self, numbers: Tensor) -> Click:
        """The clicks of these numbers, which must still be held."""
        assert self.ring is not None
        return self.ring[numbers % self.capacity]

    def recycle(self, rows: Tensor) -> None:
        """Clicks on the items of `rows` are no clicks any more: their target is 0, and histories close up."""
        if self.ring is not None:
            blank(self.ring, rows)

    def state_dict(self) -> State:
        filled = min(self.added, self.capacity)
        ring = {} if self.ring is None else {name: x[:filled].clone() for name, x in self.ring.columns()}
        return {"capacity": self.capacity, "added": self.added, "trained": self.trained, "ring": ring}

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()`.

        Raises:
            ValueError: if it was saved with another capacity.
        """
        if state["capacity"] != self.capacity:
            raise ValueError(f"the memory was saved with memory={state['capacity']}, here it is {self.capacity}")
        self.added, self.trained, self.ring = state["added"], state["trained"], None
        if state["ring"]:
            saved = unpacked(state["ring"], self.device)
            self.ring = saved.allocate(self.capacity)
            self.ring.put(torch.arange(len(saved), device=self.device), saved)


def alive(clicks: Click) -> Click | None:
    """The clicks whose item is still there; None where there is none."""
    gone = clicks.target == 0
    clicks = clicks[~gone] if gone.any() else clicks
    return clicks if len(clicks) else None


def unpacked(columns: dict[str, Tensor], device: torch.device) -> Click:
    """Clicks from what `Click.columns` said of them."""
    plain = {name.removeprefix("history."): x.to(device) for name, x in columns.items()}
    target = plain.pop("target")
    return Click(target=target, history=History(**plain))


@dataclass(frozen=True)
class Mixture:
    """How many new and how many older clicks one step trains on.

    Args:
        batch: clicks in one step, at least, as far as there are any. At most four times as many are new ones; the rest
            waits for the next step.
        replay_ratio: older clicks per new one, at least.

    Raises:
        ValueError: a setting out of its range.
    """

    batch: int
    replay_ratio: float

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        if self.replay_ratio < 0.0:
            raise ValueError(f"replay_ratio must be at least 0, got {self.replay_ratio}")

    @property
    def most_new(self) -> int:
        return 4 * self.batch

    def older(self, new: int) -> int:
        """Older clicks to go with `new` new ones."""
        return max(self.batch - new, round(self.replay_ratio * new))


def between(low: int, high: int, count: int, generator: Generator, device: torch.device) -> Tensor:
    """[count] int64, uniform in low..high - 1, with replacement; none where high <= low."""
    if high <= low or count <= 0:
        return torch.zeros(0, dtype=torch.int64, device=device)
    return torch.randint(low, high, (count,), generator=generator, device=generator.device).to(device)
