"""The four records that pass through the loop: columnar, every field a tensor with B rows.

Letters used for shapes throughout the project: B users in this wave, L positives kept per user, S skips kept
per user, K slots of a slate, P policies that answer side by side, N items, C candidates, D width. Item row 0 and
decision id 0 mean "none".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad


class Kind(IntEnum):
    """What an event says. The numbers are stored in logs and checkpoints: append, never renumber."""

    NONE = 0
    REQUEST = 1
    """Somebody asks for a slate."""
    IMPRESSION = 2
    """An item was shown; as feedback of a slot: shown, and nothing more is known."""
    CLICK = 3
    SKIP = 4
    """The user saw the item and passed over it: an act, not silence."""
    PURCHASE = 5
    RATING = 6
    LEAVE = 7
    """The user ends the visit."""
    RETURN = 8
    """The user is back after having left."""


POSITIVE = (Kind.CLICK, Kind.PURCHASE, Kind.RATING)
"""Kinds that enter the window of positives of a `History`."""

FEEDBACK = (*POSITIVE, Kind.SKIP, Kind.IMPRESSION)
"""Kinds that answer a decision when they carry its id."""


@dataclass
class Rows:
    """A record: a dataclass of tensors (or of records) that all have the same number of rows."""

    def __len__(self) -> int:
        return len(getattr(self, _names(type(self))[0]))

    def __getitem__(self, index: Tensor | slice) -> Self:
        """The rows at `index` (bool mask, integer tensor of numbers from 0, or slice), in every field."""
        cls = type(self)
        if isinstance(index, slice):
            return cls(**{name: getattr(self, name)[index] for name in _names(cls)})
        if index.dtype == torch.bool:
            index = index.nonzero().squeeze(1)  # once, not for every field
        return cls(**{name: getattr(self, name).index_select(0, index) for name in _names(cls)})

    def index_select(self, dim: int, index: Tensor) -> Self:
        """The rows at `index`, under the name tensors have for it: two to four times as fast there as `[index]`."""
        return self[index]

    def to(self, device: torch.device | str) -> Self:
        return replace(self, **{name: getattr(self, name).to(device) for name in _names(type(self))})

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """One record with the rows of all `parts`, in order.

        Raises:
            ValueError: if `parts` is empty, since the widths of the fields would be unknown.
        """
        if not parts:
            raise ValueError(f"{cls.__name__}.cat needs at least one part, got none")
        if len(parts) == 1:
            return parts[0]
        joined: dict[str, Any] = {}
        for name in _names(cls):
            columns = [getattr(part, name) for part in parts]
            joined[name] = type(columns[0]).cat(columns) if isinstance(columns[0], Rows) else torch.cat(columns)
        return replace(parts[0], **joined)

    def allocate(self, rows: int) -> Self:
        """A record of zeros with `rows` rows and the widths and dtypes of this one: a table to `put` rows into."""
        made: dict[str, Any] = {}
        for name in _names(type(self)):
            value = getattr(self, name)
            made[name] = value.allocate(rows) if isinstance(value, Rows) else value.new_zeros(rows, *value.shape[1:])
        return replace(self, **made)

    def put(self, index: Tensor, values: Self) -> None:
        """Overwrite the rows at `index`, in place.

        Raises:
            ValueError: a column of another width, which would otherwise be spread over the columns here.
        """
        for (name, mine), (_, theirs) in zip(self.columns(), values.columns(), strict=True):
            if mine.shape[1:] != theirs.shape[1:]:
                raise ValueError(
                    f"{name} is {tuple(theirs.shape[1:])} wide, expected {tuple(mine.shape[1:])}: "
                    "widths must stay what they were with the first rows"
                )
            mine.index_copy_(0, index, theirs.to(mine.dtype))

    def columns(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the record with its dotted name, nested records included."""
        for name in _names(type(self)):
            value = getattr(self, name)
            if isinstance(value, Rows):
                yield from value.columns(f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value


_NAMES: dict[type, tuple[str, ...]] = {}
"""Names of the fields of each record: looking them up takes longer than taking rows of a small tensor."""


def _names(cls: type[Rows]) -> tuple[str, ...]:
    if cls not in _NAMES:
        _NAMES[cls] = tuple(f.name for f in fields(cls))
    return _NAMES[cls]


@dataclass
class Events(Rows):
    """What happened, oldest first."""

    user: Tensor  # [B] int64, row of the session store
    kind: Tensor  # [B] int8, a Kind
    item: Tensor  # [B] int64, row of the catalogue, 0 = none
    value: Tensor  # [B] float32, strength of the event: 1 unless the event says otherwise (stars, price, seconds)
    time: Tensor  # [B] float64, event time, seconds since the epoch
    decision: Tensor  # [B] int64, the decision this event answers, 0 = none
    slot: Tensor  # [B] int64, slot of the slate it speaks about, -1 = unknown
    session: Tensor  # [B] int64, hash of the session id where the stream has one, 0 = cut by the gap in time
    sent: Tensor  # [B] float64, wall clock when the event was sent, seconds since the epoch, 0 = unknown
    shown: Tensor  # [B, K] int64, logs only: what the past showed in answer to this request, 0 = empty slot
    slot_logp: Tensor  # [B, K] float32, logs only: natural log of the propensity per slot, NaN = unknown
    context: Tensor  # [B, F] float32, requests only: what is known of the user and the moment
    offer: Tensor  # [B, C] int64, requests only: what may be shown, padded with 0; only 0: whatever is available

    @classmethod
    def of(
        cls,
        user: Tensor,
        kind: Tensor | Kind,
        time: Tensor,
        *,
        item: Tensor | None = None,
        value: Tensor | None = None,
        decision: Tensor | None = None,
        slot: Tensor | None = None,
        session: Tensor | None = None,
        sent: Tensor | None = None,
        shown: Tensor | None = None,
        slot_logp: Tensor | None = None,
        context: Tensor | None = None,
        offer: Tensor | None = None,
    ) -> Events:
        """Events with every column that is not given at its "none" value. One `Kind` stands for all rows."""
        n = len(user)
        if isinstance(kind, Kind):
            kind = torch.full((n,), int(kind), dtype=torch.int8, device=user.device)
        zeros = torch.zeros(n, dtype=torch.int64, device=user.device)
        shown = zeros.new_zeros(n, 0) if shown is None else shown
        return cls(
            user=user,
            kind=kind.to(torch.int8),
            item=zeros if item is None else item.to(torch.int64),
            value=torch.ones(n, device=user.device) if value is None else value.to(torch.float32),
            time=time.to(torch.float64),
            decision=zeros if decision is None else decision,
            slot=torch.full_like(zeros, -1) if slot is None else slot.to(torch.int64),
            session=zeros if session is None else session,
            sent=torch.zeros(n, dtype=torch.float64, device=user.device) if sent is None else sent,
            shown=shown,
            slot_logp=torch.full(shown.shape, torch.nan, device=user.device) if slot_logp is None else slot_logp,
            context=torch.zeros(n, 0, device=user.device) if context is None else context.to(torch.float32),
            offer=zeros.new_zeros(n, 0) if offer is None else offer.to(torch.int64),
        )

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """One record with the rows of all `parts`; what only some of them carry is empty in the others."""
        widest = {name: max(getattr(part, name).shape[1] for part in parts) for name in _OPTIONAL}
        return super().cat([part.widened(widest) for part in parts])

    def widened(self, widths: Mapping[str, int]) -> Self:
        """The same events with their optional columns filled up on the right."""
        missing = {name: width - getattr(self, name).shape[1] for name, width in widths.items()}
        if not any(missing.values()):
            return self
        return replace(
            self, **{name: pad(getattr(self, name), (0, m), value=_OPTIONAL[name]) for name, m in missing.items()}
        )

    @classmethod
    def empty(cls, slots: int = 0) -> Events:
        """No events at all: what a source that has nothing yet returns."""
        nothing = torch.zeros(0, dtype=torch.int64)
        return cls.of(nothing, Kind.NONE, nothing, shown=torch.zeros(0, slots, dtype=torch.int64))

    def only(self, *kinds: Kind) -> Events:
        """The rows whose kind is one of `kinds`, order kept."""
        mask = torch.zeros_like(self.kind, dtype=torch.bool)
        for kind in kinds:
            mask |= self.kind == int(kind)
        return self[mask]

    def waves(self) -> Iterator[Events]:
        """Cut into waves: each user at most once in a wave, the order of a user's events kept across waves.

        Scatters into per-user state then never collide, and nobody loops over users in Python. The order between
        different users inside one call is not kept, which is why a source decides how much one poll hands out.
        """
        if len(self) == 0:
            return
        rank = rank_within(self.user)
        sizes = torch.bincount(rank)
        if len(sizes) == 1:
            yield self
            return
        order = stable_order(rank)
        ordered, end = self[order], 0
        for size in sizes.tolist():
            yield ordered[end : end + size]
            end += size


_OPTIONAL = {"shown": 0, "slot_logp": math.nan, "context": 0.0, "offer": 0}
"""Columns of `Events` that are as wide as the stream needs, and what stands in them for "nothing"."""


FEW_ROWS = 64
"""So few that torch is faster."""


def stable_order(group: Tensor) -> Tensor:
    """What `torch.argsort(group, stable=True)` returns, for [B] int64.

    Thousands of row numbers on the CPU take a seventh of the time: numpy sorts integers with vector instructions, and
    their places are sorted along as the lower halves.
    """
    if group.device.type != "cpu" or len(group) < FEW_ROWS:
        return torch.argsort(group, stable=True)
    numbers = group.numpy()
    if numbers.min() < 0 or numbers.max() >= 1 << 31:
        return torch.argsort(group, stable=True)
    both = numbers << 32 | np.arange(len(numbers))
    both.sort()
    return torch.from_numpy(both & 0xFFFFFFFF)


def rank_within(group: Tensor) -> Tensor:
    """How many earlier rows have the same value as this row. [B] int64 -> [B] int64."""
    order = stable_order(group)
    ordered = group[order]
    position = torch.arange(len(group), device=group.device)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    first = torch.cummax(torch.where(starts, position, 0), dim=0).values
    rank = torch.empty_like(position)
    rank[order] = position - first
    return rank


@dataclass
class History(Rows):
    """What an encoder sees of each user: two windows, because skips outnumber clicks and would push them out."""

    user: Tensor  # [B] int64, row of the session store; a row may be given to another user when users are evicted
    key: Tensor  # [B] int64, stable hash of the user id, for splits that must survive eviction and restarts
    time: Tensor  # [B] float64, when this was read, event time, seconds since the epoch
    items: Tensor  # [B, L] int32, positives, newest last, 0 = empty
    kinds: Tensor  # [B, L] int8
    times: Tensor  # [B, L] float64
    skipped: Tensor  # [B, S] int32, items passed over, newest last, 0 = empty
    skip_times: Tensor  # [B, S] float64
    in_session: Tensor  # [B] int64, how many positives the running session has; more than L is possible
    pages: Tensor  # [B, P, K] int32, slates shown and closed in the running session, newest last, 0 = empty
    page_kinds: Tensor  # [B, P, K] int8, the Kind per slot of those
    context: Tensor  # [B, F] float32, what the newest request said of the user and the moment
    offer: Tensor  # [B, C] int64, what may be shown, padded with 0; only 0: whatever is available

    @classmethod
    def of(cls, **columns: Tensor) -> History:
        """A history of the columns given, among them `user` [B] and `items` [B, L]; the others are empty."""
        user, items = columns["user"], columns["items"]
        zeros, none = torch.zeros_like(user), items.new_zeros(len(user), 0)
        empty = {
            "key": zeros,
            "time": zeros.double(),
            "kinds": torch.where(items > 0, int(Kind.CLICK), 0).to(torch.int8),
            "times": torch.zeros_like(items, dtype=torch.float64),
            "skipped": none.int(),
            "skip_times": none.double(),
            "in_session": (items > 0).sum(1),
            "pages": none.int().unsqueeze(2),
            "page_kinds": none.to(torch.int8).unsqueeze(2),
            "context": none.float(),
            "offer": none.long(),
        }
        return cls(**(empty | columns))


@dataclass
class Decision(Rows):
    """What a policy wants to show, or what was shown."""

    user: Tensor  # [B] int64, row of the session store
    id: Tensor  # [B] int64, 0 until the loop has numbered it
    slate: Tensor  # [B, K] int64, catalogue rows, best first, 0 = empty slot
    logp: Tensor  # [B] float32, natural log of the propensity of the slate, NaN = unknown
    slot_logp: Tensor  # [B, K] float32, the same per slot given the slots above, NaN = unknown
    policy: Tensor  # [B] int64, which member decided when several policies share the users, else 0
    shadow: Tensor  # [B, P, K] int64, what every policy of a panel would have shown; P = 0 without a panel

    @classmethod
    def of(cls, user: Tensor, slate: Tensor, slot_logp: Tensor | None = None) -> Decision:
        """A decision not yet numbered. Without `slot_logp` the slate is deterministic: log-propensity 0."""
        n, k = slate.shape
        slot_logp = torch.zeros(n, k, device=slate.device) if slot_logp is None else slot_logp
        zeros = torch.zeros(n, dtype=torch.int64, device=slate.device)
        slate = slate.to(torch.int64)
        shadow = slate.new_zeros(n, 0, k)
        return cls(user, zeros, slate, slot_logp.sum(1), slot_logp, zeros, shadow)


@dataclass
class Transition(Rows):
    """One decision together with everything that came of it."""

    history: History  # the user when the decision was made
    shown: Decision  # what was on the screen
    wanted: Decision  # what our agent wanted there: the same in a simulator, not in a log
    feedback: Tensor  # [B, K] int8, the Kind per shown slot; IMPRESSION where nobody reacted, NONE = empty slot
    rewards: Tensor  # [B, K] float32, reward per slot
    next: History  # the user when the decision was closed
    time: Tensor  # [B] float64, when it was closed, event time
    done: Tensor  # [B] bool, the visit ended here
    sent: Tensor  # [B] float64, wall clock when the event that closed it was sent, 0 = unknown

    @property
    def reward(self) -> Tensor:
        """[B] float32, summed over the slots."""
        return self.rewards.sum(1)

    @property
    def elapsed(self) -> Tensor:
        """[B] float64, seconds from decision to close."""
        return self.time - self.history.time

    def clicked(self) -> Tensor:
        """[B, K] bool: slots with a positive reaction."""
        hit = torch.zeros_like(self.feedback, dtype=torch.bool)
        for kind in POSITIVE:
            hit |= self.feedback == int(kind)
        return hit

    def as_wanted(self) -> Tensor:
        """[B] bool: what was shown is what the policy wanted, slot by slot; empty slots on the right do not matter."""
        shown, wanted = self.shown.slate, self.wanted.slate
        k = min(shown.shape[1], wanted.shape[1])
        empty = (shown[:, k:] == 0).all(1) & (wanted[:, k:] == 0).all(1)
        return (shown[:, :k] == wanted[:, :k]).all(1) & empty
