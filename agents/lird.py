"""LIRD: an actor that writes a list as K weight vectors, and a critic that judges the list as a whole."""

from __future__ import annotations

import copy
import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.explore import choose, offered, pick
from streamrec.memory import Replay, Sample
from streamrec.nn.items import ItemVectors, uniform
from streamrec.nn.optimiser import Optimiser
from streamrec.ports import State
from streamrec.records import Decision, History, Transition
from streamrec.sessions import SessionStore

_NEVER = -1e9
"""Logit of what is no choice: finite, so that a gradient through a softmax of nothing else is 0 and not NaN."""


class Mlp(nn.Module):
    """Two hidden layers with ReLU.

    Args:
        sizes: widths of input, hidden layers and output.
        generator: start of the weights.
    """

    def __init__(self, sizes: tuple[int, int, int], generator: Generator) -> None:
        super().__init__()
        wide, hidden, out = sizes
        shapes = [(hidden, wide), (hidden, hidden), (out, hidden)]
        self.weights = nn.ParameterList(uniform(rows, cols, generator) for rows, cols in shapes)
        # Not zeros: weight vectors are scaled to length 1, which has no gradient to speak of where everything is 0.
        self.shifts = nn.ParameterList(torch.empty(n).uniform_(-0.1, 0.1, generator=generator) for n, _ in shapes)

    def forward(self, x: Tensor) -> Tensor:
        for at, (weight, shift) in enumerate(zip(self.weights, self.shifts, strict=True)):
            x = F.linear(F.relu(x) if at else x, weight, shift)
        return x


class Lists(nn.Module):
    """Item vectors, states made of them, and the actor.

    The vector of an item is [v / |v|, features / |features|], scaled to length 1; v is learned. A state is the vectors
    of the newest `window` positives one after the other, newest last, and the context of the request.

    Args:
        catalog: capacity of the table, and the features of items.
        context: numbers that come with a request.
        many: weight vectors that the actor writes.
        window: N, positives in a state.
        dim: width of v.
        hidden: width of the actor's hidden layers.
        generator: start of the weights.
    """

    def __init__(
        self, catalog: Catalog, context: int, many: int, window: int, dim: int, hidden: int, generator: Generator
    ) -> None:
        super().__init__()
        self.catalog, self.many, self.window = catalog, many, window
        self.item_dim = dim + catalog.features.shape[1]
        self.state_dim = window * self.item_dim + context
        self.table = ItemVectors(catalog, dim, generator)
        self.actor = Mlp((self.state_dim, hidden, many * self.item_dim), generator)

    def vectors(self, rows: Tensor) -> Tensor:
        """Of `rows` [...], [..., I], length 1; zero for "no item"."""
        parts = [F.normalize(self.table(rows), dim=-1)]
        if self.catalog.features.shape[1]:
            parts.append(F.normalize(self.catalog.features[rows], dim=-1))
        return F.normalize(torch.cat(parts, dim=-1), dim=-1)

    def state(self, history: History) -> Tensor:
        """[B, S]."""
        newest = history.items[:, -self.window :]
        newest = F.pad(newest, (self.window - newest.shape[1], 0))
        return torch.cat([self.vectors(newest.long()).flatten(1), history.context], dim=1)

    def weights(self, state: Tensor, slate: int, actor: Mlp | None = None) -> Tensor:
        """w^1..w^K [B, K, I], each of length 1, of `actor` or of the one here; K times the same if it writes one."""
        out: Tensor = (actor or self.actor)(state)
        return F.normalize(out.view(len(state), self.many, self.item_dim), dim=2).expand(-1, slate, -1)


