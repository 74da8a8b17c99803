"""The batched environment: Gymnasium's contract, three autoreset modes, repaired slates."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from simulators.env import SlateEnv
from simulators.vector import Arrays, SlateVectorEnv, repair

SMALL: dict[str, Any] = {"items": 60, "topics": 6, "candidates": 12, "horizon": 10}


def vector(num_envs: int = 8, **settings: Any) -> SlateVectorEnv:
    return SlateVectorEnv(num_envs, **{**SMALL, **settings})


def assert_equal(one: Arrays, two: Arrays) -> None:
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_make_vec_gives_the_native_batch() -> None:
    env = gymnasium.make_vec("simulators:Feed-v0", num_envs=16, **SMALL)
    assert isinstance(env.unwrapped, SlateVectorEnv)
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert env.observation_space == batch_space(env.single_observation_space, 16)
    assert env.action_space == batch_space(env.single_action_space, 16)
    observation, info = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    assert info == {}
    for _ in range(25):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation)
        assert reward.shape == terminated.shape == truncated.shape == (16,)
        assert not terminated.any()
    env.close()


@pytest.mark.parametrize("mode", ["slate", "item"])
def test_64_single_environments_are_one_batch_of_64(mode: str) -> None:
    batch = vector(64, action_mode=mode, autoreset_mode="NextStep")
    ones = [SlateEnv(**SMALL, action_mode=mode) for _ in range(64)]
    together, _ = batch.reset(seed=5)
    apart = [one.reset(seed=5 + row)[0] for row, one in enumerate(ones)]
    batch.action_space.seed(3)
    for step in range(2 * SMALL["horizon"] + 2):
        assert_equal(together, {name: np.stack([a[name] for a in apart]) for name in together})
        actions = batch.action_space.sample()
        together, reward, _, truncated, info = batch.step(actions)
        if step % (SMALL["horizon"] + 1) == SMALL["horizon"]:  # the step in which the batch resets itself
            apart = [one.reset()[0] for one in ones]
            assert not reward.any()
            assert not info["_clicks"].any()
            continue
        results = [one.step(actions[row]) for row, one in enumerate(ones)]
        apart = [result[0] for result in results]
        np.testing.assert_array_equal(reward, [result[1] for result in results])
        np.testing.assert_array_equal(truncated, [result[3] for result in results])
        np.testing.assert_array_equal(info["shown"], [result[4]["shown"] for result in results])


def returns(mode: str, episodes: int = 640) -> np.ndarray[Any, Any]:
    """Return of each episode under random slates."""
    env = vector(64, autoreset_mode=mode)
    env.reset(seed=11)
    env.action_space.seed(4)
    running = np.zeros(64)
    finished: list[float] = []
    while len(finished) < episodes:
        _, reward, _, truncated, _ = env.step(env.action_space.sample())
        running += reward
        finished += running[truncated].tolist()
        running[truncated] = 0.0
        if mode == "Disabled" and truncated.any():
            env.reset(options={"reset_mask": truncated})
    return np.array(finished)


def test_the_three_autoreset_modes_agree() -> None:
    samples = [returns(mode) for mode in ("NextStep", "SameStep", "Disabled")]
    means = [sample.mean() for sample in samples]
    error = max(sample.std() for sample in samples) / np.sqrt(len(samples[0]))
    assert max(means) - min(means) < 4 * error
    # Same people, same lives, one after the other: the modes differ in book-keeping only.
    np.testing.assert_array_equal(samples[1], samples[2])


def test_same_step_hands_out_the_last_observation() -> None:
    env, twin = vector(4, autoreset_mode="SameStep"), vector(4, autoreset_mode="Disabled")
    env.reset(seed=1)
    twin.reset(seed=1)
    env.action_space.seed(1)
    for _ in range(SMALL["horizon"]):
        actions = env.action_space.sample()
        observation, _, _, truncated, info = env.step(actions)
        last, _, _, _, known = twin.step(actions)
    assert truncated.all()
    assert info["_final_obs"].all()
    for row in range(4):
        assert env.single_observation_space.contains(info["final_obs"][row])
        assert_equal(info["final_obs"][row], {name: column[row] for name, column in last.items()})
    np.testing.assert_array_equal(info["final_info"]["clicks"], known["clicks"])
    assert not info["_clicks"].any()
    assert not observation["items"].any()


def test_with_autoreset_disabled_a_step_after_the_end_is_refused_and_a_mask_resets_some() -> None:
    env = vector(4, autoreset_mode="Disabled")
    with pytest.raises(ResetNeeded, match="call reset before step"):
        env.step(env.action_space.sample())
    env.reset(seed=1)
    for _ in range(SMALL["horizon"]):
        before, *_ = env.step(env.action_space.sample())
    with pytest.raises(ResetNeeded):
        env.step(env.action_space.sample())
    after, _ = env.reset(options={"reset_mask": np.array([True, False, True, False])})
    assert not after["items"][[0, 2]].any()
    np.testing.assert_array_equal(after["items"][[1, 3]], before["items"][[1, 3]])


def test_rewards_and_infos_say_the_same() -> None:
    env = vector(32, rewards={"click": 1.0, "skip": -0.1, "leave": -1.0})
    env.reset(seed=2)
    for _ in range(SMALL["horizon"]):
        _, reward, _, _, info = env.step(env.action_space.sample())
        expected = info["clicks"] - 0.1 * info["skips"] - 1.0 * info["leave"]
        np.testing.assert_allclose(reward, expected, atol=1e-6)
        assert ((info["gap"] > 0) == info["leave"]).all()


def test_observations_tell_what_happened() -> None:
    env = vector(200, base=-1.0)
    before, _ = env.reset(seed=2)
    for _ in range(3):
        now, _, _, _, info = env.step(env.action_space.sample())
        for row in np.flatnonzero(info["clicks"]):
            clicked = now["items"][row, -info["clicks"][row] :]
            assert set(clicked) <= set(info["shown"][row])
            assert (now["kinds"][row] > 0).sum() == (now["items"][row] > 0).sum()
            assert (np.diff(now["ages"][row, -info["clicks"][row] :]) < 0).all()
        stayed = ~info["leave"]
        np.testing.assert_array_equal(now["visit"][stayed, 0], (before["visit"][:, 0] + info["clicks"])[stayed])
        assert not now["visit"][info["leave"]].any()
        # Who was away sees it in the ages.
        assert (
            now["ages"][info["leave"] & (info["clicks"] > 0), -1]
            > info["gap"][info["leave"] & (info["clicks"] > 0)] - 1
        ).all()
        before = now


def test_candidates_are_different_items_that_are_there() -> None:
    observation, _ = vector(50).reset(seed=1)
    assert all(len(set(row)) == SMALL["candidates"] for row in observation["candidates"])
    assert observation["mask"].all()
    few, _ = vector(5, items=8, new_items_per_hour=0.0).reset(seed=1)
    np.testing.assert_array_equal(few["mask"].sum(1), 8)
    np.testing.assert_array_equal(few["mask"], few["candidates"] > 0)


def test_repair_takes_the_next_free_place() -> None:
    candidates = torch.tensor([[11, 12, 13, 0, 15], [21, 0, 0, 0, 0]])
    slates = repair(candidates, torch.tensor([[1, 1, 3], [4, 0, 2]]))
    assert slates.tolist() == [[12, 13, 15], [21, 0, 0]]


def test_slates_as_chosen_pass_unchanged() -> None:
    env = vector(16)
    observation, _ = env.reset(seed=3)
    actions = np.stack([np.random.default_rng(row).permutation(12)[:5] for row in range(16)])
    *_, info = env.step(actions)
    np.testing.assert_array_equal(info["shown"], np.take_along_axis(observation["candidates"], actions, 1))


def test_repeats_are_repaired_in_the_environment() -> None:
    env = vector(16)
    env.reset(seed=3)
    *_, info = env.step(np.zeros((16, 5), dtype=np.int64))
    assert all(len(set(row)) == 5 for row in info["shown"])


def test_without_seeds_the_people_are_new_every_time() -> None:
    env = vector(6)
    first, _ = env.reset()
    tastes = env.core.state_dict()["taste"]
    env.reset()
    assert not torch.equal(env.core.state_dict()["taste"], tastes)
    assert not torch.equal(vector(6).core.time, env.core.time)
    other = vector(6)
    other.reset()
    assert not torch.equal(other.core.time, env.core.time)
    assert first["candidates"].shape == (6, 12)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"action_mode": "page"}, 'must be "slate" or "item"'),
        ({"candidates": 3}, "candidates must be at least 5"),
        ({"horizon": 0}, "horizon must be at least 1"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        vector(**settings)


def test_wrong_actions_and_seeds_are_named() -> None:
    env = vector(2)
    env.reset(seed=[1, None])
    with pytest.raises(ValueError, match=r"expected actions of shape \(2, 5\) in 0..11"):
        env.step(np.full((2, 5), 12))
    with pytest.raises(ValueError, match="expected 2 seeds"):
        env.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match="reset_mask"):
        env.reset(options={"reset_mask": np.array([True])})
