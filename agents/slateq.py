"""SlateQ: what a slate is worth is what its items are worth, each as likely as it is chosen."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Generator, Tensor, nn

from agents.slateq_nets import Choice, Nets
from agents.slateq_slates import Search, slate_gain, slate_scores
from streamrec.catalog import Catalog
from streamrec.explore import allowed, choose, offered, pick, without_repeats
from streamrec.memory import Replay, Sample
from streamrec.models.next_item import Encoder
from streamrec.nn.inputs import Inputs
from streamrec.nn.optimiser import Optimiser
from streamrec.ports import Agent, State
from streamrec.records import Decision, History, Transition
from streamrec.sessions import SessionStore

Target = Literal["qlearning", "sarsa"]

_MOST = 20.0  # log-odds beyond this are as good as certain


class _Chain(Replay):
    """A replay that tells which slate came next."""

    def following(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Slates [B, K] that the users of `numbers` [B] saw next, and whether they are known, [B] bool."""
        assert self.ring is not None
        successor = self._successor[numbers % self.size]
        return self.ring.shown.slate[successor % self.size], self.holds(successor)


class SlateQ:
    """SlateQ (Ie et al., IJCAI 2019, arXiv 1905.12767): Q-learning over slates, decomposed into items.

    If a user chooses at most one item of a slate, and reward and next state depend on nothing else, then
    Q(s, A) = sum over A and "nothing" of P(i | s, A) Q(s, i). The values of items are learned from chosen items only:
    Q(s, i) <- r + gamma * value of the next slate, which is the best one ("qlearning") or the one that was shown
    ("sarsa"). The choice model is P(i | s, A) = v(s, i) / (v(s, nothing) + sum over A of v(s, j)), learned beside it
    by maximum likelihood from clicks and from slates without one. The slate is found by one of the paper's three
    optimisers (`slate_scores`). Exploration is epsilon-greedy per slot, with exact propensities given the candidates.

    In the paper, as in RecSim's code, choosing nothing is worth 0: a slate without a click counts as if it ended the
    visit, so the agent pays for being clicked now. With `null_value` Q(s, nothing) is learned like the value of an
    item, from slates without a click, and counts in both places where slates are valued: target and optimisation.
    `null_value=False` is SlateQ as published. gamma=0 is the paper's myopic baseline.

    Departures: nothing may have a value (above); "exact" fills all slots where the paper's program may leave some
    empty; double Q-learning (van Hasselt et al., AAAI 2016; `double=False` = the paper's); squared error of values in
    units of `value_scale`, as the clipped error of most implementations removes long-term value where returns are
    large; networks of our own, since the paper does not tell its: Q(s, i) is a level common to all choices plus a
    product of two towers. With several clicks on a slate, which the
    assumption excludes, each chosen item is a sample of its own. What unclicked slots earn goes to what was chosen.

    Args:
        catalog: which items may be shown, and their features.
        sessions: knows how wide the context of a request is.
        slate: K, slots of a slate.
        encoder: vectors of histories and items, beside the context and features of the world; None = only those.
        candidates: proposes items where a request brings none: any agent with a slate of its own. It sees every
            transition and is updated with this agent. None = everything available, for small catalogues.
        optimiser: "topk", "greedy" or "exact".
        target: "qlearning" or "sarsa".
        null_value: see above.
        choice: "learned", or a known form of the odds, with interest = <context, features>: "mnl", e^(interest - 1),
            "proportional", (interest + 1) / 2.
        gamma: discount per decision.
        double: choose by the online network what the target network values.
        batch: transitions per gradient step.
        steps: gradient steps per `update`.
        memory: newest transitions kept for replay.
        hidden: width of the hidden layers.
        rank: width of the product of users and items.
        value_scale: returns are learned in units of this.
        learning_rate: of Adam, for what is not said below.
        choice_rate: of Adam, for the choice model. It is learned from labels and not from its own guesses, so it may be
            learned faster.
        item_learning_rate: of Adagrad, for the encoder's tables of items.
        target_every: gradient steps between copies of the online network into the target network.
        epsilon: share of exploration per slot in the end.
        epsilon_start: share of exploration in the beginning.
        epsilon_decay: observed decisions until `epsilon` is reached, in a straight line.
        extra: random candidates per user, beside those of `candidates`.
        seed: start of the networks, replay, dropout and exploration.
        device: where weights and memory live.

    Raises:
        ValueError: if a setting is out of its range, or a known form of choice does not fit the world.
    """

    def __init__(
        self,
        catalog: Catalog,
        sessions: SessionStore,
        slate: int,
        encoder: Encoder | None = None,
        candidates: Agent | None = None,
        optimiser: Search = "exact",
        target: Target = "qlearning",
        null_value: bool = True,
        choice: Choice = "learned",
        gamma: float = 1.0,
        double: bool = True,
        batch: int = 2048,
        steps: int = 1,
        memory: int = 200_000,
        hidden: int = 128,
        rank: int = 32,
        value_scale: float = 50.0,
        learning_rate: float = 5e-4,
        choice_rate: float = 1e-3,
        item_learning_rate: float = 0.05,
        target_every: int = 10,
        epsilon: float = 0.05,
        epsilon_start: float = 0.5,
        epsilon_decay: int = 100_000,
        extra: int = 10,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_ranges({k: v for k, v in locals().items() if isinstance(v, int | float)})
        _check_variant(optimiser, target, choice)
        if choice != "learned" and not 0 < catalog.features.shape[1] <= sessions.context_width:
            raise ValueError(
                f"choice={choice!r} multiplies the context with the features of items, but requests bring "
                f"{sessions.context_width} numbers and items {catalog.features.shape[1]}: use choice='learned'"
            )
        self.catalog, self.candidates, self.slate = catalog, candidates, slate
        self.optimiser, self.kind, self.double = optimiser, target, double
        self.batch, self.steps, self.target_every, self.extra = batch, steps, target_every, extra
        self.value_scale = value_scale
        self.epsilon, self.epsilon_start, self.epsilon_decay = epsilon, epsilon_start, epsilon_decay
        self.device = torch.device(device)
        start = Generator().manual_seed(seed)
        inputs = Inputs(catalog, sessions, encoder)
        self.online = Nets(inputs, hidden, rank, null_value, choice, start).to(self.device)
        # The catalogue grows while the run goes on: were it copied too, the target would not see that.
        self.target = copy.deepcopy(self.online, {id(catalog): catalog}).requires_grad_(False)
        valuing = nn.ModuleDict({name: part for name, part in self.online.named_children() if name != "choice"})
        self.training = [Optimiser(valuing, catalog, learning_rate, item_learning_rate)]
        if self.online.choice is not None:
            self.training.append(Optimiser(self.online.choice, catalog, choice_rate, item_learning_rate))
        self.tables = self.training[0].tables.parameters  # of items, by name
        self.replay = _Chain(memory, 1, gamma, self.reads, self.device)
        self.generator = Generator(device).manual_seed(seed)
        self.observed = 0  # decisions
        self.learned = 0  # gradient steps

    @property
    def reads(self) -> Sequence[str] | None:
        """Columns of `History` that somebody here uses; None = all, as long as one of them does not say."""
        theirs = () if self.candidates is None else getattr(self.candidates, "reads", None)
        return None if theirs is None else sorted({*self.online.inputs.reads, *theirs})

    # --- deciding ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, history: History) -> Decision:
        items, mask = self._propose(history)
        odds, gain, _ = self._judge(self.online, history, items)
        scores = slate_scores(odds, gain, mask, self.slate, self.optimiser)
        index, slot_logp = choose(scores, self.slate, self.exploration, self.generator)
        return Decision.of(history.user, pick(items, index), slot_logp)

    @property
    def exploration(self) -> float:
        """Share of exploration now."""
        progress = min(1.0, self.observed / self.epsilon_decay) if self.epsilon_decay else 1.0
        return self.epsilon_start + (self.epsilon - self.epsilon_start) * progress

    def _judge(self, nets: Nets, history: History, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Odds and gains of `items` [B, C], two of [B, C], and the value of nothing, [B].

        The choice model has no target network: it is the online one in every case.
        """
        inputs = self.online.inputs
        state, vectors = inputs.state(history), inputs.items(items)
        odds = self.online.log_odds(history, state, items, vectors).clamp(max=_MOST).exp() * (items > 0)
        if nets is self.online:
            worth, nothing = nets.values(state, vectors)
            return odds, worth - nothing.unsqueeze(1), nothing
        return odds, *self._gain(nets, history, items)

    def _gain(self, nets: Nets, history: History, items: Tensor) -> tuple[Tensor, Tensor]:
        """Gains of `items` [B, C] over nothing, [B, C], and the value of nothing, [B]."""
        worth, nothing = nets.values(nets.inputs.state(history), nets.inputs.items(items))
        return worth - nothing.unsqueeze(1), nothing

    def _propose(self, history: History) -> tuple[Tensor, Tensor]:
        """Candidates [B, C] int64, each once per row, and which of them may be shown [B, C] bool."""
        given = offered(history, self.catalog.available)
        if given is not None:
            return given
        available = torch.nonzero(self.catalog.available[: self.catalog.size].to(self.device)).squeeze(1)
        if self.candidates is None:
            items = available.expand(len(history), -1)
            return items, torch.ones_like(items, dtype=torch.bool)
        wide = self.candidates.act(history).slate
        left = torch.full_like(history.user, len(available))
        numbers, _ = without_repeats(left, self.extra, self.generator)
        more = torch.cat([available, available.new_zeros(1)])[numbers]  # -1 is the 0 at the end
        twice = (more.unsqueeze(2) == wide.unsqueeze(1)).any(2)
        mask = torch.cat([allowed(wide, self.catalog.available), ~twice & (more != 0)], dim=1)
        return torch.cat([wide, more], dim=1), mask

    # --- learning ----------------------------------------------------------------------------------------------

    def observe(self, transition: Transition) -> None:
        """Remember the transition; the agent that proposes candidates sees it too."""
        self.observed += len(transition)
        self.replay.add(transition)
        if self.candidates is not None:
            self.candidates.observe(transition)

    def update(self) -> dict[str, float]:
        """`steps` gradient steps, as soon as the memory holds a batch."""
        theirs = {} if self.candidates is None else self.candidates.update()
        said = {f"candidates.{name}": value for name, value in theirs.items()}
        if len(self.replay) < min(self.batch, self.replay.size):
            return said
        for _ in range(self.steps):
            said |= self._step()
        return said | {"epsilon": self.exploration}

    def _step(self) -> dict[str, float]:
        sample = self.replay.sample(self.batch, self.generator)
        history, shown = sample.first.history, sample.first.shown.slate
        state = self.online.inputs.state(history, self.generator)
        vectors = self.online.inputs.items(shown)
        clicked = sample.first.clicked() & (shown > 0)
        later, known = self._later(sample)
        error, value = self._value_loss(state, vectors, clicked, sample, later, known)
        surprise = self._choice_loss(self.online.log_odds(history, state, shown, vectors), clicked, shown)
        self._descend(error + surprise)
        self.learned += 1
        if self.learned % self.target_every == 0:
            self._copy()
        return {"loss": float(error.detach()), "choice_loss": float(surprise.detach()), "value": float(value)}

    def _descend(self, loss: Tensor) -> None:
        """One step of all optimisers down the gradient of the one loss: they share the encoder."""
        for part in self.training:
            part.tables.zero_grad()
            part.dense.zero_grad()
        torch.autograd.backward(loss)
        for part in self.training:
            part.tables.step()
            part.dense.step()

    def _value_loss(
        self, state: Tensor, vectors: Tensor, clicked: Tensor, sample: Sample, later: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Squared error of the values of what was chosen, and their mean; only chosen items are computed."""
        rewards = sample.first.rewards / self.value_scale
        beside = (rewards * ~clicked).sum(1) + later  # what unclicked slots earn, and all that comes later
        row, slot = torch.nonzero(clicked & known.unsqueeze(1), as_tuple=True)
        value = self.online.values(state[row], vectors[row, slot].unsqueeze(1))[0].squeeze(1)
        wanted = rewards[row, slot] + beside[row]
        if self.online.null_value:
            idle = torch.nonzero(~clicked.any(1) & known).squeeze(1)
            value = torch.cat([value, self.online.level(state[idle])])
            wanted = torch.cat([wanted, beside[idle]])
        count = max(1, len(value))
        return (value - wanted).square().sum() / count, value.detach().sum() / count * self.value_scale

    def _choice_loss(self, log_odds: Tensor, clicked: Tensor, shown: Tensor) -> Tensor:
        """-log P of what was chosen, mean over slates; every click of a slate with several is a choice."""
        if self.online.choice is None:
            return log_odds.new_zeros(())
        logits = log_odds.masked_fill(shown == 0, -torch.inf)
        total = torch.cat([logits, logits.new_zeros(len(logits), 1)], dim=1).logsumexp(1)
        choices = clicked.sum(1).clamp_min(1)
        return (choices * total - (log_odds * clicked).sum(1)).mean()

    @torch.no_grad()
    def _later(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """What comes after the chosen item, in units of `value_scale` [B], and whether it is known, [B] bool."""
        if self.kind == "sarsa":
            slate, there = self.replay.following(sample.number)
            odds, gain, nothing = self._judge(self.target, sample.next, slate)
            value, known = nothing + slate_gain(odds, gain), there | (sample.discount == 0)
        else:
            value, known = self._best_value(sample.next), torch.ones_like(sample.discount, dtype=torch.bool)
        return sample.discount * value, known

    def _best_value(self, history: History) -> Tensor:
        """Value of the slate that would be shown, by the target network, [B]."""
        items, mask = self._propose(history)
        if self.double:
            odds, judge, _ = self._judge(self.online, history, items)
            gain, nothing = self._gain(self.target, history, items)
        else:
            odds, gain, nothing = self._judge(self.target, history, items)
            judge = gain
        scores = slate_scores(odds, judge, mask, self.slate, self.optimiser)
        best = scores.topk(min(self.slate, items.shape[1]), dim=1).indices
        there = mask.gather(1, best)
        return nothing + slate_gain(odds.gather(1, best) * there, gain.gather(1, best))

    @torch.no_grad()
    def _copy(self) -> None:
        """Online network -> target network; of tables only the rows in use, the others are equal anyway."""
        used = self.catalog.size
        for name, mine in self.target.named_parameters():
            theirs = self.online.get_parameter(name)
            rows = slice(used if name in self.tables else None)
            mine[rows] = theirs[rows]

    # --- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Weights, optimisers, memory, candidates and randomness, as copies."""
        used = self.catalog.size
        target = {
            name: p.detach()[: used if name in self.tables else None].clone()
            for name, p in self.target.named_parameters()
        }
        return {
            "online": {name: value.clone() for name, value in self.online.state_dict().items()},
            "target": target,
            "training": {str(at): part.state_dict() for at, part in enumerate(self.training)},
            "replay": self.replay.state_dict(),
            "candidates": None if self.candidates is None else self.candidates.state_dict(),
            "generator": self.generator.get_state(),
            "counts": {"observed": self.observed, "learned": self.learned},
        }

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        self.online.load_state_dict(state["online"])
        self.target.load_state_dict(state["online"])
        for name, saved in state["target"].items():
            self.target.get_parameter(name)[: len(saved)] = saved.to(self.device)
        for at, part in enumerate(self.training):
            part.load_state_dict(state["training"][str(at)])
        self.replay.load_state_dict(state["replay"])
        if self.candidates is not None:
            self.candidates.load_state_dict(state["candidates"])
        self.generator.set_state(state["generator"])
        self.observed, self.learned = state["counts"]["observed"], state["counts"]["learned"]


def _check_ranges(settings: dict[str, float]) -> None:
    for name in ("epsilon", "epsilon_start", "gamma"):
        if not 0.0 <= settings[name] <= 1.0:
            raise ValueError(f"{name} must be between 0 and 1, got {settings[name]}")
    for name in ("batch", "steps", "hidden", "rank", "target_every"):
        if settings[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {settings[name]}")
    if settings["extra"] < 0 or settings["epsilon_decay"] < 0:
        raise ValueError(
            f"extra and epsilon_decay must be at least 0, got {settings['extra']} and {settings['epsilon_decay']}"
        )
    if settings["value_scale"] <= 0:
        raise ValueError(f"value_scale must be above 0, got {settings['value_scale']}")


def _check_variant(optimiser: str, target: str, choice: str) -> None:
    for name, value, known in (
        ("optimiser", optimiser, Search),
        ("target", target, Target),
        ("choice", choice, Choice),
    ):
        if value not in get_args(known):
            raise ValueError(f"{name} must be one of {', '.join(get_args(known))}; got {value!r}")
