"""Exact ranks of the best items from inexact scores: products of 8-bit numbers settle nearly all of the catalogue.

A float32 product of states and items is most of an evaluation. Processors multiply 8-bit integers several times as
fast; with a bound on what rounding can have changed (Cauchy-Schwarz on the rests of both factors) the score of nearly
every item is surely above or surely below that of the target, and the few others are scored in float32.

For processors that multiply 8-bit integers (VNNI), where numba is installed (`pip install "streamrec[fast]"`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streamrec import loops

WORTH = 1 << 33
"""Multiplications and additions of an evaluation from which on it is worth while: a fifth of a second in float32."""

ROUNDING = 1e-6
"""What float32 may add to an error, as a share of the largest score there can be."""

LEVELS = 127
"""Of 8-bit numbers, on either side of 0."""


def available(work: float, hidden: Tensor) -> bool:
    """Whether ranks for so much `work` are had this way, from such states."""
    if work < WORTH or not hidden.is_cpu or hidden.dtype != torch.float32 or not loops.AVAILABLE:
        return False
    multiplies = getattr(torch.cpu, "_is_vnni_supported", None)  # private names, as is the product's
    return multiplies is not None and multiplies() and hasattr(torch, "_int_mm")


@dataclass
class Screen:
    """Vectors and biases of N items, and the vectors in 8 bits.

    With c the largest size of each of the D columns, an item's vector is c * (q / 127 + e), q whole and |e| small.
    """

    weight: Tensor  # [N, D] float32
    bias: Tensor  # [N] float32
    columns: Tensor  # [D], c
    levels: Tensor  # [D, N] int8, q
    longest: float  # of the vectors over c
    rest: float  # longest e

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> Screen:
        columns = weight.abs().amax(0).clamp(min=1e-12)
        scaled = weight / columns
        levels = (scaled * LEVELS).round_()
        longest, rest = float(scaled.norm(dim=1).max()), float((scaled - levels / LEVELS).norm(dim=1).max())
        # Of one column, `contiguous` would leave strides that torch's product misreads (2.13).
        levels = levels.to(torch.int8).t().clone(memory_format=torch.contiguous_format)
        return cls(weight.contiguous(), bias.contiguous(), columns, levels, longest, rest)

    def ranks(self, hidden: Tensor, row: Tensor, target: Tensor, depth: int) -> Tensor:
        """How many items but item 0 are not scored below `target`, [Q] float32; some number above `depth` if more are.

        Args:
            hidden: [B, D] states.
            row: [Q] int64, which of them is asked about.
            target: [Q] int64, items.
            depth: how far ranks matter, at least 1.
        """
        from streamrec.evaluation import screen_loops

        scaled = hidden * self.columns
        step = scaled.abs().amax(1, keepdim=True).div_(LEVELS)
        step.masked_fill_(step == 0.0, 1.0)
        levels = (scaled / step).round_()
        rest, length = (scaled - levels * step).norm(dim=1), scaled.norm(dim=1)
        margin = 1.01 * (rest * self.longest + levels.norm(dim=1) * step[:, 0] * self.rest)
        margin += ROUNDING * (length * self.longest + self.bias.abs().max())
        products = torch._int_mm(levels.to(torch.int8), self.levels)
        out = torch.empty(len(target))
        screen_loops.rank(
            products.numpy(),
            (LEVELS / step[:, 0]).numpy(),
            margin.numpy(),
            hidden.contiguous().numpy(),
            self.weight.numpy(),
            self.bias.numpy(),
            row.numpy(),
            target.numpy(),
            depth,
            out.numpy(),
        )
        return out
