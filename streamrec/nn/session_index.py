"""Sessions of a stream by number and by item: what neighbourhood models look things up in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from streamrec.catalog import Catalog
from streamrec.expiry import among
from streamrec.records import rank_within

WIDE = 16
"""Bits for the number of items of a session."""


class SessionIndex(nn.Module):
    """The newest sessions as sets of items, and for each item the sessions that hold it, newest first.

    Sessions are numbered in the order in which they began. Both directions are packed tensors: the items of a session
    stand next to each other in `pool`, the sessions of an item next to each other in `postings`. What is added goes
    to the end of the pool and into a small tail of postings that is sorted apart; now and then everything is packed
    and sorted anew, as in a log-structured merge tree (O'Neil et al., Acta Informatica 1996). That costs a few
    microseconds per click. When it happens has no influence on what is found: sessions beyond `capacity` are never.

    A session is spoken of by its `place` = number - `base`; places rise with time and change with a merge.

    Args:
        catalog: capacity of the item table.
        capacity: sessions held.
        length: distinct items held of one session, the first ones. Memory is at most about
            16 * (capacity + 32,768) * length + 8 * catalog.capacity bytes.

    Raises:
        ValueError: if a setting is out of its range.
    """

    pool: Tensor
    extent: Tensor
    postings: Tensor
    keys: Tensor
    tail: Tensor
    support: Tensor

    def __init__(self, catalog: Catalog, capacity: int = 200_000, length: int = 20) -> None:
        super().__init__()
        if capacity < 1:
            raise ValueError(f"the session index must hold at least 1 session, got capacity={capacity}")
        if not 1 <= length < 1 << WIDE:
            raise ValueError(f"length of the session index must be from 1 to {(1 << WIDE) - 1}, got {length}")
        self.rows = catalog.capacity + 1
        self.capacity, self.length = capacity, length
        self.slack = max(capacity // 16, 16_384)  # pairs and sessions that may come between two merges
        places = capacity + 2 * self.slack
        if places * length >= 1 << 31:
            raise ValueError(f"capacity * length must be below 2^31, got {capacity} * {length}")
        self.bits = (places - 1).bit_length()
        self.base = 0  # number of the session at place 0
        self.begun = 0  # sessions ever begun
        self.used = 0  # of the pool
        self.pending = 0  # pairs added since the last merge
        self.sorted = True  # whether the tail stands in `postings`
        none = torch.zeros(0, dtype=torch.int64)
        self._table("pool", torch.zeros(places * length, dtype=torch.int32))
        self._table("extent", torch.zeros(places, dtype=torch.int64))  # begin in the pool and, in the low bits, items
        self._table("keys", none)  # [P] item, then newest session first
        self._table(
            "postings", none.new_zeros(self.slack).int()
        )  # [P + slack] places in the order of `keys`; behind them those of `tail`
        self._table("tail", none)  # keys added since the last merge
        self._table("support", torch.zeros(self.rows, dtype=torch.int64))  # sessions with each item

    def _table(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values, persistent=False)

    # --- reading -----------------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Places in use."""
        return self.begun - self.base

    @property
    def oldest(self) -> int:
        """Place of the oldest session that counts."""
        return max(self.held - self.capacity, 0)

    def lists(self, items: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
        """Where in `postings` the sessions of `items` [P] stand: two runs each, begin [P, 2] and length [P, 2].

        Both runs are newest first and hold the newest `most` [P] sessions of their part.
        """
        self._sort_tail()
        first, too_old = items << self.bits, (items + 1 << self.bits) - self.oldest
        begin = torch.stack([torch.searchsorted(keys, first) for keys in (self.tail, self.keys)], dim=1)
        end = torch.stack([torch.searchsorted(keys, too_old) for keys in (self.tail, self.keys)], dim=1)
        many = torch.minimum(end - begin, most.unsqueeze(1))
        begin[:, 0] += len(self.keys)
        return begin, many

    def sets(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """Where in `pool` the items of the sessions at `place` [S] stand: begin [S] and length [S]."""
        extent = self.extent.index_select(0, place)
        return extent >> WIDE, extent & ((1 << WIDE) - 1)

    def holds(self, place: Tensor, item: Tensor) -> Tensor:
        """[P] bool: the session at `place` [P] has `item` [P]."""
        pair, at = spans(*self.sets(place))
        same = self.pool[at] == item[pair]
        return torch.zeros_like(item).index_add_(0, pair, same.long()) > 0

    # --- adding ------------------------------------------------------------------------------------------------

    def append(self, items: Tensor, starts: Tensor) -> None:
        """Add whole sessions, oldest first: session s is items[starts[s] : starts[s + 1]]; 0 = no item."""
        device = self.pool.device
        sizes, items = starts.diff().to(device), items.to(device)
        for first in range(0, len(sizes), self.slack):
            part = sizes[first : first + self.slack]
            begin = int(starts[first])
            session = torch.repeat_interleave(part) + self.begin_sessions(len(part))
            self.add(session, items[begin : begin + len(session)])

    def begin_sessions(self, many: int) -> int:
        """Number of the first of `many` new sessions, still empty; at most `slack` at a time, then `add` to them."""
        first, oldest = self.begun, self.base + self.oldest
        self.begun += many
        self.extent[first - self.base : self.held] = 0
        leaving = torch.arange(oldest - self.base, self.oldest, device=self.pool.device)
        _, at = spans(*self.sets(leaving))
        self._count(self.pool[at], -1)
        return first

    def add(self, session: Tensor, item: Tensor) -> None:
        """Put `item` [P] into the sessions numbered `session` [P], in this order.

        What is there already, 0, and what comes when `length` items are there is not added.
        """
        for some, items in zip(torch.split(session, self.slack), torch.split(item, self.slack), strict=True):
            place, items = self._new(some - self.base, items)
            _, held = self.sets(place)
            fits = held + rank_within(place) < self.length
            self._write(place[fits], items[fits])
            if self.pending >= self.slack or self.held >= self.capacity + self.slack:
                self._merge()

    def _new(self, place: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """The pairs that are not there yet, each once, session after session, else in the order given."""
        pair, inverse = torch.unique(place * self.rows + item, return_inverse=True)
        number = torch.arange(len(item), device=item.device)
        first = torch.full_like(pair, len(item)).scatter_reduce_(0, inverse, number, "amin").sort().values
        place, item = place[first], item[first]
        fresh = (item > 0) & (place >= self.oldest)
        place, item = place[fresh], item[fresh]
        fresh = ~self.holds(place, item)
        place, item = place[fresh], item[fresh]
        order = torch.argsort(place, stable=True)
        return place[order], item[order]

    def _write(self, place: Tensor, item: Tensor) -> None:
        """Add new items to sessions; pairs are ordered by session. A session that grows moves to the pool's end."""
        session, more = torch.unique_consecutive(place, return_counts=True)
        begin, held = self.sets(session)
        size = held + more
        to = self.used + size.cumsum(0) - size
        owner, source = spans(begin, held)
        self.pool[source - begin[owner] + to[owner]] = self.pool[source]
        self.pool[torch.repeat_interleave(to + held, more) + rank_within(place)] = item.int()
        self.extent[session] = (to << WIDE) + size
        self.used += int(size.sum())
        self.tail = torch.cat([self.tail, self._keys(place, item)])
        self._count(item, 1)
        self.pending += len(item)
        self.sorted = False

    def _count(self, item: Tensor, by: int) -> None:
        self.support.index_add_(0, item.long(), torch.full_like(item, by, dtype=torch.int64))

    def _keys(self, place: Tensor, item: Tensor) -> Tensor:
        """Numbers that sort by item, then newest session first."""
        return (item + 1 << self.bits) - 1 - place

    def _places(self, keys: Tensor) -> Tensor:
        return (~keys & ((1 << self.bits) - 1)).int()

    def _sort_tail(self) -> None:
        if not self.sorted:
            self.tail = ascending(self.tail)
            self.postings[len(self.keys) : len(self.keys) + len(self.tail)] = self._places(self.tail)
            self.sorted = True

    # --- packing -----------------------------------------------------------------------------------------------

    def _merge(self) -> None:
        """Let go of what is beyond the capacity, pack the pool, sort the postings."""
        self._fill(*self._packed())

    def _packed(self) -> tuple[Tensor, Tensor]:
        """Items of the sessions that count, one after the other, and how many each has."""
        begin, size = self.sets(torch.arange(self.oldest, self.held, device=self.pool.device))
        return self.pool[spans(begin, size)[1]], size

    def _fill(self, items: Tensor, size: Tensor) -> None:
        """Hold these sessions and no other; the newest is the last that began."""
        self.base, self.used, self.pending = self.begun - len(size), len(items), 0
        self.extent[: len(size)] = (size.cumsum(0) - size << WIDE) + size
        self.pool[: len(items)] = items
        self.keys = ascending(self._keys(torch.repeat_interleave(size), items.long()))
        self.postings = torch.cat([self._places(self.keys), self.pool.new_zeros(self.slack)])
        self.tail, self.sorted = self.keys[:0], True
        self.support.zero_()
        self._count(items, 1)

    def recycle(self, rows: Tensor) -> None:
        """The items of `rows` [R] int64, rising, are gone; other items will have these rows."""
        items, size = self._packed()
        stay = ~among(items, rows)
        owner = torch.repeat_interleave(size)
        self._fill(items[stay], torch.zeros_like(size).index_add_(0, owner, stay.long()))

    # --- state -------------------------------------------------------------------------------------------------

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """The sessions that count, each with places for `length` items, and how many ever began."""
        items, size = self._packed()
        table = items.new_zeros(len(size), self.length)
        table[torch.arange(self.length, device=items.device) < size.unsqueeze(1)] = items
        destination[prefix + "sessions"] = table
        destination[prefix + "settings"] = torch.tensor([self.capacity, self.length, self.begun], dtype=torch.int64)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Take over what was saved.

        Raises:
            ValueError: if it was saved with other settings.
        """
        capacity, length, begun = state_dict[prefix + "settings"].tolist()
        if (capacity, length) != (self.capacity, self.length):
            raise ValueError(
                f"the sessions were saved with capacity={capacity} and length={length}, "
                f"here they are {self.capacity} and {self.length}"
            )
        self.begun = begun
        table = state_dict[prefix + "sessions"].to(self.pool.device)
        self._fill(table[table > 0], (table > 0).sum(1))


def spans(begin: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Runs begin, begin + 1, ... laid end to end: which run each belongs to [T], and the places themselves [T]."""
    which = torch.repeat_interleave(length, output_size=int(length.sum()))
    shift = begin - length.cumsum(0) + length
    return which, shift.index_select(0, which).add_(torch.arange(len(which), device=which.device))


def short_spans(begin: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """As `spans`, in int32 and for runs of at least 1: several times faster where they are short."""
    total = int(length.sum())
    first = (length.cumsum(0) - length)[1:]
    which = torch.zeros(total, dtype=torch.int32, device=begin.device).index_fill_(0, first, 1)
    step = torch.ones_like(which).index_copy_(0, first, (begin.diff() - length[:-1] + 1).int())
    step[:1] = begin[:1]
    return which.cumsum(0, dtype=torch.int32), step.cumsum(0, dtype=torch.int32)


def ascending(keys: Tensor) -> Tensor:
    """`keys` sorted, maybe in place. On the CPU numpy sorts plain integers several times faster than torch."""
    if keys.device.type == "cpu":
        values = keys.numpy()
        values.sort()
        return torch.from_numpy(values)
    return keys.sort().values


def places(mask: Tensor) -> Tensor:
    """Where `mask` [T] is true, [M] int64. On the CPU numpy finds them several times faster than torch."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)
