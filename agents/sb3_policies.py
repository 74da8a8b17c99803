"""Policies of stable-baselines3 whose heads give a number per candidate, however many candidates there are.

The nets that come with stable-baselines3 end in layers as wide as the action space, one output per place in the list of
candidates: they would have to learn anew, for every place, that the score at a place speaks about the item at that
place, and the list would have to be of one length for ever. Here the item-wise scores of `agents.sb3.HistoryExtractor`
are the outputs, shifted by what the user is like. What makes an algorithm what it is, its losses and its `train`, is
untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.distributions import MultiCategoricalDistribution
from stable_baselines3.common.policies import ContinuousCritic, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from stable_baselines3.sac.policies import Actor as GaussianActor
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import Tensor, nn
from torch.nn import functional as F

FLOOR = -1e9
"""What stands for minus infinity where a gradient passes."""

Observation = dict[str, Tensor]


def parts(features: Tensor, dim: int, lists: int = 2) -> tuple[Tensor, ...]:
    """[B, dim + lists * C] -> [B, dim] and `lists` times [B, C]: encoding, scores, mask, ..."""
    width = (features.shape[1] - dim) // lists
    return torch.split(features, [dim, *([width] * lists)], dim=1)


class Level(nn.Module):
    """A number per user, [B, 1], from the encoding in the features."""

    def __init__(self, dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.dim = dim
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, features: Tensor) -> Tensor:
        """[B, D + 2 C] -> [B, 1]."""
        level: Tensor = self.net(features[:, : self.dim])
        return level


class Head(nn.Module):
    """A number per candidate, [B, C]: its score and a level of the user.

    Args:
        dim: D, width of the encoding.
        masked: `FLOOR` for places without a candidate; where there is none at all, 0 everywhere.
    """

    def __init__(self, dim: int, masked: bool = True) -> None:
        super().__init__()
        self.dim, self.masked = dim, masked
        self.level = Level(dim)

    def forward(self, features: Tensor) -> Tensor:
        """[B, D + 2 C] -> [B, C]."""
        _, scores, mask = parts(features, self.dim)
        values: Tensor = scores + self.level(features)
        if not self.masked:
            return values
        there = mask > 0
        return torch.where(there, values, FLOOR * there.any(1, keepdim=True))


class Spread(nn.Module):
    """Log of the standard deviation of every score, [B, C], the same for all candidates of a user."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.level = Level(dim)

    def forward(self, features: Tensor) -> Tensor:
        """[B, D + 2 C] -> [B, C]."""
        _, scores, _ = parts(features, self.dim)
        return cast(Tensor, self.level(features)).expand_as(scores)


