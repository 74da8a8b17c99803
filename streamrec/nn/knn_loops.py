"""Session-kNN as compiled loops, one running session after the other: for processors, where numba is installed.

Tensors must sort all candidates to bring those of one session together, and hold a score of every item; a loop adds up
in tables and touches nothing else, in a third to half of the time. `SessionKNN` has the same in tensors, for
accelerators and for who has no numba (`pip install "streamrec[fast]"`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from streamrec.loops import compiled
from streamrec.nn.session_index import WIDE

if TYPE_CHECKING:
    from streamrec.models.session_knn import SessionKNN
    from streamrec.records import History

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

SIMILARITIES = ("sum", "cosine", "jaccard")
"""How the weights shared with a session become its similarity, by the number the loops know it under."""

_DIGIT = 10
"""Bits looked at in one round of a selection."""

_CANDIDATE = np.dtype([("row", np.int32), ("age", np.int32), ("shared", np.float32), ("spare", np.int32)])
"""By place of a session: the row that came upon it last, the age of the newest common item, weights in common.

With 16 bytes none of them lies in two lines of the cache.
"""


class Asked(NamedTuple):
    """R running sessions with their P distinct items, session after session, the newest item first."""

    pairs: Ints  # [R + 1], where the items of each session begin
    begin: Ints  # [P, 2], runs of `Index.postings`: the sessions that hold an item
    many: Ints  # [P, 2], lengths of the runs
    weight: Floats  # [P], of an item in its session
    age: Ints  # [P], of an item in clicks
    own: Ints  # [R], place of the running session itself, which gives nothing; -1 = it is not there
    size: Ints  # [R], distinct items


class Index(NamedTuple):
    """A `SessionIndex`."""

    postings: NDArray[np.int32]
    pool: NDArray[np.int32]
    extent: Ints  # as far as it is in use


class Rules(NamedTuple):
    """How neighbours are chosen and what they give."""

    sample: int  # newest sessions among which neighbours are looked for
    neighbours: int  # k
    similarity: int  # number in `SIMILARITIES`
    fine: int  # bits to which similarities are compared
    discount: Floats  # [ages]
    factor: Floats  # [rows], of each item; [1] = the same for all


def arrays(model: SessionKNN, history: History, fine: int) -> tuple[Asked, Index, Rules]:
    """What the loops need of a model on a processor, and of the running sessions."""
    query, index = model._query(history), model.index
    begin, many = index.lists(query.item, model._most(query))
    order = torch.argsort((query.row << query.bits) + query.age)
    discount, factors = model._discount(torch.arange(1 << query.bits)), model._factors()
    factors = torch.ones(1) if factors is None else factors
    similarity = SIMILARITIES.index(model.similarity)
    return (
        Asked(
            F.pad(query.size.cumsum(0), (1, 0)).numpy(),
            begin[order].numpy(),
            many[order].numpy(),
            query.weight[order].numpy(),
            query.age[order].numpy(),
            model._own(history).numpy(),
            query.size.numpy(),
        ),
        Index(index.postings.numpy(), index.pool.numpy(), index.extent[: index.held].numpy()),
        Rules(model.sample, model.neighbours, similarity, fine, discount.numpy(), factors.numpy()),
    )


@compiled()
def score(asked: Asked, index: Index, rules: Rules, out: Floats) -> None:
    """Put what the neighbours of running sessions give to all items into `out` [R, N]."""
    table, places, keys = _tables(len(index.extent))
    touched = np.empty(out.shape[1], dtype=np.int32)
    for row in range(len(out)):
        n = _nearest(row, asked, index, rules, table, places, keys)
        out[row] = 0.0
        _vote(places[:n], index, rules, table, out[row], touched)


@compiled()
def rank(asked: Asked, index: Index, rules: Rules, items: int, row: Ints, target: Ints, out: Floats) -> None:
    """How many of `items` items, row 0 not counted, are not scored below targets.

    Args:
        asked, index, rules: see there.
        items: catalogue rows in use.
        row, target: [Q], which running session is asked about which catalogue row; rows never fall.
        out: [Q].
    """
    table, places, keys = _tables(len(index.extent))
    scores, touched = np.zeros(items, dtype=np.float32), np.empty(items, dtype=np.int32)
    question = 0
    while question < len(row):
        now = row[question]
        n = _nearest(now, asked, index, rules, table, places, keys)
        held = touched[: _vote(places[:n], index, rules, table, scores, touched)]
        while question < len(row) and row[question] == now:
            own, above = scores[target[question]], 0
            if own > 0.0:
                for item in held:
                    above += scores[item] >= own
            out[question] = above if own > 0.0 else items - 1
            question += 1
        for item in held:
            scores[item] = 0.0


@compiled()
def _tables(places: int) -> tuple[Any, Ints, Ints]:
    table = np.empty(places, dtype=_CANDIDATE)
    for place in range(places):
        table[place].row = -1
    return table, np.empty(places, dtype=np.int64), np.empty(places, dtype=np.int64)


@compiled()
def _nearest(row: int, asked: Asked, index: Index, rules: Rules, table: Any, places: Ints, keys: Ints) -> int:
    """Put the neighbours of a running session in front of `places`; returns how many there are."""
    n: int = _candidates(row, asked, index, table, places)
    bits = 1
    while len(table) >> bits:
        bits += 1
    if n > rules.sample:
        n = _kept(places, places, n, _bound(places[:n], rules.sample, bits))
    if asked.own[row] >= 0 and table[asked.own[row]].row == row:
        table[asked.own[row]].shared = 0.0
    if rules.similarity:
        mine = asked.size[row]
        for place in places[:n]:
            common, theirs = table[place].shared * np.float32(mine), index.extent[place] & ((1 << WIDE) - 1)
            other = np.sqrt(np.float32(mine * theirs)) if rules.similarity == 1 else np.float32(mine + theirs) - common
            table[place].shared = common / other
    if n > rules.neighbours:
        for at in range(n):
            alike = np.int64(table[places[at]].shared * np.float32((1 << rules.fine) - 1))
            keys[at] = alike << bits | places[at]
        n = _kept(places, keys, n, _bound(keys[:n], rules.neighbours, bits + rules.fine + 1))
    return n


@compiled()
def _candidates(row: int, asked: Asked, index: Index, table: Any, places: Ints) -> int:
    """Sum up what sessions share with a running one; returns how many share something."""
    n = 0
    for pair in range(asked.pairs[row], asked.pairs[row + 1]):
        age, weight = asked.age[pair], asked.weight[pair]
        for run in range(2):
            begin = asked.begin[pair, run]
            for place in index.postings[begin : begin + asked.many[pair, run]]:
                session = table[place]
                if session.row == row:
                    session.shared += weight
                else:
                    session.row, session.age, session.shared = row, age, weight
                    places[n] = place
                    n += 1
    return n


@compiled()
def _kept(places: Ints, keys: Ints, n: int, bound: int) -> int:
    """Move those of `places` [:n] whose keys are not below `bound` to the front; returns how many there are."""
    kept = 0
    for at in range(n):
        if keys[at] >= bound:
            places[kept] = places[at]
            kept += 1
    return kept


@compiled()
def _bound(keys: Ints, most: int, bits: int) -> int:
    """The largest number that `most` of `keys` [n], all different and below 2**bits, are not below."""
    counts = np.empty(1 << _DIGIT, dtype=np.int64)
    bound, left, shift = 0, most, bits
    while shift > 0:
        above, shift = shift, max(shift - _DIGIT, 0)
        mask = (1 << (above - shift)) - 1
        counts[:] = 0
        for key in keys:
            if key >> above == bound >> above:
                counts[(key >> shift) & mask] += 1
        digit = mask
        while counts[digit] < left:
            left -= counts[digit]
            digit -= 1
        bound |= digit << shift
        if counts[digit] == left:  # all that begin like this
            break
    return bound


@compiled()
def _vote(neighbours: Ints, index: Index, rules: Rules, table: Any, scores: Floats, touched: Any) -> int:
    """Add what neighbours give to `scores` [N], zeros so far; `touched` [N] gets the items that have a score.

    Returns:
        how many those are.
    """
    n = 0
    for place in neighbours:
        value = table[place].shared * rules.discount[table[place].age]
        if value == 0.0:
            continue
        begin = index.extent[place] >> WIDE
        for item in index.pool[begin : begin + (index.extent[place] & ((1 << WIDE) - 1))]:
            if item >= len(scores):
                continue
            if scores[item] == 0.0:
                touched[n] = item
                n += 1
            scores[item] += value * rules.factor[item if len(rules.factor) > 1 else 0]
    return n
