"""Requests of the current poll: their ids, and which of them were answered before they came to us."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consumers.wire import Event
from streamrec.data.clicks import ask_before_clicks, rows_with_questions
from streamrec.data.logs import answer_from_past
from streamrec.records import Decision, Events, Kind


class Asked:
    """What requests said beside what `Events` hold, found again in the order in which the loop asks about them.

    The loop asks about the requests of one user in their order; about those of different users in any.

    Args:
        events: of a poll.
        ids: of each event, "" = none.
        policies: [B] int64, number of the policy that decided, 0 where that is not known.
    """

    def __init__(self, events: Events, ids: Sequence[str], policies: Tensor) -> None:
        self._events, self._ids, self._policies = events, ids, policies

    @cached_property
    def _index(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Places of the requests, by user; the users; where the next request of each is among the places."""
        at = torch.nonzero(self._events.kind == int(Kind.REQUEST)).squeeze(1)
        order = torch.argsort(self._events.user[at], stable=True)
        places = at[order].numpy()
        users, first = np.unique(self._events.user[places].numpy(), return_index=True)
        return places, users, first

    def take(self, users: Tensor) -> tuple[list[str], Tensor]:
        """Ids and policies of the next request of each of `users` [B], none of them twice."""
        places, known, first = self._index  # made when somebody asks: whoever only follows a stream never does
        at = np.searchsorted(known, users.numpy())
        rows = places[first[at]]
        first[at] += 1
        return [self._ids[at] for at in rows.tolist()], self._policies[torch.from_numpy(rows)]


def with_questions(
    events: Events, messages: Sequence[Event], slots: int, first: int, policies: Sequence[str]
) -> tuple[Events, Asked | None]:
    """What a poll hands out, and what is to be known about its requests, None = nothing.

    Args:
        events: [B].
        messages: behind them, row for row.
        slots: K, to put a question before each organic click; 0 = no questions.
        first: number of the first question.
        policies: names by number.
    """
    answered = bool(events.shown.shape[1])
    ids = [message.id for message in messages]
    source = rows_with_questions(events) if slots else torch.arange(len(events))
    if slots:
        events = ask_before_clicks(_with_slots(events, slots), first)
    if not answered and not any(ids):
        return events, None
    numbers = {name: at for at, name in enumerate(policies)}
    known = [numbers.get(m.policy, 0) if m.slate else 0 for m in messages] if answered else [0] * len(ids)
    decided = torch.tensor(known, dtype=torch.int64)
    return events, Asked(events, [ids[at] for at in source.tolist()], decided[source])


def _with_slots(events: Events, slots: int) -> Events:
    """With a `shown` of K slots even if no request carries a slate, so that every decision of a run is as wide."""
    if events.shown.shape[1] == slots:
        return events
    shown = torch.zeros(len(events), slots, dtype=torch.int64)
    return replace(events, shown=shown, slot_logp=torch.full(shown.shape, torch.nan))


def from_past(wanted: Decision, asked: Events, policies: Tensor | None) -> Decision:
    """What the past showed, by the policies [B] that decided then."""
    past = answer_from_past(wanted, asked)
    return past if policies is None else replace(past, policy=policies)


def joined(answered: Tensor, past: Decision, wanted: Decision) -> Decision:
    """`past` in the rows that were answered before [B] bool, `wanted` in the others, as wide as the wider one."""
    slots = max(past.slate.shape[1], wanted.slate.shape[1])
    past, wanted = _as_wide(past, slots), _as_wide(wanted, slots)
    shown = replace(wanted, shadow=wanted.shadow.clone())
    for name in ("slate", "slot_logp"):
        setattr(shown, name, torch.where(answered.unsqueeze(1), getattr(past, name), getattr(wanted, name)))
    for name in ("logp", "policy"):
        setattr(shown, name, torch.where(answered, getattr(past, name), getattr(wanted, name)))
    return shown


def _as_wide(decision: Decision, slots: int) -> Decision:
    missing = slots - decision.slate.shape[1]
    if not missing:
        return decision
    pad = torch.nn.functional.pad
    return replace(decision, slate=pad(decision.slate, (0, missing)), slot_logp=pad(decision.slot_logp, (0, missing)))
