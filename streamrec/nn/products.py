"""Matrix products of float32 on a processor, by the faster of the two libraries that torch brings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LARGE = 1 << 14
"""Numbers in a weight matrix from which on oneDNN is asked."""

_ONEDNN: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [B, D] times weight [N, D] transposed, plus bias [N]: [B, N]. No gradient flows.

    Torch multiplies float32 matrices with MKL, which runs AVX2 code on processors that are not Intel's; oneDNN, which
    torch ships as well and uses for convolutions, generates code for what is there: on an AMD EPYC with AVX-512 it
    made 210 to 240 GFLOP/s per core where MKL made 100. Both compute in float32 throughout.

    oneDNN keeps its code and up to some megabytes of working memory for each of the last 1,024 shapes. A stream has all
    numbers of rows there are, so small weights, which gain little, are left to MKL.
    """
    if _ONEDNN is None or x.device.type != "cpu" or x.dtype != torch.float32 or weight.numel() < LARGE or not len(x):
        return F.linear(x, weight, bias)
    out: Tensor = _ONEDNN(x, weight, bias, "none", [], "")
    return out


def product(left: Tensor, right: Tensor) -> Tensor:
    """left [B, D] times right [D, N]: [B, N]. No gradient flows. See `linear`."""
    return linear(left, right.t())


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
        return at_x, product(grad.t(), x), grad.sum(0)
