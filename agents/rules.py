"""Sequential rules: after this item, that one."""

from __future__ import annotations

import torch
from torch import Tensor

from agents.itemknn import ItemKNN
from streamrec.catalog import Catalog


class SequentialRules(ItemKNN):
    """Rules "i, then j" learned click by click, applied to the last item only (Ludewig & Jannach, UMUAI 2018, "SR").

    A click on j adds 1/d to the rule from each item clicked d <= `window` clicks before it in the session; the score
    of j is the sum for the last item. It differs from `ItemKNN` in this: pairs have a direction, an item may follow
    itself, and the sums are not normalised.

    Args: as `ItemKNN`.
    """

    def __init__(
        self,
        catalog: Catalog,
        slate: int,
        neighbours: int = 100,
        window: int = 10,
        half_life_s: float | None = None,
        half_life_clicks: float | None = None,
        epsilon: float = 0.0,
        exclude_seen: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(
            catalog,
            slate,
            neighbours,
            window,
            last=1,
            power=0.0,
            shrink=0.0,
            half_life_s=half_life_s,
            half_life_clicks=half_life_clicks,
            epsilon=epsilon,
            exclude_seen=exclude_seen,
            seed=seed,
            device=device,
        )

    def _count(self, earlier: Tensor, later: Tensor, weight: Tensor) -> None:
        """Only forwards."""
        self._add(earlier, later, weight)
