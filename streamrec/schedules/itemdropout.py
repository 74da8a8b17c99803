"""Random clicks left out of the history that the target came after."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from streamrec.ports import State
from streamrec.records import History
from streamrec.schedules.clicks import Click
from streamrec.schedules.schedule import Schedule


class ItemDropout:
    """Another schedule, with the data augmentation of Tan, Xu & Liu (DLRS 2016), model M1.

    Every prefix of a sequence is a training example there, as every click with what came before it is in a stream; and
    of a prefix, clicks are left out at random, so that the model does not lean on any one of them. The rest moves up: a
    window has no holes and still ends at the newest click that is left. The newest click itself can be left out.
    Columns of the window beside the items move with them, and `in_session` counts what is left of the session.

    Args:
        schedule: says what to train on.
        p: chance of leaving a click out.
        seed: of the draws.
        device: where the draws are made.

    Raises:
        ValueError: `p` is no probability below 1.
    """

    def __init__(self, schedule: Schedule, p: float = 0.1, seed: int = 0, device: torch.device | str = "cpu") -> None:
        if not 0.0 <= p < 1.0:
            raise ValueError(f"p must be at least 0 and below 1, got {p}")
        self.schedule = schedule
        self.p = p
        self.generator = Generator(device).manual_seed(seed)

    def add(self, model: Any, history: History, target: Tensor) -> None:
        self.schedule.add(model, history, target)

    def draw(self) -> Click | None:
        clicks = self.schedule.draw()
        return None if clicks is None else Click(self._thinned(clicks.history), clicks.target)

    def _thinned(self, history: History) -> History:
        items = history.items
        u = torch.rand(items.shape, generator=self.generator, device=self.generator.device).to(items.device)
        kept = (items != 0) & (u >= self.p)
        order = torch.argsort(kept.to(torch.uint8), dim=1, stable=True)  # the kept ones last, in their order
        place = torch.arange(items.shape[1] - 1, -1, -1, device=items.device)
        session = (kept & (place < history.in_session.unsqueeze(1))).sum(1)
        moved = {name: (getattr(history, name) * kept).gather(1, order) for name in _beside(history)}
        return replace(history, **moved, in_session=session)

    def loss(self, model: Any, clicks: Click) -> Tensor:
        return self.schedule.loss(model, clicks)

    def end_period(self, model: Any) -> None:
        self.schedule.end_period(model)

    def recycle(self, rows: Tensor) -> None:
        self.schedule.recycle(rows)

    def state_dict(self) -> State:
        return {"schedule": self.schedule.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: State) -> None:
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])


def _beside(history: History) -> list[str]:
    """Columns of the window of positives that are filled in this history."""
    return [name for name in ("items", "kinds", "times") if getattr(history, name).shape[1]]