class LIRD:
    """List-wise recommendation with DDPG (Zhao et al., "Deep Reinforcement Learning for List-wise Recommendations",
    arXiv 1801.00209, 2018).

    The actor turns the state (the last N positives) into K weight vectors; slot k shows the item with the largest
    w^k . e_i among those not in the slots above. The critic learns Q(s, a) of the list really shown, a = the
    vectors of its K items, towards sum_k Gamma^(k-1) reward_k + gamma Q'(s', a'). The actor climbs Q(s, a) at its own
    weight vectors. Target copies of both follow softly. A decision costs K |I| d, whatever the size of the networks.

    Departures from the paper, which has item vectors from a skip-gram model and leaves most settings out:

    * The item vectors are learned here, together with the actor, by predicting clicks: `align` times the
      cross-entropy of each rewarded item under softmax(w^k . e_i / temperature) over the items, k its slot. That ties
      the actor to lists that were liked, as DeepPage's alignment does (Zhao et al., RecSys 2018), but to the rewarded
      items only instead of all that was shown. With `align` 0 it is plain DDPG and the learned part of the vectors
      stays as it started, random directions. The critic reads the vectors and does not change them.
    * Items and weight vectors have length 1, so that the critic meets lists and weight vectors on one scale.
    * a' is the list that the target actor would show, not its weight vectors: the critic knows lists.
    * Exploration is epsilon-greedy per slot, with exact propensities; the paper does not say how it explores.

    Args:
        catalog: which items may be shown, and their features.
        sessions: knows how wide the context of a request is.
        slate: K.
        listwise: False = one weight vector for all slots, so that the list is the K items nearest to it, best first:
            the item-wise actor that the paper sets itself against. For ablations; with K = 1 it is the same.
        window: N, positives in a state.
        dim: width of the learned part of item vectors.
        gamma: discount per decision.
        position_decay: Gamma, what a reward one slot further down counts.
        align: weight of the cross-entropy.
        temperature: of the softmax in it.
        n_sample: items that the cross-entropy is taken over; beyond, as many drawn uniformly for the batch.
        batch: transitions per gradient step.
        steps: gradient steps per `update`.
        memory: newest transitions kept for replay.
        hidden: width of the two hidden layers of actor and critic.
        learning_rate: of Adam, critic.
        actor_learning_rate: of Adam, actor.
        item_learning_rate: of Adagrad, item vectors.
        tau: how fast the target networks follow, per gradient step.
        epsilon: share of exploration in the end.
        epsilon_start: share of exploration in the beginning.
        epsilon_decay: observed decisions until `epsilon` is reached, in a straight line.
        seed: start of the networks, replay, negatives and exploration.
        device: where the weights and the memory live.

    Raises:
        ValueError: if a setting is out of its range.
    """

    reads: tuple[str, ...] = ("items", "context", "offer")

    def __init__(
        self,
        catalog: Catalog,
        sessions: SessionStore,
        slate: int,
        listwise: bool = True,
        window: int = 10,
        dim: int = 50,
        gamma: float = 0.75,
        position_decay: float = 0.9,
        align: float = 1.0,
        temperature: float = 0.1,
        n_sample: int = 2048,
        batch: int = 256,
        steps: int = 1,
        memory: int = 100_000,
        hidden: int = 128,
        learning_rate: float = 1e-3,
        actor_learning_rate: float = 1e-3,
        item_learning_rate: float = 0.05,
        tau: float = 0.01,
        epsilon: float = 0.05,
        epsilon_start: float = 0.5,
        epsilon_decay: int = 20_000,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        _check({name: value for name, value in locals().items() if isinstance(value, int | float)})
        self.catalog, self.slate = catalog, slate
        self.align, self.temperature, self.n_sample = align, temperature, n_sample
        self.batch, self.steps, self.tau = batch, steps, tau
        self.epsilon, self.epsilon_start, self.epsilon_decay = epsilon, epsilon_start, epsilon_decay
        self.device = torch.device(device)
        start = Generator().manual_seed(seed)
        many = slate if listwise else 1
        self.net = Lists(catalog, sessions.context_width, many, window, dim, hidden, start).to(self.device)
        wide = self.net.state_dim + slate * self.net.item_dim
        self.critic = Mlp((wide, hidden, 1), start).to(self.device)
        self.later_actor = copy.deepcopy(self.net.actor).requires_grad_(False)
        self.later_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.for_actor = Optimiser(self.net, catalog, actor_learning_rate, item_learning_rate)
        self.for_critic = Optimiser(self.critic, catalog, learning_rate, item_learning_rate)
        self.replay = Replay(memory, 1, gamma, self.reads, self.device)
        self.counts = position_decay ** torch.arange(slate, device=self.device)  # [K], Gamma^(k-1)
        self.generator = Generator(device).manual_seed(seed)
        self.observed = 0  # decisions

    # --- deciding ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, history: History) -> Decision:
        weights = self.net.weights(self.net.state(history), self.slate)
        slate, slot_logp = self._map(weights, history, self.exploration)
        return Decision.of(history.user, slate, slot_logp)

    @property
    def exploration(self) -> float:
        """Share of exploration now."""
        progress = min(1.0, self.observed / self.epsilon_decay) if self.epsilon_decay else 1.0
        return self.epsilon_start + (self.epsilon - self.epsilon_start) * progress

    def _map(self, weights: Tensor, history: History, epsilon: float) -> tuple[Tensor, Tensor]:
        """The list that weight vectors [B, K, I] stand for: slate [B, K] and slot_logp [B, K]."""
        given = offered(history, self.catalog.available)
        if given is None:
            items = self._available().unsqueeze(0)
            scores = weights @ self.net.vectors(items[0]).t()
        else:
            items, mask = given
            scores = torch.einsum("bki,bci->bkc", weights, self.net.vectors(items))
            scores = scores.masked_fill(~mask.unsqueeze(1), -torch.inf)
        # One more column, never valid, takes the marks of slots that stay empty.
        scores = F.pad(scores, (0, 1), value=-torch.inf)
        index, logps = [], []
        gone = torch.zeros_like(scores[:, 0], dtype=torch.bool)
        for slot in range(self.slate):
            at, logp = choose(scores[:, slot].masked_fill(gone, -torch.inf), 1, epsilon, self.generator)
            gone = gone.scatter(1, at.masked_fill(at < 0, scores.shape[2] - 1), True)
            index.append(at)
            logps.append(logp)
        return pick(F.pad(items, (0, 1)), torch.cat(index, dim=1)), torch.cat(logps, dim=1)

    def _available(self) -> Tensor:
        """[N] int64."""
        return torch.nonzero(self.catalog.available[: self.catalog.size].to(self.device)).squeeze(1)

    # --- learning ----------------------------------------------------------------------------------------------

    def observe(self, transition: Transition) -> None:
        """Remember the transition."""
        self.observed += len(transition)
        self.replay.add(transition)

    def update(self) -> dict[str, float]:
        """`steps` gradient steps, as soon as the memory holds a batch."""
        if len(self.replay) < min(self.batch, self.replay.size):
            return {}
        said: dict[str, float] = {}
        for _ in range(self.steps):
            sample = self.replay.sample(self.batch, self.generator)
            said = self._judge(sample) | self._improve(sample)
            self._follow()
        return said | {"epsilon": self.exploration}

    def _judge(self, sample: Sample) -> dict[str, float]:
        """A step of the critic, at the lists that were shown."""
        with torch.no_grad():
            state, shown = self.net.state(sample.first.history), self.net.vectors(sample.first.shown.slate)
            after = self.net.state(sample.next)
            slate, _ = self._map(self.net.weights(after, self.slate, self.later_actor), sample.next, 0.0)
            future = _value(self.later_critic, after, self.net.vectors(slate))
            target = (sample.first.rewards * self.counts).sum(1) + sample.discount * future
        value = _value(self.critic, state, shown)
        loss = (value - target).square().mean()
        self.for_critic.descend(loss)
        return {"critic": float(loss.detach()), "value": float(value.detach().mean())}

    def _improve(self, sample: Sample) -> dict[str, float]:
        """A step of the actor and of the item vectors."""
        state = self.net.state(sample.first.history)
        weights = self.net.weights(state, self.slate)
        # The critic judges the weight vectors; its gradient goes to the actor, not on to the item vectors.
        worth = _value(self.critic, state.detach(), self.net.weights(state.detach(), self.slate)).mean()
        align = self._alignment(weights, sample.first)
        self.for_actor.descend(self.align * align - worth)
        return {"actor": float(worth.detach()), "align": float(align.detach())}

    def _alignment(self, weights: Tensor, first: Transition) -> Tensor:
        """Mean cross-entropy of the rewarded items under the weight vectors of their slots. Scalar."""
        slate = first.shown.slate
        row, slot = torch.nonzero((first.rewards > 0) & (slate != 0), as_tuple=True)
        if not self.align or not len(row):
            return weights.new_zeros(())
        items, columns, each = slate[row, slot], *self._columns()
        mine = weights[row, slot] / self.temperature
        own = (mine * self.net.vectors(items)).sum(1)
        others = mine @ self.net.vectors(columns).t() + each
        rest = others.masked_fill(columns == items.unsqueeze(1), _NEVER).logsumexp(1)
        return (torch.logaddexp(own, rest) - own).mean()

    def _columns(self) -> tuple[Tensor, float]:
        """Items that stand for all in the cross-entropy [n] int64, and log of how many each of them stands for."""
        available = self._available()
        if len(available) <= self.n_sample:
            return available, 0.0
        at = torch.randint(len(available), (self.n_sample,), generator=self.generator, device=self.device)
        return available[at], math.log(len(available) / self.n_sample)

    @torch.no_grad()
    def _follow(self) -> None:
        """Target networks move `tau` of the way."""
        for mine, theirs in ((self.later_actor, self.net.actor), (self.later_critic, self.critic)):
            for old, new in zip(mine.parameters(), theirs.parameters(), strict=True):
                old.lerp_(new, self.tau)

    # --- state -------------------------------------------------------------------------------------------------

    def _networks(self) -> dict[str, nn.Module]:
        return {
            "net": self.net,
            "critic": self.critic,
            "later_actor": self.later_actor,
            "later_critic": self.later_critic,
        }

    def state_dict(self) -> State:
        """Weights, optimisers, memory and randomness, as copies."""
        networks = {
            name: {key: value.clone() for key, value in network.state_dict().items()}
            for name, network in self._networks().items()
        }
        return {
            "networks": networks,
            "for_actor": self.for_actor.state_dict(),
            "for_critic": self.for_critic.state_dict(),
            "replay": self.replay.state_dict(),
            "generator": self.generator.get_state(),
            "observed": self.observed,
        }

    def load_state_dict(self, state: State) -> None:
        for name, network in self._networks().items():
            network.load_state_dict(state["networks"][name])
        self.for_actor.load_state_dict(state["for_actor"])
        self.for_critic.load_state_dict(state["for_critic"])
        self.replay.load_state_dict(state["replay"])
        self.generator.set_state(state["generator"])
        self.observed = state["observed"]


def _value(critic: Mlp, state: Tensor, vectors: Tensor) -> Tensor:
    """Q(s, a) of states [B, S] and lists of vectors [B, K, I]: [B]."""
    value: Tensor = critic(torch.cat([state, vectors.flatten(1)], dim=1))
    return value.squeeze(1)


def _check(settings: dict[str, float]) -> None:
    for name in ("epsilon", "epsilon_start", "position_decay"):
        if not 0.0 <= settings[name] <= 1.0:
            raise ValueError(f"{name} must be between 0 and 1, got {settings[name]}")
    for name in ("window", "dim", "n_sample", "batch", "steps", "hidden"):
        if settings[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {settings[name]}")
    for name in ("align", "epsilon_decay"):
        if settings[name] < 0:
            raise ValueError(f"{name} must be at least 0, got {settings[name]}")
    if settings["temperature"] <= 0.0:
        raise ValueError(f"temperature must be above 0, got {settings['temperature']}")
    if not 0.0 < settings["tau"] <= 1.0:
        raise ValueError(f"tau must be above 0 and at most 1, got {settings['tau']}")
