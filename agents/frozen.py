"""An agent that stops learning: the baseline that shows what learning from the stream is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from streamrec.expiry import Recycles
from streamrec.explore import Probabilistic
from streamrec.loop import policy_names
from streamrec.ope.codes import POLICY_NOT_PROBABILISTIC, Refused
from streamrec.ports import Agent, State
from streamrec.records import Decision, History, Transition


class Frozen:
    """Learns from decisions of the first `after_s` seconds of event time, and from then on only decides.

    Time counts from the first decision seen. The first decision that is later freezes the agent for good: it
    observes nothing more, not even late transitions, and is not updated again.

    Args:
        agent: who decides.
        after_s: seconds of event time during which it learns; 0 = it never learns here.

    Raises:
        ValueError: if `after_s` is negative.
    """

    def __init__(self, agent: Agent, after_s: float = 0.0) -> None:
        if after_s < 0.0:
            raise ValueError(f"after_s must be at least 0, got {after_s}")
        self.agent, self.after_s = agent, after_s
        self.start: float | None = None  # event time of the first decision
        self.frozen = after_s == 0.0

    @property
    def names(self) -> Sequence[str]:
        """Policies of the agent inside."""
        return policy_names(self.agent)

    @property
    def shadows(self) -> int:
        """Slates in `Decision.shadow`."""
        return getattr(self.agent, "shadows", 0)

    def act(self, history: History) -> Decision:
        return self.agent.act(history)

    def probabilities(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """Those of the agent inside; see `streamrec.explore.Probabilistic`."""
        if not isinstance(self.agent, Probabilistic):
            raise Refused(POLICY_NOT_PROBABILISTIC, f"{type(self.agent).__name__} says none")
        return self.agent.probabilities(history, items, mask)

    def observe(self, transition: Transition) -> None:
        if self.frozen or len(transition) == 0:
            return
        time = transition.history.time
        if self.start is None:
            self.start = float(time.min())
        early = time < self.start + self.after_s
        self.frozen = not bool(early.all())
        if bool(early.any()):
            self.agent.observe(transition[early])

    def update(self) -> dict[str, float]:
        return {} if self.frozen else self.agent.update()

    def recycle(self, rows: Tensor) -> None:
        """Items that are gone leave the agent, frozen or not: a row must never stand for two items."""
        cast(Recycles, self.agent).recycle(rows)

    def state_dict(self) -> State:
        return {"agent": self.agent.state_dict(), "start": self.start, "frozen": self.frozen}

    def load_state_dict(self, state: State) -> None:
        self.agent.load_state_dict(state["agent"])
        self.start, self.frozen = state["start"], state["frozen"]
