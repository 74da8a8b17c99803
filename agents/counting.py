"""Any model that learns by counting as an agent: shows what the model ranks highest, tells it what was clicked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from agents.popular import Fade
from streamrec import expiry
from streamrec.catalog import Catalog
from streamrec.explore import choose, first_choice, offered, pick, unseen
from streamrec.ports import State
from streamrec.records import Decision, History, Transition

SCORES_AT_ONCE = 4_194_304
"""Scores held at a time while acting (16 MiB of float32)."""


class Model(Protocol):
    """What `Counting` needs of a model; see `streamrec.models.session_knn`."""

    def score(self, history: History) -> Tensor:
        """[B, catalog.size], 0 for what the model knows nothing about."""

    def observe(self, history: History, target: Tensor) -> None:
        """Take in clicks, each once, oldest first."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of `History` that are used."""

    def to(self, device: torch.device | str) -> Any: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


class Counting:
    """A model without weights as an agent: `act` = top K of its scores, `observe` = count; nothing is left to update.

    Items that the model knows nothing about come behind the others, those with the most clicks lately first.

    Args:
        model: scores, and counts what it observes.
        catalog: which items may be shown.
        slate: K, slots of a slate.
        half_life_clicks: clicks of anybody after which a click counts half in the popularity; None = it does not fade.
        epsilon: share of exploration, see `streamrec.explore.choose`; 0 = always the top K.
        exclude_seen: never show what is in the user's window of positives.
        seed: exploration.
        device: where the model lives.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(
        self,
        model: Model,
        catalog: Catalog,
        slate: int,
        half_life_clicks: float | None = 10_000.0,
        epsilon: float = 0.0,
        exclude_seen: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 0.0 <= epsilon <= 1.0:
            raise ValueError(f"epsilon must be between 0 and 1, got {epsilon}")
        self.model, self.catalog, self.slate = model, catalog, slate
        self.epsilon, self.exclude_seen = epsilon, exclude_seen
        self.device = torch.device(device)
        self.model.to(device)
        self.fade = Fade(None, half_life_clicks)
        self.clicks = torch.zeros(catalog.capacity + 1, dtype=torch.float64, device=self.device)
        self.generator = Generator(device).manual_seed(seed)
        expiry.check(catalog, model)

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of `History` that are used."""
        return self.model.reads

    def act(self, history: History) -> Decision:
        """The K available items with the highest scores, best first; 0 where fewer are available."""
        rows = max(1, SCORES_AT_ONCE // self.catalog.size)
        parts = [self._decide(history[start : start + rows]) for start in range(0, max(len(history), 1), rows)]
        return Decision.cat(parts)

    def _decide(self, history: History) -> Decision:
        seen = history.items if self.exclude_seen else None
        scores = self._scores(history)
        given = offered(history, self.catalog.available, seen)
        if given is not None:
            items, mask = given
            index, slot_logp = choose(
                scores.gather(1, items).where(mask, -torch.inf), self.slate, self.epsilon, self.generator
            )
            return Decision.of(history.user, pick(items, index), slot_logp)
        scores.masked_fill_(~self.catalog.available[: scores.shape[1]].to(self.device), -torch.inf)
        if seen is not None:
            scores.scatter_(1, seen.long(), -torch.inf)
        slate, slot_logp = choose(scores, self.slate, self.epsilon, self.generator)
        return Decision.of(history.user, slate.clamp(min=0), slot_logp)

    def scores(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """What the model says of the candidates, and below it popularity; see `streamrec.explore.Scoring`."""
        scores = self._scores(history).gather(1, items)
        return scores.where(unseen(mask, items, history.items if self.exclude_seen else None), -torch.inf)

    def probabilities(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """See `streamrec.explore.Probabilistic`."""
        return first_choice(self.scores(history, items, mask), self.epsilon, self.slate)

    def _scores(self, history: History) -> Tensor:
        """[B, catalog.size]: the model's where they are above 0, else below 0, by popularity."""
        scores = self.model.score(history)
        clicks = self.clicks[: scores.shape[1]]
        last = (0.5 * clicks / clicks.max().clamp(min=1e-30) - 1.0).float()
        return torch.where(scores > 0.0, scores, last)

    def observe(self, transition: Transition) -> None:
        """Have each clicked slot counted with the history it was clicked after."""
        shown = transition.shown.slate
        row, slot = torch.nonzero(transition.clicked() & (shown != 0), as_tuple=True)
        if len(row) == 0:
            return
        self.model.observe(transition.history[row], shown[row, slot])
        weight, scale = self.fade.weigh(transition.history.time[row])
        if scale != 1.0:
            self.clicks *= scale
        self.clicks.index_add_(0, shown[row, slot], weight)

    def update(self) -> dict[str, float]:
        """Nothing to do: counts are up to date as soon as a click is observed."""
        return {}

    def recycle(self, rows: Tensor) -> None:
        """Items have expired and others will have their rows [R] int64; see `streamrec.expiry`."""
        expiry.renew(self.catalog, rows, self.model)
        self.clicks[rows.to(self.device)] = 0.0

    def state_dict(self) -> State:
        """What was counted and randomness, as copies."""
        model = {name: value.clone() for name, value in self.model.state_dict().items()}
        clicks = self.clicks[: self.catalog.size].clone()
        random = self.generator.get_state()
        return {"model": model, "clicks": clicks, "fade": self.fade.state_dict(), "generator": random}

    def load_state_dict(self, state: State) -> None:
        self.model.load_state_dict(state["model"])
        self.clicks.zero_()
        self.clicks[: len(state["clicks"])] = state["clicks"]
        self.fade.load_state_dict(state["fade"])
        self.generator.set_state(state["generator"])
