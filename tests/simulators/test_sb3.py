"""The batch as a `VecEnv`: what stable-baselines3 expects of one, and its algorithms on it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

sb3 = pytest.importorskip("stable_baselines3")

from stable_baselines3.common.vec_env import VecMonitor, VecNormalize  # noqa: E402 - needs the extra

from simulators.sb3 import SlateVecEnv  # noqa: E402
from simulators.vector import SlateVectorEnv  # noqa: E402
from tests.simulators.worlds import small, worlds  # noqa: E402


def vector(num_envs: int = 8, world: str = "Feed-v0", **settings: Any) -> SlateVectorEnv:
    return SlateVectorEnv(num_envs, **{**small(world), "autoreset_mode": "SameStep", **settings})


def test_steps_are_those_of_the_batch() -> None:
    env, twin = SlateVecEnv(vector(world="Interest-v0", horizon=200)), vector(world="Interest-v0", horizon=200)
    env.seed(3)
    now, expected = env.reset(), twin.reset(seed=3)[0]
    twin.action_space.seed(0)
    ends = 0
    for _ in range(400):
        assert all(np.array_equal(now[name], expected[name]) for name in expected)
        actions = twin.action_space.sample()
        now, reward, done, infos = env.step(actions)
        expected, other, terminated, truncated, info = twin.step(actions)
        np.testing.assert_array_equal(reward, other.astype(np.float32))
        np.testing.assert_array_equal(done, terminated | truncated)
        for row in range(8):
            if not done[row]:
                assert infos[row] == {}
                continue
            ends += 1
            last = infos[row]["terminal_observation"]
            assert all(np.array_equal(last[name], info["final_obs"][row][name]) for name in last)
            assert infos[row]["TimeLimit.truncated"] == truncated[row]
            assert infos[row]["clicks"] == info["final_info"]["clicks"][row]
    assert ends > 8


def test_seeds_count_for_one_reset() -> None:
    env = SlateVecEnv(vector())
    env.seed(3)
    first, second = env.reset(), env.reset()
    env.seed(3)
    again = env.reset()
    np.testing.assert_array_equal(first["candidates"], again["candidates"])
    assert not np.array_equal(first["candidates"], second["candidates"])


def test_attributes_and_methods_are_per_row() -> None:
    env = SlateVecEnv(vector(4, action_mode="item"))
    env.reset()
    assert env.get_attr("page_shape", [1, 2]) == [(1, 1), (1, 1)]
    masks = env.env_method("action_masks", indices=3)
    np.testing.assert_array_equal(masks, env.env.action_masks()[3:])
    assert env.env_is_wrapped(VecMonitor) == [False] * 4
    env.set_attr("penalty", 2.0)
    assert env.env.penalty == 2.0
    assert not env.has_attr("nothing")
    with pytest.raises(ValueError, match="can be set for all only"):
        env.set_attr("penalty", 1.0, indices=0)


def test_what_gymnasium_makes_is_taken_and_other_resets_are_refused() -> None:
    made = gymnasium.make_vec("simulators:Feed-v0", num_envs=2, autoreset_mode="SameStep", **small("Feed-v0"))
    assert SlateVecEnv(made).num_envs == 2
    with pytest.raises(ValueError, match="autoreset_mode=\"SameStep\", got 'NextStep'"):
        SlateVecEnv(vector(autoreset_mode="NextStep"))
    with pytest.raises(ValueError, match=r"expected a simulators\.vector\.SlateVectorEnv, got CartPole"):
        SlateVecEnv(gymnasium.make_vec("CartPole-v1", num_envs=1))


def test_monitor_and_normalisation_wrap_it() -> None:
    env = VecNormalize(VecMonitor(SlateVecEnv(vector(rewards={"click": 10.0}))), norm_obs_keys=["ages"])
    env.seed(1)
    env.reset()
    total = np.zeros(8)
    for _ in range(10):
        now, reward, done, infos = env.step(np.array([env.action_space.sample() for _ in range(8)]))
        total += env.get_original_reward()
    assert done.all()
    np.testing.assert_allclose([info["episode"]["r"] for info in infos], total)
    assert {info["episode"]["l"] for info in infos} == {10}
    assert np.abs(infos[0]["terminal_observation"]["ages"]).max() <= env.clip_obs
    assert np.abs(reward).max() <= env.clip_reward
    assert now["ages"].dtype == np.float32


ALGORITHMS = [
    ("DQN", "item", {"learning_starts": 64, "buffer_size": 1000}),
    ("PPO", "slate", {"n_steps": 16, "batch_size": 128, "n_epochs": 2}),
    ("PPO", "score", {"n_steps": 16, "batch_size": 128, "n_epochs": 2}),
    ("A2C", "slate", {}),
    ("A2C", "page", {}),
    ("SAC", "rank", {"learning_starts": 64, "buffer_size": 1000}),
    ("TD3", "score", {"learning_starts": 64, "buffer_size": 1000}),
]


EVERYWHERE = [("Feed-v0", *one) for one in ALGORITHMS] + [(world, *ALGORITHMS[2]) for world in worlds()[1:]]


@pytest.mark.parametrize(("world", "algorithm", "mode", "settings"), EVERYWHERE)
def test_algorithms_learn_on_it(world: str, algorithm: str, mode: str, settings: dict[str, Any]) -> None:
    env = VecMonitor(SlateVecEnv(vector(world=world, action_mode=mode, obs_mode="features")))
    model = getattr(sb3, algorithm)(
        "MultiInputPolicy", env, policy_kwargs={"net_arch": [16]}, seed=0, device="cpu", **settings
    )
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(300)
    moved = [name for name, value in model.policy.state_dict().items() if not value.equal(before[name])]
    assert moved
    assert all(value.isfinite().all() for value in model.policy.state_dict().values())
