"""Agents in worlds: every agent of an arena file, over several seeds, with the same people and the same luck.

An arena is a TOML file, shipped in `streamrec/specs/arena` or the reader's own:

    about = "one sentence"
    source = "the paper and the claim, where there is one"
    decisions = 100_000        # per run; `days = 30` of event time instead where the world is measured by the day
    update_every = 256
    slate = 5
    tail = 0.5                 # the share at the end of a run that is scored, while learning goes on
    foresight_horizon = 50     # decisions (or days) over which the oracle's foresight is tuned
    claims = ["a > b"]         # see `streamrec.bench.claims`
    needs = "recsim"           # a package without which the arena cannot run
    [null]                     # overrides under which every claim must become a tie
    "world.core.repulsion" = 0.0
    [world]                    # `core`, and keywords of `simulators.world.SimulatorWorld` (tick_s = 300: large waves)
    [agents.a]
    use = "..."
    [agents.b]
    like = "a"                 # the table of a, with what stands here in place of what stands there
    gamma = 0.0

Three policies are added to every arena: `random`; `oracle`, which sees the users from inside; and `myopic`, the oracle
without foresight.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.random import Random
from simulators.core import Core
from simulators.oracle import tune
from simulators.world import SimulatorWorld
from streamrec import spec
from streamrec.build import BadSpec, build, did_you_mean
from streamrec.catalog import Catalog
from streamrec.loop import Loop
from streamrec.ports import Agent, State
from streamrec.records import Decision, History, Transition
from streamrec.sessions import SessionStore

Arena = dict[str, Any]

CHUNKS = 20
"""Points of a learning curve."""

ENDS = ("random", "myopic", "oracle")
"""Policies added to every arena."""

_KEYS = {
    "about", "source", "decisions", "days", "update_every", "slate", "tail", "foresight_horizon", "claims", "null",
    "needs", "catalog", "sessions", "world", "agents",
}  # fmt: skip


def shipped() -> list[str]:
    """Names of the arenas that come with the package."""
    return spec.shipped("arena")


def ready() -> list[str]:
    """Names of the shipped arenas whose packages are installed."""
    return [name for name in shipped() if (package := load(name).get("needs")) is None or find_spec(package)]


def load(name: str) -> Arena:
    """The arena in the file `name`, or the shipped one of that name.

    Raises:
        BadSpec: no such arena, bad TOML, or a key that arenas do not have.
    """
    arena = spec.read(name, "arena", "arena")
    spec.check_keys(name, arena, _KEYS, needed=("world", "agents", "slate"))
    if ("decisions" in arena) == ("days" in arena):
        raise BadSpec(f"{name}: an arena needs either decisions or days")
    arena["agents"] = {agent: _spelled_out(agent, arena["agents"], name) for agent in arena["agents"]}
    return arena


def _spelled_out(agent: str, agents: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = dict(agents[agent])
    model = table.pop("like", None)
    if model is None:
        return table
    if model not in agents or "like" in agents[model]:
        others = [other for other in agents if "like" not in agents[other]]
        raise BadSpec(f"{name}: agents.{agent}.like = {model!r} must name a whole agent{did_you_mean(model, others)}")
    return {**agents[model], **table}


def null(arena: Arena) -> Arena:
    """The arena with its `[null]` overrides applied: the effect that a claim needs is off."""
    changed = copy.deepcopy(arena)
    for place, value in changed.pop("null", {}).items():
        *path, key = place.split(".")
        table = changed
        for name in path:
            table = table.setdefault(name, {})
        table[key] = value
    return changed


def shorter(arena: Arena, factor: int) -> Arena:
    """The arena with runs `factor` times shorter, and an oracle that looks as much less far.

    A run of days keeps one whole day at least, of a tenth of its users.
    """
    horizon = {"foresight_horizon": max(_horizon(arena) // factor, 1)}
    if "days" not in arena:
        return {**arena, **horizon, "decisions": max(arena["decisions"] // factor, 1)}
    core = arena["world"]["core"]
    world = {**arena["world"], "core": {**core, "users": core["users"] // 10}}
    return {**arena, **horizon, "days": max(arena["days"] // factor, 1), "world": world}


def _horizon(arena: Arena) -> int:
    horizon: int = arena.get("foresight_horizon", min(arena["days"], 10) if "days" in arena else 50)
    return horizon


@dataclass
class Run:
    """What one agent did in one arena with one seed."""

    score: float  # over the tail of the run, in the unit of the world
    curve: list[float]  # [CHUNKS], the same over equal pieces of the run, from its start
    times: list[float]  # [CHUNKS], wall seconds since the start at the end of each piece
    decisions: int
    seconds: float
    learning: dict[str, float]  # what the last update said
    swing: dict[str, float]  # standard deviation over the updates of the tail of what they said


def play(arena: Arena, agent: str, seed: int, foresight: float = 0.0) -> Run:
    """Run one agent; the seed decides people, luck and the agent's own draws.

    Args:
        arena: as `load` gives it.
        agent: a name of `arena["agents"]`, or one of `ENDS`.
        seed: of everything.
        foresight: of the oracle (`foresight_of`).
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    core = make_core(arena, seed)
    context: dict[str, Any] = {"slate": arena["slate"], "seed": seed, "device": "cpu", "run_dir": Path()}
    context["catalog"] = catalog = Catalog(**{"capacity": core.capacity, **arena.get("catalog", {})})
    context["sessions"] = sessions = SessionStore(
        slate=arena["slate"], **{"users": core.users, **arena.get("sessions", {})}
    )
    settings = {"tick_s": 300.0, **{name: value for name, value in arena["world"].items() if name != "core"}}
    world = SimulatorWorld(core, catalog, sessions, **settings)
    player = _player(arena, agent, context, world, foresight)
    curve = Curve(core, world.start, arena)
    loop = Loop(world, sessions, catalog, player, {"curve": curve}, arena.get("update_every", 256))
    said: list[dict[str, float]] = []
    start = time.perf_counter()
    while not curve.over and loop.step():
        curve.note(time.perf_counter() - start)
        if loop.counts["updates"] > len(said):
            said.append(dict(loop.learning))
    tail = arena.get("tail", 0.5)
    return Run(
        curve.tail(tail),
        curve.points(),
        curve.times,
        loop.counts["decisions"],
        time.perf_counter() - start,
        dict(loop.learning),
        swing(said[len(said) - max(round(tail * len(said)), 1) :]),
    )


