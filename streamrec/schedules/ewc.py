"""Elastic weight consolidation: weights that mattered stay near where they were."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from streamrec.ports import State
from streamrec.records import History
from streamrec.schedules import heads
from streamrec.schedules.clicks import Click, between
from streamrec.schedules.heads import Factored
from streamrec.schedules.period import RunningPeriod


class EWC:
    """A step on the running period, with elastic weight consolidation (Kirkpatrick et al., PNAS 2017, eq. 3).

        loss(clicks) + strength / 2 sum_k F_k (w_k - w*_k)^2

    w* are the weights at the end of the period before and F the diagonal of the Fisher information there: the mean over
    `samples` clicks of that period of the squared gradient of -log p(clicked item), over all items. As in the
    comparison of ADER (Mi et al. 2020), w* and F are those of the last period alone. Departure from their code: it
    replaces w* and F after every epoch, so that it holds on to where it was a moment ago.

    Each step costs the whole model: this is here to compare with, not to be used on large catalogues.

    Args:
        period_s: seconds of event time in a period; None = `end_period` says when one is over.
        strength: weight of the penalty.
        samples: clicks that the Fisher information is estimated from.
        memory: newest clicks kept of the running period.
        batch: clicks in one step, at least; see `streamrec.schedules.clicks.Mixture`.
        replay_ratio: older clicks of the running period per new one, at least.
        seed: of the draws.
        device: where the memory lives.

    Raises:
        ValueError: a setting out of its range; later, a model that has no features.
    """

    def __init__(
        self,
        period_s: float | None = None,
        strength: float = 500.0,
        samples: int = 200,
        memory: int = 200_000,
        batch: int = 256,
        replay_ratio: float = 1.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if strength < 0.0:
            raise ValueError(f"strength must be at least 0, got {strength}")
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        self.strength, self.samples = strength, samples
        self.device = torch.device(device)
        self.generator = Generator(device).manual_seed(seed)
        self.period = RunningPeriod(period_s, memory, batch, replay_ratio, self.generator, device)
        self.anchor: dict[str, Tensor] = {}  # w*, by name of the parameter
        self.fisher: dict[str, Tensor] = {}  # F
        self.tables: list[str] = []  # names of the weights that have a row per item

    def add(self, model: Factored, history: History, target: Tensor) -> None:
        for ended, part in self.period.periods.pieces(history.time):
            if ended:
                self.end_period(model)
            self.period.clicks.add(history[part], target[part])

    def draw(self) -> Click | None:
        """New clicks, oldest first, then some of the running period; None where it has none."""
        return self.period.draw()

    def loss(self, model: Factored, clicks: Click) -> Tensor:
        loss = model.loss(clicks.history, clicks.target)
        extra = self.penalty(model, len(clicks))
        return loss if extra is None else loss + extra

    def penalty(self, model: Factored, clicks: int) -> Tensor | None:
        """strength / 2 sum F (w - w*)^2, however many `clicks` the step has; None in the first period."""
        if not self.anchor:
            return None
        total = torch.zeros((), device=self.device)
        for name, weight in heads.parameters(model):
            anchor, fisher = self.anchor[name], self.fisher[name]
            total = total + (fisher * (weight[: len(anchor)] - anchor).square()).sum()
        return 0.5 * self.strength * total

    def end_period(self, model: Factored) -> None:
        """Where the weights are now, and how much each of them matters for the clicks of the period."""
        heads.check(model, "EWC")
        clicks = self.period.held()
        self.period.end()
        if clicks is None:
            return
        size, rows = model.catalog.capacity + 1, model.catalog.size
        self.tables = [name for name, weight in heads.parameters(model) if len(weight) == size]
        parts = {name: weight[:rows] if name in self.tables else weight for name, weight in heads.parameters(model)}
        self.anchor = {name: weight.detach().clone() for name, weight in parts.items()}
        self.fisher = {name: torch.zeros_like(anchor) for name, anchor in self.anchor.items()}
        some = clicks[between(0, len(clicks), self.samples, self.generator, self.device)]
        for at in range(self.samples):
            self._square(model, some[at : at + 1], rows)

    def _square(self, model: Factored, click: Click, rows: int) -> None:
        """Add the squared gradient of one click."""
        names, weights = zip(*heads.parameters(model), strict=True)
        loss = F.cross_entropy(heads.scores(model, heads.features(model, click.history), rows), click.target - 1)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        for name, gradient in zip(names, gradients, strict=True):
            if gradient is not None:
                dense = gradient.to_dense() if gradient.is_sparse else gradient
                mine = self.fisher[name]
                mine.addcmul_(dense[: len(mine)], dense[: len(mine)], value=1.0 / self.samples)

    def recycle(self, rows: Tensor) -> None:
        """What new items in old rows do is not held back."""
        self.period.clicks.recycle(rows)
        for name in self.tables:
            fisher = self.fisher[name]
            fisher[rows[rows < len(fisher)]] = 0.0

    def state_dict(self) -> State:
        return {
            "period": self.period.state_dict(),
            "tables": list(self.tables),
            "anchor": {name: x.clone() for name, x in self.anchor.items()},
            "fisher": {name: x.clone() for name, x in self.fisher.items()},
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        self.period.load_state_dict(state["period"])
        self.tables = list(state["tables"])
        self.anchor = {name: x.to(self.device) for name, x in state["anchor"].items()}
        self.fisher = {name: x.to(self.device) for name, x in state["fisher"].items()}
        self.generator.set_state(state["generator"])
