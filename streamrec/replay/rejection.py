"""Rejection: an agent lives through those logged decisions that it would have made itself, and through no others."""

from __future__ import annotations

from typing import cast

import torch
from torch import Generator, Tensor

from streamrec.expiry import Recycles
from streamrec.ports import Agent, State
from streamrec.records import Decision, History, Transition


class Rejecting:
    """Accepts a logged decision with probability min(1, weight / bound), and learns from accepted ones only.

    The weight is pi(a) / p(a), what the policy would have done over what the logger did. Where no weight exceeds the
    bound, accepted decisions are a sample of what the policy would have seen in these states (rejection sampling: von
    Neumann 1951; as replay of a learning policy on a uniform log: Li et al., WSDM 2011; corrected by propensities:
    Dudik et al., UAI 2012, without their adaptive bound). Decisions with a larger weight are accepted with certainty
    and counted in `beyond`: each makes the sample lean towards the logger.

    A learner sees far fewer decisions than the log has ("time acceleration", Nicol et al., ICML 2014): it is updated
    once per `every` accepted decisions, and `updates` says how often.

    Args:
        agent: who decides and learns.
        bound: largest weight that is corrected for; 1 / (smallest propensity of a decision) is exact for
            every policy.
        every: accepted decisions per update.
        seed: of the draws.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(self, agent: Agent, bound: float, every: int = 512, seed: int = 0) -> None:
        if not bound >= 1.0 or every < 1:
            raise ValueError(f"bound and every must be at least 1, got bound={bound}, every={every}")
        self.agent, self.bound, self.every = agent, bound, every
        self.generator = Generator().manual_seed(seed)
        self.asked = self.accepted = self.beyond = self.learned = self.updates = 0

    def act(self, history: History) -> Decision:
        return self.agent.act(history)

    def judge(self, weight: Tensor) -> Tensor:
        """Which decisions are accepted: [B] bool of their weights [B], NaN = the logger's propensity is not known."""
        coin = torch.rand(weight.shape, generator=self.generator, dtype=torch.float64)
        accepted = coin * self.bound < weight
        self.asked += int((~weight.isnan()).sum())
        self.accepted += int(accepted.sum())
        self.beyond += int((weight > self.bound * (1 + 1e-5)).sum())  # propensities are float32
        return accepted

    def observe(self, transition: Transition) -> None:
        """Learn from decisions that were accepted: the caller leaves out the others."""
        self.agent.observe(transition)
        self.learned += len(transition)
        while self.learned >= self.every * (self.updates + 1):
            self.updates += 1
            self.agent.update()

    def update(self) -> dict[str, float]:
        """Nothing: updates follow accepted decisions, not those of the log."""
        return {}

    def recycle(self, rows: Tensor) -> None:
        cast(Recycles, self.agent).recycle(rows)

    def read(self) -> dict[str, float]:
        """What is worth telling: decisions asked about, accepted, beyond the bound, learned from, and updates."""
        names = ("asked", "accepted", "beyond", "learned", "updates")
        return {"bound": self.bound, **{name: getattr(self, name) for name in names}}

    def state_dict(self) -> State:
        counts = {name: value for name, value in self.read().items() if name != "bound"}
        return {"agent": self.agent.state_dict(), "counts": counts, "generator": self.generator.get_state()}

    def load_state_dict(self, state: State) -> None:
        self.agent.load_state_dict(state["agent"])
        for name, value in state["counts"].items():
            setattr(self, name, value)
        self.generator.set_state(state["generator"])
