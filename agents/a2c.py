"""Advantage actor-critic over slates: a policy that draws, and a critic that says what was to be expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.explore import allowed, offered, pick, plackett_luce
from streamrec.memory import Replay, Sample
from streamrec.models.next_item import Encoder
from streamrec.nn.inputs import Inputs
from streamrec.nn.items import uniform
from streamrec.nn.optimiser import Optimiser
from streamrec.ports import Agent, State
from streamrec.records import Decision, History, Transition
from streamrec.sessions import SessionStore

_NEVER = -1e9
"""Logit of what cannot be chosen: finite, so that a gradient through a softmax of nothing else is 0 and not NaN."""


class ActorCritic(nn.Module):
    """h = relu(W s + c) of a state; the logit of an item is <U h, item> + b_item, the value of the state <v, h> + v_0.

    Args:
        inputs: states and item vectors.
        catalog: capacity of the table of biases.
        hidden: width of h, which actor and critic share (as in Mnih et al. 2016).
        generator: start of the weights.
    """

    def __init__(self, inputs: Inputs, catalog: Catalog, hidden: int, generator: Generator) -> None:
        super().__init__()
        self.inputs = inputs
        self.bias = nn.Parameter(torch.zeros(catalog.capacity + 1, 1))
        self.weight = nn.Parameter(uniform(hidden, inputs.state_dim, generator))
        self.shift = nn.Parameter(torch.zeros(hidden))
        self.query = nn.Parameter(uniform(inputs.item_dim, hidden, generator))
        self.out = nn.Parameter(uniform(1, hidden, generator))
        self.level = nn.Parameter(torch.zeros(1))

    def state(self, history: History, generator: Generator | None = None) -> Tensor:
        """h [B, H]; `generator` is where the encoder's dropout draws from, None = no dropout."""
        return F.relu(F.linear(self.inputs.state(history, generator), self.weight, self.shift))

    def logits(self, hidden: Tensor, items: Tensor) -> Tensor:
        """Of `items` [B, C], or [1, C] for the same items in every row: [B, C]."""
        query, vectors = F.linear(hidden, self.query), self.inputs.items(items)
        bias = F.embedding(items, self.bias, padding_idx=0, sparse=True).squeeze(2)
        if len(items) == 1:
            return query @ vectors[0].t() + bias
        return torch.einsum("bi,bci->bc", query, vectors) + bias

    def value(self, hidden: Tensor) -> Tensor:
        """V(s), [B]."""
        return F.linear(hidden, self.out, self.level).squeeze(1)


