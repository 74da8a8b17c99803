"""What goes into the serving engine and comes out of it: plain frozen structs, ready for JSON."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Fallback = Literal["deadline", "model_failed", "no_model"]
"""Why an answer is the popular list and not the model's."""

ModelState = Literal["serving", "shadow", "standby", "rejected", "rolled_back"]
"""standby: could serve; rejected: refused before it ever served; rolled_back: served, and is not trusted any more."""


class UnknownModel(KeyError):
    """No such version can be served; the message says which there are."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class BadAsk(ValueError):
    """A request that no model can answer, such as more slots than the service has; the message says what is wrong.

    Args:
        path: where in the request, such as "k".
    """

    def __init__(self, path: str, says: str) -> None:
        super().__init__(says)
        self.path = path


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request for a slate.

    `candidates`: only these may be shown; empty = everything available. `exclude`: these may not. `deadline_ms`: after
    that long the popular list answers, and says so. `context`: as many numbers as `world.context` says; empty = nothing
    is known, zeros.
    """

    user: str
    k: int = 10
    candidates: list[str] = []
    exclude: list[str] = []
    session: str = ""
    id: str = ""
    explain: bool = False
    deadline_ms: float = 50.0
    context: list[float] = []


class Scored(msgspec.Struct, frozen=True):
    """One slot. `propensity`: probability of this item here, given the slots above; None = unknown."""

    item: str
    propensity: float | None
    score: float | None = None


class Answer(msgspec.Struct, frozen=True):
    """The slate, best first. `decision` is negative and above -2**53; reactions quote it."""

    decision: int
    items: list[Scored]
    policy: str
    model: str
    fallback: Fallback | None
    took_ms: float
    explain: dict[str, Any] | None = None


class Verdict(msgspec.Struct, frozen=True):
    """What became of one event."""

    status: Literal["accepted", "duplicate", "rejected"]
    id: str
    reason: str = ""


class UserItem(msgspec.Struct, frozen=True):
    """An item a user acted on. `time`: event time, seconds since the epoch."""

    item: str
    kind: str
    time: float


class RecentDecision(msgspec.Struct, frozen=True):
    """A decision shown to a user lately. `reward`: None while the decision is open."""

    decision: int
    time: float
    items: list[str]
    policy: str
    reward: float | None


class UserState(msgspec.Struct, frozen=True):
    """What is held of a user: newest last in `items` and `skips`, newest first in `recent`."""

    user: str
    items: list[UserItem]
    skips: list[UserItem]
    in_session: int
    last_seen: float
    recent: list[RecentDecision]


class ItemInfo(msgspec.Struct, frozen=True):
    """An item of the catalogue. `seen`: events that named it since the service began to count."""

    item: str
    category: str = ""
    available: bool = True
    retired: bool = False
    seen: int = 0
    last_seen: float = 0.0


class ModelInfo(msgspec.Struct, frozen=True):
    """A version the learner published. `made`: wall clock, seconds since the epoch."""

    version: str
    made: float
    state: ModelState
    reason: str
    events: int
    updates: int
    metrics: dict[str, float]
    sha256: str


class Part(msgspec.Struct, frozen=True):
    """One condition of readiness, and what there is to say of it."""

    ok: bool
    says: str


class Health(msgspec.Struct, frozen=True):
    """`parts`: model, state, consumer, lag, producer, learner, clock."""

    ready: bool
    parts: dict[str, Part]
