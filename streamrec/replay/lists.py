"""The sums that the metrics of one policy's lists are kept in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamrec.evaluation.lists import ListMetrics
from streamrec.evaluation.lists.names import NEED_CATEGORIES
from streamrec.evaluation.lists.segments import SEGMENTS


def list_metrics(
    ks: Sequence[int], metrics: Sequence[str], categories: NDArray[np.int64], buckets: int = 4096
) -> ListMetrics:
    """The sums of one policy's lists; `categories` [items + 1], 0 = none."""
    known = categories if NEED_CATEGORIES & set(metrics) else None
    return ListMetrics(ks, metrics, len(categories) - 1, SEGMENTS, categories=known, buckets=buckets)
