"""Adagrad with momentum that touches only the rows a batch touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamrec.parallel import joined, share
from streamrec.ports import State


class Adagrad:
    """The optimiser of the authors' GRU4Rec (hidasib/GRU4Rec_PyTorch_Official), for dense and row-sparse gradients.

    acc += g^2;  step = -learning_rate * g / sqrt(acc + eps);  v = momentum * v + step;  p += v

    It differs from `torch.optim.Adagrad` in what matters for quality: eps is inside the root, acc starts at 0, and
    the momentum is applied to the scaled step. Of a sparse gradient, repeated rows are summed before they are
    squared, and only the rows present move, momentum included: a step costs what the batch touched, where Adam on
    a table of the catalogue's capacity would cost the capacity.

    `norm` keeps rows of a table at one Euclidean length: after a step, those that moved are set back to it (projected
    gradient descent). With item vectors of one length the score of an item is a matter of direction alone, not of how
    often it was clicked, as in NISER (Gupta et al., CIKM 2019 workshop), which divides by the length instead.

    Args:
        parameters: pairs of name and parameter, as `nn.Module.named_parameters` gives them.
        learning_rate: Adagrad wants large ones: .05 to .2.
        momentum: 0 = none.
        eps: added to acc before the root.
        norm: name of a table -> length of its rows, above 0. A row that has not moved yet is as it was.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        learning_rate: float = 0.05,
        momentum: float = 0.0,
        eps: float = 1e-6,
        norm: Mapping[str, float] | None = None,
    ) -> None:
        if learning_rate <= 0.0:
            raise ValueError(f"learning_rate must be above 0, got {learning_rate}")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must be at least 0 and below 1, got {momentum}")
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.eps = eps
        self.parameters = dict(parameters)
        self.norm = _checked(norm or {}, self.parameters)
        self.acc = {name: torch.zeros_like(p, requires_grad=False) for name, p in self.parameters.items()}
        moving = self.acc if momentum else {}
        self.velocity = {name: torch.zeros_like(acc) for name, acc in moving.items()}
        joined(self)

    def moves(self) -> list[nn.Parameter]:
        """What it moves."""
        return list(self.parameters.values())

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient, here or in another learner of the model."""
        share(self)
        dense = []
        for name, parameter in self.parameters.items():
            grad = parameter.grad
            if grad is None:
                continue
            if grad.is_sparse:
                whole = grad.coalesce()
                self._sparse(name, parameter, whole.indices()[0], whole.values())
                self._hold(name, parameter, whole.indices()[0])
            else:
                dense.append((name, parameter, grad))
        self._dense(dense)
        for name, parameter, _ in dense:
            self._hold(name, parameter)

    def _dense(self, moved: Sequence[tuple[str, Tensor, Tensor]]) -> None:
        for name, parameter, grad in moved:
            scale = (self.acc[name].addcmul_(grad, grad) + self.eps).rsqrt_()
            if self.momentum:
                velocity = self.velocity[name].mul_(self.momentum)
                parameter.add_(velocity.addcmul_(grad, scale, value=-self.learning_rate))
            else:
                parameter.addcmul_(grad, scale, value=-self.learning_rate)

    def _sparse(self, name: str, parameter: Tensor, rows: Tensor, grad: Tensor) -> None:
        """`rows` differ. `index_select` is several times as fast as `[rows]`."""
        acc, velocity = self.acc[name], self.velocity.get(name)
        if grad.shape[1:] == (1,):  # a vector is treated as such: four times as fast as a table of width 1
            parameter, acc, grad = parameter.view(-1), acc.view(-1), grad.view(-1)
            velocity = None if velocity is None else velocity.view(-1)
        squares = acc.index_select(0, rows).addcmul_(grad, grad)
        acc.index_copy_(0, rows, squares)
        scale = squares.add_(self.eps).rsqrt_()
        if velocity is None:
            parameter.index_add_(0, rows, scale.mul_(grad).mul_(-self.learning_rate))
            return
        change = velocity.index_select(0, rows).mul_(self.momentum).addcmul_(grad, scale, value=-self.learning_rate)
        velocity.index_copy_(0, rows, change)
        parameter.index_add_(0, rows, change)

    def _hold(self, name: str, parameter: Tensor, rows: Tensor | None = None) -> None:
        """Set `rows`, or all that ever had a gradient, back to their length."""
        if name not in self.norm:
            return
        if rows is None:
            rows = self.acc[name].any(1).nonzero().squeeze(1)
        moved = F.normalize(parameter.index_select(0, rows), dim=1)
        parameter.index_copy_(0, rows, moved.mul_(self.norm[name]))

    def state_dict(self) -> State:
        """Copies of the accumulators and, with momentum, of the velocities, by parameter name."""
        return {
            "acc": {name: value.clone() for name, value in self.acc.items()},
            "velocity": {name: value.clone() for name, value in self.velocity.items()},
        }

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()`.

        Raises:
            ValueError: if it belongs to other parameters, or to the same ones with and without momentum.
        """
        for kind, mine in (("acc", self.acc), ("velocity", self.velocity)):
            theirs = state[kind]
            if mine.keys() != theirs.keys():
                raise ValueError(
                    f"the optimiser's state has {kind} for {sorted(theirs)}, expected {sorted(mine)}: "
                    "build the model and the optimiser (momentum) as they were when the state was saved"
                )
            for name, value in mine.items():
                value.copy_(theirs[name])


def _checked(norm: Mapping[str, float], parameters: Mapping[str, Tensor]) -> dict[str, float]:
    for name, length in norm.items():
        if name not in parameters or parameters[name].dim() != 2:
            tables = sorted(name for name, value in parameters.items() if value.dim() == 2)
            raise ValueError(f"norm names {name!r}, which is no table of the model; its tables are {tables}")
        if not length > 0.0:
            raise ValueError(f"norm of {name!r} must be above 0, got {length}")
    return dict(norm)
