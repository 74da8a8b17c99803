"""A step of session-parallel training as one compiled function: forward, backward and optimiser.

Everything here exists elsewhere as well, operation by operation; these are the same formulas with their gradients
written out, in the form from which torch's compiler makes a few loops. That saves passes over memory, and what autograd
and the calls themselves cost. Compiling takes seconds, once per process, and needs a C++ compiler where the tensors are
on a processor, so whoever wants it says `compile = true`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from streamrec.nn import dropout
from streamrec.nn.adagrad import Adagrad
from streamrec.training.shared import Columns

Gradient = Callable[..., tuple[Tensor, Tensor]]
"""scores [B, C], positive [B], `SharedNegatives.arguments` -> the sum of a loss over the rows, its gradient [B, C]."""

Moved = tuple[Tensor, Tensor, Tensor]
"""A parameter, its acc and its velocity (`streamrec.nn.adagrad.Adagrad`)."""


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


def moved(optimiser: Adagrad, parameter: Tensor) -> Moved:
    """What a step changes of `parameter`, outside of any graph."""
    name = next(name for name, mine in optimiser.parameters.items() if mine is parameter)
    return parameter.detach(), optimiser.acc[name], optimiser.velocity[name]


def step(
    loss: Gradient,
    arguments: Mapping[str, Tensor | float],
    tables: tuple[Moved, Moved],
    layers: Sequence[Sequence[Moved]],
    columns: Columns,
    starts: Sequence[Tensor],
    goes_on: Tensor,
    dropped: Sequence[tuple[Tensor, float] | None],
    rows: int,
    settings: tuple[float, float, float],
    parts: int,
) -> tuple[Tensor, list[Tensor]]:
    """One click of each of T lanes, as `streamrec.training.lanes.Lanes` and the optimiser do it; moves parameters.

    Args:
        loss: `bpr_max` or `cross_entropy`.
        arguments: of `loss`, see `streamrec.training.shared.SharedNegatives.arguments`.
        tables: item vectors [N, D] and biases [N, 1].
        layers: parameters of each `streamrec.encoders.gru4rec.Layer`: weights [3D, D] and biases [3D] of both sides.
        columns: what is scored and read.
        starts: [T, D] per layer, states before.
        goes_on: [T, 1] float32, 0 where a session begins, else 1.
        dropped: bits [T, D] (`streamrec.nn.dropout.bits`) and p of the dropout of the inputs and of each layer; None
            = no dropout.
        rows: what the sum of the loss is divided by.
        settings: learning rate, momentum and eps of the optimiser.
        parts: in which rows of the table are moved.

    Returns:
        the loss, and states [T, D] per layer.
    """
    table, biases = tables
    vectors = table[0].index_select(0, columns.items)
    bias = biases[0].view(-1).index_select(0, columns.items)
    kept, *keeps = [None if some is None else dropout.kept(*some) for some in dropped]
    states, tape = _forward(layers, _times(vectors.index_select(0, columns.read), kept), starts, goes_on, keeps)
    total, at_scores = loss(torch.addmm(bias, states[-1], vectors.t()), columns.positive, **arguments)
    at_vectors = at_scores.t() @ (states[-1] / rows)
    at_read = _times(_backward(layers, tape, keeps, at_scores @ vectors / rows, settings), kept)
    adagrad_rows(table, columns.items, vectors, at_vectors.index_add(0, columns.read, at_read), settings, parts)
    adagrad_biases(biases, columns.items, at_scores.sum(0) / rows, columns.listed > 0, settings)
    return total / rows, states


Tape = list[tuple[Tensor, Tensor, Tensor, Tensor]]
"""Of each layer: input [T, D], states before [T, D], hidden side of the gates and the gates opened, [T, 3D] each."""


def _forward(
    layers: Sequence[Sequence[Moved]],
    x: Tensor,
    starts: Sequence[Tensor],
    goes_on: Tensor,
    keeps: Sequence[Tensor | None],
) -> tuple[list[Tensor], Tape]:
    """States of each layer, and what the way back needs."""
    states: list[Tensor] = []
    tape: Tape = []
    for layer, start, keep in zip(layers, starts, keeps, strict=True):
        inner, outer, inner_bias, outer_bias = (weight[0] for weight in layer)
        before = start * goes_on
        side = torch.addmm(outer_bias, before, outer.t())
        out, opened = gru_states(torch.addmm(inner_bias, x, inner.t()), side, before, keep)
        tape.append((x, before, side, opened))
        states.append(out)
        x = out
    return states, tape


def _backward(
    layers: Sequence[Sequence[Moved]],
    tape: Tape,
    keeps: Sequence[Tensor | None],
    grad: Tensor,
    settings: tuple[float, float, float],
) -> Tensor:
    """The gradient at the inputs of that at the last states, [T, D] both; moves the weights."""
    for layer, (x, before, side, opened), keep in zip(layers[::-1], tape[::-1], keeps[::-1], strict=True):
        at_side, at_gates = gru_slopes(grad, opened, side, before, keep)
        grad = at_gates @ layer[0][0]
        slopes = at_gates.t() @ x, at_side.t() @ before, at_gates.sum(0), at_side.sum(0)
        for weight, slope in zip(layer, slopes, strict=True):
            adagrad(weight, slope, settings)
    return grad


def _times(x: Tensor, keep: Tensor | None) -> Tensor:
    return x if keep is None else x * keep


# --- losses of `streamrec.nn.merged_columns` ---------------------------------------------------------------------


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
    return (regularisation * penalty - torch.log(mean + 1e-24)).sum(), gradient


def cross_entropy(scores: Tensor, positive: Tensor, log_mass: Tensor, log_own: Tensor) -> tuple[Tensor, Tensor]:
    """`merged_columns.cross_entropy`."""
    at = positive.unsqueeze(1)
    mass = scores + log_mass
    log_sum = torch.logsumexp(mass, 1, keepdim=True)
    own = torch.arange(scores.shape[1], device=scores.device) == at
    total = (log_sum - scores.gather(1, at) - log_own[at]).sum()
    return total, (mass - log_sum).exp() - own.to(scores.dtype)


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
    return _times(n + z * (before - n), keep), torch.cat([r, z, n], dim=1)


def gru_slopes(
    grad: Tensor, opened: Tensor, side: Tensor, before: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The gradient at the hidden side of the gates and at their input side, [T, 3H] each, of that at the states."""
    width = before.shape[1]
    r, z, n = opened[:, :width], opened[:, width : 2 * width], opened[:, 2 * width :]
    at_h = _times(grad, keep)
    at_n = at_h * (1.0 - z) * (1.0 - n * n)
    at_r = at_n * side[:, 2 * width :] * r * (1.0 - r)
    at_z = at_h * (before - n) * z * (1.0 - z)
    return torch.cat([at_r, at_z, at_n * r], dim=1), torch.cat([at_r, at_z, at_n], dim=1)


