"""Randomness without a generator: every draw is a hash of who, when and what for.

The n-th draw of a user is the same whichever other users are asked at the same time, on CPU and GPU. A simulator that
draws this way can be stepped for any subset of its users, and a saved state needs no random state beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from streamrec.mixing import mix

GOLDEN = -0x61C8864680B583EB
"""2**64 divided by the golden ratio, as a signed number: the distance between neighbouring streams."""


def keys(seed: Tensor, stream: int) -> Tensor:
    """Keys [n] int64 of stream number `stream` for seeds [n] int64; neighbouring seeds give unrelated keys."""
    return mix(mix(seed * GOLDEN) + stream)


def uniforms(key: Tensor, count: int, first: int = 0) -> Tensor:
    """Draws `first` ... `first + count - 1` of each key: [n] int64 -> [n, count] float32, strictly between 0 and 1."""
    lanes = torch.arange(first, first + count, device=key.device) * GOLDEN
    bits = (mix(key.unsqueeze(1) + lanes) >> 41) & 0x7FFFFF
    return bits.to(torch.float32).add_(0.5).mul_(2.0**-23)
