"""A decision process of three states and two actions whose values are linear solves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STATES, ACTIONS, GAMMA = 3, 2, 0.9
START = np.array([0.5, 0.3, 0.2])
MOVE = np.array(
    [[[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]], [[0.3, 0.3, 0.4], [0.5, 0.4, 0.1]], [[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]]
)
"""[state, action, next state]."""
REWARD = np.array([[1.0, 0.2], [0.0, 2.0], [0.5, -1.0]])
LOGGER = np.array([[0.7, 0.3], [0.4, 0.6], [0.5, 0.5]])
POLICY = np.array([[0.2, 0.8], [0.9, 0.1], [0.6, 0.4]])


def value(move: Floats = MOVE, reward: Floats = REWARD, start: Floats = START) -> float:
    """start . (I - gamma P)^-1 R of the policy."""
    p = (POLICY[:, :, None] * move).sum(1)
    return float(start @ np.linalg.solve(np.eye(STATES) - GAMMA * p, (POLICY * reward).sum(1)))


def walk(sessions: int, steps: int, seed: int) -> tuple[Floats, ...]:
    """States [sessions, steps + 1] and actions [sessions, steps] of the logger."""
    generator = np.random.default_rng(seed)
    state = np.zeros((sessions, steps + 1), dtype=int)
    action = np.zeros((sessions, steps), dtype=int)
    state[:, 0] = generator.choice(STATES, size=sessions, p=START)
    for t in range(steps):
        action[:, t] = generator.random(sessions) > LOGGER[state[:, t], 0]
        chances = MOVE[state[:, t], action[:, t]].cumsum(1)
        state[:, t + 1] = (generator.random(sessions)[:, None] > chances).sum(1)
    return state, action


def pair(state: Floats, chances: Floats) -> Floats:
    """[n, states * actions]: one feature a pair, the probabilities [n, actions] where the state is."""
    features = np.zeros((len(state), STATES, ACTIONS))
    features[np.arange(len(state)), state] = chances
    return features.reshape(len(state), -1)
