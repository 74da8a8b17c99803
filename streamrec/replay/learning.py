"""When an agent may learn in a replay: until a moment, after a delay, or from accepted rows only. Wrapped agents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, cast

import torch
from torch import Tensor

from streamrec.expiry import Recycles, blank
from streamrec.ports import Agent, State
from streamrec.records import Decision, History, Rows, Transition


class Fixed:
    """Learns from decisions closed before a moment, and from then on only decides.

    The first transition at or after that moment ends learning for good; an update that is due then is not made.

    Args:
        agent: who decides and learns.
        until: event time, seconds since the epoch; -inf = it never learns here.
    """

    def __init__(self, agent: Agent, until: float = float("-inf")) -> None:
        self.agent, self.until = agent, until
        self.over = until == float("-inf")

    def act(self, history: History) -> Decision:
        self.over = self.over or bool((history.time >= self.until).any())
        return self.agent.act(history)

    def observe(self, transition: Transition) -> None:
        early = transition.time < self.until
        if bool(early.any()):
            self.agent.observe(transition[early])
        self.over = self.over or not bool(early.all())

    def update(self) -> dict[str, float]:
        return {} if self.over else self.agent.update()

    def recycle(self, rows: Tensor) -> None:
        cast(Recycles, self.agent).recycle(rows)

    def state_dict(self) -> State:
        return {"agent": self.agent.state_dict(), "over": self.over}

    def load_state_dict(self, state: State) -> None:
        self.agent.load_state_dict(state["agent"])
        self.over = state["over"]


class Delayed:
    """Learns from what has been closed for at least `delay_s` when somebody asks: score, then learn.

    A decision closed at time s is learned as soon as no request is still to come that is older than s + `delay_s`. So
    no request is ever answered with anything closed less than `delay_s` before it, also where the loop takes the events
    of one poll out of their order between users. With polls of one event that is the definition to the letter; with
    larger ones learning comes up to one poll later.

    Args:
        agent: who decides and learns.
        delay_s: seconds of event time from the closing of a decision until it may be learned.
        oldest: event time that no request to come is older than; None = requests come in order, one at a time.

    Attributes:
        newest: closing time of the newest decision learned so far.

    Raises:
        ValueError: a negative delay.
    """

    def __init__(self, agent: Agent, delay_s: float = 0.0, oldest: Callable[[], float] | None = None) -> None:
        if delay_s < 0.0:
            raise ValueError(f"delay_s must be at least 0, got {delay_s}")
        self.agent, self.delay_s, self.oldest = agent, delay_s, oldest
        self.newest = float("-inf")
        self._waiting: list[Transition] = []

    def act(self, history: History) -> Decision:
        if len(history):
            oldest = float(history.time.min()) if self.oldest is None else self.oldest()
            self._release(oldest - self.delay_s)
        return self.agent.act(history)

    def observe(self, transition: Transition) -> None:
        if len(transition):
            self._waiting.append(transition)

    def _release(self, until: float) -> None:
        due: list[Transition] = []
        kept: list[Transition] = []
        for part in self._waiting:
            ready = part.time <= until
            if bool(ready.all()):
                due.append(part)
            elif bool(ready.any()):
                due.append(part[ready])
                kept.append(part[~ready])
            else:
                kept.append(part)
        self._waiting = kept
        if due:
            rows = Transition.cat(due)
            rows = rows[torch.argsort(rows.time, stable=True)]
            self.newest = max(self.newest, float(rows.time[-1]))
            self.agent.observe(rows)

    def update(self) -> dict[str, float]:
        return self.agent.update()

    def recycle(self, rows: Tensor) -> None:
        """Items that are gone leave what waits, too."""
        for part in self._waiting:
            blank(part, rows)
        cast(Recycles, self.agent).recycle(rows)

    def state_dict(self) -> State:
        waiting = None if not self._waiting else pack(Transition.cat(self._waiting))
        newest = torch.tensor(self.newest, dtype=torch.float64)
        return {"agent": self.agent.state_dict(), "newest": newest, "waiting": waiting}

    def load_state_dict(self, state: State) -> None:
        self.agent.load_state_dict(state["agent"])
        self.newest = float(state["newest"])
        self._waiting = [] if state["waiting"] is None else [transition(state["waiting"])]


def pack(record: Rows) -> dict[str, Any]:
    """A record as a tree of tensors."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: pack(value) if isinstance(value, Rows) else value.clone() for name, value in values.items()}


def transition(tree: dict[str, Any]) -> Transition:
    """The transitions that `pack` made a tree of."""
    inner = {"history": History, "next": History, "shown": Decision, "wanted": Decision}
    return Transition(**{name: inner[name](**value) if name in inner else value for name, value in tree.items()})
