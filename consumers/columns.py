"""Decoded messages as columns: what the loop takes in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consumers.said import listed, misfits, said
from consumers.wire import CODES, Event
from streamrec.catalog import Catalog
from streamrec.mixing import keys_of
from streamrec.records import Events, Kind
from streamrec.sessions import SessionStore

_REQUEST = int(Kind.REQUEST)


@dataclass
class Received:
    """What a batch of messages came to."""

    events: Events
    messages: Sequence[Event]  # those that became events, row for row
    kept: NDArray[np.int64]  # their places in the batch
    refused: list[tuple[int, str]]  # place in the batch, reason


def to_events(
    messages: Sequence[Event],
    sent: Sequence[float] | NDArray[np.float64],
    catalog: Catalog,
    sessions: SessionStore,
    slate: int,
    codes: NDArray[np.integer[Any]] | None = None,
) -> Received:
    """Events from decoded messages (no instructions), in order.

    Args:
        messages: decoded events.
        sent: wall clock of each record, seconds since the epoch; also the time of events that carry none.
        catalog: gives items their rows. Messages that name an item it has no room for are refused; an item that is
            too rare yet (`Catalog.admit`) is row 0, and the message is taken as one without an item.
        sessions: gives users their rows.
        slate: K, the widest slate of a request. Wider ones are refused.
        codes: [B] numbers of the kinds, where they are known already.
    """
    items = catalog.rows([m.item for m in messages])
    slates = _slates_of(messages, catalog)
    codes = np.array([CODES[m.kind] for m in messages] if codes is None else codes, dtype=np.int8)
    asked = np.flatnonzero(codes == _REQUEST).tolist()
    stamps = np.asarray(sent, dtype=np.float64)
    refused = _refusals(messages, items, slates, catalog, slate)
    saying = [at for at in asked if messages[at].candidates or messages[at].context]
    offers = listed(messages, saying, catalog, sessions) if saying else {}
    if saying:
        refused = sorted(dict([*misfits(messages, saying, offers, sessions), *refused]).items())
    kept = np.delete(np.arange(len(messages)), [at for at, _ in refused])
    if refused:
        messages, items, stamps = [messages[at] for at in kept.tolist()], items[torch.from_numpy(kept)], stamps[kept]
        codes, asked = codes[kept], np.flatnonzero(codes[kept] == _REQUEST).tolist()
        slates, offers = (
            {new: rows[at] for new, at in enumerate(kept.tolist()) if at in rows} for rows in (slates, offers)
        )
    shown, slot_logp = _slates(messages, slates, slate if slates else 0)
    context, offer = said(messages, asked, offers, catalog, sessions)
    times = [m.time for m in messages]
    events = Events.of(
        sessions.rows([m.user for m in messages]),
        torch.from_numpy(codes),
        torch.from_numpy(np.array(times, dtype=np.float64) if None not in times else _filled(times, stamps)),
        item=items,
        value=_column([m.value for m in messages], 1.0, torch.float32),
        decision=_column([m.decision for m in messages], 0, torch.int64),
        slot=_column([m.slot for m in messages], -1, torch.int64),
        session=_session_keys([m.session for m in messages]),
        sent=torch.from_numpy(stamps),
        shown=shown,
        slot_logp=slot_logp,
        context=context,
        offer=offer,
    )
    return Received(events, messages, kept, refused)


def _slates_of(messages: Sequence[Event], catalog: Catalog) -> dict[int, Tensor]:
    """Rows of the slates, by place of the message."""
    slates = [m.slate for m in messages]
    if slates.count(()) == len(slates):  # as in streams of clicks
        return {}
    places = [at for at, slate in enumerate(slates) if slate]
    rows = catalog.rows([item for at in places for item in slates[at]])
    parts = torch.split(rows, [len(slates[at]) for at in places])
    return dict(zip(places, parts, strict=True))


def _session_keys(names: Sequence[str]) -> Tensor:
    if names.count("") == len(names):
        return torch.zeros(len(names), dtype=torch.int64)
    return keys_of(names)


def _column(values: Sequence[float], default: float, dtype: torch.dtype) -> Tensor:
    if values.count(default) == len(values):  # in a tenth of the time, and most columns are
        return torch.full((len(values),), default, dtype=dtype)
    return torch.tensor(values, dtype=dtype)


def _filled(times: Sequence[float | None], stamps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Event times; that of the record where a message has none."""
    said = np.array([math.nan if time is None else time for time in times], dtype=np.float64)
    return np.where(np.isnan(said), stamps, said)


def _refusals(
    messages: Sequence[Event], items: Tensor, slates: dict[int, Tensor], catalog: Catalog, slots: int
) -> list[tuple[int, str]]:
    refused: dict[int, str] = {}
    full = f"the catalogue is full at catalog.capacity = {catalog.capacity}"
    if catalog.full:
        for at in torch.nonzero(items == 0).squeeze(1).tolist():
            if messages[at].item:
                refused[at] = f"{full} and item {messages[at].item!r} is new - at `$.item`"
    for at, rows in slates.items():
        if len(rows) > slots:
            refused[at] = f"Expected at most {slots} items as in run.slate, got {len(rows)} - at `$.slate`"
        elif catalog.full and any(
            row == 0 and item for row, item in zip(rows.tolist(), messages[at].slate, strict=True)
        ):
            refused[at] = f"{full} and an item is new - at `$.slate`"
    return sorted(refused.items())


def _slates(messages: Sequence[Event], slates: dict[int, Tensor], width: int) -> tuple[Tensor, Tensor]:
    """[B, width] rows of what logs say was shown, and the log-propensity per slot."""
    shown = torch.zeros(len(messages), width, dtype=torch.int64)
    logp = torch.full((len(messages), width), torch.nan)
    if slates:
        sizes = np.array([len(rows) for rows in slates.values()])
        column = np.arange(sizes.sum()) - np.repeat(sizes.cumsum() - sizes, sizes)
        place = (torch.from_numpy(np.repeat(list(slates), sizes)), torch.from_numpy(column))
        known = [messages[at].slot_logp or [None] * len(rows) for at, rows in slates.items()]
        shown[place] = torch.cat(list(slates.values()))
        logp[place] = torch.tensor([math.nan if p is None else p for slots in known for p in slots])
    return shown, logp
