"""DEERS: deep Q-learning from what people took and what they passed over, compared in pairs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Generator, Tensor

from agents.deers_nets import Towers
from agents.deers_pairs import Competitors
from streamrec.catalog import Catalog
from streamrec.explore import allowed, choose, offered, pick, without_repeats
from streamrec.memory import PrioritisedReplay, Sample
from streamrec.nn.optimiser import Optimiser
from streamrec.ports import Agent, State
from streamrec.records import POSITIVE, Decision, History, Kind, Transition
from streamrec.sessions import SessionStore

AT_ONCE = 1024
"""Rows of the item table compared with all others at a time while neighbours are looked up."""

Regulariser = Literal["paper", "signed"]


class DEERS:
    """Recommendations with negative feedback via pairwise deep reinforcement learning (Zhao et al., KDD 2018).

    State: the newest `length` items clicked or ordered and as many skipped, two lists that the session store keeps as
    the paper says (a reward moves an item into the first, a skip into the second). The network (`Towers`) has a GRU and
    a tower for each. Candidates are recalled: the nearest neighbours (cosine of item vectors) of the items taken, with
    those items themselves.

    Loss of a shown item a with reward r (equation 10): (y - Q(s, a))^2 - alpha * (Q(s, a) - Q(s, a_c))^2, with
    y = r + gamma * max of Q(s', a') by the target network over the candidates of s' (r at the end of a visit). The
    competitor a_c has the category of a, another feedback in the same visit, and is the closest in time of those
    (`Competitors`); without one the second part is missing. That part knows no sign and has no lower end: so the
    gap counts up to `margin` either way. `regulariser` "signed" is ours: alpha * max(0, margin - sign(r - r_c) *
    (Q(s, a) - Q(s, a_c)))^2 wants the better one on top. Equation 11 (the gradient) flips the sign of the second part
    of equation 10; it is not followed. Transitions are replayed by priority (`PrioritisedReplay`, proportional).

    With more than one slot the value of a slate is the mean of the values of its items, as in `agents.dqn.DQN`: each
    slot is one sample, with its own reward, plus gamma times the mean target value of the K best candidates of s'. With
    K = 1 this is the paper's.

    Ablations of the paper are switches: -p is `negatives` off, -f `split` off, -t `recurrent` off, -r `alpha` = 0.

    Departures: item vectors are learned here with the rest, where the paper trains them beforehand (skip-gram over
    sessions) and keeps them; a table trained so can be put into `online.items` and, with `item_learning_rate` tiny, be
    kept. Some candidates are random, so that new items are in reach, and more may come from another agent. Exploration
    is epsilon-greedy, since the agent is online. Competitors are found while the visit goes on, so a transition may be
    replayed before its final one is known. Widths, optimisers and schedules are unpublished and ours. Silence
    (`Kind.IMPRESSION`) is not a skip: it enters neither list and makes no competitor.

    Args:
        catalog: which items may be shown, and their categories.
        sessions: how long a pause ends a session.
        slate: K, slots of a slate.
        candidates: proposes further candidates: any agent with a wide slate of its own. It sees every transition and is
            updated with this agent.
        dim: width of item vectors.
        hidden: width of the GRUs.
        towers: widths of the layers of a tower.
        joint: width of the layer that joins them.
        length: N, items read of each list.
        negatives: read skips; off = the ablation -p.
        split: a tower per list; off = the ablation -f.
        recurrent: GRUs; off = the ablation -t, means of item vectors.
        alpha: weight of the regulariser; 0 = the ablation -r.
        regulariser: "paper" or "signed".
        margin: gap beyond which the regulariser has no gradient.
        window: decisions of a user among which competitors are looked for.
        gamma: discount per decision.
        double: choose by the online network what the target network values (not in the paper).
        neighbours: recalled per item taken.
        extra: random candidates per user, at least `slate`.
        batch: transitions per gradient step.
        steps: gradient steps per `update`.
        memory: newest transitions kept for replay.
        priority: exponent of the priorities, 0 = uniform.
        correction: exponent of the importance weights in the beginning; it rises to 1.
        anneal: gradient steps until it is 1.
        learning_rate: of Adam, for the layers.
        item_learning_rate: of Adagrad, for the item vectors.
        target_every: gradient steps between copies into the target network, when neighbours are looked up anew too.
        epsilon: share of exploration in the end.
        epsilon_start: share of exploration in the beginning.
        epsilon_decay: observed decisions until `epsilon` is reached, in a straight line.
        exclude_seen: never show what is in the user's window of positives.
        seed: start of the weights, replay and exploration.
        device: where the weights and the memory live.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(
        self,
        catalog: Catalog,
        sessions: SessionStore,
        slate: int,
        candidates: Agent | None = None,
        dim: int = 50,
        hidden: int = 64,
        towers: Sequence[int] = (64, 32),
        joint: int = 32,
        length: int = 10,
        negatives: bool = True,
        split: bool = True,
        recurrent: bool = True,
        alpha: float = 0.1,
        regulariser: Regulariser = "paper",
        margin: float = 2.0,
        window: int = 20,
        gamma: float = 0.95,
        double: bool = False,
        neighbours: int = 10,
        extra: int = 20,
        batch: int = 128,
        steps: int = 1,
        memory: int = 100_000,
        priority: float = 0.6,
        correction: float = 0.4,
        anneal: int = 10_000,
        learning_rate: float = 1e-3,
        item_learning_rate: float = 0.05,
        target_every: int = 100,
        epsilon: float = 0.01,
        epsilon_start: float = 0.1,
        epsilon_decay: int = 20_000,
        exclude_seen: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if regulariser not in ("paper", "signed"):
            raise ValueError(f'regulariser must be "paper" or "signed", got {regulariser!r}')
        _check_shares(epsilon=epsilon, epsilon_start=epsilon_start)
        _check_least(1, length=length, window=window, batch=batch, steps=steps, target_every=target_every)
        _check_least(0, alpha=alpha, margin=margin, neighbours=neighbours, epsilon_decay=epsilon_decay)
        _check_least(slate, extra=extra)
        self.catalog, self.slate, self.candidates = catalog, slate, candidates
        self.alpha, self.regulariser, self.margin, self.double = alpha, regulariser, margin, double
        self.length, self.neighbours, self.extra, self.exclude_seen = length, neighbours, extra, exclude_seen
        self.batch, self.steps, self.target_every = batch, steps, target_every
        self.epsilon, self.epsilon_start, self.epsilon_decay = epsilon, epsilon_start, epsilon_decay
        self.device = torch.device(device)
        start = Generator().manual_seed(seed)
        net = Towers(catalog, dim, hidden, towers, joint, length, negatives, split, recurrent, start)
        self.online = net.to(self.device)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.optimiser = Optimiser(self.online, catalog, learning_rate, item_learning_rate)
        self.reads = _reads(self.online.reads, candidates)
        self.replay = PrioritisedReplay(
            memory, 1, gamma, self.reads, self.device, alpha=priority, beta=correction, anneal=anneal
        )
        self.competitors = Competitors(self.replay, catalog, window, sessions.gap_s) if alpha else None
        self.near = torch.zeros(catalog.capacity + 1, neighbours, dtype=torch.int32, device=self.device)
        self.generator = Generator(device).manual_seed(seed)
        self.observed = 0  # decisions
        self.learned = 0  # gradient steps

    # --- deciding ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, history: History) -> Decision:
        items, mask = self._recall(history)
        scores = self.online(history, items).where(mask, -torch.inf)
        index, slot_logp = choose(scores, self.slate, self.exploration, self.generator)
        return Decision.of(history.user, pick(items, index), slot_logp)

    @property
    def exploration(self) -> float:
        """Share of exploration now."""
        progress = min(1.0, self.observed / self.epsilon_decay) if self.epsilon_decay else 1.0
        return self.epsilon_start + (self.epsilon - self.epsilon_start) * progress

    def _recall(self, history: History) -> tuple[Tensor, Tensor]:
        """Candidates [B, C] int64 and which of them may be shown [B, C] bool, each item at most once."""
        seen = history.items if self.exclude_seen else None
        given = offered(history, self.catalog.available, seen)
        if given is not None:
            return given
        taken = history.items[:, -self.length :].long()
        parts = [taken, self.near[taken].flatten(1).long(), self._random(len(history))]
        if self.candidates is not None:
            parts.append(self.candidates.act(history).slate)
        items = torch.cat(parts, dim=1).sort(dim=1).values
        mask = allowed(items, self.catalog.available, seen)
        mask[:, 1:] &= items[:, 1:] != items[:, :-1]
        return items, mask

    def _random(self, rows: int) -> Tensor:
        """`extra` different available items for each of `rows`, 0 where there are too few."""
        available = torch.nonzero(self.catalog.available[: self.catalog.size].to(self.device)).squeeze(1)
        left = torch.full((rows,), len(available), device=self.device)
        numbers, _ = without_repeats(left, self.extra, self.generator)
        return torch.cat([available, available.new_zeros(1)])[numbers]  # -1 is the 0 at the end

    # --- learning ----------------------------------------------------------------------------------------------

    def observe(self, transition: Transition) -> None:
        """Remember the transition and find out what competes with what."""
        self.observed += len(transition)
        self.replay.add(transition)
        if self.competitors is not None:
            self.competitors.note(transition)
        if self.candidates is not None:
            self.candidates.observe(transition)

    def update(self) -> dict[str, float]:
        """`steps` gradient steps, as soon as the memory holds a batch."""
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
        filled = shown != 0
        slots = filled.sum(1).clamp(min=1)
        target = self._target(sample)
        other, order = self._competitors(sample)
        values = self.online(sample.first.history, torch.cat([shown, other], dim=1))
        values, others = values[:, : shown.shape[1]], values[:, shown.shape[1] :]
        error = torch.where(filled, values - target, 0.0)
        loss = error.square()
        if self.alpha:
            term = regularise(values - others, order, self.regulariser, self.margin)
            loss = loss + self.alpha * torch.where(other > 0, term, 0.0)
        self.optimiser.descend((sample.weight * loss.sum(1) / slots).mean())
        self.replay.prioritise(sample.number, error.detach().abs().sum(1) / slots)
        self.learned += 1
        if self.learned % self.target_every == 0:
            self._copy()
        squared = float((error.detach().square().sum(1) / slots).mean())
        paired = float((other > 0).float().mean()) if self.alpha else 0.0
        return {"loss": squared, "value": float(values.detach().mean()), "paired": paired}

    def _competitors(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """The competitor of each shown slot, [B, K] items, 0 = none, and which of the two got more, [B, K]."""
        if self.competitors is None:
            shown = sample.first.shown.slate
            return shown[:, :0], shown[:, :0]
        other, reward = self.competitors.of(sample.number)
        return other, torch.sign(sample.first.rewards - reward)

    @torch.no_grad()
    def _target(self, sample: Sample) -> Tensor:
        """What each shown slot should be worth, [B, K]."""
        items, mask = self._recall(sample.next)
        value = self.target(sample.next, items)
        judge = self.online(sample.next, items) if self.double else value
        best = judge.where(mask, -torch.inf).topk(min(self.slate, items.shape[1]), dim=1).indices
        there = mask.gather(1, best)
        mean = value.gather(1, best).where(there, 0.0).sum(1) / there.sum(1).clamp(min=1)
        later: Tensor = sample.discount * mean
        return sample.first.rewards + later.unsqueeze(1)

    @torch.no_grad()
    def _copy(self) -> None:
        """Online network -> target network, of the item table only the rows in use; and neighbours anew."""
        used = self.catalog.size
        for name, mine in self.target.named_parameters():
            rows = slice(used if name in self.optimiser.tables.parameters else None)
            mine[rows] = self.online.get_parameter(name)[rows]
        self._look_up()

    def _look_up(self) -> None:
        """The nearest neighbours of every item there is, by the cosine of their vectors."""
        used = self.catalog.size
        count = min(self.neighbours, used - 2)
        if count < 1:
            return
        unit = torch.nn.functional.normalize(self.online.items.weight[1:used])
        for first in range(0, used - 1, AT_ONCE):
            rows = torch.arange(first, min(first + AT_ONCE, used - 1), device=self.device)
            cosine = unit[rows] @ unit.T
            cosine[torch.arange(len(rows), device=self.device), rows] = -2.0  # not itself
            self.near[rows + 1, :count] = (cosine.topk(count, dim=1).indices + 1).int()

    # --- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Weights, optimiser, memory, competitors, neighbours and randomness, as copies."""
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
            "competitors": {} if self.competitors is None else self.competitors.state_dict(),
            "near": self.near[:used].clone(),
            "candidates": {} if self.candidates is None else self.candidates.state_dict(),
            "generator": self.generator.get_state(),
            "counts": {"observed": self.observed, "learned": self.learned},
        }

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        self.online.load_state_dict(state["online"])
        self.target.load_state_dict(state["online"])
        for name, saved in state["target"].items():
            self.target.get_parameter(name)[: len(saved)] = saved.to(self.device)
        self.optimiser.load_state_dict(state["optimiser"])
        self.replay.load_state_dict(state["replay"])
        if self.competitors is not None:
            self.competitors.load_state_dict(state["competitors"])
        self.near.zero_()
        self.near[: len(state["near"])] = state["near"].to(self.device)
        if self.candidates is not None:
            self.candidates.load_state_dict(state["candidates"])
        self.generator.set_state(state["generator"])
        self.observed, self.learned = state["counts"]["observed"], state["counts"]["learned"]


def regularise(gap: Tensor, order: Tensor, regulariser: Regulariser, margin: float) -> Tensor:
    """What a pair adds to the loss, in units of alpha.

    Args:
        gap: Q(s, a) - Q(s, a_c), any shape.
        order: sign of r - r_c; the signed form leaves pairs alone that got the same.
        regulariser: "paper": minus the square of the gap, which counts up to `margin`; "signed": the square of what
            the gap in the right direction lacks to `margin`.
        margin: above 0.
    """
    if regulariser == "paper":
        return -gap.clamp(-margin, margin).square()
    return (margin - order * gap).clamp(min=0.0).square() * (order != 0)


@torch.no_grad()
def rerank(agent: DEERS, history: History, items: Tensor, kinds: Tensor) -> Tensor:
    """The paper's offline test (algorithm 2): put the items of logged sessions into the order of their values.

    Again and again the item with the highest value of those left is taken, the logged feedback to it is read, and the
    state moves on by it.

    Args:
        agent: whose values.
        history: the users before their sessions, B rows.
        items: [B, M] what was shown in the session, 0 = nothing.
        kinds: [B, M] the Kind of feedback to each.

    Returns:
        [B, M] int64, places in `items`, best first; those of empty slots come last.
    """
    left = torch.ones_like(items, dtype=torch.bool)
    order = torch.zeros_like(items)
    for place in range(items.shape[1]):
        values = agent.online(history, items).where(items != 0, torch.finfo(torch.float32).min)
        best = values.where(left, -torch.inf).argmax(1, keepdim=True)
        order[:, place] = best.squeeze(1)
        left.scatter_(1, best, False)
        history = follow(history, *(table.gather(1, best).squeeze(1) for table in (items, kinds)))
    return order


def follow(history: History, item: Tensor, kind: Tensor) -> History:
    """The state after feedback `kind` [B] to `item` [B]: a reward enters the one list, a skip the other."""
    positive = torch.zeros_like(kind, dtype=torch.bool)
    for one in POSITIVE:
        positive |= kind == int(one)
    skip = kind == int(Kind.SKIP)
    return replace(history, items=_pushed(history.items, item, positive), skipped=_pushed(history.skipped, item, skip))


def _pushed(window: Tensor, item: Tensor, where: Tensor) -> Tensor:
    moved = torch.cat([window[:, 1:], item.to(window.dtype).unsqueeze(1)], dim=1)
    return torch.where(where.unsqueeze(1), moved, window)


def _reads(own: Sequence[str], candidates: Agent | None) -> tuple[str, ...] | None:
    """Windows of `History` that somebody here uses; None = all, as long as one of them does not say."""
    theirs = () if candidates is None else getattr(candidates, "reads", None)
    return None if theirs is None else tuple(sorted({*own, "offer", *theirs}))


def _check_least(least: float, **settings: float) -> None:
    for name, value in settings.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def _check_shares(**settings: float) -> None:
    for name, share in settings.items():
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"{name} must be between 0 and 1, got {share}")
