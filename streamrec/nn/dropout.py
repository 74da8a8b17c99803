"""Dropout whose randomness belongs to somebody who saves it."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor


def mask(shape: torch.Size | tuple[int, ...], p: float, generator: Generator, device: torch.device) -> Tensor:
    """Multipliers of inverted dropout: 0 with probability p, else 1 / (1 - p). `shape` float32 on `device`.

    p is rounded to 1 / 65,536: 16 random bits a component are five times as fast as `bernoulli_`.
    """
    return kept(bits(shape, generator).to(device), p)


def bits(shape: torch.Size | tuple[int, ...], generator: Generator) -> Tensor:
    """16 random bits for each component, `shape` int16 on the generator's device."""
    many = math.prod(shape)
    drawn = torch.empty(many // 4 + 1, dtype=torch.int64, device=generator.device)
    return drawn.random_(-(2**63), None, generator=generator).view(torch.int16)[:many].view(shape)


def kept(bits: Tensor, p: float) -> Tensor:
    """The multipliers that `bits` stand for, float32."""
    return (bits >= min(round(p * 2**16) - 2**15, 2**15 - 1)).float().mul_(1.0 / (1.0 - p))


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
