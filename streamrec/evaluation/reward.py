"""Reward per decision of each policy, with an interval that respects that decisions of one user belong together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from streamrec.ports import State
from streamrec.records import Transition


class Reward:
    """Mean reward per decision and its 95 % interval, for every policy that shares the users.

    A policy is credited with a decision only where the world showed exactly what the policy wanted. Everything else,
    in a log nearly everything, goes to the row "logged": the reward of whoever decided then.

    Interval: decisions of one user are dependent, so sums are kept per bucket of users (hash of the user id) and the
    standard error is that of a ratio of bucket sums, `sqrt(sum_b (S_b - m N_b)^2) / N`. With more users than buckets
    this equals clustering by user for practical purposes; `tests/streamrec/test_reward.py` checks its coverage.

    Args:
        policies: names of the policies, in the order of `Decision.policy`.
        buckets: hash buckets of users.
        recent: `recent` is the exponentially weighted mean reward of about this many newest decisions of a policy.
    """

    def __init__(self, policies: Sequence[str], buckets: int = 4096, recent: int = 1000) -> None:
        self.policies, self.buckets, self.keep = [*policies, "logged"], buckets, 1 - 2 / (recent + 1)
        rows = len(self.policies)
        self._sum = torch.zeros(rows, buckets, dtype=torch.float64)
        self._count = torch.zeros(rows, buckets, dtype=torch.float64)
        self._recent = torch.zeros(rows, dtype=torch.float64)
        self._weight = torch.zeros(rows, dtype=torch.float64)  # mass behind `recent`, grows to 1

    def see(self, transition: Transition) -> None:
        policy = torch.where(transition.as_wanted(), transition.wanted.policy, len(self.policies) - 1).cpu()
        reward = transition.reward.double().cpu()
        cell = policy * self.buckets + transition.history.key.cpu() % self.buckets
        self._sum.view(-1).index_add_(0, cell, reward)
        self._count.view(-1).index_add_(0, cell, torch.ones_like(reward))
        for at in sorted(set(policy.tolist())):
            self._fade(at, reward[policy == at])

    def _fade(self, policy: int, rewards: Tensor) -> None:
        n = len(rewards)
        weights = (1 - self.keep) * self.keep ** torch.arange(n - 1, -1, -1, dtype=torch.float64)
        self._recent[policy] = self._recent[policy] * self.keep**n + (weights * rewards).sum()
        self._weight[policy] = self._weight[policy] * self.keep**n + weights.sum()

    def read(self) -> dict[str, Any]:
        figures = {name: self._figures(at) for at, name in enumerate(self.policies)}
        return {"policies": {name: row for name, row in figures.items() if row is not None}}

    def _figures(self, policy: int) -> dict[str, float] | None:
        total, sums, counts = self._count[policy].sum(), self._sum[policy], self._count[policy]
        if total == 0:
            return None
        mean = sums.sum() / total
        half = 1.96 * torch.sqrt(((sums - mean * counts) ** 2).sum()) / total
        return {
            "reward": float(mean),
            "low": float(mean - half),
            "high": float(mean + half),
            "decisions": int(total),
            "recent": float(self._recent[policy] / self._weight[policy]),
        }

    def state_dict(self) -> State:
        return {"sum": self._sum, "count": self._count, "recent": self._recent, "weight": self._weight}

    def load_state_dict(self, state: State) -> None:
        self._sum, self._count = state["sum"].clone(), state["count"].clone()
        self._recent, self._weight = state["recent"].clone(), state["weight"].clone()
