"""How fast worlds run, against the least a world must compute and against RecSim where that is installed."""

from __future__ import annotations

import importlib
import importlib.util
import time
from typing import Any

import numpy as np
import torch

from simulators import WORLDS
from simulators.core import Core
from simulators.feed import Feed
from simulators.vector import SlateVectorEnv
from streamrec.bench import rate

USERS = 4096
BATCHES = 16
"""Batches of random actions drawn beforehand."""

CANDIDATES, SLATE = 10, 3
"""Of RecSim's interest evolution, as published (Ie et al., arXiv 1905.12767)."""


def measure(seconds: float) -> dict[str, Any]:
    """Requests answered (`steps_per_s`) and items shown (`interactions_per_s` = steps * slate) per second, on one core.

    Every registered world with all its effects on, twice: its bare dynamics (drawing the slates is not counted), and as
    the vector face shows it, observations and candidates included. `ratio` is that of `Feed`'s dynamics to the
    limit: draws a number per slot and compares it with the sigmoid of <taste, item>, without skips, boredom, leaving,
    drift or clock. `recsim` is RecSim's own interest evolution, stepped as it ships it; `over_recsim` is our `Interest`
    to it.
    """
    limit = _least(seconds)
    worlds = {}
    for name, path in WORLDS.items():
        module, _, core = path.partition(":")
        make = getattr(importlib.import_module(module), core)
        worlds[name] = _measured(make(users=USERS), path, seconds)
    found = {name: value for name, value in worlds["Feed-v0"].items() if name != "slate"}
    figures: dict[str, Any] = {**found, "bare_clicks_per_s": limit, "ratio": found["interactions_per_s"] / limit}
    figures |= {"users": USERS, "worlds": worlds}
    if importlib.util.find_spec("recsim") is not None:
        figures["recsim_steps_per_s"] = _recsim(seconds)
        figures["over_recsim"] = worlds["Interest-v0"]["steps_per_s"] / figures["recsim_steps_per_s"]
    return figures


def _measured(core: Core, path: str, seconds: float) -> dict[str, float]:
    steps, face = _core(core, seconds), _face(path, seconds)
    return {
        "slate": core.slate,
        "steps_per_s": steps,
        "interactions_per_s": steps * core.slate,
        "face_steps_per_s": face,
        "face_interactions_per_s": face * core.slate,
    }


def _core(core: Core, seconds: float) -> float:
    """Steps per second of the dynamics under random slates; new people where lives end are counted, slates are not."""
    users = torch.arange(core.users)
    spent, done, end = 0.0, -1, time.perf_counter() + seconds
    while done < 1 or time.perf_counter() < end:
        slates = core.sample(users, core.slate)
        start = time.perf_counter()
        feedback = core.step(users, slates)
        if core.mortal and bool(feedback.leave.any()):
            core.reset(users[feedback.leave])
        if done >= 0:  # the first one is not counted
            spent += time.perf_counter() - start
        done += 1
    return done * core.users / spent


def _face(path: str, seconds: float) -> float:
    """Steps per second of the vector environment under random slates."""
    env = SlateVectorEnv(USERS, core=path, autoreset_mode="SameStep")
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(BATCHES)]
    env.reset(seed=0)
    at = 0

    def work() -> int:
        nonlocal at
        at += 1
        env.step(actions[at % BATCHES])
        return USERS

    return rate(work, seconds)


def _least(seconds: float) -> float:
    """Clicks drawn per second."""
    core = Feed(users=USERS)
    slates = torch.randint(1, core.items + 1, (BATCHES, USERS, core.slate))
    at = 0

    def work() -> int:
        nonlocal at
        at += 1
        affinity = (core.vectors[slates[at % BATCHES]] * core.taste.unsqueeze(1)).sum(2)
        _ = torch.rand(USERS, core.slate) < torch.sigmoid(affinity)
        return USERS * core.slate

    return rate(work, seconds)


def _recsim(seconds: float) -> float:
    """Steps per second of one environment of RecSim's, as many as it takes, with random slates."""
    from simulators.recsim import load

    modules = load()
    world = modules["recsim.environments.interest_evolution"]
    person = world.IEvUserModel(SLATE, choice_model_ctor=modules["recsim.choice_model"].MultinomialLogitChoiceModel)
    sampler = world.UtilityModelVideoSampler()
    env = modules["recsim.simulator.environment"].Environment(person, sampler, CANDIDATES, SLATE)
    slates = np.random.default_rng(0).permuted(np.tile(np.arange(CANDIDATES), (4096, 1)), axis=1)[:, :SLATE]
    env.reset()
    at = 0

    def work() -> int:
        nonlocal at
        at += 1
        if env.step(slates[at % len(slates)])[3]:
            env.reset()
        return 1

    return rate(work, seconds)
