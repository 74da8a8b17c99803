"""The gate of a warm start: is an agent that starts from a teacher worth having at once, in the end, and sooner?"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from agents.frozen import Frozen
from agents.random import Random
from agents.warmstart import HandOver
from simulators.feed import Feed
from simulators.world import SimulatorWorld
from streamrec.bench.claims import half_width
from streamrec.build import build
from streamrec.catalog import Catalog
from streamrec.loop import Loop
from streamrec.ports import Agent
from streamrec.records import Transition
from streamrec.sessions import SessionStore
from streamrec.warmstart import Witness

ENCODER = {"use": "streamrec.encoders.gru4rec.GRU4Rec", "dim": 32, "scope": "user"}

TEACHER = {
    "use": "agents.supervised.Supervised",
    "model": {"use": "streamrec.models.next_item.NextItem", "encoder": ENCODER},
}

STUDENT = {
    "use": "agents.dqn.DQN",
    "encoder": ENCODER,
    "gamma": 0.8,
    "steps": 2,
    "epsilon_start": 0.05,
    "epsilon": 0.05,
}

WORLD: dict[str, Any] = {
    "items": 200,
    "base": -2.5,
    "boredom": 1.5,
    "monotony": 1.0,
    "gap_s": 60.0,
    "drift": 0.0,
    "new_items_per_hour": 0.0,
}
"""A feed whose user model is of another family than the teacher's: tastes and boredom, no sequence to predict."""

POINTS = 100
"""Pieces of a run: the first is the first 1 % of the steps."""

_SMOOTH = 5  # pieces over which a return is taken to be reached


class Returns:
    """Mean reward of each of `POINTS` equal pieces of a run of `decisions`: a meter."""

    def __init__(self, decisions: int) -> None:
        self.decisions, self.seen = decisions, 0
        self.sums = torch.zeros(2, POINTS, dtype=torch.float64)

    def see(self, transition: Transition) -> None:
        at = (self.seen + torch.arange(len(transition))) * POINTS // self.decisions
        inside = at < POINTS
        reward = transition.reward.double().cpu()
        self.sums[0].index_add_(0, at[inside], reward[inside])
        self.sums[1].index_add_(0, at[inside], torch.ones_like(reward[inside]))
        self.seen += len(transition)

    def read(self) -> dict[str, Any]:
        return {"points": (self.sums[0] / self.sums[1].clamp(min=1)).tolist()}

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "sums": self.sums.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen, self.sums = state["seen"], state["sums"].clone()


