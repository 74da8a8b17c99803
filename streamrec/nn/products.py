"""Matrix products of float32 on a processor, by the faster of the two libraries that torch brings.

Torch multiplies float32 matrices with MKL, which runs AVX2 code on processors that are not Intel's; oneDNN, which torch
ships as well and uses for convolutions, generates code for what is there: on an AMD EPYC with AVX-512 it took half of
MKL's time for large products and more than it for small ones. On an Intel Xeon with AVX-512 MKL took .8 to 1 times
oneDNN's, and .4 of it for a weight's gradient with two threads. Both compute in float32 throughout.

oneDNN generates code for every new shape (2 to 4 ms) and keeps .6 MB for each of the last 1,024, 1.6 MB with the holes
that leaves in the heap. The batches of a stream have all numbers of rows there are, so rows are brought to few numbers:
eight between two powers of two.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

WORTH = 1 << 21
"""Multiplications and additions from which on oneDNN is ahead: 171 rows by a GRU 64 wide, 14 by one 224 wide."""


def _amd() -> bool:
    """Whether this is a processor on which MKL is slow."""
    try:
        with open("/proc/cpuinfo") as file:
            return "AuthenticAMD" in file.read(4096)
    except OSError:
        return "AuthenticAMD" in platform.processor()


_ONEDNN: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if _amd() else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [B, D] times weight [N, D] transposed, plus bias [N]: [B, N]. No gradient flows."""
    if not _generated(x, len(x) * weight.numel()):
        return F.linear(x, weight, bias)
    rows = len(x)
    added = -rows % _step(rows)
    return _multiply(F.pad(x, (0, 0, 0, added)), weight, bias)[:rows] if added else _multiply(x, weight, bias)


def product(left: Tensor, right: Tensor) -> Tensor:
    """left [B, D] times right [D, N]: [B, N]. No gradient flows."""
    return linear(left, right.t())


def over_rows(left: Tensor, right: Tensor) -> Tensor:
    """left [B, N] transposed times right [B, D]: [N, D], a weight's gradient. No gradient flows."""
    if not _generated(left, left.numel() * right.shape[1]):
        return left.t() @ right
    # The rest is added up, which costs N x D; rows of zeros would have both sides copied.
    whole = len(left) - len(left) % _step(len(left))
    out = _multiply(left[:whole].t(), right[:whole].t(), None)
    return out.addmm_(left[whole:].t(), right[whole:]) if whole < len(left) else out


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [B, D] times weight [N, D] transposed, plus bias [N]: [B, N]; `F.linear` to be differentiated once."""
    apply: Callable[..., Tensor] = _Affine.apply
    return apply(x, weight, bias)


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        at_x = product(grad, weight) if ctx.needs_input_grad[0] else None
        return at_x, over_rows(grad, x), grad.sum(0)


def _generated(x: Tensor, work: int) -> bool:
    """Whether oneDNN is asked."""
    return _ONEDNN is not None and work >= WORTH and x.device.type == "cpu" and x.dtype == torch.float32


def _step(rows: int) -> int:
    """What the number of rows is brought to a multiple of: a 16th to an 8th of it, rows below 16 as they are."""
    return 1 << max(rows.bit_length() - 4, 0)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = _ONEDNN(x, weight, bias, "none", [], "")
    return out
