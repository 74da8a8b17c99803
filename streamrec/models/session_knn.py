"""Session-kNN: what the sessions most like this one hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from streamrec import loops
from streamrec.catalog import Catalog
from streamrec.nn import windows
from streamrec.nn.session_index import SessionIndex, ascending, places, short_spans, spans
from streamrec.records import History

AT_ONCE = 131_072
"""Candidate sessions in work at a time: with more of them the caches overflow."""

FINE = 20
"""Bits to which similarities are compared."""

ORDER = 24
"""Bits for the number of a candidate among those in work."""


class SessionKNN(nn.Module):
    """Scores items by the sessions like the running one that hold them, counted click by click ("S-KNN").

    Of the newest `sample` sessions that share an item with the running session, the `neighbours` most similar ones
    give their similarity to each of their items (Jannach & Ludewig, RecSys 2017; Ludewig & Jannach, UMUAI 2018).
    Sessions are sets of items. Nothing is trained and there is no loss: what is observed counts at once, for everybody
    but the user it came from, from the second click of a session on.

    Departures from the authors' code (rn5l/session-rec, `sknn.py`): its cosine divides by the root of one size and
    multiplies by that of the other, an operator slip; here both divide. Equally similar sessions are taken newest
    first, where theirs come as a Python set yields them; similarities are compared to 20 bits. "Newest" goes by when a
    session began, theirs by when it ended.

    Args:
        catalog: capacity of the item table, and which rows are in use.
        neighbours: k.
        sample: sessions among which neighbours are looked for.
        similarity: of two sets: "cosine" or "jaccard".
        last: the newest clicks of the running session that are used, None = all that the history holds.
        sessions: the newest sessions kept.
        length: distinct items kept of one session, the first ones.
        device: where the sessions live.

    Raises:
        ValueError: if a setting is out of its range.
    """

    reads: tuple[str, ...] = ("items", "in_session")
    """Columns of `History` that are used."""

    running: Tensor

    def __init__(
        self,
        catalog: Catalog,
        neighbours: int = 500,
        sample: int = 1000,
        similarity: Literal["cosine", "jaccard"] = "cosine",
        last: int | None = None,
        sessions: int = 200_000,
        length: int = 20,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        if similarity not in ("cosine", "jaccard"):
            raise ValueError(f'similarity must be "cosine" or "jaccard", got {similarity!r}')
        if not 1 <= neighbours <= sample:
            raise ValueError(f"neighbours must be from 1 to sample, got neighbours={neighbours}, sample={sample}")
        windows.check("session", last)
        self.catalog = catalog
        self.neighbours, self.sample, self.last = neighbours, sample, last
        self.similarity: Literal["cosine", "jaccard", "sum"] = similarity  # "sum" of the weights: V-SKNN
        self.index = SessionIndex(catalog, sessions, length)
        # By row of the session store: number of the running session + 1, 0 = none, and key of the user it belongs to.
        self.register_buffer("running", torch.zeros(0, 2, dtype=torch.int64))
        self.to(device)

    # --- scoring -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def score(self, history: History, items: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """Scores of every catalogue row in use, [B, catalog.size], or of `items` [B, C] alone, [B, C].

        At least 0, and 0 for what no neighbour holds. `out` [B, catalog.size] is written to, where it is given: the
        pages of a large new tensor cost as much as the scores in it.
        """
        if out is None:
            out = torch.empty(len(history), self.catalog.size, device=history.items.device)
        if self.looped:
            from streamrec.nn import knn_loops  # and numba with it: half a second

            knn_loops.score(*knn_loops.arrays(self, history, FINE), out.numpy())
        else:
            self._score(history, out)
        return out if items is None else out.gather(1, items)

    @property
    def looped(self) -> bool:
        """Compiled loops (`streamrec.nn.knn_loops`) do the work, and `ranks` can be asked."""
        return loops.AVAILABLE and self.running.is_cpu

    @torch.no_grad()
    def ranks(self, history: History, row: Tensor, target: Tensor) -> Tensor:
        """How many catalogue rows but row 0 are not scored below `target` [Q], [Q] float32, without holding all scores.

        Only where the model is `looped`.

        Args:
            history: B running sessions.
            row: [Q] int64, which of them is asked about; never falls.
            target: [Q] int64, catalogue rows.

        Raises:
            IndexError: the history or the catalogue has no such row.
        """
        if len(row) and not 0 <= int(row[0]) <= int(row[-1]) < len(history):
            raise IndexError(f"expected rows of a history of {len(history)}, got {int(row[0])} to {int(row[-1])}")
        if len(target) and not 0 <= int(target.min()) <= int(target.max()) < self.catalog.size:
            raise IndexError(f"expected catalogue rows below {self.catalog.size}, got up to {int(target.max())}")
        from streamrec.nn import knn_loops

        out = torch.empty(len(target))
        arrays = knn_loops.arrays(self, history, FINE)
        knn_loops.rank(*arrays, self.catalog.size, row.numpy(), target.numpy(), out.numpy())
        return out

    def _score(self, history: History, out: Tensor) -> None:
        query, own = self._query(history), self._own(history)
        begin, many = self.index.lists(query.item, self._most(query))
        for rows, pairs in _portions(query.row, many.sum(1), len(history)):
            part = query.part(rows, pairs)
            near = self._candidates(part, begin[pairs], many[pairs], own[rows]).newest(self.sample)
            self._vote(near.nearest(self.neighbours), out[rows])

    def _query(self, history: History) -> Query:
        """The distinct items of the running sessions, each at its newest click."""
        many = windows.lengths(history, "session", self.last)
        width = int(many.max()) if len(many) else 0
        items = history.items[:, history.items.shape[1] - width :].flip(1).long()
        live = torch.arange(width, device=items.device) < many.unsqueeze(1)
        row, age = live.nonzero(as_tuple=True)
        bits = width.bit_length()
        key = ascending((row * self.index.rows + items[live] << bits) + age)
        newest = places(_changes(key >> bits))
        key = key[newest]
        pair, age = key >> bits, key & ((1 << bits) - 1)
        row, item = pair // self.index.rows, pair % self.index.rows
        weight = self._weights(age.float(), many[row].float())
        total = torch.zeros(len(many), device=row.device).index_add_(0, row, weight)
        return Query(
            row, item, age, weight / total[row].clamp(min=1e-12), torch.bincount(row, minlength=len(many)), bits
        )

    def _candidates(self, query: Query, begin: Tensor, many: Tensor, own: Tensor) -> Candidates:
        """The sessions that share an item with the running ones, newest first, with their similarities.

        A key holds row, session and age of the common item; sorted, the keys of one session stand together, the
        newest common item first.
        """
        bits, ages = self.index.bits, query.bits
        top = (((query.row + 1) << bits) - 1 << ages) + query.age
        top = top.int() if len(own) << bits + ages < 1 << 31 else top  # half as wide, twice as fast
        which, at = spans(begin.flatten(), many.flatten())
        place = self.index.postings.index_select(0, at)
        key = ascending(top.repeat_interleave(2).index_select(0, which).sub_(place, alpha=1 << ages))
        session = key >> ages
        new = _changes(session)
        first, group = places(new), new.cumsum(0).sub_(1)
        weight = query.table().index_select(0, ((session >> bits) << ages).add_(key & ((1 << ages) - 1)))
        shared = torch.zeros(len(first), device=key.device).scatter_add_(0, group, weight)
        key, session = key.index_select(0, first), session.index_select(0, first)
        row, place = session >> bits, ~session & ((1 << bits) - 1)
        if bool((own >= 0).any()):
            shared.mul_(own.index_select(0, row) != place)
        shared = self._similar(shared, query.size.index_select(0, row), place)
        return Candidates(key, shared, torch.bincount(row, minlength=len(own)), bits, ages)

    def _vote(self, near: Candidates, out: Tensor) -> None:
        """Put the sums of what neighbours give to their items into `out` [R, catalog.size]."""
        begin, many = self.index.sets(near.place)
        row = near.row
        which, at = short_spans(begin, many)
        item = self.index.pool.index_select(0, at)
        value = (near.similarity * self._discount(near.age)).index_select(0, which)
        each = torch.zeros_like(near.many).index_add_(0, row, many)
        cell = torch.arange(len(out), device=row.device).mul_(out.shape[1]).repeat_interleave(each, output_size=len(at))
        factors = self._factors()
        value = value if factors is None else value * factors.index_select(0, item)
        out.zero_().view(-1).scatter_add_(0, cell.add_(item), value)

    # What V-SKNN does differently.

    def _most(self, query: Query) -> Tensor:
        """[P] newest sessions of each item that can matter."""
        return torch.full_like(query.item, self.sample)

    def _weights(self, age: Tensor, clicks: Tensor) -> Tensor:
        """What an item of the running session counts: [P] of its age in clicks [P] and the session's clicks [P]."""
        return torch.ones_like(age)

    def _similar(self, shared: Tensor, mine: Tensor, place: Tensor) -> Tensor:
        """Similarity 0 to 1 of sessions that hold a share of the running session, whose distinct items are `mine`."""
        if self.similarity == "sum":
            return shared
        theirs = self.index.sets(place)[1]
        common = shared * mine
        if self.similarity == "cosine":
            return common / (mine * theirs).sqrt()
        return common / (mine + theirs - common)

    def _discount(self, age: Tensor) -> Tensor:
        """Factor [K] float32 of a neighbour whose newest common item is `age` [K] clicks old."""
        return torch.ones(len(age), device=age.device)

    def _factors(self) -> Tensor | None:
        """[capacity + 1] float32: what a neighbour's value for an item is multiplied by; None = 1 for all."""
        return None

    # --- counting ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def append(self, items: Tensor, starts: Tensor) -> None:
        """Take in finished sessions, oldest first: session s is items[starts[s] : starts[s + 1]], catalogue rows."""
        self.index.append(items, starts)

    @torch.no_grad()
    def observe(self, history: History, target: Tensor) -> None:
        """Take in the clicks `target` [B] int64 that came after `history`: each click once, oldest first."""
        for start in range(0, len(target), self.index.slack):
            rows = slice(start, start + self.index.slack)
            self._observe(history[rows], target[rows])

    def _observe(self, history: History, target: Tensor) -> None:
        many = windows.lengths(history, "session", None)
        first = history.user[(many == 0) & (history.user < len(self.running))]
        self.running[first] = 0
        later = (many > 0) & (target > 0)
        history, target, many = history[later], target[later], many[later]
        if len(target) == 0:
            return
        number = self._own(history) + self.index.base
        fresh = number < self.index.base  # no session of theirs is there
        users, at = torch.unique(history.user[fresh], return_inverse=True)
        number[fresh] = self.index.begin_sessions(len(users)) + at
        self._remember(history.user, history.key, number)
        age = torch.arange(history.items.shape[1], 0, -1, device=target.device)
        before = history.items * (fresh.unsqueeze(1) & (age <= many.unsqueeze(1)))
        items = torch.cat([before.long(), target.unsqueeze(1)], dim=1)
        self.index.add(number.repeat_interleave(items.shape[1]), items.flatten())

    def _own(self, history: History) -> Tensor:
        """[B] place of the user's running session in the index, -1 where it is not there.

        A session is the running one if it belongs to the same user and holds the newest click, or is full.
        """
        none = history.user >= len(self.running)
        if len(self.running) == 0 or history.items.shape[1] == 0:
            return torch.full_like(history.user, -1)
        number, key = self.running[history.user.masked_fill(none, 0)].unbind(1)
        place = number - 1 - self.index.base
        gone = none | (place < self.index.oldest) | (key != history.key) | (history.in_session == 0)
        place = place.masked_fill(gone, 0)
        same = self.index.holds(place, history.items[:, -1].long()) | (self.index.sets(place)[1] >= self.index.length)
        return place.masked_fill(gone | ~same, -1)

    def _remember(self, user: Tensor, key: Tensor, number: Tensor) -> None:
        missing = int(user.max()) + 1 - len(self.running)
        if missing > 0:
            grown = self.running.new_zeros(max(missing, len(self.running)), 2)
            self.running = torch.cat([self.running, grown])
        self.running[user] = torch.stack([number + 1, key], dim=1)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """The table of running sessions has grown with the users: take over its length."""
        self.running = torch.empty_like(state_dict[prefix + "running"], device=self.running.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)


