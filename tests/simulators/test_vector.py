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
from gymnasium.wrappers.vector import DictInfoToList

from simulators.env import SlateEnv
from simulators.feed import Feed
from simulators.vector import Arrays, SlateVectorEnv
from streamrec.records import Kind
from tests.simulators.worlds import small, worlds

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


MODES = [(world, "slate") for world in worlds()] + [("Feed-v0", mode) for mode in ("item", "rank", "score")]


@pytest.mark.parametrize(("world", "mode"), MODES)
def test_64_single_environments_are_one_batch_of_64(world: str, mode: str) -> None:
    settings = {**small(world), "action_mode": mode, "obs_mode": "features", "autoreset_mode": "Disabled", "horizon": 4}
    batch, ones = SlateVectorEnv(64, **settings), [SlateVectorEnv(1, **settings) for _ in range(64)]
    together, _ = batch.reset(seed=5)
    apart = [one.reset(seed=5 + row)[0] for row, one in enumerate(ones)]
    batch.action_space.seed(3)
    for _ in range(6):
        assert_equal(together, {name: np.concatenate([a[name] for a in apart]) for name in together})
        actions = batch.action_space.sample()
        together, *scores, info = batch.step(actions)
        results = [one.step(actions[row : row + 1]) for row, one in enumerate(ones)]
        for at, score in enumerate(scores, 1):
            np.testing.assert_array_equal(score, np.concatenate([result[at] for result in results]))
        assert_equal(info, {name: np.concatenate([result[4][name] for result in results]) for name in info})
        apart = [result[0] for result in results]
        over = scores[1] | scores[2]
        if over.any():
            together, _ = batch.reset(options={"reset_mask": over})
            apart = [one.reset()[0] if over[row] else apart[row] for row, one in enumerate(ones)]


def test_the_single_environment_is_the_batch_of_one() -> None:
    batch, one = vector(1, autoreset_mode="Disabled"), SlateEnv(**SMALL)
    batch.reset(seed=5)
    one.reset(seed=5)
    batch.action_space.seed(3)
    for _ in range(SMALL["horizon"]):
        actions = batch.action_space.sample()
        together, *scores, info = batch.step(actions)
        alone, *score, known = one.step(actions[0])
        assert_equal({name: column[0] for name, column in together.items()}, alone)
        assert [column[0] for column in scores] == score
        np.testing.assert_array_equal(info["shown"][0], known["shown"])
    assert one.page_shape == (5, 1)


class Mortals(Feed):
    """A feed whose users never come back."""

    mortal = True


def returns(mode: str, episodes: int = 640, **settings: Any) -> np.ndarray[Any, Any]:
    """Return of each episode under random slates."""
    env = vector(64, autoreset_mode=mode, **settings)
    env.reset(seed=11)
    env.action_space.seed(4)
    running = np.zeros(64)
    finished: list[float] = []
    while len(finished) < episodes:
        _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        over = terminated | truncated
        running += reward
        finished += running[over].tolist()
        running[over] = 0.0
        if mode == "Disabled" and over.any():
            env.reset(options={"reset_mask": over})
    return np.array(finished)


@pytest.mark.parametrize("settings", [{}, {"core": Mortals, "leave": 0.9}], ids=["feed", "mortals"])
def test_the_three_autoreset_modes_agree(settings: dict[str, Any]) -> None:
    samples = [returns(mode, **settings) for mode in ("NextStep", "SameStep", "Disabled")]
    means = [sample.mean() for sample in samples]
    error = max(sample.std() for sample in samples) / np.sqrt(len(samples[0]))
    assert max(means) - min(means) < 4 * error
    # Same people, same lives, one after the other: the modes differ in book-keeping only.
    np.testing.assert_array_equal(samples[1], samples[2])


def test_where_lives_end_leaving_terminates_and_the_horizon_truncates() -> None:
    env = vector(256, core=Mortals, leave=0.5, autoreset_mode="SameStep")
    env.reset(seed=1)
    ends = np.zeros(2)
    for _ in range(2 * SMALL["horizon"]):
        _, _, terminated, truncated, info = env.step(env.action_space.sample())
        assert not (terminated & truncated).any()
        if "_final_info" in info:
            over = info["_final_info"]
            np.testing.assert_array_equal(over, terminated | truncated)
            np.testing.assert_array_equal(terminated[over], info["final_info"]["leave"][over])
        ends += terminated.sum(), truncated.sum()
    assert (ends > 50).all()


@pytest.mark.parametrize("core", [Feed, Mortals])
def test_same_step_hands_out_the_last_observation(core: type[Feed]) -> None:
    settings = {"core": core, "obs_mode": "features", "leave": 0.8}
    env = vector(40, autoreset_mode="SameStep", **settings)
    twin = vector(40, autoreset_mode="Disabled", **settings)
    env.reset(seed=1)
    twin.reset(seed=1)
    env.action_space.seed(1)
    over = np.zeros(40, dtype=bool)
    while not over.any():
        actions = env.action_space.sample()
        observation, _, terminated, truncated, info = env.step(actions)
        last, _, _, _, known = twin.step(actions)
        over = terminated | truncated
    assert over.all() == (core is Feed)
    np.testing.assert_array_equal(info["_final_obs"], over)
    assert_equal({name: info["final_obs_batch"][name][over] for name in last}, {n: c[over] for n, c in last.items()})
    for row in np.flatnonzero(over):
        assert env.single_observation_space.contains(info["final_obs"][row])
        assert_equal(info["final_obs"][row], {name: column[row] for name, column in last.items()})
    assert (info["final_obs"][~over] == None).all()  # noqa: E711 - an array of objects
    np.testing.assert_array_equal(info["final_info"]["clicks"], known["clicks"])
    np.testing.assert_array_equal(info["_clicks"], ~over)
    assert not observation["clicked"][over].any()
    np.testing.assert_array_equal(observation["clicked"][~over], last["clicked"][~over])


