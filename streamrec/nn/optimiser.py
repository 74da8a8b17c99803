"""One optimiser for networks that hold tables of items: row-sparse Adagrad for the tables, Adam for the rest."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamrec.catalog import Catalog
from streamrec.nn.adagrad import Adagrad
from streamrec.parallel import joined, share
from streamrec.ports import State


class Optimiser:
    """Adagrad for what has a row per item, so that a step costs what the batch touched, and Adam for everything else.

    Args:
        net: whose parameters are trained; a parameter with `capacity + 1` rows is a table of items.
        catalog: gives the capacity.
        learning_rate: of Adam.
        item_learning_rate: of Adagrad.

    Raises:
        ValueError: a learning rate that is not above 0.
    """

    def __init__(self, net: nn.Module, catalog: Catalog, learning_rate: float, item_learning_rate: float) -> None:
        if learning_rate <= 0.0:
            raise ValueError(f"learning_rate must be above 0, got {learning_rate}")
        tables = {name: p for name, p in net.named_parameters() if len(p) == catalog.capacity + 1}
        dense = [p for name, p in net.named_parameters() if name not in tables]
        self.tables = Adagrad(tables.items(), item_learning_rate)
        self.dense = torch.optim.Adam(dense, learning_rate)
        joined(self, self.dense)

    def descend(self, loss: Tensor) -> None:
        """One step down the gradient of the scalar `loss`."""
        self.tables.zero_grad()
        self.dense.zero_grad()
        torch.autograd.backward(loss)
        self.tables.step()
        self.step()

    def moves(self) -> list[nn.Parameter]:
        """What has no row per item."""
        return [p for group in self.dense.param_groups for p in group["params"]]

    def step(self) -> None:
        """The part of a step that is not the tables'."""
        share(self)
        self.dense.step()

    def state_dict(self) -> State:
        """Accumulators and moments, as copies."""
        return {"tables": self.tables.state_dict(), "dense": moments(self.dense)}

    def load_state_dict(self, state: State) -> None:
        self.tables.load_state_dict(state["tables"])
        load_moments(self.dense, state["dense"])


def moments(adam: torch.optim.Adam) -> State:
    """Moments by the number of the parameter, as copies."""
    state = adam.state_dict()["state"]
    return {str(at): {name: value.clone() for name, value in one.items()} for at, one in state.items()}


def load_moments(adam: torch.optim.Adam, state: State) -> None:
    """Take over `moments` of an optimiser of the same parameters."""
    mine = {int(at): one for at, one in state.items()}
    adam.load_state_dict({"state": mine, "param_groups": adam.state_dict()["param_groups"]})
