"""Adam for models that hold a table of items: what attention is trained with, where the catalogue is not large."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from streamrec.parallel import joined, share
from streamrec.ports import State


class Adam:
    """Adam (Kingma & Ba, ICLR 2015, algorithm 1) with the face of `streamrec.nn.adagrad.Adagrad`.

    Row-sparse gradients are made dense: each step moves every row that ever had a gradient, as in the authors' SASRec
    and BERT4Rec, and costs the capacity of the catalogue. A loss over all items touches every row anyway; for a large
    catalogue with sampled negatives take Adagrad. Rows without any gradient so far stay where they are.

    Args:
        parameters: pairs of name and parameter, as `nn.Module.named_parameters` gives them.
        learning_rate: at its highest; may be set anew between steps.
        beta1: decay of the mean of gradients.
        beta2: decay of the mean of their squares; the authors of SASRec took .98.
        eps: added to the root of that mean.
        warmup: steps in which the learning rate rises from 0.
        steps: all that will be made: the learning rate falls in a straight line until it is 0 then. None = it stays.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        learning_rate: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.98,
        eps: float = 1e-8,
        warmup: int = 0,
        steps: int | None = None,
    ) -> None:
        if learning_rate <= 0.0:
            raise ValueError(f"learning_rate must be above 0, got {learning_rate}")
        for name, beta in (("beta1", beta1), ("beta2", beta2)):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"{name} must be at least 0 and below 1, got {beta}")
        if warmup < 0 or (steps is not None and steps <= warmup):
            raise ValueError(f"expected 0 <= warmup < steps, got warmup={warmup}, steps={steps}")
        self.parameters = dict(parameters)
        self.learning_rate = learning_rate
        self.warmup, self.steps = warmup, steps
        self._adam = torch.optim.Adam(self.parameters.values(), learning_rate, (beta1, beta2), eps, fused=True)
        joined(self, self._adam)

    def moves(self) -> list[nn.Parameter]:
        """What it moves."""
        return list(self.parameters.values())

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def step(self) -> None:
        """Move every parameter that has a gradient, here or in another learner of the model."""
        share(self)
        for parameter in self.parameters.values():
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()
        self._adam.param_groups[0]["lr"] = self.learning_rate * self._share()
        self._adam.step()
        # The fused step does not say that it changed anything, and carried states go by that.
        torch.autograd.graph.increment_version(list(self.parameters.values()))

    def _share(self) -> float:
        """Of the learning rate, in the step that comes now. Moments know how many steps were made."""
        if not self.warmup and self.steps is None:
            return 1.0
        now = 1 + max((int(moments["step"]) for moments in self._adam.state.values()), default=0)
        rise = min(1.0, now / self.warmup) if self.warmup else 1.0
        return rise if self.steps is None else rise * max(0.0, 1.0 - now / self.steps)

    def state_dict(self) -> State:
        """Copies of the moments by parameter name."""
        names = list(self.parameters)
        return {
            names[at]: {key: value.clone() for key, value in moments.items()}
            for at, moments in self._adam.state_dict()["state"].items()
        }

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()`.

        Raises:
            ValueError: if it belongs to other parameters.
        """
        unknown = sorted(set(state) - set(self.parameters))
        if unknown:
            raise ValueError(
                f"the optimiser's state has moments of {unknown}, expected some of {list(self.parameters)}"
            )
        moments = {at: state[name] for at, name in enumerate(self.parameters) if name in state}
        groups = self._adam.state_dict()["param_groups"]
        self._adam.load_state_dict({"state": moments, "param_groups": groups})
