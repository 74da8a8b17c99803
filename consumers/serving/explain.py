"""What an answer was made from, in words of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from consumers.serving.model import ServedModel
from streamrec.records import History


def explain(
    model: ServedModel, history: History, rows: list[int], policy: int, ids: Sequence[str]
) -> tuple[dict[str, Any], list[float] | None]:
    """What was known of the one user of `history`, and what the policy thinks of the items shown.

    Args:
        model: that answered.
        history: of one user.
        rows: of the items shown.
        policy: number of the policy that answered.
        ids: item ids by row.

    Returns:
        an object for the answer; scores of `rows`, None if the policy has none.
    """
    scores = model.scores(history, torch.tensor([rows]), policy) if rows else None
    said = {
        "policy": model.policies[policy],
        "model": model.version,
        "read": [ids[row] for row in history.items[0].tolist() if row],
        "skipped": [ids[row] for row in history.skipped[0].tolist() if row],
        "in_session": int(history.in_session[0]),
        "candidates": int((history.offer[0] > 0).sum()) if history.offer.shape[1] else None,
    }
    if scores is None:
        return said, None
    found = [float(score) for score in scores[0]]
    return said, found if all(abs(score) < float("inf") for score in found) else None
