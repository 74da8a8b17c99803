"""The compiled loops of `streamrec.evaluation.screened`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrec.loops import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

BLOCK = 256
"""Items looked at together: only a block with an open case is looked at again, one by one."""


@compiled(reassoc=True)
def _dot(left: Floats, right: Floats) -> np.float32:
    total = np.float32(0.0)
    for at in range(len(left)):
        total += left[at] * right[at]
    return total


@compiled()
def rank(
    products: NDArray[np.int32],
    scale: Floats,
    margin: Floats,
    hidden: Floats,
    weight: Floats,
    bias: Floats,
    row: Ints,
    target: Ints,
    depth: int,
    out: Floats,
) -> None:
    """Count the items that are not scored below targets, until there are more than `depth`.

    Args:
        products: [B, N], of states and items in 8 bits.
        scale: [B], that brings scores to the unit of the products.
        margin: [B], by how much a score from the products may be wrong.
        hidden, weight, bias: [B, D], [N, D] and [N].
        row, target: [Q], state and item asked about.
        depth: see above.
        out: [Q].
    """
    for question in range(len(row)):
        at, wanted = row[question], target[question]
        own = _dot(hidden[at], weight[wanted]) + bias[wanted]
        low, high = (own - margin[at]) * scale[at], (own + margin[at]) * scale[at]
        above, mine = 0, products[at]
        for begin in range(1, len(bias), BLOCK):
            some, biases = mine[begin : begin + BLOCK], bias[begin : begin + BLOCK]
            surely, maybe = np.int32(0), np.int32(0)
            for i in range(len(some)):
                value = np.float32(some[i]) + scale[at] * biases[i]
                surely += np.int32(value > high)
                maybe += np.int32(value >= low)
            above += int(surely)
            if maybe > surely and above <= depth:
                for i in range(len(some)):
                    value = np.float32(some[i]) + scale[at] * biases[i]
                    if low <= value <= high and _dot(hidden[at], weight[begin + i]) + biases[i] >= own:
                        above += 1
            if above > depth:
                break
        out[question] = above
