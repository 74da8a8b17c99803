"""Soft targets from a teacher that has seen what the user clicked afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.expiry import among, renew
from streamrec.nn.adagrad import Adagrad
from streamrec.ports import State
from streamrec.records import History, rank_within
from streamrec.schedules import heads
from streamrec.schedules.clicks import Click, Clicks, Mixture, alive, between
from streamrec.schedules.distillation import divergence
from streamrec.schedules.heads import Factored


class Privileged:
    """Learning with privileged information (Tan, Xu & Liu, DLRS 2016, model M3; Vapnik & Vashist 2009).

    A teacher predicts a click from the clicks that followed it in the session, the latest first; with soft targets from
    it the model minimises weight * loss + (1 - weight) * KD. A stream knows what followed only later: a new click is
    trained on with its own loss alone, and drawn again with the teacher's opinion once its user has gone on clicking
    (in `soft`, at least one of up to `future` clicks is known).

    Departures: the teacher learns beside the student, one step of its own for each of the student's, where the paper
    trains it first; KD runs over `columns` drawn items and the batch's targets, None = all items as in the paper.

    Args:
        teacher: a model like the student, with weights of its own; it reads clicks in reverse.
        weight: of the loss by what was clicked; the rest is for the teacher's opinion.
        future: later clicks the teacher sees, at most.
        columns: items that the two are compared on.
        learning_rate: of the teacher's Adagrad.
        memory: newest clicks kept.
        batch: clicks in one step, at least; see `streamrec.schedules.clicks.Mixture`.
        replay_ratio: older clicks per new one, at least.
        seed: of the draws.
        device: where the memory and the teacher live.

    Raises:
        ValueError: a setting out of its range, or a teacher without features.
    """

    def __init__(
        self,
        teacher: Factored,
        weight: float = 0.5,
        future: int = 10,
        columns: int | None = 2048,
        learning_rate: float = 0.07,
        memory: int = 200_000,
        batch: int = 256,
        replay_ratio: float = 1.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        heads.check(teacher, "Privileged")
        if not 0.0 <= weight <= 1.0:
            raise ValueError(f"weight must be between 0 and 1, got {weight}")
        if future < 1 or (columns is not None and columns < 1):
            raise ValueError(f"future and columns must be at least 1, got future={future}, columns={columns}")
        self.teacher, self.weight, self.columns = teacher, weight, columns
        _module(teacher).to(device)
        self.optimiser = Adagrad(_module(teacher).named_parameters(), learning_rate)
        self.mixture = Mixture(batch, replay_ratio)
        self.clicks = Clicks(memory, torch.device(device))
        self.generator = Generator(device).manual_seed(seed)
        self.later = torch.zeros(memory, future, dtype=torch.int32, device=device)  # [row of the ring], soonest first
        self.earlier = torch.full((memory,), -1, device=device)  # number of the user's click before this one
        self.newest = torch.full((0,), -1, device=device)  # number of the newest click by row of the user
        self.drawn = torch.zeros(0, dtype=torch.int64, device=device)  # numbers of the last draw

    # --- what follows what ---------------------------------------------------------------------------------------

    def add(self, model: object, history: History, target: Tensor) -> None:
        """Remember clicks, and for those remembered already that these came after them."""
        if len(target) == 0:
            return
        self._reach(int(history.user.max()) + 1)
        for wave in _waves(history.user):
            self._add(history[wave], target[wave])

    def _add(self, history: History, target: Tensor) -> None:
        """One click per user."""
        kept = slice(max(len(target) - self.clicks.capacity, 0), len(target))
        numbers = self.clicks.add(history, target)
        rows, user, item = numbers % self.clicks.capacity, history.user[kept], target[kept].int()
        before = self.newest[user]
        before = torch.where(history.in_session[kept] > 0, before, -1)  # a new session follows nothing
        self.earlier[rows], self.later[rows] = before, 0
        self.newest[user] = numbers
        for distance in range(self.later.shape[1]):
            before = torch.where(before >= self.clicks.oldest, before, -1)
            known = before >= 0
            place = before[known] % self.clicks.capacity
            self.later[place, distance] = item[known]
            before = torch.where(known, self.earlier[before.clamp(min=0) % self.clicks.capacity], -1)

    def _reach(self, users: int) -> None:
        missing = users - len(self.newest)
        if missing > 0:  # twice as long as before: rows of users are few and bounded by the store they come from
            self.newest = F.pad(self.newest, (0, max(missing, len(self.newest))), value=-1)

    # --- steps ---------------------------------------------------------------------------------------------------

    def draw(self) -> Click | None:
        """New clicks, oldest first, then older ones at random."""
        clicks = self.clicks
        if clicks.added == 0:
            return None
        before = clicks.trained
        new = clicks.take(self.mixture.most_new)
        count = min(self.mixture.older(len(new)), before - clicks.oldest)
        drawn = torch.cat([new, between(clicks.oldest, before, count, self.generator, clicks.device)])
        some = clicks[drawn]
        self.drawn = drawn[some.target != 0]
        return alive(some)

    def loss(self, model: Factored, clicks: Click) -> Tensor:
        """For the clicks of the last `draw`. The teacher takes a step, too."""
        loss = model.loss(clicks.history, clicks.target)
        rows = torch.nonzero(self.later[self.drawn % self.clicks.capacity, 0]).squeeze(1)
        if len(rows) == 0:
            return loss
        some, after = clicks[rows], self._after(self.drawn[rows])
        self._teach(after, some.target)
        columns = self._columns(model, some.target)
        with torch.no_grad():
            opinion = heads.scores(self.teacher, heads.features(self.teacher, after), columns)
        mine = heads.scores(model, heads.features(model, some.history, learn=True), columns)
        share = len(rows) / len(clicks)
        soft = share * divergence(mine, opinion)
        return (1.0 - share * (1.0 - self.weight)) * loss + (1.0 - self.weight) * soft

    def _after(self, numbers: Tensor) -> History:
        """What followed the clicks of these numbers, as a history that ends with what came next."""
        items = self.later[numbers % self.clicks.capacity].flip(1)
        return History.of(user=numbers, items=items)

    def _teach(self, after: History, target: Tensor) -> None:
        self.optimiser.zero_grad()
        torch.autograd.backward(self.teacher.loss(after, target))
        self.optimiser.step()

    def _columns(self, model: Factored, target: Tensor) -> Tensor | int:
        size = model.catalog.size
        if self.columns is None or self.columns >= size - 1:
            return size
        drawn = torch.cat([target, between(1, size, self.columns, self.generator, target.device)])
        columns: Tensor = torch.unique_consecutive(drawn.sort().values)
        return columns

    def end_period(self, model: object) -> None:
        """Periods mean nothing here."""

    def recycle(self, rows: Tensor) -> None:
        """What came after an item that is gone is forgotten with it."""
        self.clicks.recycle(rows)
        for part in torch.split(self.later, _ROWS):
            part.mul_((~among(part, rows)).cumprod(1))
        renew(self.teacher.catalog, rows, self.teacher, self.optimiser)

    # --- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        filled = min(self.clicks.added, self.clicks.capacity)
        return {
            "clicks": self.clicks.state_dict(),
            "later": self.later[:filled].clone(),
            "earlier": self.earlier[:filled].clone(),
            "newest": self.newest.clone(),
            "teacher": {name: value.clone() for name, value in _module(self.teacher).state_dict().items()},
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        self.clicks.load_state_dict(state["clicks"])
        filled = len(state["earlier"])
        self.later.zero_()[:filled] = state["later"].to(self.later.device)
        self.earlier.fill_(-1)[:filled] = state["earlier"].to(self.earlier.device)
        self.newest = state["newest"].to(self.newest.device)
        _module(self.teacher).load_state_dict(state["teacher"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])


_ROWS = 65_536
"""Rows of the memory looked at together."""


def _module(teacher: Factored) -> nn.Module:
    return cast(nn.Module, teacher)


def _waves(user: Tensor) -> Iterator[Tensor]:
    """Rows in which each user is at most once, in order."""
    rank = rank_within(user)
    order = torch.argsort(rank, stable=True)
    yield from torch.split(order, torch.bincount(rank).tolist())
