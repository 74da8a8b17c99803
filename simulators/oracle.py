"""Policies that know the simulator from inside: the ends of the scale on which every learned policy is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from simulators.core import Core

Policy = Callable[[Core, Tensor], Tensor]
"""(core, users [n]) -> slates [n, K] of item numbers."""

MakeCore = Callable[[int], Core]
"""A fresh core for a seed: the same people and the same luck each time it is called with the same seed."""

FORESIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""What `tune` tries."""


def random(core: Core, users: Tensor) -> Tensor:
    """Any items that are there, all equally likely; the draw belongs to the user's step."""
    return core.sample(users, core.slate)


class Greedy:
    """The best slate, which the core knows and learners have to find out.

    Args:
        foresight: 0 is the myopic oracle, the best that can be done for the present slate. Above 0, what a slate
            costs later counts too.
    """

    def __init__(self, foresight: float = 0.0) -> None:
        self.foresight = foresight

    def __call__(self, core: Core, users: Tensor) -> Tensor:
        return core.best(users, self.foresight)


myopic = Greedy(0.0)


def play(core: Core, policy: Policy, horizon: int) -> Tensor:
    """Score of each user, [U] float64 on the CPU, in the unit of the core.

    Args:
        core: fresh.
        policy: decides for everybody.
        horizon: where the unit is "decision": decisions, and the score is the mean reward of one. "life": the most
            decisions of a life, and the score is their sum. "day": days, and the score is the sum per day.
    """
    users = torch.arange(core.users, device=core.device)
    total = torch.zeros(core.users, dtype=torch.float64, device=core.device)
    if core.unit == "day":
        return _days(core, policy, horizon, total)
    for _ in range(horizon):
        feedback = core.step(users, policy(core, users))
        total[users] += feedback.reward
        if core.unit == "life":
            users = users[~feedback.leave]
    return (total / (horizon if core.unit == "decision" else 1)).cpu()


def _days(core: Core, policy: Policy, days: int, total: Tensor) -> Tensor:
    while len(users := torch.nonzero(core.time < days * 86400.0).squeeze(1)):
        total[users] += core.step(users, policy(core, users)).reward
    return (total / days).cpu()


def tune(make: MakeCore, horizon: int, seeds: Iterable[int], foresights: Sequence[float] = FORESIGHTS) -> float:
    """The foresight that earns most, every candidate tried on the same people with the same luck; deterministic."""
    seeds = list(seeds)
    scores = [sum(float(play(make(s), Greedy(f), horizon).mean()) for s in seeds) for f in foresights]
    return foresights[scores.index(max(scores))]


def fraction(score: float, random: float, oracle: float) -> float:
    """How far `score` is on the way from random (0) to oracle (1); NaN where the two are the same."""
    return (score - random) / (oracle - random) if oracle != random else math.nan


def scale(make: MakeCore, horizon: int = 50, seeds: Sequence[int] = (0, 1)) -> dict[str, Any]:
    """Measure both ends of the scale in a setting, and whether there is anything to gain by looking ahead in it.

    The foresight of the oracle is tuned on seeds of its own, so that its score is not flattered.

    Args:
        make: makes the core; a few hundred users are plenty.
        horizon: see `play`.
        seeds: seeds measured on.

    Returns:
        JSON values: `random`, `myopic`, `oracle`, scores in the `unit` of the core; `lookahead_share`, the part of the
        way from random to oracle that only foresight goes, with its 95 % interval `low`, `high`; `foresight`;
        `verdict`, one sentence.
    """
    foresight = tune(make, horizon, [seed + 1_000_003 for seed in seeds])
    chance = torch.cat([play(make(seed), random, horizon) for seed in seeds])
    now = torch.cat([play(make(seed), myopic, horizon) for seed in seeds])
    ahead = torch.cat([play(make(seed), Greedy(foresight), horizon) for seed in seeds]) if foresight else now
    gain, way = ahead - now, float(ahead.mean() - chance.mean())
    half = 1.96 * float(gain.std()) / math.sqrt(len(gain))
    share, low, high = ((float(gain.mean()) + error) / way if way else 0.0 for error in (0.0, -half, half))
    return {
        "random": float(chance.mean()),
        "myopic": float(now.mean()),
        "oracle": float(ahead.mean()),
        "lookahead_share": share,
        "low": low,
        "high": high,
        "foresight": foresight,
        "unit": make(seeds[0]).unit,
        "horizon": horizon,
        "verdict": _verdict(share, low),
    }


def _verdict(share: float, low: float) -> str:
    if low <= 0:
        return "Looking ahead gains nothing in this setting: a myopic policy that knows the tastes is as good."
    return f"Looking ahead is worth {share:.0%} of the way from random to oracle in this setting."
