"""New clicks and a sample of all clicks there ever were, each of them equally likely to be in it."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from streamrec.expiry import blank
from streamrec.ports import State
from streamrec.records import History
from streamrec.schedules.clicks import Click, Clicks, Mixture, alive, between, unpacked
from streamrec.schedules.schedule import Learner


class Reservoir:
    """A step trains on what is new and on clicks drawn uniformly from a reservoir (Vitter 1985, Algorithm R).

    After t clicks each of them is in the reservoir with the same chance, memory / t, however long ago it was: what
    stream recommenders keep against forgetting (SSRM, Guo et al., KDD 2019; GAG, Qiu et al., SIGIR 2020). New clicks
    that do not make it into the reservoir are still trained on once.

    Departure from SSRM and GAG: clicks are drawn uniformly, not by how badly the model predicts them.

    Args:
        memory: clicks in the reservoir.
        batch: clicks in one step, at least; see `streamrec.schedules.clicks.Mixture`.
        replay_ratio: clicks of the reservoir per new one, at least.
        seed: of the draws.
        device: where the memory lives.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        memory: int = 50_000,
        batch: int = 256,
        replay_ratio: float = 1.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if memory < 1:
            raise ValueError(f"memory must be at least 1, got {memory}")
        self.memory = memory
        self.mixture = Mixture(batch, replay_ratio)
        self.new = Clicks(self.mixture.most_new, torch.device(device))  # what no step has seen yet
        self.generator = Generator(device).manual_seed(seed)
        self.seen = 0  # clicks offered to the reservoir
        self.kept: Click | None = None  # [memory] rows, of which the first min(seen, memory) are filled

    @property
    def filled(self) -> int:
        return min(self.seen, self.memory)

    def add(self, model: object, history: History, target: Tensor) -> None:
        self.new.add(history, target)

    def draw(self) -> Click | None:
        """New clicks, then some of the reservoir; the new ones are offered to it afterwards."""
        numbers = self.new.take(self.mixture.most_new)
        if len(numbers) == 0 and self.filled == 0:
            return None
        count = min(self.mixture.older(len(numbers)), self.filled)
        older = between(0, self.filled, count, self.generator, self.new.device)
        parts = [] if len(numbers) == 0 else [self.new[numbers]]
        if self.kept is not None and count:
            parts.append(self.kept[older])
        if len(numbers):
            self._offer(parts[0])
        return alive(Click.cat(parts))

    def _offer(self, clicks: Click) -> None:
        """Algorithm R for many at once: click number t goes to a random place of t, if that place is in the reservoir.

        Where two are given the same place the later one gets it, as if they had come one after the other.
        """
        if self.kept is None:
            self.kept = clicks.allocate(self.memory)
        device = self.new.device
        t = self.seen + 1 + torch.arange(len(clicks), device=device)  # how many there are, with this one
        u = torch.rand(len(clicks), generator=self.generator, dtype=torch.float64, device=self.generator.device)
        place = torch.where(t <= self.memory, t - 1, (u.to(device) * t).long().minimum(t - 1))
        order = torch.arange(len(clicks), device=device)
        winner = torch.full((self.memory,), -1, device=device)
        inside = place < self.memory
        winner.scatter_reduce_(0, place[inside], order[inside], "amax")
        where = torch.nonzero(winner >= 0).squeeze(1)
        self.kept.put(where, clicks[winner[where]])
        self.seen += len(clicks)

    def loss(self, model: Learner, clicks: Click) -> Tensor:
        return model.loss(clicks.history, clicks.target)

    def end_period(self, model: object) -> None:
        """Periods mean nothing here."""

    def recycle(self, rows: Tensor) -> None:
        self.new.recycle(rows)
        if self.kept is not None:
            blank(self.kept, rows)

    def state_dict(self) -> State:
        kept = {} if self.kept is None else {name: x[: self.filled].clone() for name, x in self.kept.columns()}
        return {
            "memory": self.memory,
            "seen": self.seen,
            "kept": kept,
            "new": self.new.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()`.

        Raises:
            ValueError: if it was saved with another size of the reservoir.
        """
        if state["memory"] != self.memory:
            raise ValueError(f"the reservoir was saved with memory={state['memory']}, here it is {self.memory}")
        self.seen, self.kept = state["seen"], None
        if state["kept"]:
            saved = unpacked(state["kept"], self.new.device)
            self.kept = saved.allocate(self.memory)
            self.kept.put(torch.arange(len(saved), device=self.new.device), saved)
        self.new.load_state_dict(state["new"])
        self.generator.set_state(state["generator"])
