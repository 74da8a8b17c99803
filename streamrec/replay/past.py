"""A recorded world that asks the policies what they think of each answer of the past, and ends every open decision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from streamrec.ports import State, World
from streamrec.records import Decision, Events, Kind


class Judges(Protocol):
    """Who is told what the past showed."""

    def begin(self, oldest: float) -> None:
        """From now on no request is older than this event time, seconds since the epoch."""

    def cast(self, shown: Decision, asked: Events) -> None:
        """Judge what was shown in answer to the requests that `act` was called for last."""

    def leaving(self, portion: int) -> torch.Tensor:
        """[W] int64, W <= portion: rows of users whose decision was judged and not closed, each named once."""


class Past:
    """Any recorded world, with judges.

    `send` lets the past answer and tells the judges at once, before anybody learns anything from that answer. When the
    record is over, users whose last decision nobody answered leave, so that the end of a log loses no rows.

    Args:
        world: a log, or a topic between offsets.
        judges: see `Judges`.
        clock: the newest event time so far, seconds since the epoch.
        late_s: seconds by which an event may be older than the newest of the polls before it.
        portion: users who leave per poll.
    """

    def __init__(
        self, world: World, judges: Judges, clock: Callable[[], float], late_s: float = 0.0, portion: int = 1024
    ) -> None:
        self.world, self.judges, self.clock, self.late_s, self.portion = world, judges, clock, late_s, portion
        self.disorder = 0.0  # most seconds by which an event was older than one of an earlier poll

    def poll(self, timeout_s: float = 0.0) -> Events | None:
        events = self.world.poll(timeout_s)
        if events is not None:
            if len(events):
                self._begin(float(events.time.min()))
            return events
        users = self.judges.leaving(self.portion)
        if len(users) == 0:
            return None
        return Events.of(users, Kind.LEAVE, torch.full((len(users),), self.clock(), dtype=torch.float64))

    def _begin(self, first: float) -> None:
        newest = self.clock()
        if newest > float("-inf"):
            self.disorder = max(self.disorder, newest - first)
        self.judges.begin(min(first, newest - self.late_s) if self.late_s else first)

    def send(self, wanted: Decision, asked: Events) -> Decision:
        shown = self.world.send(wanted, asked)
        self.judges.cast(shown, asked)
        return shown

    def position(self) -> State:
        return {"world": self.world.position(), "disorder": float(self.disorder)}

    def seek(self, position: State) -> None:
        self.world.seek(position["world"])
        self.disorder = position["disorder"]

    def flush(self) -> None:
        self.world.flush()

    def commit(self, position: State) -> None:
        self.world.commit(position["world"])

    def close(self) -> None:
        self.world.close()
