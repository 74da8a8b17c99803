"""What a version must pass before it may answer anybody."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from consumers.serving.model import ServedModel
from streamrec import checkpoint
from streamrec.records import Decision, History
from streamrec.served import norm, not_finite

FLOOR = 1.0
"""Root mean square below which growth is no explosion: new tables grow from nothing."""

MANY = 100
"""With fewer items an agent may have reasons to show none, such as that all of them were seen."""

AT_ONCE = 4
"""Users of the probe who are answered together: no longer a step than answering those who wait."""


class Rejected(ValueError):
    """This version must not serve, and why."""


@dataclass(frozen=True)
class Surroundings:
    """The service as it was when the check began; nothing in it changes while a thread looks at it."""

    ids: list[str]
    available: Tensor
    probe: History


@dataclass(frozen=True)
class Passed:
    """A version that may serve: what it says of itself, and its size for the check of the next."""

    about: dict[str, Any]
    norm: float
    sha256: str


def load_checked(path: Path, into: ServedModel, around: Surroundings, before: Passed | None, growth: float) -> Passed:
    """Load the version in `path` into a model that answers nobody now; `check_answers` has to follow.

    Raises:
        Rejected: it is damaged, not finite, many times larger than the one before, or of another kind.
    """
    try:
        state = checkpoint.load(path)
        about, agent = state["about"], state["agent"]
    except (checkpoint.DamagedCheckpoint, KeyError) as error:
        raise Rejected(f"damaged: {error}") from error
    bad = not_finite(agent)
    if bad is not None:
        raise Rejected(f"{bad} is not finite")
    size, count = norm(agent)
    _check_growth(size, count, about, before, growth)
    try:
        into.load(path.name, state)
        into.sync(around.ids, around.available)
    except Exception as error:
        raise _cannot(error) from error
    return Passed(about, size, digest(path))


async def check_answers(into: ServedModel, around: Surroundings) -> None:
    """Let the model answer the probe, a few users at a time, between the answers that others wait for.

    On the thread of the event loop: beside it, on another, the many small steps of both would take the interpreter
    from each other, and answers three times as long for as long as the probe takes.

    Raises:
        Rejected: it cannot, or not as every agent must.
    """
    parts = []
    for start in range(0, max(len(around.probe), 1), AT_ONCE):
        try:
            parts.append(into.act(around.probe[start : start + AT_ONCE]))
        except Exception as error:
            raise _cannot(error) from error
        await asyncio.sleep(0)
    check_answer(Decision.cat(parts), around.available)


def _cannot(error: Exception) -> Rejected:
    return Rejected(f"it cannot answer: {type(error).__name__}: {error}")


def _check_growth(size: float, count: int, about: dict[str, Any], before: Passed | None, growth: float) -> None:
    """Counts grow with what was learned from; weights should not."""
    if before is None:
        return
    learned = max(about["decisions"], 1) / max(before.about["decisions"], 1)
    limit = growth * max(before.norm, FLOOR * count**0.5) * max(1.0, learned)
    if size > limit:
        raise Rejected(f"its norm is {size:.3g}, that of the version before was {before.norm:.3g}: it explodes")


def check_answer(decision: Decision, available: Tensor) -> None:
    """Slates as every agent must give them.

    Raises:
        Rejected: an item that may not be shown or stands there twice, or a propensity that is none.
    """
    slate, logp = decision.slate, decision.slot_logp
    filled = slate > 0
    if not bool((available[slate] | ~filled).all()):
        raise Rejected("it shows items that are not available")
    marked = torch.where(filled, slate, -torch.arange(slate.shape[1])).sort(1).values
    if bool((marked[:, 1:] == marked[:, :-1]).any()):
        raise Rejected("it shows an item twice in a slate")
    if not bool((logp.isfinite() & (logp <= 1e-6)).all()):
        raise Rejected("its propensities are not finite")
    if len(slate) and not bool(filled.any()) and int(available.sum()) >= MANY:
        raise Rejected("it shows nothing to anybody although there are items")


def digest(path: Path) -> str:
    """sha256 of the manifest, which holds those of all files of a version."""
    return hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
