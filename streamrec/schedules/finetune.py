"""Everything at first, then the newest period alone."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from streamrec.ports import State
from streamrec.records import History
from streamrec.schedules.clicks import Click
from streamrec.schedules.period import RunningPeriod
from streamrec.schedules.schedule import Learner


class FineTune:
    """Pre-training on all clicks, fine-tuning on recent ones (Tan, Xu & Liu, DLRS 2016, model M2).

    A step trains on what is new and on clicks drawn uniformly from the running period; during the first `pretrain`
    periods from all that is remembered. The weights go on from where they were.

    Departures: Tan et al. choose the recent part as a fraction of a fixed data set (1/4 to 1/256) and train once on
    everything, once on that part; here the part is a period and moves on with the stream. Their augmentation, which M2
    contains, is `streamrec.schedules.itemdropout.ItemDropout` around this.

    Args:
        period_s: seconds of event time in a period; None = `end_period` says when one is over.
        pretrain: periods that are learned together, from the beginning.
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
        period_s: float | None = None,
        pretrain: int = 1,
        memory: int = 200_000,
        batch: int = 256,
        replay_ratio: float = 1.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if pretrain < 1:
            raise ValueError(f"pretrain must be at least 1 period, got {pretrain}")
        self.pretrain = pretrain
        self.generator = Generator(device).manual_seed(seed)
        self.period = RunningPeriod(period_s, memory, batch, replay_ratio, self.generator, device)
        self.ended = 0  # periods

    def add(self, model: object, history: History, target: Tensor) -> None:
        for ended, part in self.period.periods.pieces(history.time):
            if ended:
                self.end_period(model)
            self.period.clicks.add(history[part], target[part])

    def end_period(self, model: object) -> None:
        """Clicks from here on are a new period; those before it are drawn no more once pre-training is over."""
        self.ended += 1
        if self.ended >= self.pretrain:
            self.period.end()

    def draw(self) -> Click | None:
        """New clicks, oldest first, then some of the running period; None where it has none."""
        return self.period.draw()

    def loss(self, model: Learner, clicks: Click) -> Tensor:
        return model.loss(clicks.history, clicks.target)

    def recycle(self, rows: Tensor) -> None:
        self.period.clicks.recycle(rows)

    def state_dict(self) -> State:
        return {"period": self.period.state_dict(), "ended": self.ended, "generator": self.generator.get_state()}

    def load_state_dict(self, state: State) -> None:
        self.period.load_state_dict(state["period"])
        self.ended = state["ended"]
        self.generator.set_state(state["generator"])