class A2C:
    """Advantage actor-critic (Mnih et al., ICML 2016, without its asynchronous workers), for slates in a stream.

    The policy is Plackett-Luce: slot after slot one of the items left, with probability softmax(logit). It is served by
    drawing from it, with exact propensities. The critic learns V(s) towards the n-step return y; the actor follows
    grad log pi(slate) (y - V(s)) plus `entropy` times the gradient of the entropy.

    Decisions of a stream close later, when the policy has moved on, or were made by somebody else. So the gradient of
    a slate is weighted with min(`clip`, pi / mu), mu its recorded propensity, as in V-trace (Espeholt et al., ICML
    2018, rho with its bar). Where mu is unknown, it is taken to be uniform over the candidates: with a weight of 1
    the policy would be pushed away for ever from what it no longer shows, and diverge. The memory is short for the
    same reason; with `memory` = `batch` = run.update_every learning is nearly on-policy.

    With `credit` "slate" the slate is one action and all its slots share the advantage, as in the paper. With "slot"
    each slot has its own reward, an equal part of what comes later and of V(s), and the weight of its own choice:
    right if slots do not influence each other's rewards, and of a far smaller variance.

    Departures from the papers: rewards of the steps between are not reweighted; the entropy is that of the first slot;
    Adam and row-sparse Adagrad instead of RMSProp; transitions are drawn from the memory instead of used once.

    Args:
        catalog: which items may be shown, and their features.
        sessions: knows how wide the context of a request is.
        slate: K, slots of a slate.
        encoder: makes vectors of histories and items; None where the world's own numbers suffice.
        candidates: proposes items, any agent with a wide slate; it sees every transition and is updated with this one.
            None = all that are available: costs O(N) per user, for catalogues of thousands.
        gamma: discount per decision.
        n_step: decisions whose rewards are counted before the critic takes over.
        credit: "slot" or "slate", see above.
        clip: largest importance weight.
        entropy: weight of the entropy.
        critic: weight of the critic's squared error.
        batch: transitions per gradient step.
        steps: gradient steps per `update`.
        memory: newest transitions that are learned from.
        hidden: width of the layer that actor and critic share.
        learning_rate: of Adam.
        item_learning_rate: of Adagrad.
        seed: start of the heads, draws of slates, of transitions and of dropout.
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
        n_step: int = 5,
        credit: Literal["slot", "slate"] = "slot",
        clip: float = 1.0,
        entropy: float = 0.01,
        critic: float = 0.5,
        batch: int = 256,
        steps: int = 1,
        memory: int = 2048,
        hidden: int = 64,
        learning_rate: float = 1e-3,
        item_learning_rate: float = 0.05,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if credit not in ("slot", "slate"):
            raise ValueError(f'credit must be "slot" or "slate", got {credit!r}')
        for name, number in (("batch", batch), ("steps", steps), ("hidden", hidden)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        for name, weight in (("entropy", entropy), ("critic", critic)):
            if weight < 0.0:
                raise ValueError(f"{name} must be at least 0, got {weight}")
        if clip <= 0.0:
            raise ValueError(f"clip must be above 0, got {clip}")
        self.catalog, self.candidates, self.slate = catalog, candidates, slate
        self.by_slot, self.clip, self.entropy, self.critic = credit == "slot", clip, entropy, critic
        self.batch, self.steps = batch, steps
        self.device = torch.device(device)
        inputs = Inputs(catalog, sessions, encoder)
        self.net = ActorCritic(inputs, catalog, hidden, Generator().manual_seed(seed)).to(self.device)
        self.optimiser = Optimiser(self.net, catalog, learning_rate, item_learning_rate)
        reads = None if candidates is None else getattr(candidates, "reads", None)
        kept = inputs.reads if candidates is None else None if reads is None else sorted({*inputs.reads, *reads})
        self.replay = Replay(memory, n_step, gamma, kept, self.device)
        self.generator = Generator(device).manual_seed(seed)

    @property
    def reads(self) -> Sequence[str] | None:
        """Columns of `History` that are used; None = all, where the agent that proposes candidates does not say."""
        return self.replay.reads

    # --- deciding ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, history: History) -> Decision:
        items = self._items(history)
        mask = allowed(items, self.catalog.available)
        scores = self.net.logits(self.net.state(history), items).where(mask, -torch.inf)
        index, slot_logp = plackett_luce(scores, self.slate, 1.0, self.generator)
        return Decision.of(history.user, pick(items, index), slot_logp)

    def _items(self, history: History) -> Tensor:
        """Candidates of each row [B, C], or of all rows [1, C]; some may not be available."""
        given = offered(history, self.catalog.available)
        if given is not None:
            return given[0]
        if self.candidates is not None:
            return self.candidates.act(history).slate
        return torch.arange(1, self.catalog.size, device=self.device).unsqueeze(0)

    # --- learning ----------------------------------------------------------------------------------------------

    def observe(self, transition: Transition) -> None:
        """Remember the transition; the agent that proposes candidates sees it too."""
        self.replay.add(transition)
        if self.candidates is not None:
            self.candidates.observe(transition)

    def update(self) -> dict[str, float]:
        """`steps` gradient steps, as soon as the memory holds a batch."""
        said: dict[str, float] = {}
        if self.candidates is not None:
            said = {f"candidates.{name}": value for name, value in self.candidates.update().items()}
        if len(self.replay) < min(self.batch, self.replay.size):
            return said
        for _ in range(self.steps):
            said |= self._step(self.replay.sample(self.batch, self.generator))
        return said

    def _step(self, sample: Sample) -> dict[str, float]:
        shown = sample.first.shown
        hidden = self.net.state(sample.first.history, self.generator)
        logp, uniform, entropy = self.log_propensity(hidden, sample.first.history, shown.slate)
        value = self.net.value(hidden)
        weight = self._weight(logp.detach(), torch.where(shown.slot_logp.isnan(), uniform, shown.slot_logp))
        later = self._later(sample)
        error = sample.first.reward + later - value
        gain = self._advantage(sample.first, later, value.detach())
        actor = -(weight * gain * logp).sum(1).mean() - self.entropy * entropy.mean()
        critic = (weight.mean(1) * error.square()).mean()
        self.optimiser.descend(actor + self.critic * critic)
        said = {"actor": actor, "critic": critic, "value": value.mean(), "entropy": entropy.mean()}
        return {name: float(x.detach()) for name, x in said.items()}

    def log_propensity(self, hidden: Tensor, history: History, slate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each slot of `slate` under the policy of now [B, K], under the uniform one [B, K], and the entropy [B].

        The choice is among the candidates of now and what was shown, should that no longer be among them. The entropy
        is that of the first slot.
        """
        items, empty = self._items(history), slate == 0
        there = allowed(items, self.catalog.available, slate)
        others = self.net.logits(hidden, items).masked_fill(~there, _NEVER)
        mine = self.net.logits(hidden, slate).masked_fill(empty, _NEVER)
        every = torch.cat([mine, others.logsumexp(1, keepdim=True)], dim=1)
        left = every.flip(1).logcumsumexp(1).flip(1)[:, :-1]  # each slot chose from its own, those below, the others
        first = F.log_softmax(torch.cat([mine, others], dim=1), dim=1)
        many = there.sum(1, keepdim=True) + (~empty).flip(1).cumsum(1).flip(1)  # that each slot chose from
        logp, uniform = (x.masked_fill(empty, 0.0) for x in (mine - left, -many.clamp(min=1).log()))
        return logp, uniform, -(first.exp() * first).sum(1)

    @torch.no_grad()
    def _later(self, sample: Sample) -> Tensor:
        """What comes after the slate itself, discounted, [B]."""
        later: Tensor = sample.later + sample.discount * self.net.value(self.net.state(sample.next))
        return later

    def _advantage(self, first: Transition, later: Tensor, value: Tensor) -> Tensor:
        """What each slot earned above what was to be expected, [B, K]."""
        filled, surplus = first.shown.slate != 0, (later - value).unsqueeze(1)
        if self.by_slot:
            return torch.where(filled, first.rewards + surplus / filled.sum(1, keepdim=True).clamp(min=1), 0.0)
        return torch.where(filled, first.reward.unsqueeze(1) + surplus, 0.0)

    def _weight(self, logp: Tensor, behaviour: Tensor) -> Tensor:
        """min(clip, pi / mu) of each slot, or of the slate as a whole in each slot, [B, K]."""
        ratio = logp - behaviour
        if not self.by_slot:
            ratio = ratio.sum(1, keepdim=True).expand_as(logp)
        return ratio.exp().clamp(max=self.clip)

    # --- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Weights, optimiser, memory, candidates and randomness, as copies."""
        return {
            "net": {name: value.clone() for name, value in self.net.state_dict().items()},
            "optimiser": self.optimiser.state_dict(),
            "replay": self.replay.state_dict(),
            "candidates": {} if self.candidates is None else self.candidates.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.replay.load_state_dict(state["replay"])
        if self.candidates is not None:
            self.candidates.load_state_dict(state["candidates"])
        self.generator.set_state(state["generator"])
