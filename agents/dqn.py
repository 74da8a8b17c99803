"""Deep Q-learning over candidates: how much is an item worth to this user, now and later."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from streamrec.catalog import Catalog
from streamrec.expiry import check, renew
from streamrec.explore import allowed, choose, first_choice, offered, pick, unseen, without_repeats
from streamrec.memory import PrioritisedReplay, Replay, Sample
from streamrec.models.next_item import Encoder
from streamrec.nn.inputs import Inputs
from streamrec.nn.optimiser import Optimiser
from streamrec.nn.values import Values
from streamrec.ope.codes import POLICY_NOT_PROBABILISTIC, Refused
from streamrec.ports import Agent, State
from streamrec.records import Decision, History, Transition
from streamrec.sessions import SessionStore


class DQN:
    """Deep Q-learning (Mnih et al., Nature 2015) over item-wise values, and what was added to it since, as switches.

    `double`: van Hasselt et al., AAAI 2016. `dueling`: Wang et al., ICML 2016, see `Values`. `prioritised`: Schaul et
    al., ICLR 2016, see `PrioritisedReplay`. `n_step`: Sutton 1988.

    Candidates are what came with the request; without that, another agent, built with a wide slate, proposes them, and
    to them come a few available items at random, so that nothing is out of reach; without such an agent, every
    available item is one. Shown are the K candidates of the highest value, with epsilon-greedy exploration per
    slot. Propensities are exact given the candidates.

    The value of a slate is taken to be the mean of the values of its items, as if slots did not influence each other.
    The best slate then holds the K best items, and each shown slot is one sample: its own reward, plus the mean reward
    per slot of the next n - 1 slates, plus gamma^n times the mean target value of the K items that are best by the
    online network (`double`) or by the target network. With K = 1 this is DQN to the letter.

    Departures from the papers: squared error instead of the clipped one, which removes long-term value where returns
    are larger than the clip; Adam for the dense weights and row-sparse Adagrad for the tables of items; rewards of
    the steps between are not corrected for being off-policy; the priority of a transition is the mean error of its
    slots.

    Args:
        catalog: which items may be shown, and their features.
        sessions: how wide the context of a request is.
        slate: K, slots of a slate.
        encoder: makes vectors of histories and of items, beside what the world says of both; None = the world's
            numbers only.
        candidates: proposes items: any agent with a slate of its own, some tens to hundreds wide. It sees every
            transition and is updated with this agent. None = all that is available.
        gamma: discount per decision.
        n_step: decisions whose rewards are counted before the value of the state takes over.
        double: choose by the online network what the target network values.
        dueling: a value of the state and advantages of the items apart.
        prioritised: replay by error, not uniformly.
        batch: transitions per gradient step.
        steps: gradient steps per `update`.
        memory: newest transitions kept for replay.
        hidden: width of the value head.
        learning_rate: of Adam.
        item_learning_rate: of Adagrad.
        target_every: gradient steps between copies of the online network into the target network.
        epsilon: share of exploration in the end.
        epsilon_start: share of exploration in the beginning.
        epsilon_decay: observed decisions until `epsilon` is reached, in a straight line.
        extra: random candidates per user.
        exclude_seen: never show what is in the user's window of positives.
        seed: start of the head, replay, dropout and exploration.
        device: where the weights and the memory live.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(
        self,
        catalog: Catalog,
        sessions: SessionStore,
        slate: int,
        encoder: Encoder | None = None,
        candidates: Agent | None = None,
        gamma: float = 0.9,
        n_step: int = 3,
        double: bool = True,
        dueling: bool = False,
        prioritised: bool = False,
        batch: int = 256,
        steps: int = 1,
        memory: int = 100_000,
        hidden: int = 64,
        learning_rate: float = 1e-3,
        item_learning_rate: float = 0.05,
        target_every: int = 100,
        epsilon: float = 0.05,
        epsilon_start: float = 0.5,
        epsilon_decay: int = 20_000,
        extra: int = 10,
        exclude_seen: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        _check({k: v for k, v in locals().items() if isinstance(v, int | float)})
        self.catalog, self.candidates, self.slate = catalog, candidates, slate
        self.double, self.batch, self.steps, self.target_every = double, batch, steps, target_every
        self.epsilon, self.epsilon_start, self.epsilon_decay = epsilon, epsilon_start, epsilon_decay
        self.extra, self.exclude_seen = extra, exclude_seen
        self.device = torch.device(device)
        inputs = Inputs(catalog, sessions, encoder)
        self.online = Values(inputs, catalog, hidden, Generator().manual_seed(seed), dueling).to(self.device)
        # The catalogue grows while the run goes on: were it copied too, the target would not see that.
        self.target = copy.deepcopy(self.online, {id(catalog): catalog}).requires_grad_(False)
        self.optimiser = Optimiser(self.online, catalog, learning_rate, item_learning_rate)
        self.reads = _reads(inputs, candidates, exclude_seen)
        kind = PrioritisedReplay if prioritised else Replay
        self.replay = kind(memory, n_step, gamma, self.reads, self.device)
        self.generator = Generator(device).manual_seed(seed)
        self.observed = 0  # decisions
        self.learned = 0  # gradient steps
        self.spread = Spread()
        check(catalog, self.online, candidates)

    # --- deciding ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, history: History) -> Decision:
        items, mask = self._propose(history)
        scores = self.online(history, items, among=(items, mask)).where(mask, -torch.inf)
        index, slot_logp = choose(scores, self.slate, self.exploration, self.generator)
        return Decision.of(history.user, pick(items, index), slot_logp)

    @property
    def exploration(self) -> float:
        """Share of exploration now."""
        progress = min(1.0, self.observed / self.epsilon_decay) if self.epsilon_decay else 1.0
        return self.epsilon_start + (self.epsilon - self.epsilon_start) * progress

    @torch.no_grad()
    def scores(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """Values of the candidates, see `streamrec.explore.Scoring`."""
        mask = unseen(mask, items, history.items if self.exclude_seen else None)
        values: Tensor = self.online(history, items, among=(items, mask))
        return values.where(mask, -torch.inf)

    def probabilities(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """See `streamrec.explore.Probabilistic`.

        Raises:
            Refused: candidates are proposed by another agent and drawn at random: their probability is not known.
        """
        if self.candidates is not None and history.offer.shape[1] == 0:
            raise Refused(POLICY_NOT_PROBABILISTIC, "it draws candidates at random before it chooses among them")
        return first_choice(self.scores(history, items, mask), self.exploration, self.slate)

    def _propose(self, history: History) -> tuple[Tensor, Tensor]:
        """Candidates [B, C] int64, each once per row, and which of them may be shown [B, C] bool."""
        given = offered(history, self.catalog.available, history.items if self.exclude_seen else None)
        if given is not None:
            return given
        seen = history.items if self.exclude_seen else None
        available = torch.nonzero(self.catalog.available[: self.catalog.size].to(self.device)).squeeze(1)
        if self.candidates is None:
            every = available.expand(len(history), -1)
            return every, allowed(every, self.catalog.available, seen)
        wide = self.candidates.act(history).slate
        left = torch.full_like(history.user, len(available))
        numbers, _ = without_repeats(left, self.extra, self.generator)
        more = torch.cat([available, available.new_zeros(1)])[numbers]  # -1 is the 0 at the end
        mask = allowed(wide, self.catalog.available, seen)
        barred = wide if seen is None else torch.cat([wide, seen.long()], dim=1)
        # As in `allowed`, but the wide side is looped over: there are few extra items.
        twice = (more.unsqueeze(2) == barred.unsqueeze(1)).any(2)
        return torch.cat([wide, more], dim=1), torch.cat([mask, ~twice & (more != 0)], dim=1)

    # --- learning ----------------------------------------------------------------------------------------------

    def observe(self, transition: Transition) -> None:
        """Remember the transition; the agent that proposes candidates sees it too."""
        self.observed += len(transition)
        self.replay.add(transition)
        self.spread.now = max(self.spread.now, float(transition.time.max())) if len(transition) else self.spread.now
        if self.candidates is not None:
            self.candidates.observe(transition)

    def update(self) -> dict[str, float]:
        """`steps` gradient steps, as soon as the memory holds a batch.

        Returns:
            `loss`, `value` (mean Q of a batch), `value_std` (standard deviation of that over the last day of event
            time) and `epsilon`, after what the proposing agent says, prefixed with "candidates.".
        """
        said = {} if self.candidates is None else self.candidates.update()
        said = {f"candidates.{name}": value for name, value in said.items()}
        if len(self.replay) < min(self.batch, self.replay.size):
            return said
        for _ in range(self.steps):
            said |= self._step()
        return said | {"epsilon": self.exploration}

    def _step(self) -> dict[str, float]:
        sample = self.replay.sample(self.batch, self.generator)
        shown = sample.first.shown.slate
        target = self._target(sample)
        among = self._propose(sample.first.history) if self.online.dueling else None
        values = self.online(sample.first.history, shown, self.generator, among)
        filled = shown != 0
        error = torch.where(filled, values - target, 0.0)
        loss = (sample.weight.unsqueeze(1) * error.square()).sum() / filled.sum().clamp(min=1)
        self.optimiser.descend(loss)
        self.replay.prioritise(sample.number, error.detach().abs().sum(1) / filled.sum(1).clamp(min=1))
        self.learned += 1
        if self.learned % self.target_every == 0:
            self._copy()
        value = float(values.detach().mean())
        return {"loss": float(loss.detach()), "value": value, "value_std": self.spread.add(value)}

    @torch.no_grad()
    def _target(self, sample: Sample) -> Tensor:
        """What each shown slot should be worth, [B, K]."""
        items, mask = among = self._propose(sample.next)
        judge = self.online if self.double else self.target
        scores = judge(sample.next, items, among=among).where(mask, -torch.inf)
        best = scores.topk(min(self.slate, items.shape[1]), dim=1).indices
        there = mask.gather(1, best)
        # Only what was chosen has to be valued, not every candidate a second time.
        value = self.target(sample.next, items.gather(1, best), among=among) if self.double else scores.gather(1, best)
        mean = value.where(there, 0.0).sum(1) / there.sum(1).clamp(min=1)
        slots = (sample.first.shown.slate != 0).sum(1).clamp(min=1)
        later: Tensor = sample.later / slots + sample.discount * mean
        return sample.first.rewards + later.unsqueeze(1)

    @torch.no_grad()
    def recycle(self, rows: Tensor) -> None:
        """Items that are gone leave networks, optimiser, memory and the agent that proposes."""
        renew(self.catalog, rows, self.online, self.optimiser.tables, self.replay, self.candidates)
        for name in self.optimiser.tables.parameters:
            self.target.get_parameter(name)[rows] = self.online.get_parameter(name)[rows]

    @torch.no_grad()
    def _copy(self) -> None:
        """Online network -> target network; of tables only the rows in use, the others are equal anyway."""
        used = self.catalog.size
        for name, mine in self.target.named_parameters():
            theirs = self.online.get_parameter(name)
            rows = slice(used if name in self.optimiser.tables.parameters else None)
            mine[rows] = theirs[rows]

    # --- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Weights, optimisers, memory, candidates and randomness, as copies."""
        used = self.catalog.size
        target = {
            name: p.detach()[: used if name in self.optimiser.tables.parameters else None].clone()
            for name, p in self.target.named_parameters()
        }
        return {
            "online": {name: value.clone() for name, value in self.online.state_dict().items()},
            "target": target,
            "optimiser": self.optimiser.state_dict(),
            "replay": self.replay.state_dict(),
            "candidates": {} if self.candidates is None else self.candidates.state_dict(),
            "generator": self.generator.get_state(),
            "counts": {"observed": self.observed, "learned": self.learned},
            "spread": self.spread.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        self.online.load_state_dict(state["online"])
        self.target.load_state_dict(state["online"])
        for name, saved in state["target"].items():
            self.target.get_parameter(name)[: len(saved)] = saved.to(self.device)
        self.optimiser.load_state_dict(state["optimiser"])
        self.replay.load_state_dict(state["replay"])
        if self.candidates is not None:
            self.candidates.load_state_dict(state["candidates"])
        self.generator.set_state(state["generator"])
        self.observed, self.learned = state["counts"]["observed"], state["counts"]["learned"]
        self.spread.load_state_dict(state["spread"])


class Spread:
    """Standard deviation over the last day of event time of a number that is noted now and then."""

    CELL_S, CELLS = 300.0, 288

    def __init__(self) -> None:
        self.now = 0.0  # event time
        self.cells = torch.zeros(self.CELLS, 3, dtype=torch.float64)  # per five minutes: count, sum, sum of squares
        self.stamps = torch.full((self.CELLS,), -1)  # which five minutes since the epoch

    def add(self, number: float) -> float:
        """Note `number` now; returns the standard deviation."""
        stamp = int(self.now // self.CELL_S)
        cell = stamp % self.CELLS
        if self.stamps[cell] != stamp:
            self.stamps[cell], self.cells[cell] = stamp, 0.0
        self.cells[cell] += torch.tensor([1.0, number, number * number], dtype=torch.float64)
        count, total, squares = self.cells[self.stamps > stamp - self.CELLS].sum(0).tolist()
        return float(max(squares / count - (total / count) ** 2, 0.0) ** 0.5)

    def state_dict(self) -> State:
        return {"now": self.now, "cells": self.cells.clone(), "stamps": self.stamps.clone()}

    def load_state_dict(self, state: State) -> None:
        self.now = state["now"]
        self.cells.copy_(state["cells"])
        self.stamps.copy_(state["stamps"])


def _check(settings: dict[str, float]) -> None:
    for name in ("epsilon", "epsilon_start"):
        if not 0.0 <= settings[name] <= 1.0:
            raise ValueError(f"{name} must be between 0 and 1, got {settings[name]}")
    for name in ("batch", "steps", "hidden", "target_every"):
        if settings[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {settings[name]}")
    if settings["extra"] < 0 or settings["epsilon_decay"] < 0:
        raise ValueError(
            f"extra and epsilon_decay must be at least 0, got {settings['extra']} and {settings['epsilon_decay']}"
        )


def _reads(inputs: Inputs, candidates: Agent | None, exclude_seen: bool) -> Sequence[str] | None:
    """Columns of `History` that somebody here uses; None = all, as long as one of them does not say."""
    reads = () if candidates is None else getattr(candidates, "reads", None)
    if reads is None:
        return None
    return sorted({*inputs.reads, *reads, *(("items",) if exclude_seen else ())})
