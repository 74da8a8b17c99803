"""How well a model ranks the next click of held-out sequences, among all items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from streamrec.data.sequences import Sequences
from streamrec.evaluation import screened
from streamrec.models.next_item import CausalEncoder, NextItem
from streamrec.models.session_knn import SessionKNN
from streamrec.nn.products import linear
from streamrec.records import History

SCORES_AT_ONCE = 4_194_304
"""Scores held at a time (16 MiB of float32)."""

BELOW_AT_ONCE = 131_072
"""Scores compared at a time: half of a second-level cache."""

CLICKS_AT_ONCE = 131_072
"""Clicks whose states are held at a time."""

PREFIXES_AT_ONCE = 4096
"""Prefixes for which a model is asked for ranks."""

STATES_AT_ONCE = 16_384
"""Places of windows that are encoded at a time."""


class Model(Protocol):
    """What is needed of a model."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of `History` that are used."""

    def score(self, history: History) -> Tensor:
        """[B, catalog.size]."""


@torch.no_grad()
def evaluate(
    model: Model,
    sequences: Sequences,
    ks: Sequence[int] = (20,),
    device: torch.device | str = "cpu",
    length: int | None = None,
    mask_seen: bool = False,
    only_last: bool = False,
    known: Tensor | None = None,
) -> dict[str, float]:
    """Predict every click but the first of each sequence from the clicks before it.

    All items are ranked, no sample of them. Ties count against the model (the rank of the target is the number of
    items that are not scored below it, itself included), and so does a score that is no number: a model that says
    the same of all items has recall 0.

    A prefix that occurs several times is scored once. `NextItem` with an encoder whose states are those of the
    prefixes (its attribute `prefix_states`) runs once per sequence instead of once per click. The figures stay.

    Args:
        model: scores.
        sequences: held-out sequences; clicks on items the model cannot know can be taken out with `Sequences.only`.
        ks: list lengths.
        device: where the model lives.
        length: the newest clicks shown to the model, None = all.
        mask_seen: items already in the shown window are ranked last. Right for data in which nothing is taken twice
            (ratings); wrong for sessions, where a tenth to a quarter of the clicks are repetitions.
        only_last: predict the last click of each sequence only (leave-one-out).
        known: [rows] bool, catalogue rows that are ranked; targets outside are left out of the figures. None = all
            rows in use, except row 0.

    Returns:
        `recall{k}`, `mrr{k}` and `ndcg{k}` for each k, means over the `n` predictions; NaN without any.

    Raises:
        ValueError: a k below 1.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must be numbers of at least 1, got {list(ks)}")
    sums = _Sums(ks)
    for part in _parts(sequences):
        prefixes = _Prefixes.of(part.to(device), only_last, known, merge=_PLAIN.issuperset(model.reads))
        for ranks, times in _ranked(model, prefixes, length, max(ks), mask_seen, known):
            sums.add(ranks, times)
    return sums.figures()


_PLAIN = {"items", "kinds", "in_session"}
"""Columns of `History` that are the same for equal prefixes."""


def _parts(sequences: Sequences) -> Iterator[Sequences]:
    """Consecutive sequences of about `CLICKS_AT_ONCE` clicks."""
    number = torch.div(sequences.starts[1:], CLICKS_AT_ONCE, rounding_mode="floor")
    start = 0
    for many in torch.unique_consecutive(number, return_counts=True)[1].tolist():
        yield sequences.select(slice(start, start + many))
        start += many


@dataclass
class _Prefixes:
    """U different prefixes, the shortest first, and Q different questions about what comes next."""

    sequences: Sequences
    rows: Tensor  # [U] a sequence that begins with the prefix
    ends: Tensor  # [U] clicks of the prefix
    prefix: Tensor  # [Q] which prefix is asked about, never falling
    target: Tensor  # [Q] catalogue row
    times: Tensor  # [Q] how often

    @classmethod
    def of(cls, sequences: Sequences, only_last: bool, known: Tensor | None, merge: bool) -> _Prefixes:
        rows, ends = sequences.clicks()
        if only_last:
            last = ends == sequences.lengths[rows] - 1
            rows, ends = rows[last], ends[last]
        at = sequences.starts[rows] + ends
        if known is not None:
            kept = known.to(at.device)[sequences.items[at]]
            rows, ends, at = rows[kept], ends[kept], at[kept]
        number = _numbered(sequences) if merge else ends * len(sequences.items) + at
        _, prefix = torch.unique(number[at - 1] if merge else number, return_inverse=True)
        u = int(prefix.max()) + 1 if len(prefix) else 0
        example = prefix.new_empty(u).scatter_(0, prefix, torch.arange(len(prefix), device=at.device))
        size = int(sequences.items.max()) + 1 if len(sequences.items) else 1
        asked, times = torch.unique(prefix * size + sequences.items[at], return_counts=True)
        of = torch.div(asked, size, rounding_mode="floor")
        return cls(sequences, rows[example], ends[example], of, asked % size, times)

    def __len__(self) -> int:
        return len(self.rows)

    def history(self, chunk: slice, length: int | None) -> History:
        return self.sequences.prefixes(self.rows[chunk], self.ends[chunk], length)[0]

    def asked(self, chunk: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Questions about the prefixes of `chunk`: place in the chunk, target, how often; [q] each."""
        edges = torch.tensor([chunk.start, chunk.stop], device=self.prefix.device)
        first, last = torch.searchsorted(self.prefix, edges).tolist()
        return self.prefix[first:last] - chunk.start, self.target[first:last], self.times[first:last]


