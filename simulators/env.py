"""Any core as a single Gymnasium `Env`: the vector environment with one row, so the two cannot differ."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from simulators.vector import Arrays, SlateVectorEnv


class SlateEnv(gymnasium.Env[Arrays, Any]):
    """One user; spaces, rewards and keywords are those of `simulators.vector.SlateVectorEnv`."""

    def __init__(self, **settings: Any) -> None:
        self.batch = SlateVectorEnv(1, autoreset_mode=AutoresetMode.DISABLED, **settings)
        self.core, self.page_shape = self.batch.core, self.batch.page_shape
        self.observation_space = self.batch.single_observation_space
        self.action_space = self.batch.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        """Begin an episode with the person that `seed` stands for; without it, with the next one."""
        super().reset(seed=seed)
        observation, _ = self.batch.reset(seed=seed)
        return _first(observation), {}

    def step(self, action: Any) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Show the candidates at the places `action`."""
        observation, reward, terminated, truncated, info = self.batch.step(np.asarray(action)[None])
        known = {name: column[0] for name, column in info.items() if not name.startswith("_")}
        return _first(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), known

    def action_masks(self) -> NDArray[np.bool_]:
        """[C * K] bool, what sb3-contrib asks for: the places that hold a candidate, for each slot.

        Raises:
            ValueError: the action mode has no places to mask.
        """
        masks: NDArray[np.bool_] = self.batch.action_masks()[0]
        return masks


def _first(observation: Arrays) -> Arrays:
    return {name: column[0] for name, column in observation.items()}
