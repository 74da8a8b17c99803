"""Top-K off-policy REINFORCE: a policy over items that learns from what somebody else showed."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.explore import offered, pick, plackett_luce
from streamrec.memory import Replay
from streamrec.models.next_item import Encoder
from streamrec.nn.inputs import Inputs
from streamrec.nn.items import ItemVectors, uniform
from streamrec.nn.optimiser import Optimiser
from streamrec.ports import State
from streamrec.records import Decision, History, Transition
from streamrec.sessions import SessionStore

_NEVER = -1e9
"""Logit of what is no choice: finite, so that a gradient through a softmax of nothing else is 0 and not NaN."""


class Softmax(nn.Module):
    """Logits <s, v_a> + <W s, features_a> + b_a of items a, with vectors v of its own.

    Args:
        catalog: capacity of the tables, and the features of items.
        dim: width of the states s.
        generator: start of the weights.
    """

    def __init__(self, catalog: Catalog, dim: int, generator: Generator) -> None:
        super().__init__()
        self.catalog = catalog
        self.vectors = ItemVectors(catalog, dim, generator)
        self.bias = nn.Parameter(torch.zeros(catalog.capacity + 1, 1))
        told = catalog.features.shape[1]
        self.features = nn.Parameter(uniform(told, dim, generator)) if told else None

    def forward(self, state: Tensor, items: Tensor) -> Tensor:
        """Logits of `items` [B, C], or [C] for the same items in every row: [B, C]."""
        vectors: Tensor = self.vectors(items)
        if self.features is not None:
            vectors = vectors + self.catalog.features[items] @ self.features
        bias = F.embedding(items, self.bias, padding_idx=0, sparse=True).squeeze(-1)
        if items.dim() == 1:
            return state @ vectors.t() + bias
        return torch.einsum("bd,bcd->bc", state, vectors) + bias


class Policies(nn.Module):
    """The policy pi and, on the same state without passing gradients to it, the model beta of who showed the past."""

    def __init__(self, inputs: Inputs, catalog: Catalog, generator: Generator) -> None:
        super().__init__()
        self.inputs = inputs
        self.pi = Softmax(catalog, inputs.state_dim, generator)
        self.beta = Softmax(catalog, inputs.state_dim, generator)


class Reinforce:
    """Top-K off-policy REINFORCE (Chen et al., WSDM 2019).

    pi(a | s) = softmax(<s, v_a>) over the items that are available. Every shown slot is an action a of the logger in
    state s; those with a reward above 0 move the policy along

        min(pi / beta, cap) * lambda * R * grad log pi(a | s),    lambda = K (1 - pi)^(K - 1)

    where R is the slot's reward plus the discounted rewards of the next decisions. beta(a | s) is learned from all
    shown slots, whatever their reward, by a softmax of its own on the state, whose gradient stops there; with `beta`
    "logged" the recorded propensity of a slot takes its place wherever there is one.

    Up to `n_sample` items the softmax is taken whole; beyond, over the item itself and `n_sample` others drawn
    uniformly from the available ones for the batch, each standing for N / n_sample of them (sampled softmax with its
    correction for the chance of being drawn). A slate is served by Boltzmann exploration: the `top` best items as they
    are, the others drawn without replacement with probability softmax(logit / temperature) from the best `pool`,
    with exact propensities given that.

    Departures from the paper: the state is whatever encoder it is given (the paper's is the Chaos-Free network,
    `streamrec.encoders.cfn.CFN`), with the context of the request; softmaxes have biases, and read features of items
    where the world tells any; the temperature of the softmax is 1 in learning; the horizon of R is counted in
    decisions instead of hours; items are found by scoring all instead of by approximate search; Adam and row-sparse
    Adagrad; transitions are drawn from a memory.

    Args:
        catalog: which items may be shown, and their features.
        sessions: knows how wide the context of a request is.
        slate: K, slots of a slate.
        encoder: makes vectors of histories; None where the context says all.
        correction: "topk" as above; "plain" with lambda = 1; "none" with pi / beta = 1 as well, as if the policy itself
            had shown the past. For ablations.
        beta: "learned" or "logged", see above.
        cap: largest pi / beta; the paper's production system has e^3.
        gamma: discount per decision.
        horizon: decisions whose rewards are in R, this one included.
        temperature: of serving; towards 0 the best K, towards infinity any.
        top: K', slots that hold the best items without a draw.
        pool: M, items that the other slots are drawn from; 0 = all.
        n_sample: see above.
        batch: transitions per gradient step.
        steps: gradient steps per `update`.
        memory: newest transitions that are learned from.
        learning_rate: of Adam.
        item_learning_rate: of Adagrad.
        seed: start of the heads, draws of slates, transitions, negatives and dropout.
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
        correction: Literal["topk", "plain", "none"] = "topk",
        beta: Literal["learned", "logged"] = "learned",
        cap: float = math.exp(3),
        gamma: float = 0.9,
        horizon: int = 4,
        temperature: float = 1.0,
        top: int = 0,
        pool: int = 0,
        n_sample: int = 2048,
        batch: int = 256,
        steps: int = 1,
        memory: int = 20_000,
        learning_rate: float = 1e-3,
        item_learning_rate: float = 0.1,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if correction not in ("topk", "plain", "none"):
            raise ValueError(f'correction must be "topk", "plain" or "none", got {correction!r}')
        if beta not in ("learned", "logged"):
            raise ValueError(f'beta must be "learned" or "logged", got {beta!r}')
        for name, number in (("n_sample", n_sample), ("batch", batch), ("steps", steps), ("horizon", horizon)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        for name, size in (("cap", cap), ("temperature", temperature)):
            if size <= 0.0:
                raise ValueError(f"{name} must be above 0, got {size}")
        if not 0 <= top <= slate:
            raise ValueError(f"top must be between 0 and slate = {slate}, got {top}")
        if pool and pool < slate:
            raise ValueError(f"pool must be at least slate = {slate}, or 0 for all items, got {pool}")
        self.catalog, self.slate = catalog, slate
        self.correction, self.logged, self.cap = correction, beta == "logged", cap
        self.temperature, self.top, self.pool = temperature, top, pool
        self.n_sample, self.batch, self.steps = n_sample, batch, steps
        self.device = torch.device(device)
        inputs = Inputs(catalog, sessions, encoder)
        self.net = Policies(inputs, catalog, Generator().manual_seed(seed)).to(self.device)
        self.optimiser = Optimiser(self.net, catalog, learning_rate, item_learning_rate)
        self.replay = Replay(memory, horizon, gamma, inputs.reads, self.device)
        self.generator = Generator(device).manual_seed(seed)

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of `History` that are used."""
        return self.net.inputs.reads

    # --- deciding ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, history: History) -> Decision:
        state, given = self.net.inputs.state(history), offered(history, self.catalog.available)
        if given is None:
            items = self._available().unsqueeze(0)
            scores = self.net.pi(state, items[0])
        else:
            items, mask = given
            scores = self.net.pi(state, items).where(mask, -torch.inf)
        index, slot_logp = self._serve(scores)
        return Decision.of(history.user, pick(items, index), slot_logp)

    def _available(self) -> Tensor:
        """[N] int64."""
        return torch.nonzero(self.catalog.available[: self.catalog.size].to(self.device)).squeeze(1)

    def _serve(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The `top` best, then draws from the best `pool`: index [B, K] and slot_logp [B, K]."""
        if 0 < self.pool < scores.shape[1]:
            least = scores.topk(self.pool, dim=1).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        best = scores.topk(min(self.top, scores.shape[1]), dim=1)
        first = best.indices.masked_fill(best.values == -torch.inf, -1)
        rest = scores.scatter(1, best.indices, -torch.inf)
        drawn, logp = plackett_luce(rest, self.slate - first.shape[1], self.temperature, self.generator)
        return torch.cat([first, drawn], dim=1), torch.cat([torch.zeros_like(best.values), logp], dim=1)

    # --- learning ----------------------------------------------------------------------------------------------

    def observe(self, transition: Transition) -> None:
        """Remember the transition."""
        self.replay.add(transition)

    def update(self) -> dict[str, float]:
        """`steps` gradient steps, as soon as the memory holds a batch."""
        if len(self.replay) < min(self.batch, self.replay.size):
            return {}
        said: dict[str, float] = {}
        for _ in range(self.steps):
            said = self._step()
        return said

    def _step(self) -> dict[str, float]:
        sample = self.replay.sample(self.batch, self.generator)
        first = sample.first
        slate, filled = first.shown.slate, first.shown.slate != 0
        state = self.net.inputs.state(first.history, self.generator)
        columns, each = self._columns()
        log_pi = log_softmax(self.net.pi, state, slate, columns, each)
        log_beta = log_softmax(self.net.beta, state.detach(), slate, columns, each)
        returns = first.rewards + sample.later.unsqueeze(1)
        paid = filled & (first.rewards > 0)
        weight = self.weight(log_pi.detach(), self._behaviour(log_beta.detach(), first.shown))
        policy = -(weight * returns * log_pi)[paid].sum() / paid.sum().clamp(min=1)
        behaviour = -log_beta[filled].sum() / filled.sum().clamp(min=1)
        self.optimiser.descend(policy + behaviour)
        mean = (weight * paid).sum() / paid.sum().clamp(min=1)
        said = {"policy": policy, "behaviour": behaviour, "weight": mean}
        return {name: float(x.detach()) for name, x in said.items()}

    def _columns(self) -> tuple[Tensor, float]:
        """Items whose logits stand for the whole softmax [n] int64, and log of how many each of them stands for."""
        available = self._available()
        if len(available) <= self.n_sample:
            return available, 0.0
        at = torch.randint(len(available), (self.n_sample,), generator=self.generator, device=self.device)
        return available[at], math.log(len(available) / self.n_sample)

    def _behaviour(self, log_beta: Tensor, shown: Decision) -> Tensor:
        """log beta of each slot, [B, K]."""
        if not self.logged:
            return log_beta
        return torch.where(shown.slot_logp.isnan(), log_beta, shown.slot_logp)

    def weight(self, log_pi: Tensor, log_beta: Tensor) -> Tensor:
        """min(pi / beta, cap) * K (1 - pi)^(K - 1) of each slot, or what `correction` leaves of it: [B, K]."""
        if self.correction == "none":
            return torch.ones_like(log_pi)
        ratio = (log_pi - log_beta).exp().clamp(max=self.cap)
        if self.correction == "plain":
            return ratio
        return ratio * self.slate * (1.0 - log_pi.exp()).clamp(min=0.0) ** (self.slate - 1)

    # --- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Weights, optimiser, memory and randomness, as copies."""
        return {
            "net": {name: value.clone() for name, value in self.net.state_dict().items()},
            "optimiser": self.optimiser.state_dict(),
            "replay": self.replay.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.replay.load_state_dict(state["replay"])
        self.generator.set_state(state["generator"])


def log_softmax(head: Softmax, state: Tensor, items: Tensor, columns: Tensor, each: float) -> Tensor:
    """log of the softmax of `items` [B, K] among themselves one by one and all `columns` [n], [B, K].

    Args:
        head: gives the logits.
        state: [B, S].
        items: 0 = empty slot, whose number means nothing.
        columns: stand for all other items; one that is the item itself is left out.
        each: log of how many items one column stands for.
    """
    own: Tensor = head(state, items)
    others: Tensor = head(state, columns) + each
    rest = [
        others.masked_fill(columns == item.unsqueeze(1), _NEVER).logsumexp(1)  # [B], slot after slot to save memory
        for item in items.unbind(1)
    ]
    return own - torch.logaddexp(own, torch.stack(rest, dim=1))
