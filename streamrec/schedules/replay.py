"""New clicks and a uniform sample of older ones: the schedule of those who name none."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from streamrec.ports import State
from streamrec.records import History
from streamrec.schedules.clicks import Click, Clicks, Mixture, alive, between
from streamrec.schedules.schedule import Learner


class Replay:
    """A step trains on what is new and on `replay_ratio` times as many clicks drawn uniformly from a ring.

    Calls without anything new are epochs over the memory. Only ids are remembered, never vectors.

    Args:
        memory: newest clicks kept.
        batch: clicks in one step, at least; see `streamrec.schedules.clicks.Mixture`.
        replay_ratio: older clicks per new one, at least.
        seed: of the draws.
        generator: draw from this one instead; whoever gave it saves it too.
        device: where the memory lives.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        memory: int = 200_000,
        batch: int = 256,
        replay_ratio: float = 1.0,
        seed: int = 0,
        generator: Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if memory < batch:
            raise ValueError(f"memory must be at least batch, got batch={batch}, memory={memory}")
        self.mixture = Mixture(batch, replay_ratio)
        self.clicks = Clicks(memory, torch.device(device))
        self.generator = Generator(device).manual_seed(seed) if generator is None else generator

    def add(self, model: object, history: History, target: Tensor) -> None:
        self.clicks.add(history, target)

    def draw(self) -> Click | None:
        """New clicks, oldest first, then older ones at random."""
        clicks = self.clicks
        if clicks.added == 0:
            return None
        before = clicks.trained
        new = clicks.take(self.mixture.most_new)
        count = min(self.mixture.older(len(new)), before - clicks.oldest)
        older = between(clicks.oldest, before, count, self.generator, clicks.device)
        return alive(clicks[torch.cat([new, older])])

    def loss(self, model: Learner, clicks: Click) -> Tensor:
        return model.loss(clicks.history, clicks.target)

    def end_period(self, model: object) -> None:
        """Periods mean nothing here."""

    def recycle(self, rows: Tensor) -> None:
        self.clicks.recycle(rows)

    def state_dict(self) -> State:
        return {"clicks": self.clicks.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: State) -> None:
        self.clicks.load_state_dict(state["clicks"])
        self.generator.set_state(state["generator"])
