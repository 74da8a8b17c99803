"""What `agents.supervised.Supervised` asks of a schedule, and what a schedule may ask of a model."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from streamrec.ports import State
from streamrec.records import History
from streamrec.schedules.clicks import Click


class Learner(Protocol):
    """A model as every schedule sees it; those that compare a model with its past need `streamrec.schedules.heads`."""

    def loss(self, history: History, target: Tensor) -> Tensor:
        """Scalar to differentiate."""


class Schedule(Protocol):
    """Remembers clicks and says what to train on. Its memory is bounded, its randomness and state are its own.

    Whoever trains calls `add` with new clicks, then `draw` and `loss` once per optimiser step. A schedule with periods
    ends them by itself by the event time of clicks where it was given `period_s`; otherwise `end_period` says so.
    """

    def add(self, model: Any, history: History, target: Tensor) -> None:
        """Remember clicks, oldest first: `target` [B] int64 was clicked after `history`. The model is only read."""

    def draw(self) -> Click | None:
        """What the next step trains on; None: nothing was clicked yet."""

    def loss(self, model: Any, clicks: Click) -> Tensor:
        """Loss of what was drawn, and whatever the schedule adds to it, a scalar to differentiate."""

    def end_period(self, model: Any) -> None:
        """The clicks so far belong to a period that is over; nothing happens where periods mean nothing."""

    def recycle(self, rows: Tensor) -> None:
        """The items of `rows` [R] int64, rising, are gone and others will have these rows (`streamrec.expiry`)."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...
