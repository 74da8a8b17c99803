"""By what the metrics of lists are told apart, and the sums they are kept in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamrec.evaluation.lists import ListMetrics
from streamrec.evaluation.lists.names import NEED_CATEGORIES

PLACES = ("1", "2", "3-5", "6-10", "11+")
"""Labels of the place of a click in its session, and of the number of clicks in a session."""

SEGMENTS: dict[str, tuple[str, ...]] = {
    "place": PLACES,
    "popularity": ("never", *(str(tenth) for tenth in range(1, 11))),
    "user": ("new", "known"),
    "item": ("new", "known"),
    "repeat": ("no", "yes"),
    "session_length": PLACES,
}
"""Segment -> labels. `session_length`: of files that name every session, known from the audit. `popularity` is the
tenth of the items by clicks so far that the target is in, 10 = the top; `item` and `repeat` are about the target too:
seen before by anybody, in this user's window."""


def list_metrics(
    ks: Sequence[int], metrics: Sequence[str], categories: NDArray[np.int64], buckets: int = 4096
) -> ListMetrics:
    """The sums of one policy's lists; `categories` [items + 1], 0 = none."""
    known = categories if NEED_CATEGORIES & set(metrics) else None
    return ListMetrics(ks, metrics, len(categories) - 1, SEGMENTS, categories=known, buckets=buckets)
