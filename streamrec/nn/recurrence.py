"""The recurrence of a GRU over rows of different lengths, forward and backward, without work on padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from streamrec.nn.products import linear, over_rows, product


def gru(
    gates: Tensor,
    weight: Tensor,
    bias: Tensor,
    sizes: Sequence[int],
    keep: Tensor | None = None,
    start: Tensor | None = None,
    goes_on: Tensor | None = None,
) -> Tensor:
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
        start: [sizes[0], H] states the rows start from, None = 0. No gradient flows into it.
        goes_on: [T, 1] 1 for tokens that go on from the state before, 0 for those that start from 0; None = all 1.
    """
    apply: Callable[..., Tensor] = _Recurrence.apply
    return apply(gates, weight, bias, tuple(sizes), keep, start, goes_on)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gates: Tensor,
        weight: Tensor,
        bias: Tensor,
        sizes: tuple[int, ...],
        keep: Tensor | None,
        start: Tensor | None,
        goes_on: Tensor | None,
    ) -> Tensor:
        width = weight.shape[1]
        before = gates.new_zeros(len(gates), width)  # state each token starts from
        if start is not None and sizes:
            before[: sizes[0]] = start
        candidate_side = gates.new_empty(len(gates), width)  # hidden side of gate n, before r
        opened = torch.empty_like(gates)  # r, z, n after their activations
        out = gates.new_empty(len(gates), width)
        first = 0
        for step, size in enumerate(sizes):
            end = first + size
            h, rows = before[first:end], opened[first:end]
            if step:
                h.copy_(out[first - sizes[step - 1] : first - sizes[step - 1] + size])
            if goes_on is not None:
                h.mul_(goes_on[first:end])
            known = step > 0 or start is not None
            side = linear(h, weight, bias) if known else bias.expand(size, -1)
            torch.add(gates[first:end, : 2 * width], side[:, : 2 * width], out=rows[:, : 2 * width])
            rows[:, : 2 * width].sigmoid_()
            r, z, n = rows[:, :width], rows[:, width : 2 * width], rows[:, 2 * width :]
            candidate_side[first:end] = side[:, 2 * width :]
            torch.addcmul(gates[first:end, 2 * width :], r, side[:, 2 * width :], out=n).tanh_()
            torch.lerp(n, h, z, out=out[first:end])
            if keep is not None:
                out[first:end].mul_(keep[first:end])
            first = end
        ctx.save_for_backward(weight, before, candidate_side, opened, keep, goes_on)
        ctx.sizes = sizes
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None, None]:
        weight, before, candidate_side, opened, keep, goes_on = ctx.saved_tensors
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
            first = end - size
            at_h = grad[first:end].clone()
            at_h[: len(carried)] += carried
            if keep is not None:
                at_h *= keep[first:end]
            at_n = torch.mul(at_h, to_n[first:end], out=last[first:end])
            rows = inner[first:end]
            torch.mul(at_n, to_r[first:end], out=rows[:, :width])
            torch.mul(at_h, to_z[first:end], out=rows[:, width : 2 * width])
            torch.mul(at_n, r[first:end], out=rows[:, 2 * width :])
            if first:
                carried = product(rows, weight).addcmul_(at_h, z[first:end])
                if goes_on is not None:
                    carried.mul_(goes_on[first:end])
            end = first
        at_weight, at_bias = over_rows(inner, before), inner.sum(0)
        at_gates = torch.cat([inner[:, : 2 * width], last], dim=1)
        return at_gates, at_weight, at_bias, None, None, None, None