def _numbered(sequences: Sequences) -> Tensor:
    """[T] int64: equal numbers for clicks that end equal prefixes, smaller ones for shorter prefixes."""
    items, starts, lengths = sequences.items, sequences.starts, sequences.lengths
    number = torch.zeros_like(items)
    size = int(items.max()) + 1 if len(items) else 1
    live = torch.nonzero(lengths).squeeze(1)
    before, used, step = torch.zeros_like(live), 0, 0
    while len(live):
        at = starts[live] + step
        different, which = torch.unique(before * size + items[at], return_inverse=True)
        number[at] = which + used
        used, step = used + len(different), step + 1
        longer = lengths[live] > step
        live, before = live[longer], which[longer]
    return number


Ranked = Iterator[tuple[Tensor, Tensor]]
"""Ranks [q] of targets and how often each was asked about [q], some questions at a time."""


def _ranked(
    model: Model, prefixes: _Prefixes, length: int | None, depth: int, mask_seen: bool, known: Tensor | None
) -> Ranked:
    """By what is fastest; right up to `depth`."""
    of_all = not mask_seen and known is None
    if of_all and isinstance(model, SessionKNN) and model.looped:
        return _counted(model, prefixes, length)
    hidden = _states(model, prefixes, length) if type(model) is NextItem else None
    if of_all and hidden is not None:
        weight, bias = _output(cast(NextItem, model))
        finite = all(bool(part.isfinite().all()) for part in (weight, bias, hidden))
        if finite and screened.available(hidden.numel() * len(bias), hidden):
            return _screened(screened.Screen.of(weight, bias), prefixes, hidden, depth)
    return _compared(model, prefixes, length, hidden, mask_seen, known)


def _counted(model: SessionKNN, prefixes: _Prefixes, length: int | None) -> Ranked:
    """Of a model that counts by itself."""
    for chunk in _chunks(len(prefixes), PREFIXES_AT_ONCE):
        which, target, times = prefixes.asked(chunk)
        yield model.ranks(prefixes.history(chunk, length), which, target), times