@dataclass
class Query:
    """The P distinct items of B running sessions, session after session."""

    row: Tensor  # [P] int64
    item: Tensor  # [P] int64
    age: Tensor  # [P] int64, clicks since, 0 = the newest click
    weight: Tensor  # [P] float32, a session's sum to 1
    size: Tensor  # [B] int64, distinct items
    bits: int  # that hold an age

    def part(self, rows: slice, pairs: slice) -> Query:
        row = self.row[pairs] - rows.start
        return replace(
            self, row=row, item=self.item[pairs], age=self.age[pairs], weight=self.weight[pairs], size=self.size[rows]
        )

    def table(self) -> Tensor:
        """Weights by row and age, [B << bits]."""
        table = torch.zeros(len(self.size) << self.bits, device=self.weight.device)
        return table.scatter_(0, (self.row << self.bits) + self.age, self.weight)


@dataclass
class Candidates:
    """Sessions beside the running ones they are like, row after row. All of it fits into one number each."""

    key: Tensor  # [C] int64: row, session (newest first), age of the newest common item
    similarity: Tensor  # [C] float32, 0 to 1
    many: Tensor  # [R] int64, candidates of each row
    bits: int
    ages: int

    @property
    def row(self) -> Tensor:
        return self.key >> (self.bits + self.ages)

    @property
    def place(self) -> Tensor:
        return (~self.key >> self.ages) & ((1 << self.bits) - 1)

    @property
    def age(self) -> Tensor:
        return self.key & ((1 << self.ages) - 1)

    def newest(self, most: int) -> Candidates:
        """The first `most` of each row."""
        if int(self.many.max()) <= most:
            return self
        many = self.many.clamp(max=most)
        return self._at(spans(self.many.cumsum(0) - self.many, many)[1], many)

    def nearest(self, most: int) -> Candidates:
        """The `most` of each row with the highest similarity, of equals the newest."""
        if int(self.many.max()) <= most:
            return self
        row = self.row
        rank = (self.similarity * ((1 << FINE) - 1)).long().neg_().add_(row + 1 << FINE).bitwise_left_shift_(ORDER)
        rank = rank.add_(torch.arange(len(rank), device=rank.device))
        last = self.many.cumsum(0) - (self.many - most).clamp(min=0) - 1
        worst = ascending(rank.clone()).index_select(0, last.clamp(min=0))
        return self._at(places(rank <= worst.index_select(0, row)), self.many.clamp(max=most))

    def _at(self, at: Tensor, many: Tensor) -> Candidates:
        key, similarity = self.key.index_select(0, at), self.similarity.index_select(0, at)
        return replace(self, key=key, similarity=similarity, many=many)


def _portions(row: Tensor, many: Tensor, rows: int) -> Iterator[tuple[slice, slice]]:
    """Rows whose pairs `row` [P] bring about `AT_ONCE` candidates, `many` [P] each: slices of rows and of pairs."""
    if rows == 0:
        return
    total = torch.full((rows,), 2, dtype=torch.int64, device=row.device).index_add_(0, row, many)
    number = (total.cumsum(0) - total) // AT_ONCE
    sizes = torch.unique_consecutive(number, return_counts=True)[1]
    ends = sizes.cumsum(0)
    pairs = torch.searchsorted(row, ends)
    begin = zip([0, *ends.tolist()], [0, *pairs.tolist()], strict=True)
    end = zip(ends.tolist(), pairs.tolist(), strict=True)
    for (first, low), (last, high) in zip(list(begin)[:-1], end, strict=True):
        yield slice(first, last), slice(low, high)


def _changes(ordered: Tensor) -> Tensor:
    """[T] bool: differs from the one before."""
    new = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=new[1:])
    return new
