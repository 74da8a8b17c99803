"""What estimators say of a policy in a world it shapes, beside what it really earns there.

A value per decision answers "what if the policy had made this one decision, in the state the logger brought about?".
Where today's choice changes tomorrow's state, that is another question than "what does the policy earn in its own
world?", however true the propensities and however good the model. `tiring=0` switches the effect off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamrec.ope.accumulator import Accumulator
from streamrec.ope.estimate import Estimate
from streamrec.ope.rows import Floats, Keys
from streamrec.ope.sequences.accumulator import SequenceAccumulator
from streamrec.ope.sequences.fqe import LinearFqe
from streamrec.ope.sequences.marginalised import Marginalised

STATES, ITEMS = 4, 2
LOUD = 0
"""Item that pleases now and tires; the other one rests."""

PER_DECISION = ("ips", "snips", "clipped", "switch", "dm", "dr", "sndr", "dros")
PER_SESSION = ("pdis", "weighted_pdis", "sequential_dr")

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Walks:
    """Sessions of the logger as steps in the order of time; [n] each."""

    state: Ints
    item: Ints
    reward: Floats
    after: Ints  # STATES = the session is over
    step: Ints
    session: Keys


class TiringWorld:
    """Visitors who get tired: loud items earn more at once, tire, and tired visitors earn less and leave sooner.

    State is tiredness 0 .. 3. An item earns 1 with probability `base[item] - tiring * state`; after the loud item
    tiredness rises by 1, after the quiet one it falls by 1. A session ends after a step with probability 0.15 + 0.05 x
    `tiring` / 0.15 x state, so with `tiring = 0` nothing depends on state.

    Args:
        tiring: what a degree of tiredness takes from the reward rate; 0 = choices have no consequences.
    """

    base = np.array([0.6, 0.5])

    def __init__(self, tiring: float = 0.15) -> None:
        if not 0 <= tiring <= 0.15:
            raise ValueError(f"tiring is {tiring:g}: expected between 0 and 0.15, rates stay probabilities")
        degrees = np.arange(STATES)
        self.rate: Floats = np.asarray(self.base[None, :] - tiring * degrees[:, None], dtype=np.float64)
        self.end: Floats = np.asarray(0.15 + tiring / 3 * degrees, dtype=np.float64)
        self.to: Ints = np.stack([np.minimum(degrees + 1, STATES - 1), np.maximum(degrees - 1, 0)], axis=1)
        self.begin: Floats = np.array([0.25, 0.25, 0.25, 0.25])

    def own(self, policy: Floats) -> tuple[float, float]:
        """What the policy [states, items] earns a session and a decision in its own world, by a linear solve."""
        move = np.zeros((STATES, STATES))
        for item in range(ITEMS):
            move[np.arange(STATES), self.to[:, item]] += policy[:, item] * (1 - self.end)
        visits = np.linalg.solve(np.eye(STATES) - move.T, self.begin)
        earned = float(visits @ (policy * self.rate).sum(1))
        return earned, earned / float(visits.sum())

    def walk(self, policy: Floats, sessions: int, generator: np.random.Generator) -> Walks:
        """Sessions in which `policy` decides, their steps sorted by time."""
        state = generator.choice(STATES, size=sessions, p=self.begin)
        keys = generator.integers(0, 2**63, sessions).astype(np.uint64)
        parts: list[tuple[Ints, ...]] = []
        step = 0
        while len(state):
            item = (generator.random(len(state)) > policy[state, 0]).astype(np.int64)
            reward = (generator.random(len(state)) < self.rate[state, item]).astype(np.int64)
            going = generator.random(len(state)) > self.end[state]
            after = np.where(going, self.to[state, item], STATES)
            parts.append((state, item, reward, after, np.full(len(state), step), keys.view(np.int64)))
            state, keys, step = after[going], keys[going], step + 1
        state, item, reward, after, steps, key = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Walks(state, item, reward.astype(np.float64), after, steps, key.view(np.uint64))


@dataclass(frozen=True)
class Line:
    """An estimator in the study.

    Args:
        policy: who was valued.
        estimator: its name.
        unit: what the value is per, "decision" or "session".
        estimate: mean over the runs.
        truth: what the policy earns per unit in its own world.
        error: mean relative error, signed.
        spread: standard deviation of the estimate over the runs, relative to the truth.
        covered: share of runs whose interval holds the truth; None without intervals.
    """

    policy: str
    estimator: str
    unit: str
    estimate: float
    truth: float
    error: float
    spread: float
    covered: float | None


def study(runs: int = 20, sessions: int = 20_000, tiring: float = 0.15, seed: int = 0) -> list[Line]:
    """Value a loud and a quiet policy from logs of one that mixes evenly, with every estimator.

    Per-decision estimators get the true rewards as their model: what is left of their error is the question they
    answer. Sequence estimators get a model fitted to an independent log of the same size.

    Args:
        runs: simulated logs.
        sessions: in each, and in the log their model is fitted to.
        tiring: strength of the effect; 0 = the null setting, in which every error must vanish.
        seed: of the runs.
    """
    world, generator = TiringWorld(tiring), np.random.default_rng(seed)
    logger = np.full((STATES, ITEMS), 0.5)
    policies = {"loud": np.tile([0.7, 0.3], (STATES, 1)), "quiet": np.tile([0.3, 0.7], (STATES, 1))}
    found: dict[tuple[str, str], list[Estimate]] = {}
    for _ in range(runs):
        log, other = (world.walk(logger, sessions, generator) for _ in range(2))
        for name, policy in policies.items():
            for estimator, estimate in _estimates(world, logger, policy, log, other).items():
                found.setdefault((name, estimator), []).append(estimate)
    return [
        _line(name, estimator, estimates, world.own(policies[name])) for (name, estimator), estimates in found.items()
    ]


def _estimates(world: TiringWorld, logger: Floats, policy: Floats, log: Walks, other: Walks) -> dict[str, Estimate]:
    reached = (log.reward, logger[log.state, log.item], policy[log.state, log.item], log.session)
    plain = Accumulator(PER_DECISION)
    plain.add(*reached, q=world.rate[log.state, log.item], v=(policy * world.rate).sum(1)[log.state])
    fitted = LinearFqe(STATES * ITEMS, gamma=1.0)
    fitted.add(
        _pairs(other.state, np.eye(ITEMS)[other.item]), other.reward, _pairs(other.after, _padded(policy)[other.after])
    )
    first = other.state[other.step == 0]
    fitted.begin(_pairs(first, policy[first]))
    q = fitted.fit()[0].reshape(STATES, ITEMS)
    whole = SequenceAccumulator(PER_SESSION)
    time = log.step.astype(np.float64)
    whole.add(*reached, time, q=q[log.state, log.item], v=(policy * q).sum(1)[log.state])
    visited = Marginalised(STATES, gamma=1.0)
    eye = np.eye(STATES + 1)[:, :STATES]
    visited.add(eye[log.state], *reached[:3], eye[log.after], log.step == 0, log.session)
    sequences = whole.result()
    return {
        **{name: estimate for name, estimate in plain.result().items() if name != "logged"},
        **{name: estimate for name, estimate in sequences.items() if name != "logged"},
        "marginalised": visited.result(),
        "fqe": fitted.result()[0],
    }


def _padded(policy: Floats) -> Floats:
    """The policy with a state after the end, in which nothing is chosen."""
    return np.concatenate([policy, np.zeros((1, ITEMS))])


def _pairs(state: Ints, chances: Floats) -> Floats:
    """[n, states * items] one feature a pair, the chances where the state is; 0 after the end."""
    features = np.zeros((len(state), STATES + 1, ITEMS))
    features[np.arange(len(state)), state] = chances
    return features[:, :STATES].reshape(len(state), -1)


def _line(policy: str, estimator: str, estimates: Sequence[Estimate], own: tuple[float, float]) -> Line:
    unit, truth = ("decision", own[1]) if estimator in PER_DECISION else ("session", own[0])
    values = np.array([one.value for one in estimates], dtype=np.float64)
    held = [one.low <= truth <= one.high for one in estimates if one.low is not None and one.high is not None]
    return Line(
        policy,
        estimator,
        unit,
        float(values.mean()),
        truth,
        float(values.mean() / truth - 1),
        float(values.std(ddof=1) / truth) if len(values) > 1 else 0.0,
        sum(held) / len(held) if held else None,
    )


def table(lines: Sequence[Line]) -> str:
    """The study as a Markdown table."""
    head = "| policy | estimator | per | estimate | in its own world | error | spread | covers |\n" + "|---" * 8 + "|"
    rows = [
        f"| {one.policy} | {one.estimator} | {one.unit} | {one.estimate:.4f} | {one.truth:.4f} | {one.error:+.1%} "
        f"| {one.spread:.1%} | {'no interval' if one.covered is None else f'{one.covered:.0%}'} |"
        for one in lines
    ]
    return "\n".join([head, *rows])
