"""Users who move: what one session store knows of them, in a form that a store in another process can take over.

Rows mean nothing elsewhere, so a parcel holds ids: the users', and one table of the items its tensors speak of.
"""

from __future__ import annotations

import torch
from torch import Tensor

from streamrec.catalog import Catalog
from streamrec.expiry import among, blank
from streamrec.ports import State
from streamrec.records import History
from streamrec.sessions import SessionStore

_ITEMS = ("items", "skipped", "pages", "offer", "slate", "shadow")
"""Columns that hold rows of the catalogue, whatever record they belong to."""

_WINDOWS = ("items", "kinds", "times", "skipped", "skip_times", "in_session", "pages", "page_kinds", "offer")


def pack(sessions: SessionStore, catalog: Catalog, rows: Tensor) -> State:
    """Everything known of the users at `rows` [R] int64, as copies.

    Returns:
        `users` (R ids), `items` (ids; number 1 is the first), `available` [items] bool, `widths` of open decisions, and
        `tables` by name, in which items are their numbers in `items`, 0 = none.
    """
    part = sessions.part(rows)
    tables: dict[str, Tensor] = part["tables"]
    speaking = [name for name in tables if _holds_items(name)]
    none = torch.zeros(1, dtype=torch.int64)
    known = torch.unique(torch.cat([none, *(tables[name].flatten().long() for name in speaking)]))
    for name in speaking:
        tables[name] = torch.searchsorted(known, tables[name].long()).to(tables[name].dtype)
    ids = catalog.ids
    return {
        **part,
        "items": [ids[row] for row in known[1:].tolist()],
        "available": catalog.available[known[1:].to(catalog.available.device)].cpu(),
    }


def unpack(sessions: SessionStore, catalog: Catalog, parcel: State) -> Tensor:
    """Take over a parcel of `pack`; users that are known already are overwritten.

    Items new here get a row at once, since they were admitted where the parcel comes from. Those that find the
    catalogue full leave the windows as if they had expired.

    Returns:
        the users' rows [R] int64.

    Raises:
        ValueError: the parcel comes from a store with other widths.
    """
    wanted = [item for item in parcel["items"] for _ in range(catalog.admit)]
    rows = catalog.rows(wanted)[catalog.admit - 1 :: catalog.admit]
    catalog.see(rows[parcel["available"] & (rows > 0)].to(catalog.available.device))
    tables = {name: table.clone() for name, table in parcel["tables"].items()}
    lost = torch.nonzero(rows == 0).squeeze(1) + 1
    if len(lost):
        _let_go(tables, lost)
    number = torch.cat([torch.zeros(1, dtype=torch.int64), rows])
    for name in tables:
        if _holds_items(name):
            tables[name] = number[tables[name].long()].to(tables[name].dtype)
    return sessions.put_part({**parcel, "tables": tables})


def _holds_items(name: str) -> bool:
    return name.rpartition(".")[2] in _ITEMS


def _let_go(tables: dict[str, Tensor], lost: Tensor) -> None:
    """Take items out of the windows and slates, in place. `lost` [R], rising, in the numbers of the parcel."""
    for before in ("", "open.history."):
        columns = {name: tables[before + name] for name in _WINDOWS if before + name in tables}
        if columns:
            blank(History.of(user=columns["in_session"], **columns), lost)
    for name in tables:
        if name.endswith(("slate", "shadow")):
            tables[name].masked_fill_(among(tables[name], lost), 0)
