"""Our DQN against the one of stable-baselines3: the same world, users, observations and rewards, one thread each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import fmean
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import DQN as PeerDQN
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from agents.dqn import DQN
from simulators.sb3 import SlateVecEnv
from simulators.vector import Arrays, SlateVectorEnv
from streamrec.catalog import Catalog
from streamrec.records import Decision, History, Kind, Transition
from streamrec.sessions import SessionStore

GAMMA = 0.98
SCALE = 0.1
"""Of the rewards both learn from: errors stay where the peer's loss is quadratic, which is best for it."""

PEER_STEPS = 160_000
OUR_STEPS = 600_000
"""Decisions of training: all of the peer's, the most of ours."""

PEER_USERS, OUR_USERS, TEST_USERS = 128, 512, 512
CHECK = 10_240
"""Our decisions between two tests."""

LONGEST = 400
"""Decisions in a visit of 200 minutes in which nothing is ever clicked."""

SEEDS = (0, 1, 2)

Policy = Callable[[Arrays], NDArray[Any]]


def world(users: int) -> SlateVectorEnv:
    """`simulators.interest.Interest`, one of ten documents at a time.

    Everything that matters but the time left is observed, so both agents can learn from the numbers of the world and
    their speed is not that of an encoder; and looking ahead pays.
    """
    return SlateVectorEnv(
        users,
        "simulators.interest:Interest",
        horizon=1_000,
        history=1,
        skips=1,
        action_mode="item",
        obs_mode="features",
        autoreset_mode="SameStep",
    )


def returns(policy: Policy) -> float:
    """Minutes watched in a visit, the mean over people nobody has trained with, the same for every policy."""
    env = world(TEST_USERS)
    observed, _ = env.reset(seed=1_000_000_007)
    total, there = np.zeros(TEST_USERS), np.ones(TEST_USERS, dtype=bool)
    for _ in range(LONGEST):
        observed, reward, over, *_ = env.step(policy(observed))
        total += reward * there
        there &= ~over
        if not there.any():
            break
    return float(total.mean())


class Read(BaseFeaturesExtractor):
    """Interests, topics of the candidates, and the interest in each candidate's topic, side by side.

    The last is a product that a network as small as this would have to find first, for each place in the list anew.
    """

    def __init__(self, observation_space: spaces.Dict) -> None:
        widths = {name: space.shape[0] for name, space in observation_space.items() if space.shape}
        self.count = widths["candidates"]
        super().__init__(observation_space, widths["context"] + widths["candidate_features"] + self.count)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        interest, topics = observations["context"], observations["candidate_features"]
        match = (topics.view(len(topics), self.count, -1) @ interest.unsqueeze(2)).squeeze(2)
        return torch.cat([interest, topics, match], dim=1)


