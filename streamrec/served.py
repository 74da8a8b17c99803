"""What serving needs of an agent: its state without what only learning reads.

An agent's `state_dict` holds everything it would need to go on learning. To answer `act` it needs the weights and the
counts; the replay memory, the optimiser and the target networks are by far the larger part and stay with the learner.
They are known by the names they have in a state, at any depth; `tests/streamrec/test_served.py` holds every agent to
it: one that was given only the rest acts exactly as the original.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from streamrec.ports import Agent, State

LEARNING = frozenset(
    {
        "replay",
        "optimiser",
        "optimisers",
        "target",
        "training",
        "schedule",
        "actor_target",
        "critic_target",
        "actor_adam",
        "critic_adam",
        "later_actor",
        "later_critic",
        "for_actor",
        "for_critic",
        "competitors",
    }
)
"""Names of the parts of a state that only learning reads. A table of this name is left out; a single tensor is not."""

UNKNOWN = frozenset({"outcome"})
"""Names of tensors in which NaN is a value like any other: "not known yet"."""


def served_state(agent: Agent) -> State:
    """The part of `agent.state_dict()` that answers depend on."""
    return _without(agent.state_dict())


class Receiver:
    """Loads served states into one agent, again and again, whatever it held before.

    What a served state leaves out becomes what it was in the agent as it was built, so the agent must be new.

    Args:
        agent: as built, never loaded, nothing observed.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._rest = _only(agent.state_dict())

    def load(self, state: State) -> None:
        """Take over a `served_state` of an agent with the same settings."""
        self.agent.load_state_dict(_merged(state, self._rest))


def not_finite(state: State, path: str = "") -> str | None:
    """The path of the first tensor or number in `state` that is NaN or infinite; None if all are finite."""
    for key, value in state.items():
        where = f"{path}/{key}" if path else key
        if isinstance(value, dict):
            found = not_finite(value, where)
            if found:
                return found
        elif isinstance(value, Tensor):
            if key not in UNKNOWN and value.is_floating_point() and _bad(value):
                return where
        elif isinstance(value, float) and not -torch.inf < value < torch.inf:
            return where
    return None


def _bad(value: Tensor) -> bool:
    """A sum is many times faster than looking at each number, and finite only if all of them are."""
    return not bool(torch.isfinite(value.sum())) and not bool(torch.isfinite(value).all())


def norm(state: State) -> tuple[float, int]:
    """Euclidean norm of all floating-point tensors of `state`, and how many numbers they are."""
    squares, count = 0.0, 0
    for key, value in state.items():
        if isinstance(value, dict):
            inner, numbers = norm(value)
            squares, count = squares + inner**2, count + numbers
        elif key not in UNKNOWN and isinstance(value, Tensor) and value.is_floating_point():
            squares, count = squares + float(torch.linalg.vector_norm(value)) ** 2, count + value.numel()
    return float(squares**0.5), count


def _left_out(key: str, value: Any) -> bool:
    return key in LEARNING and isinstance(value, dict)


def _without(tree: State) -> State:
    return {
        key: _without(value) if isinstance(value, dict) else value
        for key, value in tree.items()
        if not _left_out(key, value)
    }


def _only(tree: State) -> State:
    """The tables left out, in their places; tables without any are not there."""
    kept: State = {}
    for key, value in tree.items():
        if _left_out(key, value):
            kept[key] = value
        elif isinstance(value, dict):
            inner = _only(value)
            if inner:
                kept[key] = inner
    return kept


def _merged(state: State, rest: State) -> State:
    """`state` with the parts of `rest` in their places."""
    out = dict(state)
    for key, value in rest.items():
        out[key] = _merged(state[key], value) if key in state and isinstance(state[key], dict) else value
    return out
