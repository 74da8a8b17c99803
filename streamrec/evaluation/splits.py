"""Splits of a log at moments of one clock for everybody, with whole sessions, and what they cost in rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

STRADDLING = "straddling"
"""Cause: the session goes on after the cut, in the time of the next part."""

RARE = "rare"
"""Cause: too few rows of the session, user or item in the training part."""

COLD = "cold"
"""Cause: a test row of an item that the training part does not have."""

SHORT = "short"
"""Cause: what is left of the session is too short to predict anything in it."""


@dataclass(frozen=True)
class Split:
    """Which part each row of a log belongs to.

    Args:
        part: [n] 0 = before the first cut, 1 = before the second, ...; -1 = dropped.
        dropped: cause -> rows.
        late: rows of a part that are not older than the first row of the next: 0 means that no part knows the future.
    """

    part: NDArray[np.int64]
    dropped: dict[str, int]
    late: int

    def rows(self, part: int) -> Bools:
        """[n] rows of a part."""
        mine: Bools = self.part == part
        return mine


def by_time(session: NDArray[np.integer], time: Floats, cuts: Sequence[float], keep_straddling: bool = False) -> Split:
    """Cut a log at times; a session belongs as a whole to the part in which it starts.

    A session that is still running at the next cut would tell a model trained on it what happens after the cut. Such
    sessions are dropped as a whole (`straddling`), or, if they are kept, their rows are counted in `late`. Cutting per
    user instead lets every model see the future of others (Ji et al., TOIS 2023).

    Args:
        session: [n] number or hash of each row's session; rows in any order.
        time: [n] event times, seconds since the epoch.
        cuts: rising times; a row at a cut is after it.
        keep_straddling: keep sessions that run over a cut in the part in which they start.

    Raises:
        ValueError: times that are not finite, columns of different lengths, cuts that do not rise.
    """
    time, edges = np.asarray(time, dtype=np.float64), np.asarray(cuts, dtype=np.float64)
    if session.shape != time.shape or time.ndim != 1:
        raise ValueError(f"session and time must be [n] each, got {session.shape} and {time.shape}")
    if not np.isfinite(time).all():
        raise ValueError(
            f"times must be finite, got {int((~np.isfinite(time)).sum())} that are not: drop those rows first"
        )
    if len(edges) == 0 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise ValueError(f"cuts must be one or more rising times, got {list(cuts)}")
    names, of = np.unique(session, return_inverse=True)
    start, end = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    np.minimum.at(start, of, time)
    np.maximum.at(end, of, time)
    side = np.searchsorted(edges, start, side="right").astype(np.int64)
    if not keep_straddling:
        side[side != np.searchsorted(edges, end, side="right")] = -1
    part: Ints = side[of]
    return Split(part, {STRADDLING: int((part < 0).sum())}, _late(part, time, len(edges) + 1))


def _late(part: Ints, time: Floats, parts: int) -> int:
    """Rows not older than the first of any later part."""
    first = np.full(parts + 1, np.inf)
    np.minimum.at(first, part[part >= 0], time[part >= 0])
    later = np.minimum.accumulate(first[::-1])[::-1]
    return int((time[part >= 0] >= later[part[part >= 0] + 1]).sum())


def k_core(columns: Sequence[NDArray[np.integer]], least: Sequence[int]) -> Bools:
    """Rows left when rows of rare values are taken out until none is rare.

    Made for the training part alone: counting in the test part as well would choose items by their future.

    Args:
        columns: [n] each, such as session and item.
        least: rows a value of each column must have; 1 = any.

    Returns:
        [n] rows of the core.
    """
    if len(columns) != len(least) or min(least, default=0) < 1:
        raise ValueError(f"least must be a number of at least 1 for each column, got {list(least)}")
    codes = [np.unique(column, return_inverse=True)[1] for column in columns]
    kept = np.ones(len(codes[0]), dtype=np.bool_)
    while True:
        before = int(kept.sum())
        for code, few in zip(codes, least, strict=True):
            many = np.bincount(code[kept], minlength=int(code.max(initial=-1)) + 1)
            kept &= many[code] >= few
        if int(kept.sum()) == before:
            return kept


def filtered(
    split: Split,
    session: NDArray[np.integer],
    item: NDArray[np.integer],
    time: Floats,
    least_session: int = 2,
    least_item: int = 1,
    keep_cold: bool = False,
) -> Split:
    """Drop what is too rare to learn from, by what the training part (0) says, and name the causes.

    Of part 0 the core is kept in which each item has `least_item` rows and each session `least_session` (`rare`). Of
    the other parts rows of items that the core does not have go (`cold`), then sessions left with fewer than
    `least_session` rows (`short`).

    Args:
        split: of the same rows, from `by_time`.
        session: [n].
        item: [n] catalogue rows or any numbers.
        time: [n] event times.
        least_session: rows a session must have, in every part.
        least_item: rows an item must have in part 0.
        keep_cold: keep test rows of items the training part does not have: they count against every model.

    Returns:
        a new split whose `dropped` names all causes so far.
    """
    part, dropped = split.part.copy(), dict(split.dropped)
    train = np.flatnonzero(part == 0)
    core = k_core([session[train], item[train]], [least_session, least_item])
    dropped[RARE] = _drop(part, train[~core])
    if not keep_cold:
        cold = (part > 0) & ~np.isin(item, np.unique(item[train[core]]))
        dropped[COLD] = _drop(part, np.flatnonzero(cold))
    rest = np.flatnonzero(part > 0)
    dropped[SHORT] = _drop(part, rest[~k_core([session[rest]], [least_session])])
    return Split(part, dropped, _late(part, np.asarray(time, dtype=np.float64), int(part.max(initial=0)) + 1))


def _drop(part: Ints, rows: Ints) -> int:
    part[rows] = -1
    return len(rows)
