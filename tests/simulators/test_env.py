"""The single environment passes the checkers of Gymnasium and of stable-baselines3; warnings are errors here."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from simulators.env import SlateEnv
from tests.simulators.worlds import small, worlds

MODES = ("item", "slate", "page", "rank", "score")
EVERYTHING = [(world, mode, "ids" if mode == "slate" else "features") for world in worlds() for mode in MODES]


def make(world: str = "Feed-v0", **settings: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make(f"simulators:{world}", **{**small(world), **settings})


@pytest.mark.parametrize(("world", "mode", "obs_mode"), EVERYTHING)
def test_gymnasium_accepts_it(world: str, mode: str, obs_mode: str) -> None:
    check_env(make(world, action_mode=mode, obs_mode=obs_mode).unwrapped)


@pytest.mark.parametrize(("world", "mode", "obs_mode"), EVERYTHING)
def test_stable_baselines3_accepts_it(world: str, mode: str, obs_mode: str) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(make(world, action_mode=mode, obs_mode=obs_mode), warn=True)


def test_a_page_lies_row_by_row() -> None:
    assert make().unwrapped.page_shape == (5, 1)
    for world in worlds():
        env = make(world, action_mode="page")
        rows, columns = env.unwrapped.page_shape
        assert env.action_space.shape == (rows * columns,)


def test_lives_of_the_interest_world_end_before_the_horizon_does() -> None:
    env = gymnasium.make("simulators:Interest-v0")
    env.reset(seed=1)
    env.action_space.seed(1)
    over, steps = False, 0
    while not over:
        _, _, over, truncated, _ = env.step(env.action_space.sample())
        steps += 1
        assert not truncated
    assert steps > 50


def test_an_episode_is_truncated_at_the_horizon_and_never_terminated() -> None:
    env = make(leave=1.0)
    env.reset(seed=0)
    steps = [env.step(env.action_space.sample()) for _ in range(10)]
    assert [truncated for _, _, _, truncated, _ in steps] == [False] * 9 + [True]
    assert not any(terminated for _, _, terminated, _, _ in steps)
    assert any(info["leave"] for *_, info in steps)


def test_a_seed_decides_everything_and_the_next_episode_is_another_person() -> None:
    one, two = make(), make()
    for step in range(25):
        if step % 10 == 0:
            seed = 9 if step == 0 else None
            a, b = one.reset(seed=seed)[0], two.reset(seed=seed)[0]
        np.testing.assert_array_equal(a["candidates"], b["candidates"])
        action = np.array([step % 12, 1, 2, 3, 4])
        (a, *rest), (b, *others) = one.step(action), two.step(action)
        assert rest[:3] == others[:3]
    assert isinstance(one.unwrapped, SlateEnv)
    taste = one.unwrapped.core.state_dict()["taste"]
    one.reset()
    assert not np.array_equal(one.unwrapped.core.state_dict()["taste"], taste)


def test_masks_are_one_per_slot_and_place() -> None:
    env = make(items=7, candidates=9, new_items_per_hour=0.0)
    observation, _ = env.reset(seed=0)
    masks = env.get_wrapper_attr("action_masks")()
    assert masks.shape == (5 * 9,)
    np.testing.assert_array_equal(masks.reshape(5, 9), np.tile(observation["mask"].astype(bool), (5, 1)))