# --- steps of `streamrec.nn.adagrad` -----------------------------------------------------------------------------


def adagrad(weight: Moved, grad: Tensor, settings: tuple[float, float, float]) -> None:
    """Move a parameter that has a dense gradient, in place."""
    parameter, acc, velocity = weight
    squares, change = _adagrad(acc, velocity, grad, settings)
    acc.copy_(squares)
    velocity.copy_(change)
    parameter.add_(change)


def adagrad_rows(
    table: Moved, rows: Tensor, values: Tensor, grad: Tensor, settings: tuple[float, float, float], parts: int
) -> None:
    """Move the rows [R] of a table, all different, whose values and gradients are [R, D], in place.

    In parts, so that rows are still in the cache when they are written back; R must be `parts`^2 or more, or parts of
    no or one row would have to be compiled apart.
    """
    parameter, acc, velocity = table
    for part in range(parts):
        some = slice(part * len(rows) // parts, (part + 1) * len(rows) // parts)
        row = rows[some]
        squares, change = _adagrad(acc[row], velocity[row], grad[some], settings)
        acc.index_put_((row,), squares)
        velocity.index_put_((row,), change)
        parameter.index_put_((row,), values[some] + change)


def adagrad_biases(
    table: Moved, rows: Tensor, grad: Tensor, listed: Tensor, settings: tuple[float, float, float]
) -> None:
    """Move those of the rows [R] of a table of width 1 that are `listed` [R] bool: momentum must not move others."""
    parameter, acc, velocity = (part.view(-1) for part in table)
    before = acc[rows], velocity[rows]
    squares, change = _adagrad(*before, grad, settings)
    acc.index_put_((rows,), torch.where(listed, squares, before[0]))
    velocity.index_put_((rows,), torch.where(listed, change, before[1]))
    parameter.index_put_((rows,), parameter[rows] + torch.where(listed, change, 0.0))


def _adagrad(
    acc: Tensor, velocity: Tensor, grad: Tensor, settings: tuple[float, float, float]
) -> tuple[Tensor, Tensor]:
    """The new acc, and the change, which is the new velocity."""
    learning_rate, momentum, eps = settings
    squares = acc + grad * grad
    return squares, momentum * velocity - learning_rate * grad * (squares + eps).rsqrt()
