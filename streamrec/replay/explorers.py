"""Wrappers that turn a ranker into a policy with exact probabilities, so that its value can be estimated."""

from __future__ import annotations

from typing import cast

import torch
from torch import Generator, Tensor

from streamrec.catalog import Catalog
from streamrec.expiry import Recycles
from streamrec.explore import Scoring, choose, first_choice, first_draw, offered, pick, plackett_luce
from streamrec.ports import Agent, State
from streamrec.records import Decision, History, Transition


class Explorer:
    """What both wrappers share: scores of candidates from any agent, and the rest handed through.

    An agent that is `Scoring` is asked for its scores. Of any other only its list is known: the item in place i gets
    the score -i, everything that is not listed the score -K.

    Args:
        agent: the ranker.
        catalog: which items may be shown.
        slate: K, slots of a slate.
        seed: of the draws.
    """

    def __init__(self, agent: Agent, catalog: Catalog, slate: int, seed: int = 0) -> None:
        self.agent, self.catalog, self.slate = agent, catalog, slate
        self.generator = Generator().manual_seed(seed)

    def scores(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """See `streamrec.explore.Scoring`."""
        if isinstance(self.agent, Scoring):
            return self.agent.scores(history, items, mask)
        listed = self.agent.act(history).slate
        scores = torch.full(items.shape, -float(listed.shape[1]), dtype=torch.float64)
        for place in range(listed.shape[1] - 1, -1, -1):
            scores.masked_fill_((items == listed[:, place : place + 1]) & (items > 0), -float(place))
        return scores.where(mask, -torch.inf)

    def act(self, history: History) -> Decision:
        items, mask = candidates(history, self.catalog)
        index, slot_logp = self._draw(self.scores(history, items, mask))
        return Decision.of(history.user, pick(items, index), slot_logp)

    def _draw(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        raise TypeError(f"{type(self).__name__} draws no slates: use EpsilonGreedy or PlackettLuce")

    def observe(self, transition: Transition) -> None:
        self.agent.observe(transition)

    def update(self) -> dict[str, float]:
        return self.agent.update()

    def recycle(self, rows: Tensor) -> None:
        cast(Recycles, self.agent).recycle(rows)

    def state_dict(self) -> State:
        return {"agent": self.agent.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: State) -> None:
        self.agent.load_state_dict(state["agent"])
        self.generator.set_state(state["generator"])


class EpsilonGreedy(Explorer):
    """Per slot with probability 1 - epsilon the best candidate left, else any one left (`streamrec.explore.choose`).

    Args:
        epsilon: share of exploration. Others as `Explorer`.

    Raises:
        ValueError: epsilon is no probability.
    """

    def __init__(self, agent: Agent, catalog: Catalog, slate: int, epsilon: float = 0.05, seed: int = 0) -> None:
        if not 0.0 <= epsilon <= 1.0:
            raise ValueError(f"epsilon must be between 0 and 1, got {epsilon}")
        super().__init__(agent, catalog, slate, seed)
        self.epsilon = epsilon

    def probabilities(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """See `streamrec.explore.Probabilistic`."""
        return first_choice(self.scores(history, items, mask), self.epsilon, self.slate)

    def _draw(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return choose(scores, self.slate, self.epsilon, self.generator)


class PlackettLuce(Explorer):
    """Slot after slot one of the candidates left, in proportion to exp(score / temperature).

    In its first slot this is the softmax of the scores; `streamrec.explore.plackett_luce` has the slates.

    Args:
        temperature: above 0, in units of the scores. Others as `Explorer`.

    Raises:
        ValueError: temperature is not above 0.
    """

    def __init__(self, agent: Agent, catalog: Catalog, slate: int, temperature: float = 1.0, seed: int = 0) -> None:
        if not temperature > 0.0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        super().__init__(agent, catalog, slate, seed)
        self.temperature = temperature

    def probabilities(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """See `streamrec.explore.Probabilistic`."""
        return first_draw(self.scores(history, items, mask), self.temperature)

    def _draw(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return plackett_luce(scores, self.slate, self.temperature, self.generator)


def candidates(history: History, catalog: Catalog) -> tuple[Tensor, Tensor]:
    """What may be shown: items [B, C] int64 and mask [B, C] bool; what came with the request, else all available.

    Where nothing is, as at the first request of a log, there is one column of "no item" that may not be shown.
    """
    given = offered(history, catalog.available)
    if given is not None:
        return given
    rows = torch.nonzero(catalog.available[: catalog.size].to(history.user.device)).squeeze(1)
    items = (rows if len(rows) else rows.new_zeros(1)).expand(len(history), -1)
    return items, items > 0
