"""How often intervals cover the truth when rows of a session depend on each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from streamrec.ope.accumulator import Accumulator, IntervalName
from streamrec.ope.estimate import Estimate
from streamrec.ope.rows import Floats, Keys

TYPES, ITEMS = 10, 10


@dataclass(frozen=True)
class Coverage:
    """One line of the study.

    Args:
        estimator: its name.
        interval: of what kind.
        unit: what the interval takes as independent.
        covered: share of runs whose interval holds the truth.
        low: lower end of what `covered` may be by chance, two standard errors of a share.
        high: upper end.
        width: mean width of the interval.
        bias: mean estimate less the truth.
        runs: how many.
    """

    estimator: str
    interval: str
    unit: str
    covered: float
    low: float
    high: float
    width: float
    bias: float
    runs: int


class SessionWorld:
    """Visitors of ten types and two moods choose among what a logger shows; all rows of a session share both.

    Mood moves the reward of all items, type says which items are liked and which are shown, so the rows of a session
    are alike in reward and in weight. `value` is the policy's expected reward, by enumeration.

    Args:
        mood: how far a session's mood moves the reward rate, up or down with equal chances; 0 = no moods.
        seed: of the world, not of the sessions.
    """

    def __init__(self, mood: float = 0.35, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.mood = mood
        self.rate: Floats = generator.uniform(0.35, 0.65, (TYPES, ITEMS))
        self.logger, self.policy = (_softmax(generator.normal(0, 0.5, size=(TYPES, ITEMS))) for _ in range(2))
        self.model: Floats = np.clip(self.rate + generator.normal(0, 0.1, (TYPES, ITEMS)), 0, 1)
        self.value = float((self.policy * self.rate).sum(1).mean())

    @property
    def max_weight(self) -> float:
        """Largest target / propensity there is."""
        return float((self.policy / self.logger).max())

    def draw(self, sessions: int, rows: int, generator: np.random.Generator) -> tuple[dict[str, Floats], Keys]:
        """Columns of `sessions` sessions of `rows` decisions each, and the sessions' keys."""
        kind = generator.integers(TYPES, size=sessions).repeat(rows)
        mood = (self.mood * generator.choice([-1.0, 1.0], size=sessions)).repeat(rows)
        item = (generator.random(len(kind))[:, None] > self.logger.cumsum(1)[kind][:, :-1]).sum(1)
        reward = (generator.random(len(kind)) < self.rate[kind, item] + mood).astype(np.float64)
        columns = {
            "reward": reward,
            "propensity": self.logger[kind, item],
            "target": self.policy[kind, item],
            "q": self.model[kind, item],
            "v": (self.policy * self.model).sum(1)[kind],
        }
        keys = generator.integers(0, 2**63, sessions).astype(np.uint64)
        return columns, keys.repeat(rows)


def coverage(
    runs: int = 500,
    sessions: int = 20_000,
    rows: int = 5,
    buckets: int = 4096,
    estimators: Sequence[str] = ("ips", "snips", "dr"),
    alpha: float = 0.05,
    mood: float = 0.35,
    intervals: Sequence[IntervalName] = ("session", "anytime"),
    seed: int = 0,
) -> list[Coverage]:
    """Simulate logs with dependent sessions and count how often each interval holds the truth.

    The wanted intervals, and the default one taking each row as a session of its own; all on the same logs. The
    confidence sequence (`anytime`) is that of `ips`, at the end of the log.

    Args:
        runs: simulated logs.
        sessions: in each.
        rows: of each session.
        buckets: hash buckets of the default interval.
        estimators: names.
        alpha: 0.05 for 95 % intervals.
        mood: how far a session's mood moves its rewards.
        intervals: of "session", "bootstrap" (a tenth of a second each) and "anytime".
        seed: of the runs.
    """
    world, generator = SessionWorld(mood), np.random.default_rng(seed)
    found: dict[tuple[str, str, str], list[Estimate]] = {}
    for _ in range(runs):
        columns, keys = world.draw(sessions, rows, generator)
        for unit, session in (("session", keys), ("row", None)):
            accumulator = Accumulator(estimators, buckets, reward_range=(0.0, 1.0))
            accumulator.add(session=session, **columns)
            for kind in intervals if unit == "session" else ("session",):
                for name, estimate in accumulator.result(alpha, kind).items():
                    if name != "logged" and estimate.low is not None:
                        found.setdefault((name, kind, unit), []).append(estimate)
    return [_line(key, estimates, world.value) for key, estimates in found.items()]


def _line(key: tuple[str, str, str], estimates: Sequence[Estimate], truth: float) -> Coverage:
    name, kind, unit = key
    ends = np.array([(one.value, one.low, one.high) for one in estimates], dtype=np.float64)
    share = float(((ends[:, 1] <= truth) & (truth <= ends[:, 2])).mean())
    error = 2 * sqrt(share * (1 - share) / len(ends))
    label = {"session": "delta method", "bootstrap": "bootstrap", "anytime": "confidence sequence"}[kind]
    taken = "none" if kind == "anytime" else unit
    width, bias = float((ends[:, 2] - ends[:, 1]).mean()), float(ends[:, 0].mean() - truth)
    return Coverage(name, label, taken, share, share - error, share + error, width, bias, len(ends))


def table(lines: Sequence[Coverage]) -> str:
    """The study as a Markdown table."""
    head = "| estimator | interval | independent unit | covers | ± 2 se | mean width | bias |\n" + "|---" * 7 + "|"
    rows = [
        f"| {one.estimator} | {one.interval} | {one.unit} | {one.covered:.3f} | {(one.high - one.low) / 2:.3f} "
        f"| {one.width:.5f} | {one.bias:+.5f} |"
        for one in lines
    ]
    return "\n".join([head, *rows])


def _softmax(scores: Floats) -> Floats:
    exponent = np.exp(scores)
    chances: Floats = exponent / exponent.sum(1, keepdims=True)
    return chances
