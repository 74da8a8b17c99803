"""The batch of a world as a `VecEnv` of stable-baselines3, which knows no other vectorised environments.

env = gymnasium.make_vec("simulators:Feed-v0", num_envs=256, autoreset_mode="SameStep", action_mode="score")
PPO("MultiInputPolicy", VecMonitor(SlateVecEnv(env))).learn(1_000_000)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from simulators.vector import Arrays, SlateVectorEnv

Indices = int | Iterable[int] | None


class SlateVecEnv(VecEnv):
    """All users of a `SlateVectorEnv`, stepped together as one batch.

    A row that ended is reset in the same step, as stable-baselines3 expects, and its info holds `terminal_observation`,
    `TimeLimit.truncated` and what the last reward was made of. The infos of the other rows are empty: thousands of
    dictionaries per step would cost more than the step. What rewards are made of stands in `info` as arrays [N].

    Args:
        env: a batch, or what `gymnasium.make_vec` returns.

    Raises:
        ValueError: not a batch of this package, or one that resets its rows otherwise.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        batch = env.unwrapped
        if not isinstance(batch, SlateVectorEnv):
            raise ValueError(f"expected a simulators.vector.SlateVectorEnv, got {type(batch).__name__}")
        if batch.autoreset_mode != AutoresetMode.SAME_STEP:
            raise ValueError(
                "stable-baselines3 wants rows reset in the step that ends them: "
                f'make the batch with autoreset_mode="SameStep", got {batch.autoreset_mode.value!r}'
            )
        self.env = batch
        self.info: dict[str, Any] = {}
        self._actions: NDArray[Any] = np.zeros(0)
        super().__init__(batch.num_envs, batch.single_observation_space, batch.single_action_space)

    def reset(self) -> Arrays:
        """Begin with the people that the seeds given to `seed` stand for, else with the next ones."""
        seeded = any(seed is not None for seed in self._seeds)
        observation, self.info = self.env.reset(seed=self._seeds if seeded else None)
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: NDArray[Any]) -> None:
        """Note the actions; there is nothing to wait for."""
        self._actions = actions

    def step_wait(self) -> tuple[Arrays, NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        """Step with the noted actions."""
        observation, reward, terminated, truncated, self.info = self.env.step(self._actions)
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row in np.flatnonzero(done):
            infos[row] = self._ended(int(row), bool(truncated[row]))
        return observation, reward.astype(np.float32), done, infos

    def _ended(self, row: int, truncated: bool) -> dict[str, Any]:
        made_of = {name: column[row] for name, column in self.info["final_info"].items() if not name.startswith("_")}
        last = dict(self.info["final_obs"][row])
        return {**made_of, "terminal_observation": last, "TimeLimit.truncated": truncated}

    def close(self) -> None:
        """Close the batch."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """The attribute of the batch, once per row asked for."""
        return self._per_row(getattr(self.env, attr_name), indices)

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set the attribute of the batch.

        Raises:
            ValueError: for some rows only, which share their settings.
        """
        if set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise ValueError(f"the rows of a batch share their settings: {attr_name!r} can be set for all only")
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Indices = None, **kwargs: Any) -> list[Any]:
        """Call a method of the batch and hand out its result row by row."""
        return self._per_row(getattr(self.env, method_name)(*args, **kwargs), indices)

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Indices = None) -> list[bool]:
        """Nothing is wrapped inside."""
        return [False for _ in self._get_indices(indices)]

    def _per_row(self, value: Any, indices: Indices) -> list[Any]:
        rows = self._get_indices(indices)
        split = isinstance(value, np.ndarray) and value.shape[:1] == (self.num_envs,)
        return [value[row] if split else value for row in rows]
