"""Names of the metrics of lists and what they stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamrec.evaluation.lists import accuracy, beyond, exposure
from streamrec.evaluation.lists.calibration import calibration
from streamrec.evaluation.lists.chunk import Bools, Chunk, Floats, Ints
from streamrec.evaluation.lists.diversity import ild

ACCURACY: dict[str, Callable[[Chunk, tuple[int, ...]], Floats]] = {
    "recall": accuracy.recall,
    "hitrate": accuracy.hitrate,
    "mrr": accuracy.mrr,
    "ndcg": accuracy.ndcg,
    "map": accuracy.average_precision,
    "precision": accuracy.precision,
}
"""Functions of what was relevant. They have a value for each row in which something was."""

BEYOND: dict[str, Callable[[Chunk, tuple[int, ...]], tuple[Floats, Bools]]] = {
    "novelty": beyond.novelty,
    "arp": beyond.arp,
    "arp_share": beyond.arp_share,
    "tail_share": beyond.tail_share,
    "serendipity": beyond.serendipity,
    "ild": ild,
    "calibration": calibration,
}
"""Functions of what was listed that say for each row whether it has a value."""

EXPOSURE: dict[str, Callable[[Ints, int], float]] = {"coverage": exposure.coverage, "gini": exposure.gini}
"""Functions of how often each item was listed in all rows together: no mean over rows, so no interval."""

POPULARITY = {"novelty", "arp", "arp_share", "tail_share", "serendipity"}
"""Metrics that need counts as of the row's time."""

NEED_CATEGORIES = {"ild", "calibration"}
"""Metrics that need to know the categories of items; `ild` is content with features."""


def check_names(ks: Sequence[int], metrics: Sequence[str], features: bool, categories: bool) -> None:
    """Raises ValueError for an unknown metric, a k below 1, or a metric that lacks features or categories."""
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must be numbers of at least 1, got {list(ks)}")
    names = [*ACCURACY, *BEYOND, *EXPOSURE]
    unknown = [name for name in metrics if name not in names]
    if unknown or not metrics:
        raise ValueError(f"metrics must be some of {', '.join(names)}, got {unknown or 'none'}")
    if "calibration" in metrics and not categories:
        raise ValueError("calibration needs the categories of items")
    if "ild" in metrics and not (features or categories):
        raise ValueError("ild needs features or categories of items")