def test_infos_come_as_lists_too() -> None:
    """Gymnasium's own wrapper understands them, the last observations included."""
    env = DictInfoToList(vector(4, autoreset_mode="SameStep"))
    env.reset(seed=1)
    for _ in range(SMALL["horizon"]):
        *_, infos = env.step(env.action_space.sample())
    assert_equal(infos[2]["final_obs"], infos[2]["final_obs_batch"])
    assert infos[2]["final_info"]["clicks"] >= 0


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
    assert not after["clicked"][[0, 2]].any()
    np.testing.assert_array_equal(after["clicked"][[1, 3]], before["clicked"][[1, 3]])


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
            clicked = now["clicked"][row, -info["clicks"][row] :]
            assert set(clicked) <= set(info["shown"][row])
            assert (now["kinds"][row] > 0).sum() == (now["clicked"][row] > 0).sum()
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


class Plain(Feed):
    """Items of which nothing is known."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.features = self.features[:, :0]


class Telling(Feed):
    """Requests come with candidates and say how far the user's mood is, times a million and more."""

    offered = 12

    def context(self, users: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.mood[users], self.steps[users] * 1e9], 1)


def test_what_a_world_tells_is_observed_and_bounded() -> None:
    env = vector(30, core=Telling, candidates=None)
    observation, _ = env.reset(seed=1)
    assert env.count == 12
    assert observation["context"].shape == (30, 2)
    np.testing.assert_array_equal(observation["context"], [[1.0, 0.0]] * 30)
    for _ in range(3):
        observation, *_ = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation)
    np.testing.assert_array_equal(observation["context"][:, 0], env.core.state_dict()["mood"])
    np.testing.assert_array_equal(observation["context"][:, 1], 1e6)
    assert "context" not in vector(1).reset()[0]


def test_features_are_those_of_the_candidates() -> None:
    env = vector(20, items=8, new_items_per_hour=0.0, obs_mode="features")
    observation, _ = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    features = observation["candidate_features"].reshape(20, 12, -1)
    expected = env.core.features.numpy()[observation["candidates"]] * (observation["candidates"] > 0)[:, :, None]
    np.testing.assert_array_equal(features, expected)
    assert "candidate_features" not in vector(1).reset()[0]


def test_named_twice_is_repaired_and_may_cost() -> None:
    free = vector(16, on_duplicate="repair")
    dear = vector(16, on_duplicate="penalise", duplicate_penalty=0.25)
    for env in (free, dear):
        env.reset(seed=3)
    actions = np.tile([4, 4, 7, 4, 7], (16, 1))
    _, reward, _, _, info = free.step(actions)
    _, less, _, _, same = dear.step(actions)
    assert_equal(info, same)
    np.testing.assert_array_equal(info["duplicates"], 3)
    np.testing.assert_allclose(reward - less, 0.75)
    assert all(len(set(row)) == 5 for row in info["shown"])
    strict = vector(16, on_duplicate="raise")
    strict.reset(seed=3)
    strict.step(np.tile([4, 5, 7, 6, 8], (16, 1)))
    with pytest.raises(ValueError, match=r"places \[4, 4, 7, 4, 7\] name a candidate twice"):
        strict.step(actions)


def test_purchases_are_positives_and_counted() -> None:
    class Shop(Feed):
        """Every click is a purchase."""

        def _react(self, *arguments: Any) -> torch.Tensor:
            kinds = super()._react(*arguments)
            return torch.where(kinds == int(Kind.CLICK), int(Kind.PURCHASE), kinds).to(torch.int8)

    env = vector(100, core=Shop, base=0.0, purchase=0.0)
    env.reset(seed=1)
    observation, _, _, _, info = env.step(env.action_space.sample())
    assert info["purchases"].sum() > 50
    assert not info["clicks"].any()
    np.testing.assert_array_equal((info["kinds"] == int(Kind.PURCHASE)).sum(1), info["purchases"])
    np.testing.assert_array_equal((observation["kinds"] == int(Kind.PURCHASE)).sum(1), info["purchases"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"action_mode": "grid"}, "action_mode must be one of item, slate, page, rank, score"),
        ({"on_duplicate": "ignore"}, "on_duplicate must be one of repair, penalise, raise"),
        ({"obs_mode": "all"}, 'obs_mode must be "ids" or "features"'),
        ({"candidates": 3}, "candidates must be at least 5"),
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"history": 0}, "history must be at least 1"),
        ({"core": Plain, "obs_mode": "features"}, "needs items with features"),
        ({"core": Plain, "action_mode": "rank"}, "have none"),
        ({"core": Telling, "candidates": 9}, "12 candidates come with a request"),
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
