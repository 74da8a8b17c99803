"""Bodies, queries and answers that are HTTP's own; the others are the engine's structs."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from consumers import wire
from consumers.serving.types import Ask, ItemInfo, ModelInfo, Verdict

MAX_K = 200
MAX_CANDIDATES = 1000
MAX_LISTED = 1000
DEADLINE_MS = 50.0

Key = Annotated[str, Meta(min_length=1, max_length=wire.MAX_ID)]
"""An id that must be there."""

K = Annotated[int, Meta(ge=1, le=MAX_K)]
Deadline = Annotated[float, Meta(ge=1, le=10_000)]
Listed = Annotated[int, Meta(ge=1, le=MAX_LISTED)]
Items = Annotated[list[Key], Meta(max_length=MAX_CANDIDATES)]
Context = Annotated[list[wire.Value], Meta(max_length=wire.MAX_NUMBERS)]

TAKEN = tuple(name for name in get_args(wire.Name) if name not in wire.ORDERS)
"""Kinds that `POST /v1/events` takes. The others are instructions, with operations and scopes of their own."""


class RecommendBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who asks, and for how many. `candidates`: only these may be shown; `exclude`: these may not. `id`: of this
    request, for those who want to find it again in the stream. `context`: what is known of the user and the moment, as
    many numbers as the service's `world.context` says."""

    user: Key
    k: K = 10
    candidates: Items = []
    exclude: Items = []
    session: wire.Id = ""
    id: wire.Id = ""
    explain: bool = False
    deadline_ms: Deadline = DEADLINE_MS
    context: Context = []

    def ask(self) -> Ask:
        """The same for the engine."""
        who, among = (self.user, self.k), (self.candidates, self.exclude)
        return Ask(*who, *among, self.session, self.id, self.explain, self.deadline_ms, self.context)


class RankBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Candidates to be put in order. `k`: how many of them to give back; where nothing is said, all, or as many as a
    slate has slots."""

    user: Key
    candidates: Annotated[list[Key], Meta(min_length=1, max_length=MAX_CANDIDATES)]
    k: K | None = None
    exclude: Items = []
    session: wire.Id = ""
    id: wire.Id = ""
    explain: bool = False
    deadline_ms: Deadline = DEADLINE_MS
    context: Context = []

    def ask(self, slots: int) -> Ask:
        """The same for the engine, whose slates have `slots`."""
        k = min(len(self.candidates), slots) if self.k is None else self.k
        among = self.candidates, self.exclude
        return Ask(self.user, k, *among, self.session, self.id, self.explain, self.deadline_ms, self.context)


class RewardBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one shown item was worth. It is named by `item`, or by `slot` while the decision is among the user's recent
    ones. `kind`: a rating where `value` is above 0 and a skip where it is not, unless said otherwise. `id`: a second
    reward with the same id counts once."""

    user: Key
    decision: Annotated[int, Meta(ge=-(1 << 53), le=1 << 53)]
    item: wire.Id = ""
    slot: Annotated[int, Meta(ge=-1, lt=wire.MAX_SLOTS)] = -1
    value: wire.Value = 1.0
    kind: Literal["click", "purchase", "rating", "skip"] | None = None
    time: wire.Time | None = None
    session: wire.Id = ""
    id: wire.Id = ""


class ItemBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An item to add or change. `available` false: known, but not shown until it is true again."""

    item: Key
    category: wire.Id = ""
    available: bool = True

    def info(self) -> ItemInfo:
        """The same for the engine."""
        return ItemInfo(self.item, self.category, self.available)


class SearchQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`query`: part of the id, empty = all."""

    query: wire.Id = ""
    limit: Listed = 50


class LimitQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`limit`: most to list."""

    limit: Listed = 50


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing may be asked."""


class EventsAnswer(msgspec.Struct, frozen=True):
    """A verdict per event, in the order they came."""

    events: list[Verdict]


class UsersAnswer(msgspec.Struct, frozen=True):
    """Ids of users."""

    users: list[str]


class ItemsAnswer(msgspec.Struct, frozen=True):
    """Items of the catalogue."""

    items: list[ItemInfo]


class UpsertAnswer(msgspec.Struct, frozen=True):
    """How many items were added or changed."""

    upserted: int


class ErasedAnswer(msgspec.Struct, frozen=True):
    """The user is forgotten."""

    erased: bool


class RetiredAnswer(msgspec.Struct, frozen=True):
    """The item is not shown any more."""

    retired: bool


class ModelsAnswer(msgspec.Struct, frozen=True):
    """Versions that the learner published."""

    models: list[ModelInfo]


class ShadowAnswer(msgspec.Struct, frozen=True):
    """The version that sees the traffic and shows nothing."""

    shadow: str | None


class LettersAnswer(msgspec.Struct, frozen=True):
    """Records that could not be used, newest first."""

    dead_letters: list[wire.DeadLetter]


class AliveAnswer(msgspec.Struct, frozen=True):
    """The process answers."""

    alive: bool = True