def swing(said: list[dict[str, float]]) -> dict[str, float]:
    """Standard deviation of each quantity over the updates that speak of it."""
    names = {name for update in said for name in update}
    return {n: float(np.std([update[n] for update in said if n in update])) for n in sorted(names)}


def make_core(arena: Arena, seed: int, **changes: Any) -> Core:
    """The core of the arena's world."""
    core: Core = build({**arena["world"]["core"], "seed": seed, **changes}, {"slate": arena["slate"]}, "world.core")
    return core


def foresight_of(arena: Arena, users: int = 128) -> float:
    """The foresight with which the oracle earns most in this arena, tuned on people of its own."""

    def make(seed: int) -> Core:
        return make_core(arena, seed, users=users)

    torch.set_num_threads(1)
    return tune(make, _horizon(arena), [1_000_003])


def _player(arena: Arena, agent: str, context: Mapping[str, Any], world: SimulatorWorld, foresight: float) -> Agent:
    if agent == "random":
        return Random(context["catalog"], arena["slate"], seed=context["seed"])
    if agent in ENDS:
        return Seer(world, foresight if agent == "oracle" else 0.0)
    player: Agent = build(copy.deepcopy(arena["agents"][agent]), context, f"agents.{agent}")
    return player


class Seer:
    """The oracle as an agent of the loop: it sees the users of a simulator from inside.

    Args:
        world: whose users ask.
        foresight: 0 = myopic.
    """

    reads = ()

    def __init__(self, world: SimulatorWorld, foresight: float) -> None:
        self.world, self.foresight = world, foresight

    def act(self, history: History) -> Decision:
        return Decision.of(history.user, self.world.ideal(history.user, self.foresight))

    def observe(self, transition: Transition) -> None:
        """It knows already."""

    def update(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        """There is nothing to restore."""


class Curve:
    """Reward as a run goes on, in pieces of equally many decisions, or of equal event time where the unit is a day.

    Where the unit is a life, all that it earned counts in the piece in which it ends: lives that began together end
    together for a long time, so that reward and endings of the same piece have little to do with each other.

    Args:
        core: gives the unit.
        start: event time at which the run starts, seconds since the epoch.
        arena: gives the length of the run.
    """

    def __init__(self, core: Core, start: float, arena: Arena) -> None:
        self.unit, self.users, self.start = core.unit, core.users, start
        self.length = float(arena["days"] * 86400.0 if "days" in arena else arena["decisions"])
        if (core.unit == "day") != ("days" in arena):
            raise BadSpec(f"a world measured by the {core.unit} needs {'days' if core.unit == 'day' else 'decisions'}")
        self.reward = torch.zeros(CHUNKS, dtype=torch.float64)
        self.decisions = torch.zeros(CHUNKS, dtype=torch.float64)
        self.lives = torch.zeros(CHUNKS, dtype=torch.float64)
        self.lived = torch.zeros(0, dtype=torch.float64)  # [store rows], what the life there has earned so far
        self.times: list[float] = []
        self.seen = 0
        self.newest = start

    @property
    def over(self) -> bool:
        """The run is as long as the arena says."""
        return self._progress() >= 1.0

    def _progress(self) -> float:
        return (self.newest - self.start if self.unit == "day" else self.seen) / self.length

    def see(self, transition: Transition) -> None:
        if self.unit == "day":
            at = (transition.time - self.start) / self.length
        else:
            at = (self.seen + torch.arange(len(transition))) / self.length
        piece = (at * CHUNKS).long().clamp(max=CHUNKS - 1).cpu()
        inside = (at < 1.0).cpu()
        reward, done = transition.reward.double().cpu(), transition.done.cpu()
        if self.unit == "life":
            reward = self._whole(transition.history.user.cpu(), reward, done)
        self._add(piece[inside], reward[inside], done[inside])
        self.seen += len(transition)
        self.newest = max(self.newest, float(transition.time.max()))

    def _whole(self, user: Tensor, reward: Tensor, done: Tensor) -> Tensor:
        """[B] what the lives that end here have earned, 0 where they go on. [B] store rows, rewards, endings."""
        missing = int(user.max()) + 1 - len(self.lived) if len(user) else 0
        self.lived = torch.cat([self.lived, self.lived.new_zeros(max(missing, 0))])
        self.lived.index_add_(0, user, reward)
        whole = torch.where(done, self.lived[user], 0.0)
        self.lived[user[done]] = 0.0
        return whole

    def _add(self, piece: Tensor, reward: Tensor, done: Tensor) -> None:
        self.reward.index_add_(0, piece, reward)
        self.decisions.index_add_(0, piece, torch.ones(len(piece), dtype=torch.float64))
        self.lives.index_add_(0, piece, done.double())

    def note(self, seconds: float) -> None:
        """The run has got so far after `seconds` of wall time."""
        reached = min(int(self._progress() * CHUNKS), CHUNKS)
        self.times += [seconds] * (reached - len(self.times))

    def points(self) -> list[float]:
        """[CHUNKS] score of each piece; of one in which no life ended, that of the one before, or of the first."""
        known = [at for at in range(CHUNKS) if self.unit != "life" or self.lives[at] > 0] or [0]
        shown = [max((k for k in known if k <= at), default=known[0]) for at in range(CHUNKS)]
        return [self._score(slice(at, at + 1)) for at in shown]

    def tail(self, share: float) -> float:
        """Score of the last `share` of the run."""
        return self._score(slice(CHUNKS - max(round(share * CHUNKS), 1), CHUNKS))

    def _score(self, part: slice) -> float:
        pieces = len(range(*part.indices(CHUNKS)))
        exposure = {
            "decision": float(self.decisions[part].sum()),
            "life": float(self.lives[part].sum()),
            "day": self.users * pieces * self.length / CHUNKS / 86400.0,
        }[self.unit]
        return float(self.reward[part].sum()) / max(exposure, 1.0 if self.unit != "day" else 1e-9)

    def read(self) -> dict[str, Any]:
        return {"points": self.points()}

    def state_dict(self) -> State:
        tables = {"reward": self.reward.clone(), "decisions": self.decisions.clone(), "lives": self.lives.clone()}
        newest = torch.tensor(self.newest, dtype=torch.float64)
        return {**tables, "lived": self.lived.clone(), "seen": self.seen, "newest": newest}

    def load_state_dict(self, state: State) -> None:
        names = ("reward", "decisions", "lives", "lived")
        self.reward, self.decisions, self.lives, self.lived = (state[name].clone() for name in names)
        self.seen, self.newest = state["seen"], float(state["newest"])
