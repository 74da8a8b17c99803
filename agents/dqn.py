"""Deep Q-learning over candidates: how much is an item worth to this user, now and later."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.explore import allowed, choose, offered, pick, without_repeats
from streamrec.memory import Replay, Sample
from streamrec.models.next_item import Encoder
from streamrec.nn.adagrad import Adagrad
from streamrec.nn.items import uniform
from streamrec.ports import Agent, State
from streamrec.records import Decision, History, Transition


class Values(nn.Module):
    """Q(s, i) of users and candidate items: b_i + MLP([s, e_i, s * e_i]), with s from an encoder and e from its items.

    One number per user and item, not a layer as wide as the catalogue: what costs is the candidates, not the items.

    Args:
        encoder: makes s [B, D] of a history and owns the item table.
        catalog: capacity of the table of biases.
        hidden: width of the one hidden layer.
        generator: start of the weights.
    """

    encoder: Encoder

    def __init__(self, encoder: Encoder, catalog: Catalog, hidden: int, generator: Generator) -> None:
        super().__init__()
        dim = encoder.dim
        self.encoder = encoder
        self.bias = nn.Parameter(torch.zeros(catalog.capacity + 1, 1))
        self.state = nn.Parameter(uniform(hidden, dim, generator))
        self.item = nn.Parameter(uniform(hidden, dim, generator))
        self.both = nn.Parameter(uniform(hidden, dim, generator))
        self.shift = nn.Parameter(torch.zeros(hidden))
        self.out = nn.Parameter(uniform(1, hidden, generator))
        self.level = nn.Parameter(torch.zeros(1))

    def forward(self, history: History, items: Tensor, generator: Generator | None = None) -> Tensor:
        """[B, C] of `items` [B, C]; `generator` is where the encoder's dropout draws from, None = no dropout."""
        state = self.encoder(history, generator)
        vectors = self.encoder.items(items)
        layer = F.linear(vectors, self.item) + F.linear(state.unsqueeze(1) * vectors, self.both)
        hidden = F.relu(layer + F.linear(state, self.state, self.shift).unsqueeze(1))
        bias = F.embedding(items, self.bias, padding_idx=0, sparse=True).squeeze(2)
        return F.linear(hidden, self.out, self.level).squeeze(2) + bias


