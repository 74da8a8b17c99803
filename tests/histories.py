"""Hand-made histories and clicks for tests of encoders, models and agents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from streamrec.catalog import Catalog
from streamrec.records import Decision, History, Kind, Transition


def catalog(items: int, capacity: int = 64) -> Catalog:
    """A catalogue whose rows 1..items are in use and available."""
    made = Catalog(capacity)
    made.see(made.rows([f"i{i}" for i in range(items)]))
    return made


def history(rows: Sequence[Sequence[int]], length: int = 6, in_session: Sequence[int] | None = None) -> History:
    """One user per row of item rows, newest last; everything in the running session unless told."""
    n = len(rows)
    items = torch.zeros(n, length, dtype=torch.int32)
    for at, row in enumerate(rows):
        newest = list(row)[-length:]
        items[at, length - len(newest) :] = torch.tensor(newest, dtype=torch.int32)
    return window(items, None if in_session is None else torch.tensor(in_session, dtype=torch.int64))


def window(items: Tensor, in_session: Tensor | None = None) -> History:
    """A history around the windows `items` [B, L]."""
    n, length = items.shape
    return History.of(
        user=torch.arange(n),
        key=torch.arange(n),
        time=torch.full((n,), 100.0, dtype=torch.float64),
        items=items.int(),
        kinds=torch.where(items > 0, int(Kind.CLICK), 0).to(torch.int8),
        times=torch.zeros(n, length, dtype=torch.float64),
        skipped=torch.zeros(n, 4, dtype=torch.int32),
        skip_times=torch.zeros(n, 4, dtype=torch.float64),
        in_session=(items > 0).sum(1) if in_session is None else in_session,
    )


def clicked(before: History, target: Tensor) -> Transition:
    """One slot per decision, shown and clicked: what a click stream without slates looks like."""
    n = len(target)
    shown = Decision.of(before.user, target.unsqueeze(1))
    return Transition(
        history=before,
        shown=shown,
        wanted=shown,
        feedback=torch.full((n, 1), int(Kind.CLICK), dtype=torch.int8),
        rewards=torch.ones(n, 1),
        next=before,
        time=before.time + 1,
        done=torch.zeros(n, dtype=torch.bool),
        sent=torch.zeros(n, dtype=torch.float64),
    )
