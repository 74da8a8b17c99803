"""Click streams without slates: every click becomes the answer to a question asked just before it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from streamrec.records import POSITIVE, Events, Kind


def ask_before_clicks(events: Events, first_ticket: int = 1) -> Events:
    """Before each organic positive event with an item, a REQUEST of the same user whose answer was that item.

    An agent is then asked before it may learn from the click: predict, score, learn. Request and click carry the same
    negative number in `decision`, from `-first_ticket` downwards, by which the session store finds the decision the
    click answers. Everything else passes unchanged.

    Args:
        events: [B]; `decision` 0 = organic.
        first_ticket: the number of the first question, at least 1; numbers must differ while decisions are open.

    Returns:
        [B + questions] events in the same order. `shown` is as wide as in `events`, at least 1: the item in slot 0 of
        the request, nothing anywhere else. Its propensity is unknown. The click speaks about slot 0.
    """
    if first_ticket < 1:
        raise ValueError(f"first_ticket must be at least 1, since 0 means no decision; got {first_ticket}")
    wide = _at_least_one_slot(events)
    hit = _organic(wide)
    source = rows_with_questions(events)
    click = (torch.cumsum(1 + hit.long(), 0) - 1)[hit]  # where the clicks are now; each request is one before
    ask = click - 1
    out = wide[source]
    tickets = -torch.arange(first_ticket, first_ticket + len(click))
    out.decision[click] = out.decision[ask] = tickets
    out.slot[click], out.slot[ask] = 0, -1
    out.shown[ask, 0] = out.item[click]
    out.kind[ask] = int(Kind.REQUEST)
    out.item[ask] = 0
    out.value[ask] = 1.0
    return out


def rows_with_questions(events: Events) -> Tensor:
    """[B + questions] int64: which of `events` each row that `ask_before_clicks` returns comes from."""
    return torch.repeat_interleave(torch.arange(len(events)), 1 + _organic(events).long())


def _organic(events: Events) -> Tensor:
    """[B] bool: positive events nobody was asked about."""
    positive = torch.zeros(len(events), dtype=torch.bool)
    for kind in POSITIVE:
        positive |= events.kind == int(kind)
    return positive & (events.decision == 0) & (events.item > 0)


def _at_least_one_slot(events: Events) -> Events:
    if events.shown.shape[1]:
        return events
    shown = events.shown.new_zeros(len(events), 1)
    return replace(events, shown=shown, slot_logp=torch.full(shown.shape, torch.nan))