class Scaled(SlateVecEnv):
    """Rewards times `SCALE`."""

    def step_wait(self) -> tuple[Arrays, NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        observed, reward, over, infos = super().step_wait()
        return observed, reward * np.float32(SCALE), over, infos


class Peer:
    """DQN of stable-baselines3 on a native batch of users.

    Its defaults are those for Atari games. The learning rate is left as it is (3e-4, 1e-3 and 3e-3 earned less in
    80,000 decisions of seed 0); memory, batch and copies are what is usual for small problems. It earns more per second
    with large batches from many users than with its one gradient step per four decisions: in seed 0, 155 minutes after
    18 seconds of one core (a gradient step of 512 per 16 decisions of 128 users) against 151 after 36 (128 per 4, 16
    users, learning rate 1e-3).
    """

    def __init__(self, seed: int) -> None:
        env = Scaled(world(PEER_USERS))
        env.seed(1 + seed * 100_000)
        self.model = PeerDQN(
            "MultiInputPolicy",
            env,
            learning_rate=1e-4,
            buffer_size=50_000,
            learning_starts=1_000,
            batch_size=512,
            gamma=GAMMA,
            train_freq=1,
            gradient_steps=PEER_USERS // 16,
            target_update_interval=1_000,
            exploration_fraction=0.3,
            exploration_final_eps=0.05,
            policy_kwargs={"features_extractor_class": Read, "net_arch": [64, 64]},
            seed=seed,
            device="cpu",
        )

    def train(self, steps: int) -> float:
        """Seconds that `steps` decisions took."""
        begun = time.perf_counter()
        self.model.learn(steps)
        return time.perf_counter() - begun

    def policy(self, observed: Arrays) -> NDArray[Any]:
        """The best place of each row's list."""
        return self.model.predict(observed, deterministic=True)[0]


class Ours:
    """Our DQN on a native batch: many users per decision, few and large gradient steps."""

    def __init__(self, seed: int) -> None:
        self.env = world(OUR_USERS)
        self.observed, _ = self.env.reset(seed=1 + seed * 100_000)
        core = self.env.core
        catalog = Catalog(core.capacity)
        catalog.reserve(core.features.shape[1])
        rows = catalog.rows([f"i{number}" for number in range(1, core.capacity + 1)])
        catalog.see(rows)
        catalog.describe(rows, features=core.features[1:])
        sessions = SessionStore(users=OUR_USERS, length=1, skips=1, slate=1)
        sessions.reserve(context=self.observed["context"].shape[1])
        self.agent = DQN(
            catalog,
            sessions,
            1,
            gamma=GAMMA,
            n_step=3,
            batch=512,
            memory=50_000,
            target_every=50,
            learning_rate=2e-3,
            epsilon_decay=40_000,
            seed=seed,
        )
        self.steps = 0

    def train(self, steps: int, every: int = 64) -> float:
        """Seconds that `steps` decisions took, with a gradient step for `every` of them."""
        begun, until = time.perf_counter(), self.steps + steps
        while self.steps < until:
            self._round()
            for _ in range(OUR_USERS // every):
                self.agent.update()
        return time.perf_counter() - begun

    def _round(self) -> None:
        before = _history(self.observed)
        shown = self.agent.act(before)
        places = (before.offer == shown.slate).int().argmax(1)
        self.observed, reward, over, _, _ = self.env.step(places.numpy())
        after, rewards = _history(self.observed), torch.from_numpy(reward).float().unsqueeze(1)
        self.agent.observe(_transition(before, shown, rewards, after, torch.from_numpy(over)))
        self.steps += OUR_USERS

    @torch.no_grad()
    def policy(self, observed: Arrays) -> NDArray[Any]:
        """The best place of each row's list."""
        history = _history(observed)
        best: NDArray[Any] = self.agent.online(history, history.offer).argmax(1).numpy()
        return best


def _history(observed: Arrays) -> History:
    offer = torch.from_numpy(observed["candidates"]).long()
    none = torch.zeros(len(offer), 0, dtype=torch.int32)
    return History.of(
        user=torch.arange(len(offer)), items=none, context=torch.from_numpy(observed["context"]), offer=offer
    )


def _transition(before: History, shown: Decision, rewards: Tensor, after: History, done: Tensor) -> Transition:
    return Transition(
        history=before,
        shown=shown,
        wanted=shown,
        feedback=torch.where(rewards > 0, int(Kind.CLICK), int(Kind.IMPRESSION)).to(torch.int8),
        rewards=rewards * SCALE,
        next=after,
        time=after.time,
        done=done,
        sent=after.time,
    )


def measure(seconds: float) -> dict[str, Any]:
    """Train both, and compare what they earn on the same fresh people with exploration off.

    Args:
        seconds: not used: the peer gets `PEER_STEPS` decisions, and we as many as it takes to earn what it then does.

    Returns:
        Means over seeds: `sb3_return` after all of the peer's training and the `sb3_seconds` of it,
        `our_seconds_to_reach` that return (without the tests between) and the return found then, `ratio` = our seconds
        / its; decisions and gradient steps per second of both; what `random` earns; and each seed by itself.
    """
    chance = np.random.default_rng(0)
    runs = [_compare(seed) for seed in SEEDS]
    means = {name: fmean(run[name] for run in runs) for name in runs[0]}
    means["ratio"] = means["our_seconds_to_reach"] / means["sb3_seconds"]
    means["random"] = returns(lambda observed: chance.integers(10, size=TEST_USERS))
    return {**_finite(means), "seeds": [_finite(run) for run in runs]}


def _finite(figures: dict[str, float]) -> dict[str, float | None]:
    """None for what was never reached: JSON has no infinity."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _compare(seed: int) -> dict[str, float]:
    peer = Peer(seed)
    peer_s = peer.train(PEER_STEPS)
    bar = returns(peer.policy)
    ours, spent, earned = Ours(seed), 0.0, 0.0
    while ours.steps < OUR_STEPS and earned < bar:
        spent += ours.train(CHECK)
        earned = returns(ours.policy)
    found = {
        "sb3_return": bar,
        "sb3_seconds": peer_s,
        "sb3_steps_per_s": PEER_STEPS / peer_s,
        "sb3_updates_per_s": peer.model._n_updates / peer_s,
        "our_return": earned,
        "our_seconds_to_reach": spent if earned >= bar else float("inf"),
        "our_steps_per_s": ours.steps / spent,
        "our_updates_per_s": ours.agent.learned / spent,
    }
    return {name: round(value, 3) for name, value in found.items()}
