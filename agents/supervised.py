"""Any next-item model as an agent: shows what the model ranks highest, learns from what was clicked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from streamrec.catalog import Catalog
from streamrec.expiry import check, renew
from streamrec.explore import choose, first_choice, offered, pick, unseen
from streamrec.nn.adagrad import Adagrad
from streamrec.ports import State
from streamrec.records import Decision, History, Transition
from streamrec.schedules.clicks import check_columns, slim
from streamrec.schedules.replay import Replay
from streamrec.schedules.schedule import Schedule

SCORES_AT_ONCE = 4_194_304
"""Scores held at a time while acting (16 MiB of float32): wide catalogues are ranked some users after the others."""


class Model(Protocol):
    """What `Supervised` needs of a model; see `streamrec.models`."""

    def score(self, history: History, items: Tensor | None = None) -> Tensor:
        """[B, catalog.size], or [B, C] of `items` [B, C]."""

    def loss(self, history: History, target: Tensor) -> Tensor:
        """Scalar to differentiate."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of `History` that are used: the others need not be remembered."""

    def to(self, device: torch.device | str) -> Any: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


@runtime_checkable
class Counts(Protocol):
    """A model, or a part of one, that learns a click when it is seen; see `streamrec.models.blend`."""

    def observe(self, history: History, target: Tensor) -> None:
        """Take in the clicks `target` [B] int64 after `history`, each once, oldest first."""


class Supervised:
    """A model as an agent: `act` = top K of its scores, `observe` = remember clicks, `update` = one optimiser step.

    What is remembered and what a step trains on is the schedule's business (`streamrec.schedules`). Without one, it is
    `streamrec.schedules.replay.Replay`: every click that is new since the last step, `replay_ratio` times as many older
    ones drawn uniformly from memory, and as many more as it takes to reach `batch`.

    The learning rate, eps and `batch` belong to an update every 128 clicks or so (`run.update_every`); many more clicks
    per step mean fewer steps and slower learning. Clicks beyond `4 * batch` wait for the next step.

    Args:
        model: scores and losses; its item table is trained by rows (`streamrec.nn.adagrad.Adagrad`).
        catalog: which items may be shown.
        slate: K, slots of a slate.
        learning_rate: of Adagrad.
        momentum: of Adagrad.
        eps: of Adagrad. The authors' 1e-6 is for losses averaged over 32 to 80 clicks; it weighs more the larger the
            batch and the smaller the gradients.
        schedule: what is remembered and trained on; None = `Replay` with the next three.
        batch: clicks in one step, at least; None = 256.
        replay_ratio: older clicks per new one, at least; None = 1.
        memory: newest clicks kept for replay; None = 200,000.
        epsilon: share of exploration, see `streamrec.explore.choose`; 0 = always the top K.
        exclude_seen: never show what is in the user's window of positives.
        seed: replay and exploration.
        device: where the model and the memory live.

    Raises:
        ValueError: if a setting is out of its range, or given beside a schedule that has its own.
    """

    def __init__(
        self,
        model: Model,
        catalog: Catalog,
        slate: int,
        learning_rate: float = 0.07,
        momentum: float = 0.0,
        eps: float = 1e-8,
        schedule: Schedule | None = None,
        batch: int | None = None,
        replay_ratio: float | None = None,
        memory: int | None = None,
        epsilon: float = 0.0,
        exclude_seen: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 0.0 <= epsilon <= 1.0:
            raise ValueError(f"epsilon must be between 0 and 1, got {epsilon}")
        self.catalog = catalog
        self.slate = slate
        self.epsilon = epsilon
        self.exclude_seen = exclude_seen
        self.device = torch.device(device)
        self.generator = Generator(device).manual_seed(seed)
        self.model = model
        self.model.to(device)
        self.optimiser = Adagrad(model.named_parameters(), learning_rate, momentum, eps)
        check_columns(model.reads)
        self.schedule = self._replay(schedule, batch=batch, replay_ratio=replay_ratio, memory=memory)
        check(catalog, model, self.schedule)

    def _replay(self, schedule: Schedule | None, **settings: Any) -> Schedule:
        """The schedule given, or the default one, which shares the agent's generator."""
        given = {name: value for name, value in settings.items() if value is not None}
        if schedule is None:
            return Replay(generator=self.generator, device=self.device, **given)
        if given:
            raise ValueError(f"{', '.join(given)} must be left out beside a schedule: give them to the schedule")
        return schedule

    @torch.no_grad()
    def act(self, history: History) -> Decision:
        """The K available items with the highest scores, best first; 0 where fewer are available."""
        rows = max(1, SCORES_AT_ONCE // self.catalog.size)
        if len(history) <= rows:
            return self._decide(history)
        parts = [self._decide(history[start : start + rows]) for start in range(0, len(history), rows)]
        return Decision.cat(parts)

    def _decide(self, history: History) -> Decision:
        seen = history.items if self.exclude_seen else None
        given = offered(history, self.catalog.available, seen)
        if given is not None:
            items, mask = given
            scores = self.model.score(history, items).where(mask, -torch.inf)
            index, slot_logp = choose(scores, self.slate, self.epsilon, self.generator)
            return Decision.of(history.user, pick(items, index), slot_logp)
        scores = self.model.score(history)
        scores.masked_fill_(~self.catalog.available[: scores.shape[1]].to(self.device), -torch.inf)
        if self.exclude_seen:
            scores.scatter_(1, history.items.long(), -torch.inf)
        slate, slot_logp = choose(scores, self.slate, self.epsilon, self.generator)
        return Decision.of(history.user, slate.clamp(min=0), slot_logp)

    @torch.no_grad()
    def scores(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """What the model says of the candidates, see `streamrec.explore.Scoring`."""
        few = 4 * items.shape[1] < self.catalog.size
        scores = self.model.score(history, items) if few else self.model.score(history).gather(1, items)
        return scores.where(unseen(mask, items, history.items if self.exclude_seen else None), -torch.inf)

    def probabilities(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """See `streamrec.explore.Probabilistic`."""
        return first_choice(self.scores(history, items, mask), self.epsilon, self.slate)

    def observe(self, transition: Transition) -> None:
        """Hand each clicked slot to the schedule, with the history it was clicked after."""
        shown = transition.shown.slate
        row, slot = torch.nonzero(transition.clicked() & (shown != 0), as_tuple=True)
        if isinstance(self.model, Counts):
            self.model.observe(transition.history[row], shown[row, slot])
        self.schedule.add(self.model, slim(transition.history[row], self.model.reads), shown[row, slot])

    def update(self) -> dict[str, float]:
        """One optimiser step; {} as long as no click was observed."""
        clicks = self.schedule.draw()
        if clicks is None:
            return {}
        self.optimiser.zero_grad()
        loss = self.schedule.loss(self.model, clicks)
        torch.autograd.backward(loss)
        self.optimiser.step()
        return {"loss": float(loss.detach())}

    def recycle(self, rows: Tensor) -> None:
        """Items have expired and others will have their rows [R] int64; see `streamrec.expiry`."""
        renew(self.catalog, rows, self.model, self.optimiser, self.schedule)

    def state_dict(self) -> State:
        """Weights, optimiser, memory and randomness, as copies."""
        return {
            "model": {name: value.clone() for name, value in self.model.state_dict().items()},
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
