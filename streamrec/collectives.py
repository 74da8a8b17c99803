"""What processes that learn one model say to each other: `torch.distributed`, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class OutOfStep(RuntimeError):
    """Learners cannot learn one model together, with what differs."""


def reduce(tensor: Tensor, how: Any = dist.ReduceOp.SUM) -> None:
    """Make `tensor` the sum, or what `how` says, of everybody's.

    Raises:
        OutOfStep: somebody has gone.
    """
    with _all_there():
        dist.all_reduce(tensor, how)


def vectors(mine: Tensor, count: int) -> list[Tensor]:
    """What everybody says, in the order of ranks.

    Args:
        mine: [B, ...], of any B.
        count: of processes.

    Raises:
        OutOfStep: somebody has gone.
    """
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(count)]
    with _all_there():
        dist.all_gather(sizes, torch.tensor([len(mine)]))
        padded = mine.new_zeros(int(torch.cat(sizes).max()), *mine.shape[1:])
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in range(count)]
        dist.all_gather(parts, padded)
    return [part[: int(size)] for part, size in zip(parts, sizes, strict=True)]


@contextmanager
def _all_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise OutOfStep(
            "another learner has gone, or was silent for too long; start all of them again with --resume, and they go "
            f"on from the newest checkpoint that all have ({str(error).splitlines()[0]})"
        ) from error
