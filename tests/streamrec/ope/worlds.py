"""A small world with sessions, drawn; every expectation in it is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Log:
    reward: Floats
    propensity: Floats
    target: Floats
    session: NDArray[np.uint64]
    q: Floats
    v: Floats
    time: Floats

    def __getitem__(self, part: slice) -> dict[str, Any]:
        return {name: column[part] for name, column in vars(self).items()}

    @property
    def columns(self) -> dict[str, Any]:
        return self[:]


LOGGER = np.array([[0.7, 0.2, 0.1], [0.2, 0.3, 0.5]])  # [context, action]
POLICY = np.array([[0.1, 0.3, 0.6], [0.5, 0.4, 0.1]])
REWARD = np.array([[0.2, 0.5, 0.6], [0.3, 0.1, 0.4]])
CONTEXT = np.array([0.25, 0.75])
MODEL = REWARD + np.array([[0.1, -0.2, 0.05], [0.0, 0.3, -0.1]])
VALUE = float(CONTEXT @ (POLICY * REWARD).sum(1))


def draw(sessions: int, rows: int = 5, seed: int = 0, spread: float = 0.0) -> Log:
    """`sessions` of `rows` decisions; sessions share a context, and `spread` moves their reward rates together."""
    generator = np.random.default_rng(seed)
    key = generator.integers(0, 2**63, sessions).astype(np.uint64)
    context = generator.choice(2, size=sessions, p=CONTEXT).repeat(rows)
    mood = generator.choice([-spread, spread], size=sessions).repeat(rows)
    action = (generator.random(len(context))[:, None] > LOGGER[context].cumsum(1)).sum(1)
    rate = REWARD[context, action] + mood
    return Log(
        reward=(generator.random(len(context)) < rate).astype(np.float64),
        propensity=LOGGER[context, action],
        target=POLICY[context, action],
        session=key.repeat(rows),
        q=MODEL[context, action],
        v=(POLICY * MODEL).sum(1)[context],
        time=np.arange(len(context), dtype=np.float64) * 60,
    )


def enumerated(times: int = 100) -> Log:
    """Each (context, action) as often as expected, rewards at their mean: sample means are expectations."""
    context, action = np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)
    counts = np.rint(CONTEXT[context] * LOGGER[context, action] * 40 * times).astype(int)
    context, action = context.repeat(counts), action.repeat(counts)
    n = len(context)
    return Log(
        reward=REWARD[context, action],
        propensity=LOGGER[context, action],
        target=POLICY[context, action],
        session=np.arange(n, dtype=np.uint64),
        q=MODEL[context, action],
        v=(POLICY * MODEL).sum(1)[context],
        time=np.zeros(n),
    )
