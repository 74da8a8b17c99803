"""Labels of rows by which metrics are told apart: who asks, for what, where in the session."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrec.evaluation.lists.chunk import Bools, Ints

EDGES = (1, 2, 3, 4, 6, 11, 21)
"""First number of each class of positions and lengths."""

CLASSES = ("1", "2", "3", "4-5", "6-10", "11-20", "21+")

SEGMENTS: dict[str, tuple[str, ...]] = {
    "user": ("new", "known"),
    "item": ("new", "known"),
    "repeat": ("first time", "repeat"),
    "position": CLASSES,
    "session_length": CLASSES,
    "popularity": ("never seen", *(f"decile {number}" for number in range(1, 11))),
}
"""Segment -> labels, for `ListMetrics(segments=...)`; the functions below give their numbers."""


def new(before: Ints) -> Ints:
    """[n] of "user" or "item": 0 where there were no interactions with it before the row's time, else 1."""
    return (np.asarray(before) > 0).astype(np.int64)


def repeat(history: Ints, target: Ints) -> Ints:
    """[n] of "repeat": whether the target [n] is in what the user had before, [n, L] with 0 = nothing."""
    again: Bools = (np.asarray(history) == np.asarray(target)[:, None]).any(1)
    return again.astype(np.int64)


def position(number: NDArray[np.integer]) -> Ints:
    """[n] of "position" or "session_length": the class of a number of clicks [n]; -1 for less than 1.

    The position of a row is that of its target in the session, counted from 1. A session's length is known only when it
    has ended: a segment to read results by, nothing a model may use.
    """
    return (np.searchsorted(EDGES, number, side="right") - 1).astype(np.int64)


def popularity(deciles: Ints, target: Ints) -> Ints:
    """[n] of "popularity": the decile of the target's popularity (`PopularityCounter.decile`), 0 = never seen."""
    return np.asarray(deciles)[np.asarray(target)]