class Bench:
    """One seed of the gate: the people of a log, other people to play with, and the agents, of one world.

    Args:
        seed: of people and agents; the world's items are the same for all seeds.
        teacher: a spec of the agent that is taught.
        student: a spec of the agent that takes over; without `epsilon` of its own the teacher's is used.
        world: keywords of `simulators.feed.Feed`.
        users: people, on either side.
        slate: K.
        update_every: decisions per learning step.
    """

    def __init__(
        self,
        seed: int,
        teacher: Mapping[str, Any] = TEACHER,
        student: Mapping[str, Any] = STUDENT,
        world: Mapping[str, Any] = WORLD,
        users: int = 512,
        slate: int = 5,
        update_every: int = 128,
    ) -> None:
        self.seed, self.users, self.slate, self.update_every = seed, users, slate, update_every
        self.teacher, self.student, self.world = dict(teacher), dict(student), dict(world)

    def _parts(self, people: int) -> tuple[dict[str, Any], SimulatorWorld]:
        """What agents are built from, and a world of the people number `people`."""
        core = Feed(**{"users": self.users, "slate": self.slate, "seed": 0, **self.world})
        everybody = torch.arange(self.users)
        core.reset(everybody, everybody + (2 * self.seed + people + 1) * 1_000_000_007)
        catalog = Catalog(core.capacity)
        sessions = SessionStore(slate=self.slate, users=self.users, length=20, skips=20)
        world = SimulatorWorld(core, catalog, sessions, tick_s=10.0)
        found = {"catalog": catalog, "sessions": sessions, "slate": self.slate, "seed": self.seed}
        return {**found, "device": "cpu", "run_dir": Path()}, world

    def _run(self, parts: dict[str, Any], world: SimulatorWorld, agent: Agent, decisions: int) -> list[float]:
        meter = Returns(decisions)
        loop = Loop(world, parts["sessions"], parts["catalog"], agent, {"returns": meter}, self.update_every)
        while loop.counts["decisions"] < decisions and loop.step():
            pass
        points: list[float] = meter.read()["points"]
        return points

    def log(self, decisions: int, passes: int) -> Witness:
        """A teacher who has learned from what people of its own did with random slates."""
        parts, world = self._parts(0)
        gamma = float(self.student.get("gamma", 0.9))
        taught = build({**self.teacher, "epsilon": self.student.get("epsilon", 0.05)}, parts, "teacher")
        witness = Witness(taught, Random(parts["catalog"], self.slate, seed=self.seed), decisions, gamma)
        self._run(parts, world, witness, decisions)
        for _ in range((passes - 1) * decisions // self.update_every):
            witness.update()
        return witness

    def play(self, agent: str, witness: Witness, decisions: int, plan: HandOver) -> tuple[list[float], dict[str, Any]]:
        """Returns of "teacher", "warm" or "cold" with the other people, and what the hand-over said."""
        parts, world = self._parts(1)
        # Items keep the rows they have in the log: the world announces them in the order of their numbers.
        found: dict[str, Any] = {}
        if agent == "teacher":
            taught = build({**self.teacher, "epsilon": self.student.get("epsilon", 0.05)}, parts, "teacher")
            taught.load_state_dict(witness.teacher.state_dict())
            player: Agent = Frozen(taught)
        else:
            player = build(dict(self.student), parts, "student")
            if agent == "warm":
                found = plan(player, witness)
        return self._run(parts, world, player, decisions), found


def gate(
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    decisions: int = 40_000,
    logged: int = 40_000,
    passes: int = 4,
    parts: Sequence[str] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Play the teacher (frozen), the warm agent and the cold one, `decisions` each, and compare them.

    The teacher learns from random slates shown to people who are not met again; its model predicts the next click, the
    users' reactions follow from tastes and boredom.

    Args:
        seeds: at least two.
        decisions: steps of a run.
        logged: decisions in the log.
        passes: over the log.
        parts: what is handed over, see `agents.warmstart.HandOver`.
        **settings: of `Bench`.

    Returns:
        `not_worse_at_first`, `better_at_the_end`: difference of warm and teacher over the first 1 % and the last 10 %
        of the steps, `mean` with a 95 % interval `low`, `high` over seeds, and `holds` (interval not below 0; above 0);
        `speed`: steps until the return of the teacher was reached, `warm` and `cold` by seed (None = never), `ratio` of
        the means, and `holds` (at most half); `returns`: means of the pieces by agent; `checks`: of the hand-over, by
        seed; `passed`: all three hold; `seconds`.
    """
    start, runs, checks = time.monotonic(), [], []
    plan = HandOver(parts)
    for seed in seeds:
        bench = Bench(seed, **settings)
        witness = bench.log(logged, passes)
        returns = {}
        for agent in ("teacher", "warm", "cold"):
            returns[agent], found = bench.play(agent, witness, decisions, plan)
            checks += [found] if found else []
        runs.append(returns)
    verdict = judge(runs, decisions)
    return {**verdict, "checks": checks, "decisions": decisions, "seconds": time.monotonic() - start}


def judge(runs: Sequence[Mapping[str, Sequence[float]]], decisions: int) -> dict[str, Any]:
    """The three conditions of the gate from the returns of each seed, agent -> [POINTS]."""
    curves = {name: torch.tensor([run[name] for run in runs], dtype=torch.float64) for name in runs[0]}
    gain = curves["warm"] - curves["teacher"]
    first, last = difference(gain[:, :1].mean(1)), difference(gain[:, -POINTS // 10 :].mean(1))
    first["holds"], last["holds"] = first["high"] >= 0.0, last["low"] > 0.0
    reached = {name: [_reached(one, two, decisions) for one, two in _pairs(curves, name)] for name in ("warm", "cold")}
    steps = {name: [decisions if one is None else one for one in found] for name, found in reached.items()}
    ratio = sum(steps["warm"]) / sum(steps["cold"])
    speed = {**reached, "ratio": ratio, "holds": ratio <= 0.5 and None not in reached["warm"]}
    return {
        "not_worse_at_first": first,
        "better_at_the_end": last,
        "speed": speed,
        "returns": {name: curve.mean(0).tolist() for name, curve in curves.items()},
        "passed": bool(first["holds"] and last["holds"] and speed["holds"]),
    }


def _pairs(curves: Mapping[str, torch.Tensor], name: str) -> list[tuple[list[float], list[float]]]:
    return list(zip(curves[name].tolist(), curves["teacher"].tolist(), strict=True))


def _reached(mine: Sequence[float], teacher: Sequence[float], decisions: int) -> int | None:
    """Steps until the mean over `_SMOOTH` pieces is the teacher's over the whole run; None = never."""
    goal = sum(teacher) / len(teacher)
    for at in range(len(mine) - _SMOOTH + 1):
        if sum(mine[at : at + _SMOOTH]) / _SMOOTH >= goal:
            return (at + 1) * decisions // POINTS
    return None


def difference(each: torch.Tensor) -> dict[str, Any]:
    """Mean of [S] paired differences, and its 95 % interval (Student's t)."""
    half = half_width(each.double().numpy()) if len(each) > 1 else math.inf
    mean = float(each.mean())
    return {"mean": mean, "low": mean - half, "high": mean + half, "by_seed": each.tolist()}


def measure(seconds: float) -> dict[str, Any]:
    """For `streamrec bench warmstart`: the gate, with shorter runs where `seconds` is below 5."""
    share = min(1.0, seconds / 5.0)
    return gate(decisions=max(int(40_000 * share), 20 * POINTS), logged=max(int(40_000 * share), 4000))
