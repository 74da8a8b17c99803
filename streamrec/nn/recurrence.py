"""The recurrence of a GRU over rows of different lengths, forward and backward, without work on padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def gru(gates: Tensor, weight: Tensor, bias: Tensor, sizes: Sequence[int], keep: Tensor | None = None) -> Tensor:
    """Hidden states of a GRU (Cho et al. 2014, in the form of cuDNN and `torch.nn.GRU`), [T, H].

    The T tokens stand step by step, as in `torch.nn.utils.rnn.PackedSequence`: first the first item of every row,
    longest row first, then the second item of the rows that have one, and so on.

    Written out because the state carried to the next step is the dropped-out one here, as in the authors' GRU4Rec,
    which `torch.nn.GRU` cannot do. The gradient of the weights is one product over all tokens instead of one per step.

    Args:
        gates: [T, 3H] input side of the gates r, z, n, bias included.
        weight: [3H, H] hidden side.
        bias: [3H] hidden side.
        sizes: rows at each step, never growing; they add up to T.
        keep: [T, H] multipliers of the hidden states (a dropout mask), None = all 1.
    """
    apply: Callable[..., Tensor] = _Recurrence.apply
    return apply(gates, weight, bias, tuple(sizes), keep)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, bias: Tensor, sizes: tuple[int, ...], keep: Tensor | None
    ) -> Tensor:
        width = weight.shape[1]
        before = gates.new_zeros(len(gates), width)  # state each token starts from
        candidate_side = gates.new_empty(len(gates), width)  # hidden side of gate n, before r
        opened = torch.empty_like(gates)  # r, z, n after their activations
        out = gates.new_empty(len(gates), width)
        start, transposed = 0, weight.t()
        for step, size in enumerate(sizes):
            end = start + size
            h, rows = before[start:end], opened[start:end]
            if step:
                h.copy_(out[start - sizes[step - 1] : start - sizes[step - 1] + size])
            side = torch.addmm(bias, h, transposed) if step else bias.expand(size, -1)
            torch.add(gates[start:end, : 2 * width], side[:, : 2 * width], out=rows[:, : 2 * width])
            rows[:, : 2 * width].sigmoid_()
            r, z, n = rows[:, :width], rows[:, width : 2 * width], rows[:, 2 * width :]
            candidate_side[start:end] = side[:, 2 * width :]
            torch.addcmul(gates[start:end, 2 * width :], r, side[:, 2 * width :], out=n).tanh_()
            torch.lerp(n, h, z, out=out[start:end])
            if keep is not None:
                out[start:end].mul_(keep[start:end])
            start = end
        ctx.save_for_backward(weight, before, candidate_side, opened, keep)
        ctx.sizes = sizes
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        weight, before, candidate_side, opened, keep = ctx.saved_tensors
        width = weight.shape[1]
        r, z, n = opened.split(width, dim=1)
        # Everything that does not depend on the gradient, for all tokens at once.
        to_n = (1 - z) * (1 - n * n)
        to_z = (before - n) * z * (1 - z)
        to_r = candidate_side * r * (1 - r)
        inner = torch.empty_like(opened)  # gradient at the hidden side of r, z, n
        last = torch.empty_like(before)  # gradient at n before its activation, input side
        carried = grad.new_zeros(0, width)
        end = len(grad)
        for size in reversed(ctx.sizes):
            start = end - size
            at_h = grad[start:end].clone()
            at_h[: len(carried)] += carried
            if keep is not None:
                at_h *= keep[start:end]
            at_n = torch.mul(at_h, to_n[start:end], out=last[start:end])
            rows = inner[start:end]
            torch.mul(at_n, to_r[start:end], out=rows[:, :width])
            torch.mul(at_h, to_z[start:end], out=rows[:, width : 2 * width])
            torch.mul(at_n, r[start:end], out=rows[:, 2 * width :])
            if start:
                carried = torch.addmm(at_h * z[start:end], rows, weight)
            end = start
        at_weight, at_bias = inner.t() @ before, inner.sum(0)
        at_gates = torch.cat([inner[:, : 2 * width], last], dim=1)
        return at_gates, at_weight, at_bias, None, None
