"""Where the policies ranked what people clicked, scored before anyone may learn from the click."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from streamrec.ports import State
from streamrec.records import Transition


def reciprocal_rank(ranked: Tensor, target: Tensor) -> Tensor:
    """1 / rank of the target in each list, 0 where it is not in it. [B, K], [B] -> [B] float64.

    A list has an order and no ties; item 0 (empty) is never a hit, and of a repeated item the first place counts.
    """
    hit = (ranked == target.unsqueeze(1)) & (ranked > 0)
    place = torch.arange(1, ranked.shape[1] + 1, device=ranked.device, dtype=torch.float64)
    if ranked.shape[1] == 0:
        return torch.zeros(len(ranked), dtype=torch.float64, device=ranked.device)
    return torch.where(hit, 1 / place, 0.0).max(dim=1).values


class Ranking:
    """Recall@k and MRR@k of each policy's list for what was clicked, over all items seen so far, by period.

    A click of an item that no policy could know yet counts as a miss. One target per clicked slot; with one target a
    list's recall is 1 or 0. Lists shorter than k slots have what they have. Without a panel, decisions that showed
    exactly what the policy wanted are left out: a click on one's own list says nothing about the ranking.

    Args:
        policies: names, in the order of `Decision.shadow` or of `Decision.policy`.
        k: depth of the lists.
        period_s: length of a period in event time, counted from the first decision; seconds.
        min_session: score only clicks before which the session had at least this many.
    """

    def __init__(self, policies: Sequence[str], k: int = 20, period_s: float = 604_800.0, min_session: int = 1) -> None:
        if period_s <= 0 or k < 1:
            raise ValueError(f"ranking needs k >= 1 and period_s > 0, got k={k}, period_s={period_s}")
        self.policies, self.k, self.period_s, self.min_session = list(policies), k, period_s, min_session
        self._start = math.nan
        self._sums = torch.zeros(0, len(policies), 3, dtype=torch.float64)  # [period, policy, (recall, rr, n)]

    def see(self, transition: Transition) -> None:
        if math.isnan(self._start):
            self._start = float(transition.history.time.min())
        alone = transition.wanted.shadow.shape[1] == 0
        rows = transition.history.in_session >= self.min_session
        if alone:
            rows &= ~transition.as_wanted()
        row, slot = torch.nonzero(transition.clicked() & rows.unsqueeze(1), as_tuple=True)
        if len(row) == 0:
            return
        target = transition.shown.slate[row, slot]
        period = ((transition.history.time[row] - self._start) / self.period_s).floor().long().clamp(min=0).cpu()
        self._grow(int(period.max()) + 1)
        for at in range(len(self.policies)):
            lists = transition.wanted.slate if alone else transition.wanted.shadow[:, at]
            rr = reciprocal_rank(lists[row, : self.k], target).cpu()
            mine = (transition.wanted.policy[row] == at).cpu().double() if alone else torch.ones_like(rr)
            figures = torch.stack([(rr > 0) * mine, rr * mine, mine], dim=1)
            self._sums[:, at].index_add_(0, period, figures)

    def _grow(self, periods: int) -> None:
        if periods > len(self._sums):
            more = self._sums.new_zeros(periods - len(self._sums), *self._sums.shape[1:])
            self._sums = torch.cat([self._sums, more])

    def read(self) -> dict[str, Any]:
        periods = [
            {"period": at, "start": self._start + at * self.period_s, "models": self._figures(sums)}
            for at, sums in enumerate(self._sums)
            if float(sums[:, 2].sum()) > 0
        ]
        return {"periods": periods, "total": self._figures(self._sums.sum(0))}

    def _figures(self, sums: Tensor) -> dict[str, dict[str, float]]:
        models = {}
        for name, (recall, rr, n) in zip(self.policies, sums.tolist(), strict=True):
            if n:
                models[name] = {f"recall{self.k}": recall / n, f"mrr{self.k}": rr / n, "n": int(n)}
        return models

    def state_dict(self) -> State:
        return {"start": torch.tensor(self._start, dtype=torch.float64), "sums": self._sums}

    def load_state_dict(self, state: State) -> None:
        self._start, self._sums = float(state["start"]), state["sums"].clone()
