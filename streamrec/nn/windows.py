"""Which part of a history's window an encoder reads."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from streamrec.records import History

Scope = Literal["session", "user"]
"""What counts as the sequence: the running session, or everything the window holds of the user."""


def lengths(history: History, scope: Scope, longest: int | None) -> Tensor:
    """[B] int64: how many of the newest positives belong to the sequence, at most `longest`."""
    filled = (history.items != 0).sum(1)
    if scope == "session":
        filled = torch.minimum(filled, history.in_session)
    return filled if longest is None else filled.clamp(max=longest)


def check(scope: str, longest: int | None) -> None:
    """Raises ValueError if `scope` is unknown or `longest` is below 1."""
    if scope not in ("session", "user"):
        raise ValueError(f'scope must be "session" or "user", got {scope!r}')
    if longest is not None and longest < 1:
        raise ValueError(f"length must be at least 1 or left out, got {longest}")
