"""What stable-baselines3 is given in place of its own buffers and environment, and of its randomness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, DictRolloutBufferSamples
from torch import Generator, Tensor

from agents.sb3_policies import Observation
from streamrec.records import rank_within


def generalised_advantages(errors: Tensor, decay: Tensor, users: Tensor) -> Tensor:
    """Generalised advantages (Schulman et al., ICLR 2016), [B]: A_t = error_t + decay_t * A_t+1 along each user's rows.

    Args:
        errors: [B] temporal differences, in the order in which they happened.
        decay: [B] gamma * lambda, 0 where the visit ended.
        users: [B] whose each row is.
    """
    advantages, rank = errors.clone(), rank_within(users)
    order = torch.argsort(users, stable=True)
    after = torch.full_like(users, -1)
    same = users[order[1:]] == users[order[:-1]]
    after[order[:-1][same]] = order[1:][same]
    for step in range(int(rank.max()) - 1, -1, -1):
        rows = ((rank == step) & (after >= 0)).nonzero().squeeze(1)
        advantages[rows] += decay[rows] * advantages[after[rows]]
    return advantages


class Samples:
    """What an off-policy algorithm takes for its replay buffer.

    Args:
        draw: a batch of the size asked for.
    """

    def __init__(self, draw: Callable[[int], DictReplayBufferSamples]) -> None:
        self.draw = draw

    def sample(self, batch_size: int, env: object = None) -> DictReplayBufferSamples:
        """A batch to train on; `env`, of which normalisation would be read, is nobody's here."""
        return self.draw(batch_size)


class Rollout:
    """What an on-policy algorithm takes for its rollout buffer: decisions, handed out in random order.

    Args:
        seen: observations, [B, ...] each.
        places: [B, K], what was shown.
        values: [B] of the states, before learning.
        logp: [B] of the slates, when they were decided.
        advantages: [B].
    """

    def __init__(self, seen: Observation, places: Tensor, values: Tensor, logp: Tensor, advantages: Tensor) -> None:
        self.seen, self.places, self.old, self.logp, self.advantages = seen, places, values, logp, advantages
        self.target = values + advantages
        self.values: NDArray[Any] = values.cpu().numpy()
        self.returns: NDArray[Any] = self.target.cpu().numpy()

    def get(self, batch_size: int | None = None) -> Iterator[DictRolloutBufferSamples]:
        """Every decision once, in batches; None = all at once."""
        order = torch.from_numpy(np.random.permutation(len(self.places))).to(self.places.device)
        for rows in torch.split(order, batch_size or len(order)):
            yield DictRolloutBufferSamples(
                observations={name: column[rows] for name, column in self.seen.items()},
                actions=self.places[rows],
                old_values=self.old[rows],
                old_log_prob=self.logp[rows],
                advantages=self.advantages[rows],
                returns=self.target[rows],
            )


class Outside(gymnasium.Env[Any, Any]):
    """Only spaces: the loop steps the world."""

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation, action


@contextmanager
def own_randomness(generator: Generator) -> Iterator[None]:
    """Let stable-baselines3 draw from the global generators, seeded from ours, and leave them as they were."""
    device = generator.device
    seed = int(torch.randint(2**31, (1,), generator=generator, device=device))
    cuda = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    numpy = np.random.get_state()
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed_all(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy)
