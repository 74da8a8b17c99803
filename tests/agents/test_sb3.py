"""stable-baselines3 trains on the simulator with our encoder as its features extractor."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from streamrec.encoders.gru4rec import GRU4Rec

sb3 = pytest.importorskip("stable_baselines3")

from agents.sb3 import HistoryExtractor, capacity, catalog_of, history_of, policy_kwargs  # noqa: E402 - needs the extra

EASY: dict[str, Any] = {
    "items": 20,
    "candidates": 20,
    "topics": 4,
    "slate": 2,
    "horizon": 40,
    "base": -3.5,
    "quality": 1.5,
    "position_bias": 0.0,
    "boredom": 0.0,
    "leave": 0.0,
    "drift": 0.0,
    "new_items_per_hour": 0.0,
}
"""Few items, some much better than others, and nothing that moves."""


def make(**settings: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make("simulators:Feed-v0", **{**EASY, **settings})


def kwargs(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    encoder = partial(GRU4Rec, catalog_of(env.observation_space), dim=8)
    return policy_kwargs(encoder, width=8, net_arch=[32])


def mean_return(env: gymnasium.Env[Any, Any], act: Any, episodes: int = 8) -> float:
    total = 0.0
    for episode in range(episodes):
        observation, _ = env.reset(seed=1000 + episode)
        over = False
        while not over:
            observation, reward, _, over, _ = env.step(act(observation))
            total += float(reward)
    return total / episodes


def test_ppo_learns_slates_with_our_encoder() -> None:
    env = make()
    model = sb3.PPO(
        "MultiInputPolicy",
        env,
        n_steps=256,
        batch_size=256,
        n_epochs=5,
        learning_rate=3e-3,
        gamma=0.0,
        policy_kwargs=kwargs(env),
        seed=0,
        device="cpu",
    )
    before = [parameter.detach().clone() for parameter in model.policy.features_extractor.encoder.parameters()]
    model.learn(2048)
    after = list(model.policy.features_extractor.encoder.parameters())
    assert all(not torch.equal(one, two) for one, two in zip(before, after, strict=True))
    judge = make()
    judge.action_space.seed(0)
    blind = mean_return(judge, lambda observation: judge.action_space.sample())
    learned = mean_return(judge, lambda observation: model.predict(observation, deterministic=True)[0])
    assert learned > 1.3 * blind


@pytest.mark.parametrize(("algorithm", "mode"), [("A2C", "slate"), ("A2C", "item"), ("DQN", "item")])
def test_other_algorithms_run_and_move_the_encoder(algorithm: str, mode: str) -> None:
    env = make(action_mode=mode, boredom=1.0, leave=0.5, new_items_per_hour=20.0)
    more = {"learning_starts": 50, "buffer_size": 500} if algorithm == "DQN" else {}
    model = getattr(sb3, algorithm)("MultiInputPolicy", env, policy_kwargs=kwargs(env), seed=0, device="cpu", **more)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(200)
    changed = [name for name, value in model.policy.state_dict().items() if not torch.equal(value, before[name])]
    assert any(".encoder.items" in name for name in changed)
    assert any(".encoder.layers" in name for name in changed)
    action, _ = model.predict(env.reset(seed=1)[0])
    assert env.action_space.contains(action if mode == "slate" else int(action))


def test_extractors_of_policy_and_target_are_not_the_same_network() -> None:
    env = make(action_mode="item")
    model = sb3.DQN("MultiInputPolicy", env, policy_kwargs=kwargs(env), buffer_size=10, device="cpu")
    assert model.q_net.features_extractor.encoder is not model.q_net_target.features_extractor.encoder


def batch(env: gymnasium.Env[Any, Any], count: int = 3) -> dict[str, torch.Tensor]:
    """Observations after some steps, as stable-baselines3 hands them to an extractor: floats."""
    rows = []
    for seed in range(count):
        observation, _ = env.reset(seed=seed)
        for _ in range(15):
            observation, *_ = env.step(env.action_space.sample())
        rows.append(observation)
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])).float() for name in rows[0]}


def test_a_history_says_what_the_observation_said() -> None:
    observed = batch(make(base=0.0))
    history = history_of(observed)
    assert len(history) == 3
    assert torch.equal(history.items.float(), observed["items"])
    assert torch.equal(history.skipped.float(), observed["skipped"])
    assert (history.times.diff(dim=1)[history.items[:, :-1] > 0] > 0).all()
    assert torch.equal(history.in_session.float(), observed["visit"][:, 0])
    assert history.in_session.max() > 0


def test_scores_are_inner_products_with_the_candidates() -> None:
    env = make(base=0.0)
    space = env.observation_space
    assert isinstance(space, spaces.Dict)
    extractor = HistoryExtractor(space, partial(GRU4Rec, catalog_of(space), dim=8), width=4)
    observed = batch(env)
    features = extractor(observed)
    assert features.shape == (3, extractor.features_dim) == (3, 8 + 20 + 20)
    encoding = extractor.encoder(history_of(observed))
    torch.testing.assert_close(features[:, :8], encoding)
    vector = extractor.items.weight[int(observed["candidates"][1, 6])]
    torch.testing.assert_close(features[1, 8 + 6], vector @ extractor.query(encoding)[1] / 2.0)
    assert torch.equal(features[:, 28:], observed["mask"])


def test_rows_of_the_catalogue_are_item_numbers() -> None:
    space = make(max_items=30).observation_space
    catalog = catalog_of(space)
    assert capacity(space) == catalog.capacity == 30
    assert catalog.rows(["i1", "i30"]).tolist() == [1, 30]


def test_a_space_of_another_world_is_refused() -> None:
    with pytest.raises(ValueError, match=r"missing \['ages'"):
        capacity(spaces.Dict({"items": spaces.Box(0, 1, (2,))}))
