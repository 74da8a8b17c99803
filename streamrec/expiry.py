"""Rows of items that have expired, made as if no item had ever been there: in tables, optimisers and memories."""

from __future__ import annotations

from dataclasses import fields
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from streamrec.catalog import Catalog
from streamrec.nn.adagrad import Adagrad
from streamrec.records import History, Rows

_SLOTS = ("pages", "offer", "slate", "shadow", "target")
"""Columns of records that hold items in places of their own: the place stays and is empty."""

_AT_ONCE = 65_536
"""Rows of a memory looked at together."""


@runtime_checkable
class Recycles(Protocol):
    """Keeps something for each row of the catalogue and can let go of some."""

    def recycle(self, rows: Tensor) -> None:
        """The items of `rows` [R] int64, rising, are gone; other items will have these rows."""


def renew(catalog: Catalog, rows: Tensor, *parts: object) -> None:
    """Let go of the items of `rows` in all that an agent consists of.

    Args:
        catalog: whose `expire` gave the rows.
        rows: [R] int64, rising.
        parts: networks (every module in them that `Recycles`), their optimisers (what was summed up for these rows of
            item tables), memories that are records (see `blank`), None, and anything else that `Recycles`.

    Raises:
        TypeError: a part is none of these; `check` says so before the run.
    """
    for part in parts:
        if isinstance(part, nn.Module):
            for module in part.modules():
                if isinstance(module, Recycles):
                    module.recycle(rows)
        elif isinstance(part, Adagrad):
            for table in (*part.acc.values(), *part.velocity.values()):
                if len(table) == catalog.capacity + 1:
                    table[rows.to(table.device)] = 0.0
        elif isinstance(part, Rows):
            blank(part, rows)
        elif isinstance(part, Recycles):
            part.recycle(rows)
        elif part is not None:
            raise TypeError(f"{type(part).__name__} has no recycle(rows)")


def check(catalog: Catalog, *parts: object) -> None:
    """Refuse parts that could not follow a catalogue whose items expire: agents call it when they are built.

    Raises:
        ValueError: `catalog.ttl_s` is set, and there is a module with a row per item, or another part, that has no
            `recycle`.
    """
    if catalog.ttl_s is None:
        return
    lacking = [name for part in parts if part is not None for name in _lacking(part, catalog.capacity + 1)]
    if lacking:
        raise ValueError(
            f"catalog.ttl_s is set, but {', '.join(lacking)} has no recycle(rows): it would take new items for those "
            "that had their rows before; leave catalog.ttl_s out"
        )


def _lacking(part: object, rows: int) -> list[str]:
    """Names of what is in `part` and keeps something by item row but cannot let go of it."""
    if isinstance(part, nn.Module):
        return [type(m).__name__ for m in part.modules() if _tables(m, rows) and not isinstance(m, Recycles)]
    inner = [*getattr(part, "agents", {}).values(), *filter(None, [getattr(part, "agent", None)])]
    mine = [] if isinstance(part, Recycles | Adagrad | Rows) else [type(part).__name__]
    return mine + [name for one in inner for name in _lacking(one, rows)]


def _tables(module: nn.Module, rows: int) -> bool:
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(table.dim() > 0 and len(table) == rows for table in own)


def among(items: Tensor, rows: Tensor) -> Tensor:
    """Which entries of `items` [...] are one of `rows` [R], rising: [...] bool."""
    if len(rows) == 0:
        return torch.zeros_like(items, dtype=torch.bool)
    sought = rows.to(items.device, items.dtype)
    return sought[torch.searchsorted(sought, items).clamp_(max=len(sought) - 1)] == items


def blank(record: Rows, rows: Tensor) -> None:
    """Take the items of `rows` [R], rising, out of a record, in place; a memory then never speaks of another item.

    A click on an item that is gone leaves the window as if it had not happened: older ones move up, and `in_session`
    counts it no more. A slot of a slate, a page or an offer is empty from then on, a `target` is 0. What was earned
    stays: rewards were paid to the policy, whatever the item is called.
    """
    if isinstance(record, History):
        _close_up(record, rows)
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Rows):
            blank(value, rows)
        elif field.name in _SLOTS:
            for part in torch.split(value, _AT_ONCE):
                part.masked_fill_(among(part, rows), 0)


def _close_up(history: History, rows: Tensor) -> None:
    for start in range(0, len(history), _AT_ONCE):
        part = history[start : start + _AT_ONCE]  # a view
        lost = _thin(part.items, (part.kinds, part.times), rows)
        if lost is not None:
            at, gone = lost
            age = torch.arange(gone.shape[1] - 1, -1, -1, device=gone.device)
            part.in_session[at] -= (gone & (age < part.in_session[at].unsqueeze(1))).sum(1)
        _thin(part.skipped, (part.skip_times,), rows)


def _thin(items: Tensor, beside: tuple[Tensor, ...], rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """Take `rows` out of the windows `items` [B, L], and out of those beside them, which may have width 0.

    Returns:
        the rows of the windows it concerned [M], and where items went [M, L] bool; None if there were none.
    """
    gone = among(items, rows)
    at = torch.nonzero(gone.any(1)).squeeze(1)
    if len(at) == 0:
        return None
    gone = gone[at]
    keep = (items[at] != 0) & ~gone
    order = torch.argsort(keep.byte(), dim=1, stable=True)
    kept = keep.gather(1, order)
    for table in (items, *(table for table in beside if table.shape[1])):
        table[at] = torch.where(kept, table[at].gather(1, order), 0)
    return at, gone