class Order(nn.Module):
    """Scores of candidates as differences from their mean, in standard deviations, [B, C]; 0 where there is none.

    Only their order counts when a slate is made of them, but a deterministic actor is moved through the tanh that
    follows: scores that all grow would end where that is flat, and stay.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, features: Tensor) -> Tensor:
        """[B, D + 2 C] -> [B, C]."""
        _, scores, mask = parts(features, self.dim)
        there = (mask > 0).float()
        count = there.sum(1, keepdim=True).clamp(min=1.0)
        apart = (scores - (scores * there).sum(1, keepdim=True) / count) * there
        return apart / (apart.square().sum(1, keepdim=True) / count + 1e-4).sqrt()


class Pool(nn.Module):
    """Value of an action on the candidates, [B, 1]: a level of the user and K times the mean score of what it prefers.

    A candidate at action a weighs (a + 1) / 2. A slate shown is the action 1 at its candidates and -1 elsewhere, so its
    value is the level and the sum of its scores.
    """

    def __init__(self, dim: int, slots: int) -> None:
        super().__init__()
        self.dim, self.slots = dim, slots
        self.level = Level(dim)

    def forward(self, features: Tensor) -> Tensor:
        """[B, D + 3 C], the actions last -> [B, 1]."""
        _, scores, mask, actions = parts(features, self.dim, 3)
        weights = (actions + 1.0) / 2.0 * (mask > 0)
        mean = (weights * scores).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1e-3)
        return cast(Tensor, self.level(features)) + self.slots * mean


class Slates(MultiCategoricalDistribution):
    """Plackett-Luce distribution of slates: slot after slot one of the candidates left, by the softmax of their logits.

    An action is K places, -1 for a slot left empty because the candidates are used up. The entropy is that of the first
    slot, which stands for the slate's: its own would be a sum over all slates.

    Args:
        slots: K.
        dim: width of the encoding in the features.
    """

    def __init__(self, slots: int, dim: int) -> None:
        super().__init__([slots] * slots)
        self.slots, self.dim = slots, dim
        self.logits = torch.zeros(0)

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:
        """What makes logits [B, C] of features."""
        return Head(self.dim)

    def proba_distribution(self, action_logits: Tensor) -> Slates:
        """The distribution with these logits [B, C]."""
        self.logits = action_logits
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """[B], natural log of the probability of the slates `actions` [B, K]."""
        left, total = self.logits, self.logits.new_zeros(len(self.logits))
        for column in actions.long().unbind(1):
            place = column.unsqueeze(1)
            filled, at = place >= 0, place.clamp(min=0)
            chosen = left.gather(1, at)
            total = total + torch.where(filled, chosen - left.logsumexp(1, keepdim=True), 0.0).squeeze(1)
            left = left.scatter(1, at, torch.where(filled, FLOOR, chosen))
        return total

    def entropy(self) -> Tensor:
        """[B], of the first slot."""
        logp = self.logits.log_softmax(1)
        return -(logp.exp() * logp).sum(1)

    def sample(self) -> Tensor:
        """[B, K] places, drawn as the K largest of logit + Gumbel noise."""
        return self._top(self.logits - torch.empty_like(self.logits).exponential_().log())

    def mode(self) -> Tensor:
        """[B, K] places of the K highest logits."""
        return self._top(self.logits)

    def _top(self, scores: Tensor) -> Tensor:
        top = scores.topk(min(self.slots, scores.shape[1]), dim=1)
        places = top.indices.masked_fill(top.values < FLOOR / 2, -1)
        return F.pad(places, (0, self.slots - places.shape[1]), value=-1)


class ValuePolicy(DQNPolicy):
    """Of DQN: a value per candidate."""

    def make_q_net(self) -> QNetwork:
        """The net of values, online or target."""
        net = super().make_q_net()
        net.q_net = Head(_dim(net.features_extractor)).to(self.device)  # type: ignore[assignment]
        return net

    def scores(self, observation: Observation) -> Tensor:
        """[B, C], what the slate is taken from."""
        values: Tensor = self.q_net(observation)
        return values


class ScorePolicy(TD3Policy):
    """Of TD3 and DDPG: the action is a score per candidate, between -1 and 1."""

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        """Scores of candidates."""
        actor = super().make_actor(features_extractor)
        actor.mu = nn.Sequential(Order(_dim(actor.features_extractor)), nn.Tanh()).to(self.device)
        return actor

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """Values of scores."""
        return _pooling(super().make_critic(features_extractor), self.action_space.shape)

    def scores(self, observation: Observation) -> Tensor:
        """[B, C], what the slate is taken from."""
        scores: Tensor = self.actor(observation)
        return scores


class NoisyScorePolicy(SACPolicy):
    """Of SAC: the action is a score per candidate, drawn from a Gaussian and squeezed between -1 and 1."""

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> GaussianActor:
        """Means and spreads of the scores of candidates."""
        actor = super().make_actor(features_extractor)
        dim = _dim(actor.features_extractor)
        actor.mu = Head(dim, masked=False).to(self.device)
        actor.log_std = Spread(dim).to(self.device)  # type: ignore[assignment]
        return actor

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """Values of scores."""
        return _pooling(super().make_critic(features_extractor), self.action_space.shape)

    def scores(self, observation: Observation) -> Tensor:
        """[B, C], what the slate is taken from: the means."""
        means, _, _ = self.actor.get_action_dist_params(observation)
        return means.tanh()


class SlatePolicy(MultiInputActorCriticPolicy):
    """Of PPO and A2C: a Plackett-Luce distribution of slates, and a value of the user."""

    def _build(self, lr_schedule: Schedule) -> None:
        dim = _dim(self.features_extractor)
        slots = cast(Any, self.action_space).shape[0]
        self.action_dist = Slates(slots, dim)
        super()._build(lr_schedule)
        self.value_net = Level(dim).to(self.device)  # type: ignore[assignment]
        # The optimiser once more, since one of the nets is another.
        settings: dict[str, Any] = {"lr": lr_schedule(1), **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(self.parameters(), **settings)

    def scores(self, observation: Observation) -> Tensor:
        """[B, C], the logits that slates are drawn by."""
        distribution = self.get_distribution(cast(Any, observation))
        return cast(Slates, distribution).logits


POLICIES: dict[str, tuple[type[Any], type[Any]]] = {
    "A2C": (A2C, SlatePolicy),
    "DDPG": (DDPG, ScorePolicy),
    "DQN": (DQN, ValuePolicy),
    "PPO": (PPO, SlatePolicy),
    "SAC": (SAC, NoisyScorePolicy),
    "TD3": (TD3, ScorePolicy),
}
"""Name -> algorithm, and the policy that goes with it."""

ON_POLICY = ("A2C", "PPO")

OURS = ("env", "policy", "gamma", "batch_size", "buffer_size", "n_steps", "gae_lambda", "seed", "device")
"""Settings of stable-baselines3 that this adapter decides."""


def _pooling(critic: ContinuousCritic, shape: Sequence[int] | None) -> ContinuousCritic:
    """The critic with a `Pool` in place of each of its nets."""
    assert shape is not None
    pools = [Pool(_dim(critic.features_extractor), shape[0]) for _ in critic.q_networks]
    for at, pool in enumerate(pools):
        critic.add_module(f"qf{at}", pool.to(critic.device))
    critic.q_networks = list(pools)
    return critic


def _dim(extractor: Any) -> int:
    """Width of the encoding at the head of the features."""
    return int(extractor.dim)
