"""What requests say beside who asks: the context of the moment, and the candidates among which to choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from consumers.wire import MAX_CANDIDATES, MAX_NUMBERS, Event
from streamrec.catalog import Catalog
from streamrec.sessions import SessionStore


def keep_room(sessions: SessionStore, context: int, candidates: int) -> None:
    """Have `sessions` keep what requests say.

    Raises:
        ValueError: a width that no message can have, or another than there is already.
    """
    if not (0 <= context <= MAX_NUMBERS and 0 <= candidates <= MAX_CANDIDATES):
        raise ValueError(
            f"world.context must be 0 to {MAX_NUMBERS} and world.candidates 0 to {MAX_CANDIDATES}, "
            f"got context={context} and candidates={candidates}"
        )
    sessions.reserve(context=context, offer=candidates)


def listed(
    messages: Sequence[Event], asked: Sequence[int], catalog: Catalog, sessions: SessionStore
) -> dict[int, Tensor]:
    """Rows of the candidates, by place of the request among `messages`; of those for which there is room.

    Args:
        messages: decoded events.
        asked: places of the requests among them.
        catalog: gives candidates their rows.
        sessions: knows how many candidates there may be, 0 = there is no room.
    """
    room, rows = sessions.offer_width, {}
    for at in asked:
        if messages[at].candidates:
            items = list(dict.fromkeys(messages[at].candidates)) if room else []
            if 0 < len(items) <= room:
                rows[at] = catalog.rows(items)
    return rows


def misfits(
    messages: Sequence[Event], asked: Sequence[int], offers: Mapping[int, Tensor], sessions: SessionStore
) -> list[tuple[int, str]]:
    """Requests that do not fit into the room that `sessions` keeps, and why: [(place among `messages`, reason)].

    Args:
        messages: decoded events.
        asked: places of the requests among them.
        offers: as of `listed`.
        sessions: knows the widths.
    """
    wide, refused = sessions.context_width, []
    for at in asked:
        message = messages[at]
        if message.candidates and not message.slate and (why := _unfit(message, offers.get(at), sessions.offer_width)):
            refused.append((at, f"{why} - at `$.candidates`"))
        elif wide and message.context and len(message.context) != wide:
            got = len(message.context)
            refused.append((at, f"Expected {wide} numbers as in world.context, got {got} - at `$.context`"))
    return refused


def _unfit(message: Event, rows: Tensor | None, room: int) -> str:
    """Why a request that waits for an answer cannot be answered from its candidates, "" = it can."""
    if not room:
        return "there is no room for candidates (world.candidates = 0) and others would be shown"
    if rows is None:
        return f"Expected at most {room} items as in world.candidates, got {len(set(message.candidates))}"
    return (
        "" if bool(rows.any()) else "none of the candidates is in the catalogue: they are too rare yet, or it is full"
    )


def said(
    messages: Sequence[Event],
    asked: Sequence[int],
    offers: Mapping[int, Tensor],
    catalog: Catalog,
    sessions: SessionStore,
) -> tuple[Tensor | None, Tensor | None]:
    """Contexts [B, F] float32 and candidates [B, C] int64 of `messages`; None where no room is kept or nobody asks.

    A request that says nothing has zeros even if no other says anything either: what a request means must not depend
    on those it is read with. Of a request that was answered among more candidates than there is room for, as of one
    without, nothing is known.

    Args:
        messages: B of them, without the misfits.
        asked: places of the requests.
        offers: as of `listed`, in the places of these messages.
        catalog: where candidates may be recommended from here on, unless they were retired.
        sessions: knows the widths.
    """
    wide, room = sessions.context_width, sessions.offer_width
    if not asked or not (wide or room):
        return None, None
    context, offer = torch.zeros(len(messages), wide), torch.zeros(len(messages), room, dtype=torch.int64)
    for at in asked:
        if wide and messages[at].context:
            context[at] = torch.tensor(messages[at].context)
    for at, rows in offers.items():
        offer[at, : len(rows)] = rows
        catalog.see(rows)
    return context, offer
