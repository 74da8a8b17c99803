"""Dropout whose randomness belongs to somebody who saves it."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def mask(shape: torch.Size | tuple[int, ...], p: float, generator: Generator, device: torch.device) -> Tensor:
    """Multipliers of inverted dropout: 0 with probability p, else 1 / (1 - p). `shape` float32 on `device`."""
    kept = torch.empty(shape, device=generator.device).bernoulli_(1.0 - p, generator=generator)
    return kept.div_(1.0 - p).to(device)


def dropout(x: Tensor, p: float, generator: Generator | None) -> Tensor:
    """Inverted dropout of `x` where a generator is given, else `x` itself.

    Torch's own dropout draws from the global generator, which no checkpoint of an agent holds: a run that was killed
    and resumed would go on with other masks. Whether to drop is said by handing a generator over, not by a mode.
    """
    if generator is None or p == 0.0:
        return x
    return x * mask(x.shape, p, generator, x.device)


def check(name: str, p: float) -> None:
    """Raises ValueError if `p` is no dropout probability."""
    if not 0.0 <= p < 1.0:
        raise ValueError(f"{name} must be at least 0 and below 1, got {p}")
