"""V-SKNN: session-kNN in which the newest clicks weigh most."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from streamrec.catalog import Catalog
from streamrec.models.session_knn import Query, SessionKNN

Decay = Literal["same", "linear", "log", "div", "quadratic"]
"""How fast clicks lose weight with age."""

DECAYS: tuple[Decay, ...] = ("same", "linear", "log", "div", "quadratic")


class VSKNN(SessionKNN):
    """Vector multiplication session-kNN (Ludewig & Jannach, UMUAI 2018, "V-SKNN"), counted click by click.

    A session's similarity is the sum of the weights of the clicks it shares with the running one. It gives its items
    similarity * discount(position of the newest common item) * (1 + idf * log(sessions / sessions with the item)).

    With n clicks, of which the one of age a is the (a + 1)th newest, weights and discounts are

    * "same": 1; "linear": 1 - a / 10, not below 0 (discount: 1 - (a + 1) / 10); "log": 1 / log10(a + 1.7) (discount:
      1 / log10(a + 2.7));
    * "div": (n - a) / n (discount: 1 / (a + 1)); "quadratic": the square of "div".

    Departures from the authors' code (rn5l/session-rec, `vsknn.py`), beside those of `SessionKNN`: the linear weight
    goes by age, where theirs is 0 from the eleventh click of a session on, whatever its age; the idf counts the
    sessions that hold an item, theirs its clicks; scores are divided by the sum of the weights.

    Args:
        weighting: of the clicks of the running session.
        discount: of a neighbour by its newest common item.
        idf: how much more rare items get; 0 = nothing.

    Others as `SessionKNN`.
    """

    def __init__(
        self,
        catalog: Catalog,
        neighbours: int = 500,
        sample: int = 5000,
        weighting: Decay = "quadratic",
        discount: Decay = "div",
        idf: float = 0.0,
        last: int | None = None,
        sessions: int = 200_000,
        length: int = 20,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, value in (("weighting", weighting), ("discount", discount)):
            if value not in DECAYS:
                raise ValueError(f"{name} must be one of {', '.join(DECAYS)}, got {value!r}")
        if idf < 0.0:
            raise ValueError(f"idf must be at least 0, got {idf}")
        super().__init__(catalog, neighbours, sample, last=last, sessions=sessions, length=length, device=device)
        self.similarity = "sum"
        self.weighting, self.discount, self.idf = weighting, discount, idf

    def _most(self, query: Query) -> Tensor:
        """Where the running session has one item all sessions with it are equally similar: the newest win."""
        alone = query.size[query.row] == 1
        return super()._most(query).masked_fill(alone, self.neighbours + 1)  # 1 for the running session itself

    def _weights(self, age: Tensor, clicks: Tensor) -> Tensor:
        if self.weighting in ("div", "quadratic"):
            share = (clicks - age) / clicks
            return share if self.weighting == "div" else share.square()
        return _slow(self.weighting, age)

    def _discount(self, age: Tensor) -> Tensor:
        position = age + 1.0
        if self.discount in ("div", "quadratic"):
            return position.reciprocal() if self.discount == "div" else position.square().reciprocal()
        return _slow(self.discount, position)

    def _factors(self) -> Tensor | None:
        """1 + idf * log(sessions / sessions with the item)."""
        if self.idf == 0.0:
            return None
        index = self.index
        share = index.support.clamp(min=1) / max(min(index.begun, index.capacity), 1)
        return 1.0 - self.idf * share.log()


def _slow(decay: Decay, steps: Tensor) -> Tensor:
    if decay == "linear":
        return (1.0 - 0.1 * steps).clamp(min=0.0)
    if decay == "log":
        return (steps + 1.7).log10().reciprocal()
    return torch.ones_like(steps)
