"""New clicks and older ones, the older the rarer."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from streamrec.ports import State
from streamrec.records import History
from streamrec.schedules.clicks import Click, Clicks, Mixture, alive
from streamrec.schedules.schedule import Learner


class Decay:
    """A step trains on what is new and on older clicks drawn with P ~ 2^(-age / half_life_clicks).

    Age is counted in clicks, so a draw costs the same whatever is remembered. In expectation this is the gradient of a
    loss in which old clicks weigh exponentially less, the recency weighting of stream learning.

    Args:
        half_life_clicks: clicks after which one is drawn half as often.
        memory: newest clicks kept.
        batch: clicks in one step, at least; see `streamrec.schedules.clicks.Mixture`.
        replay_ratio: older clicks per new one, at least.
        seed: of the draws.
        device: where the memory lives.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        half_life_clicks: float = 50_000,
        memory: int = 200_000,
        batch: int = 256,
        replay_ratio: float = 1.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if not half_life_clicks > 0.0:
            raise ValueError(f"half_life_clicks must be above 0, got {half_life_clicks}")
        self.rate = math.log(2.0) / half_life_clicks
        self.mixture = Mixture(batch, replay_ratio)
        self.clicks = Clicks(memory, torch.device(device))
        self.generator = Generator(device).manual_seed(seed)

    def add(self, model: object, history: History, target: Tensor) -> None:
        self.clicks.add(history, target)

    def draw(self) -> Click | None:
        """New clicks, oldest first, then older ones at random, with replacement."""
        clicks = self.clicks
        if clicks.added == 0:
            return None
        before = clicks.trained
        new = clicks.take(self.mixture.most_new)
        held = before - clicks.oldest
        count = min(self.mixture.older(len(new)), held)
        return alive(clicks[torch.cat([new, before - 1 - self._ages(count, held)])])

    def _ages(self, count: int, held: int) -> Tensor:
        """[count] int64 in 0..held - 1 with P(age) ~ exp(-rate * age), by the inverse of its distribution function."""
        if count == 0:
            return torch.zeros(0, dtype=torch.int64, device=self.clicks.device)
        generator = self.generator
        u = torch.rand(count, generator=generator, dtype=torch.float64, device=generator.device).to(self.clicks.device)
        inside = -math.expm1(-self.rate * held)  # of the whole geometric series, the part that is held
        ages = torch.floor(-torch.log1p(-u * inside) / self.rate).long()
        return ages.clamp(max=held - 1)

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
