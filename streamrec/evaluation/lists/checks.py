"""What a batch of lists must be before anything of it is added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from streamrec.evaluation.lists.chunk import Floats, Ints
from streamrec.evaluation.lists.names import POPULARITY
from streamrec.evaluation.lists.popularity import Popularity
from streamrec.ope.codes import DUPLICATE_ITEM, Refused
from streamrec.ope.keys import mix
from streamrec.ope.rows import Keys

AT_ONCE = 8192
"""Rows sorted together: they fit into the second-level cache."""


def check_lists(lists: Ints, size: int) -> int:
    """Number of rows of [n, K] that list nothing.

    Raises:
        Refused: `duplicate_item`.
        ValueError: an item outside 0..size.
    """
    missing = 0
    for start in range(0, len(lists), AT_ONCE):
        ordered = np.sort(lists[start : start + AT_ONCE], axis=1)
        low, high = ordered[:, 0].min(), ordered[:, -1].max()
        if low < 0 or high > size:
            raise ValueError(f"lists must hold catalogue rows 0 to {size}, got {low} to {high}")
        same = ordered[:, 1:] == ordered[:, :-1]
        if same.any() and (same & (ordered[:, 1:] > 0)).any():
            many = int((same & (ordered[:, 1:] > 0)).any(1).sum())
            raise Refused(DUPLICATE_ITEM, f"{many} of rows {start} to {start + len(ordered) - 1} list an item twice")
        missing += int((ordered[:, -1] == 0).sum())
    return missing


def check_labels(segments: Mapping[str, Ints], declared: Mapping[str, Sequence[str]], n: int) -> dict[str, Ints]:
    """Label columns of n rows in the order in which the segments were declared.

    Raises:
        ValueError: other segments than declared, another length, a number that no label has.
    """
    if set(segments) != set(declared):
        raise ValueError(f"segments must be {sorted(declared)}, got {sorted(segments)}")
    made = {name: np.asarray(segments[name], dtype=np.int64) for name in declared}
    for name, label in made.items():
        top = len(declared[name]) - 1
        if label.shape != (n,) or (n and not -1 <= label.min() <= label.max() <= top):
            raise ValueError(f"segment {name} must be [{n}] numbers from -1 to {top}, got {label!r}")
    return made


def check_beside(
    metrics: Sequence[str],
    lists: Ints,
    scores: Floats | None,
    popularity: Popularity | None,
    history: Ints | None,
) -> None:
    """Raises ValueError where something that `metrics` need is missing, or does not fit lists [n, K]."""
    needy = sorted(POPULARITY & set(metrics))
    if popularity is None and needy:
        raise ValueError(f"{', '.join(needy)} need counts as of each row's time: give popularity to add()")
    if history is None and "calibration" in metrics:
        raise ValueError("calibration needs what the user had before: give history to add()")
    if popularity is not None and popularity.count.shape != lists.shape:
        raise ValueError(f"popularity must be that of lists {lists.shape}, got {popularity.count.shape}")
    if history is not None and (np.ndim(history) != 2 or len(history) != len(lists)):
        raise ValueError(f"history must be [{len(lists)}, L], got {np.shape(history)}")
    if scores is not None:
        _check_scores(lists, scores)


def _check_scores(lists: Ints, scores: Floats) -> None:
    if np.shape(scores) != lists.shape:
        raise ValueError(f"scores must be those of lists {lists.shape}, got {np.shape(scores)}")
    falling = of_shown(lists, scores)
    if not (falling[:, 1:] <= falling[:, :-1]).all():
        raise ValueError("scores rise within a list or are no numbers: lists must come in the order of their scores")


def of_shown(lists: Ints, scores: Floats) -> Floats:
    """Scores [n, K] with -inf for empty slots."""
    return np.where(lists > 0, scores, -np.inf)


def session_keys(session: Keys | None, n: int, before: int) -> Keys:
    """[n] mixed hashes of sessions; of the rows' own numbers, from `before` on, where there are none.

    Raises:
        ValueError: another length, or no 64-bit integers.
    """
    if session is None:
        return mix(np.arange(before, before + n, dtype=np.uint64))
    session = np.asarray(session)
    if session.shape != (n,):
        raise ValueError(f"session must be [{n}] hashes, got shape {session.shape}")
    return mix(session)