def _screened(screen: screened.Screen, prefixes: _Prefixes, hidden: Tensor, depth: int) -> Ranked:
    """From products of 8-bit numbers."""
    for chunk in _chunks(len(prefixes), max(1, SCORES_AT_ONCE // len(screen.bias))):
        which, target, times = prefixes.asked(chunk)
        yield screen.ranks(hidden[chunk], which, target, depth), times


def _chunks(prefixes: int, size: int) -> Iterator[slice]:
    for start in range(0, prefixes, size):
        yield slice(start, min(start + size, prefixes))


def _compared(
    model: Model,
    prefixes: _Prefixes,
    length: int | None,
    hidden: Tensor | None,
    mask_seen: bool,
    known: Tensor | None,
) -> Ranked:
    """From the scores of all items."""
    for start, scores in _scores(model, prefixes, length, hidden):
        chunk = slice(start, start + len(scores))
        if mask_seen or known is not None:
            scores = _without(scores, known, prefixes.history(chunk, length).items if mask_seen else None)
        which, target, times = prefixes.asked(chunk)
        yield _ranks(scores, which, target), times


def _scores(
    model: Model, prefixes: _Prefixes, length: int | None, hidden: Tensor | None
) -> Iterator[tuple[int, Tensor]]:
    """First prefix and scores [b, N] of consecutive prefixes, whose states are `hidden` [U, D] where that is known."""
    start, chunk = 0, 1  # the first call shows how wide scores are
    out: Tensor | None = None
    while start < len(prefixes):
        part = slice(start, min(start + chunk, len(prefixes)))
        if hidden is not None:
            scores = linear(hidden[part], *_output(cast(NextItem, model)))
        elif isinstance(model, SessionKNN):
            scores = model.score(prefixes.history(part, length), out=None if out is None else out[: part.stop - start])
        else:
            scores = model.score(prefixes.history(part, length))
        yield start, scores
        start = part.stop
        if out is None:
            chunk = max(1, SCORES_AT_ONCE // scores.shape[1])
            out = scores.new_empty(chunk, scores.shape[1]) if isinstance(model, SessionKNN) else None


def _output(model: NextItem) -> tuple[Tensor, Tensor]:
    """Vectors [N, D] and biases [N] of the rows in use."""
    size = model.catalog.size
    return model.encoder.items.weight[:size], model.bias[:size, 0]


def _states(model: NextItem, prefixes: _Prefixes, length: int | None) -> Tensor | None:
    """Encoder states [U, D] of the prefixes, each sequence encoded once; None where that is not possible."""
    if not getattr(model.encoder, "prefix_states", False):
        return None
    encoder = cast(CausalEncoder, model.encoder)
    longest = int(prefixes.ends.max()) if len(prefixes) else 0
    if longest > min(length or longest, encoder.length or longest):
        return None
    many = prefixes.sequences.lengths - 1
    rows = torch.unique(prefixes.rows)
    rows = rows[torch.argsort(many[rows], stable=True)]
    place = torch.empty_like(many)
    place[rows] = torch.arange(len(rows), device=rows.device)
    of = place[prefixes.rows]  # [U] place of the prefix's sequence among `rows`
    order = torch.argsort(of)
    hidden = model.bias.new_empty(len(prefixes), encoder.dim)
    for start, stop in _blocks(many[rows].tolist()):
        edges = torch.tensor([start, stop], device=of.device)
        first, last = torch.searchsorted(of[order], edges).tolist()
        mine, chosen = order[first:last], rows[start:stop]
        states = encoder.states(prefixes.sequences.prefixes(chosen, many[chosen])[0])
        age = many[prefixes.rows[mine]] - prefixes.ends[mine]
        hidden[mine] = states[of[mine] - start, states.shape[1] - 1 - age]
    return hidden


def _blocks(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of rows, the shortest first, of at most `STATES_AT_ONCE` places of the widest row."""
    start = 0
    for at, length in enumerate(lengths):
        if at > start and (at + 1 - start) * length > STATES_AT_ONCE:
            yield start, at
            start = at
    if lengths:
        yield start, len(lengths)


def _without(scores: Tensor, known: Tensor | None, seen: Tensor | None) -> Tensor:
    """Scores with -inf for what is not ranked."""
    scores = scores.clone()
    if known is not None:
        scores.masked_fill_(~known[: scores.shape[1]].to(scores.device), -torch.inf)
    if seen is not None:
        scores.scatter_(1, seen.long(), -torch.inf)
    return scores


def _ranks(scores: Tensor, which: Tensor, target: Tensor) -> Tensor:
    """[q] float32: how many items but row 0 are not scored below the target; inf for a target that is not ranked.

    `which` [q], the row of `scores` asked about, never falls, and every row is asked about.
    """
    own, theirs = scores[which, target], scores[:, 1:]
    first = torch.ones_like(which, dtype=torch.bool)
    first[1:] = which[1:] != which[:-1]
    below = torch.empty_like(own)
    below[first] = _below(theirs, own[first])
    if not bool(first.all()):  # rows that are asked about again are copied, the others are not
        below[~first] = _below(theirs.index_select(0, which[~first]), own[~first])
    return torch.where(own > -torch.inf, theirs.shape[1] - below, torch.inf)


def _below(scores: Tensor, own: Tensor) -> Tensor:
    """[q] float32: how many of `scores` [q, N] are below `own` [q]; few rows at a time, so that they stay cached."""
    rows = max(1, BELOW_AT_ONCE // max(scores.shape[1], 1)) if scores.is_cpu else max(len(scores), 1)
    out, below = scores.new_empty(min(rows, len(scores)), scores.shape[1]), torch.empty_like(own)
    for start in range(0, len(scores), rows):
        some = scores[start : start + rows]
        found = torch.lt(some, own[start : start + rows].unsqueeze(1), out=out[: len(some)])
        torch.sum(found, 1, out=below[start : start + rows])  # of numbers, since sums of bool are slow
    return below


class _Sums:
    """Sums over predictions."""

    def __init__(self, ks: Sequence[int]) -> None:
        self.ks = ks
        self._sums = torch.zeros(len(ks), 3, dtype=torch.float64)
        self._n = 0

    def add(self, rank: Tensor, times: Tensor) -> None:
        rank, times = rank.double(), times.double()
        gains = torch.stack([torch.ones_like(rank), 1 / rank, 1 / torch.log2(rank + 1)])
        for at, k in enumerate(self.ks):
            self._sums[at] += ((rank <= k) * times * gains).sum(1).cpu()
        self._n += int(times.sum())

    def figures(self) -> dict[str, float]:
        out: dict[str, float] = {}
        for k, sums in zip(self.ks, self._sums.tolist(), strict=True):
            means = [one / self._n if self._n else float("nan") for one in sums]
            out |= {f"recall{k}": means[0], f"mrr{k}": means[1], f"ndcg{k}": means[2]}
        return out | {"n": self._n}