class DQN:
    """Deep Q-learning (Mnih et al., Nature 2015) over item-wise values, double (van Hasselt et al., AAAI 2016), n-step.

    Another agent, built with a wide slate, proposes candidates; to them come a few available items at random, so that
    nothing is out of reach. Shown are the K candidates of the highest value, with epsilon-greedy exploration per slot.
    Propensities are exact given the candidates.

    The value of a slate is taken to be the mean of the values of its items, as if slots did not influence each other.
    The best slate then holds the K best items, and each shown slot is one sample: its own reward, plus the mean reward
    per slot of the next n - 1 slates, plus gamma^n times the mean target value of the K items that are best by the
    online network (`double`) or by the target network. With K = 1 this is DQN to the letter.

    Departures from the papers: squared error instead of the clipped one, which removes long-term value where returns
    are larger than the clip; Adam for the dense weights and row-sparse Adagrad for the tables of items; rewards of
    the steps between are not corrected for being off-policy.

    Args:
        encoder: makes the state of a history and owns the item vectors.
        candidates: proposes items: any agent with a slate of its own, some tens to hundreds wide. It sees every
            transition and is updated with this agent.
        catalog: which items may be shown.
        slate: K, slots of a slate.
        gamma: discount per decision.
        n_step: decisions whose rewards are counted before the value of the state takes over.
        double: choose by the online network what the target network values.
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
        encoder: Encoder,
        candidates: Agent,
        catalog: Catalog,
        slate: int,
        gamma: float = 0.9,
        n_step: int = 3,
        double: bool = True,
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
        for name, share in (("epsilon", epsilon), ("epsilon_start", epsilon_start)):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} must be between 0 and 1, got {share}")
        for name, number in (("batch", batch), ("steps", steps), ("hidden", hidden), ("target_every", target_every)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if extra < 0 or epsilon_decay < 0:
            raise ValueError(f"extra and epsilon_decay must be at least 0, got {extra} and {epsilon_decay}")
        self.catalog, self.candidates, self.slate = catalog, candidates, slate
        self.double, self.batch, self.steps, self.target_every = double, batch, steps, target_every
        self.epsilon, self.epsilon_start, self.epsilon_decay = epsilon, epsilon_start, epsilon_decay
        self.extra, self.exclude_seen = extra, exclude_seen
        self.device = torch.device(device)
        self.online = Values(encoder, catalog, hidden, Generator().manual_seed(seed)).to(self.device)
        # The catalogue grows while the run goes on: were it copied too, the target would not see that.
        self.target = copy.deepcopy(self.online, {id(catalog): catalog}).requires_grad_(False)
        tables = [(name, p) for name, p in self.online.named_parameters() if len(p) == catalog.capacity + 1]
        names = {name for name, _ in tables}
        self.tables = Adagrad(tables, item_learning_rate)
        self.dense = torch.optim.Adam([p for n, p in self.online.named_parameters() if n not in names], learning_rate)
        self.replay = Replay(memory, n_step, gamma, _reads(encoder, candidates, exclude_seen), self.device)
        self.generator = Generator(device).manual_seed(seed)
        self.observed = 0  # decisions
        self.learned = 0  # gradient steps

    # --- deciding ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, history: History) -> Decision:
        items, mask = self._propose(history)
        scores = self.online(history, items).where(mask, -torch.inf)
        index, slot_logp = choose(scores, self.slate, self.exploration, self.generator)
        return Decision.of(history.user, pick(items, index), slot_logp)

    @property
    def exploration(self) -> float:
        """Share of exploration now."""
        progress = min(1.0, self.observed / self.epsilon_decay) if self.epsilon_decay else 1.0
        return self.epsilon_start + (self.epsilon - self.epsilon_start) * progress

    def _propose(self, history: History) -> tuple[Tensor, Tensor]:
        """Candidates [B, C] int64, each once per row, and which of them may be shown [B, C] bool."""
        given = offered(history, self.catalog.available, history.items if self.exclude_seen else None)
        if given is not None:
            return given
        wide = self.candidates.act(history).slate
        available = torch.nonzero(self.catalog.available[: self.catalog.size].to(self.device)).squeeze(1)
        left = torch.full_like(history.user, len(available))
        numbers, _ = without_repeats(left, self.extra, self.generator)
        more = torch.cat([available, available.new_zeros(1)])[numbers]  # -1 is the 0 at the end
        seen = history.items if self.exclude_seen else None
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
        self.candidates.observe(transition)

    def update(self) -> dict[str, float]:
        """`steps` gradient steps, as soon as the memory holds a batch."""
        said = {f"candidates.{name}": value for name, value in self.candidates.update().items()}
        if len(self.replay) < min(self.batch, self.replay.size):
            return said
        for _ in range(self.steps):
            said |= self._step()
        return said | {"epsilon": self.exploration}

    def _step(self) -> dict[str, float]:
        sample = self.replay.sample(self.batch, self.generator)
        shown = sample.first.shown.slate
        target = self._target(sample)
        values = self.online(sample.first.history, shown, self.generator)
        loss = (values - target)[shown != 0].square().mean()
        self.tables.zero_grad()
        self.dense.zero_grad()
        torch.autograd.backward(loss)
        self.tables.step()
        self.dense.step()
        self.learned += 1
        if self.learned % self.target_every == 0:
            self._copy()
        return {"loss": float(loss.detach()), "value": float(values.detach().mean())}

    @torch.no_grad()
    def _target(self, sample: Sample) -> Tensor:
        """What each shown slot should be worth, [B, K]."""
        items, mask = self._propose(sample.next)
        value = self.target(sample.next, items)
        judge = self.online(sample.next, items) if self.double else value
        best = judge.where(mask, -torch.inf).topk(min(self.slate, items.shape[1]), dim=1).indices
        there = mask.gather(1, best)
        mean = value.gather(1, best).where(there, 0.0).sum(1) / there.sum(1).clamp(min=1)
        slots = (sample.first.shown.slate != 0).sum(1).clamp(min=1)
        later: Tensor = sample.later / slots + sample.discount * mean
        return sample.first.rewards + later.unsqueeze(1)

    @torch.no_grad()
    def _copy(self) -> None:
        """Online network -> target network; of tables only the rows in use, the others are equal anyway."""
        used = self.catalog.size
        for name, mine in self.target.named_parameters():
            theirs = self.online.get_parameter(name)
            rows = slice(used if name in self.tables.parameters else None)
            mine[rows] = theirs[rows]

    # --- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Weights, optimisers, memory, candidates and randomness, as copies."""
        used = self.catalog.size
        target = {
            name: p.detach()[: used if name in self.tables.parameters else None].clone()
            for name, p in self.target.named_parameters()
        }
        return {
            "online": {name: value.clone() for name, value in self.online.state_dict().items()},
            "target": target,
            "tables": self.tables.state_dict(),
            "dense": _adam_state(self.dense),
            "replay": self.replay.state_dict(),
            "candidates": self.candidates.state_dict(),
            "generator": self.generator.get_state(),
            "counts": {"observed": self.observed, "learned": self.learned},
        }

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        self.online.load_state_dict(state["online"])
        self.target.load_state_dict(state["online"])
        for name, saved in state["target"].items():
            self.target.get_parameter(name)[: len(saved)] = saved.to(self.device)
        self.tables.load_state_dict(state["tables"])
        _load_adam(self.dense, state["dense"])
        self.replay.load_state_dict(state["replay"])
        self.candidates.load_state_dict(state["candidates"])
        self.generator.set_state(state["generator"])
        self.observed, self.learned = state["counts"]["observed"], state["counts"]["learned"]


def _reads(encoder: Encoder, candidates: Agent, exclude_seen: bool) -> Sequence[str] | None:
    """Windows of `History` that somebody here uses; None = all, as long as one of them does not say."""
    reads = getattr(candidates, "reads", None)
    if reads is None:
        return None
    return sorted({*encoder.reads, *reads, "offer", *(("items",) if exclude_seen else ())})


def _adam_state(optimiser: torch.optim.Adam) -> State:
    moments = optimiser.state_dict()["state"]
    return {str(at): {name: value.clone() for name, value in one.items()} for at, one in moments.items()}


def _load_adam(optimiser: torch.optim.Adam, state: State) -> None:
    moments = {int(at): one for at, one in state.items()}
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
