"""Long chains of operations as one or two passes over memory, by torch's compiler.

Everything here exists elsewhere as well, step by step and in place; these are the same formulas in the form from which
the compiler makes loops. It takes seconds to, once per process, and needs a C++ compiler where the tensors are on a
processor, so whoever wants it says `compile = true`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of this module, compiled for shapes of every size.

    Raises:
        RuntimeError: when it is called and there is no compiler, or one that does not work.
    """
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    made = torch.compile(function, dynamic=True, fullgraph=True)

    def call(*args: Any, **keywords: Any) -> Any:
        try:
            return made(*args, **keywords)
        except BackendCompilerFailed as error:
            if not isinstance(error.inner_exception, CppCompileError | InvalidCxxCompiler):
                raise
            raise RuntimeError(
                f"compile = true needs a C++ compiler and the headers of Python, and failed: {error.inner_exception}; "
                "install them (Debian: g++ python3-dev) or leave `compile` out"
            ) from error

    return call


# --- losses of `streamrec.nn.merged_columns`, whose gradients take the place of the scores ------------------------


def bpr_max(
    scores: Tensor, positive: Tensor, weight: Tensor, regularisation: float, elu_param: float
) -> tuple[Tensor, Tensor]:
    """`merged_columns.bpr_max`."""
    at = positive.unsqueeze(1)
    r = torch.where(scores > 0, scores, elu_param * (scores.clamp_max(0.0).exp() - 1.0)) if elu_param else scores
    own = torch.arange(scores.shape[1], device=scores.device) == at
    many = torch.where(own, weight[at] - 1.0, weight)
    most = torch.where(many > 0, r, -torch.inf).amax(1, keepdim=True)
    share = (r - most).clamp_max(0.0).exp() * many
    better = (r.gather(1, at) - r).sigmoid()
    # Divided by their sum afterwards, shares are gone through once less.
    scale = 1.0 / share.sum(1, keepdim=True)
    mean, square = scale * (share * better).sum(1, keepdim=True), scale * (share * better * better).sum(1, keepdim=True)
    penalty = scale * (share * r * r).sum(1, keepdim=True)
    slope = -1.0 / (mean + 1e-24)
    gradient = scale * share * (slope * (better * better - mean) + regularisation * (r * r + 2.0 * r - penalty))
    gradient = gradient + torch.where(own, slope * (mean - square), 0.0)
    if elu_param:
        gradient = gradient * torch.where(scores > 0, 1.0, r + elu_param)
    total = (regularisation * penalty - torch.log(mean + 1e-24)).sum()
    return total, scores.copy_(gradient)


def cross_entropy(scores: Tensor, positive: Tensor, log_mass: Tensor, log_own: Tensor) -> tuple[Tensor, Tensor]:
    """`merged_columns.cross_entropy`."""
    at = positive.unsqueeze(1)
    mass = scores + log_mass
    log_sum = torch.logsumexp(mass, 1, keepdim=True)
    own = torch.arange(scores.shape[1], device=scores.device) == at
    total = (log_sum - scores.gather(1, at) - log_own[at]).sum()
    return total, scores.copy_((mass - log_sum).exp() - own.to(scores.dtype))


# --- one step of `streamrec.nn.recurrence` -----------------------------------------------------------------------


def gru_states(gates: Tensor, side: Tensor, before: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """What a step makes of both sides of the gates [T, 3H] and the states before it [T, H].

    Returns:
        states [T, H]; r, z, n after their activations [T, 3H].
    """
    width = before.shape[1]
    r = (gates[:, :width] + side[:, :width]).sigmoid()
    z = (gates[:, width : 2 * width] + side[:, width : 2 * width]).sigmoid()
    n = (gates[:, 2 * width :] + r * side[:, 2 * width :]).tanh()
    out = n + z * (before - n)
    return (out if keep is None else out * keep), torch.cat([r, z, n], dim=1)


def gru_slopes(
    grad: Tensor, opened: Tensor, side: Tensor, before: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The gradient at the hidden side of the gates and at their input side, [T, 3H] each, of that at the states."""
    width = before.shape[1]
    r, z, n = opened[:, :width], opened[:, width : 2 * width], opened[:, 2 * width :]
    at_h = grad if keep is None else grad * keep
    at_n = at_h * (1.0 - z) * (1.0 - n * n)
    at_r = at_n * side[:, 2 * width :] * r * (1.0 - r)
    at_z = at_h * (before - n) * z * (1.0 - z)
    return torch.cat([at_r, at_z, at_n * r], dim=1), torch.cat([at_r, at_z, at_n], dim=1)


# --- steps of `streamrec.nn.adagrad` -----------------------------------------------------------------------------

PARTS = 8
"""In which the rows of a table are moved: a quarter of a MiB for 2,000 rows 224 wide."""


def adagrad(moved: Sequence[tuple[Tensor, ...]], learning_rate: float, momentum: float, eps: float) -> None:
    """Move parameters that have dense gradients, in place: parameter, acc, velocity and gradient of each."""
    for parameter, acc, velocity, grad in moved:
        squares = acc + grad * grad
        change = momentum * velocity - learning_rate * grad * (squares + eps).rsqrt()
        acc.copy_(squares)
        velocity.copy_(change)
        parameter.add_(change)


def adagrad_rows(
    parameter: Tensor,
    acc: Tensor,
    velocity: Tensor,
    rows: Tensor,
    grad: Tensor,
    learning_rate: float,
    momentum: float,
    eps: float,
) -> None:
    """Move the rows [R] of a table, all different, whose gradients are `grad` [R, D], in place.

    In parts, so that rows are still in the cache when they are written back; R must be `PARTS`^2 or more, or parts of
    no or one row would have to be compiled apart.
    """
    for part in range(PARTS):
        some = slice(part * len(rows) // PARTS, (part + 1) * len(rows) // PARTS)
        row, slope = rows[some], grad[some]
        squares = acc[row] + slope * slope
        change = momentum * velocity[row] - learning_rate * slope * (squares + eps).rsqrt()
        acc.index_put_((row,), squares)
        velocity.index_put_((row,), change)
        parameter.index_put_((row,), parameter[row] + change)
