"""stable-baselines3 trains on the simulator with our encoder as its features extractor."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from streamrec.catalog import Catalog
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.ports import Agent, State
from streamrec.records import Kind, Transition
from streamrec.sessions import SessionStore
from tests.contracts.identity import CHANCE, ITEMS, LENGTH, SLATE, Identity, after
from tests.histories import catalog

sb3 = pytest.importorskip("stable_baselines3")

from agents.popular import Popular  # noqa: E402 - needs the extra
from agents.sb3 import (  # noqa: E402
    HistoryExtractor,
    StableBaselines,
    capacity,
    catalog_of,
    history_of,
    policy_kwargs,
)
from agents.sb3_policies import POLICIES  # noqa: E402

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
        learning_rate=6e-3,
        gamma=0.0,
        policy_kwargs=kwargs(env),
        seed=0,
        device="cpu",
    )
    before = [parameter.detach().clone() for parameter in model.policy.features_extractor.encoder.parameters()]
    model.learn(1024)
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
    assert torch.equal(history.items.float(), observed["clicked"])
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
        capacity(spaces.Dict({"clicked": spaces.Box(0, 1, (2,))}))


def test_what_a_world_tells_is_read() -> None:
    """Context beside the encoding, features beside the item vectors; without an encoder there is only what is told."""
    env = gymnasium.make("simulators:Interest-v0", obs_mode="features")
    space = env.observation_space
    assert isinstance(space, spaces.Dict)
    extractor = HistoryExtractor(space, width=4)
    observed = batch(env)
    features = extractor(observed)
    told, count = observed["context"].shape[1], observed["candidates"].shape[1]
    assert features.shape == (3, extractor.features_dim) == (3, told + 2 * count)
    assert torch.equal(features[:, :told], observed["context"])
    item = extractor.items.weight[int(observed["candidates"][1, 6])]
    vector = torch.cat([item, observed["candidate_features"][1].view(count, -1)[6]])
    score = vector @ extractor.query(observed["context"])[1] / len(vector) ** 0.5
    torch.testing.assert_close(features[1, told + 6], score)
    with pytest.raises(ValueError, match="needs an encoder"):
        HistoryExtractor(make().observation_space)  # type: ignore[arg-type]


# --- agents of the loop ------------------------------------------------------------------------------------------

LEARNING: dict[str, dict[str, Any]] = {
    "A2C": {"rollout": 256, "settings": {"learning_rate": 0.01, "ent_coef": 0.003}},
    "DDPG": {"steps": 2, "epsilon": 0.2, "settings": {"learning_rate": 0.01}},
    "DQN": {"steps": 2, "epsilon": 0.2, "settings": {"learning_rate": 0.01, "target_update_interval": 1000}},
    "PPO": {"rollout": 512, "batch": 256, "settings": {"learning_rate": 0.02, "n_epochs": 3}},
    "SAC": {"temperature": 0.3, "settings": {"learning_rate": 0.01, "ent_coef": 0.01}},
    "TD3": {"steps": 2, "epsilon": 0.2, "settings": {"learning_rate": 0.01}},
}
REACHED = {"A2C": 0.7, "DDPG": 0.25, "DQN": 0.4, "PPO": 0.6, "SAC": 0.35, "TD3": 0.25}
"""Share of slates with the right item after 80 updates; by chance it would be 0.125."""


class OwnSlates(Identity):
    """The identity world, where the agent's own slates are shown."""

    def transition(self, agent: Agent, n: int) -> Transition:
        before = self.history(n)
        right = self._right(before.items[:, -1].long())
        shown = agent.act(before)
        hit = shown.slate == right.unsqueeze(1)
        return Transition(
            history=before,
            shown=shown,
            wanted=shown,
            feedback=torch.where(hit, int(Kind.CLICK), int(Kind.SKIP)).to(torch.int8),
            rewards=hit.float(),
            next=after(before, right * hit.any(1)),
            time=before.time + 5,
            done=torch.rand(n, generator=self.generator) < 0.1,
            sent=before.time,
        )


def agent(algorithm: str, of: Catalog | None = None, seed: int = 0, **settings: Any) -> StableBaselines:
    items = catalog(ITEMS) if of is None else of
    sessions = SessionStore(users=4096, length=LENGTH, skips=4, slate=SLATE)
    given = {"batch": 64, "memory": 2048, **settings}
    return StableBaselines(algorithm, items, sessions, SLATE, encoder=GRU4Rec(items, dim=16), seed=seed, **given)


def run(learner: Agent, world: Identity, updates: int) -> list[dict[str, float]]:
    said = []
    for _ in range(updates):
        learner.observe(world.transition(learner, 256))
        said.append(learner.update())
    return said


def flat(state: State, path: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in state.items():
        out |= flat(value, f"{path}/{name}") if isinstance(value, dict) else {f"{path}/{name}": value}
    return out


def assert_same(one: StableBaselines, other: StableBaselines) -> None:
    a, b = flat(one.state_dict()), flat(other.state_dict())
    assert a.keys() == b.keys()
    for name, value in a.items():
        same = torch.equal(value.nan_to_num(), b[name].nan_to_num()) if torch.is_tensor(value) else value == b[name]
        assert same, name


@pytest.mark.parametrize("algorithm", POLICIES)
def test_algorithms_learn_from_their_own_slates(algorithm: str) -> None:
    learner, world = agent(algorithm, **LEARNING[algorithm]), OwnSlates(seed=3)
    assert world.solved(learner) < CHANCE + 0.1
    said = run(learner, world, 80)
    assert all(np.isfinite(value) for one in said for value in one.values())
    assert world.solved(learner) > REACHED[algorithm]


@pytest.mark.parametrize("algorithm", POLICIES)
def test_goes_on_from_a_state_as_if_never_stopped(algorithm: str) -> None:
    learner, world = agent(algorithm, **LEARNING[algorithm]), OwnSlates(seed=3)
    run(learner, world, 7)
    again = agent(algorithm, seed=5, **LEARNING[algorithm])
    again.load_state_dict(learner.state_dict())
    assert_same(learner, again)
    one, other = (run(each, OwnSlates(seed=8), 7) for each in (learner, again))
    assert one == other
    assert one[-2:] != [{}, {}]
    assert_same(learner, again)


@pytest.mark.parametrize("algorithm", POLICIES)
def test_randomness_of_others_is_left_alone(algorithm: str) -> None:
    before, numpy = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    run(agent(algorithm, **LEARNING[algorithm]), OwnSlates(), 4)
    assert torch.equal(before, torch.get_rng_state())
    assert np.random.get_state()[1].tolist() == numpy  # type: ignore[index, union-attr]


@pytest.mark.parametrize("algorithm", POLICIES)
def test_slates_are_of_what_is_there_with_propensities(algorithm: str) -> None:
    items = catalog(ITEMS)
    learner, world = agent(algorithm, items, **LEARNING[algorithm]), OwnSlates(seed=3)
    run(learner, world, 4)
    items.retire(torch.arange(1, ITEMS - 1))
    decision = learner.act(world.history(50))
    assert ((decision.slate == 0) | (decision.slate >= ITEMS - 1)).all()
    assert ((decision.slate > 0).sum(1) == 2).all()
    assert decision.slot_logp.isfinite().all()
    assert (decision.slot_logp <= 0).all()
    items.retire(torch.arange(1, ITEMS + 1))
    assert not learner.act(world.history(5)).slate.any()


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
def test_learning_speaks_of_the_probabilities_of_acting(algorithm: str) -> None:
    learner, world = agent(algorithm, **LEARNING[algorithm]), OwnSlates(seed=3)
    run(learner, world, 6)
    transition = world.transition(learner, 100)
    transition.shown.slate[:10, 2:] = 0  # as if only two items had been there
    seen, places = learner._with_shown(transition)
    _, logp, _ = learner.policy.evaluate_actions(seen, places)
    expected = transition.shown.slot_logp.clone()
    expected[:10, 2:] = 0.0
    torch.testing.assert_close(logp, expected.sum(1), rtol=1e-4, atol=1e-4)


def test_on_policy_algorithms_learn_from_their_own_slates_only() -> None:
    learner = agent("PPO", **LEARNING["PPO"])
    assert run(learner, Identity(seed=3), 4) == [{}] * 4
    assert learner.learned == learner.replay.added == 1024


def test_on_policy_algorithms_wait_for_a_rollout_and_forget_it() -> None:
    learner = agent("A2C", rollout=600)
    said = run(learner, OwnSlates(seed=3), 6)
    assert [bool(one) for one in said] == [False, False, True, False, False, True]


def test_off_policy_algorithms_learn_what_was_shown() -> None:
    """Slates of others, some of whose items are not among the candidates any more."""
    items = catalog(ITEMS)
    learner, world = agent("TD3", items), Identity(seed=3)
    learner.observe(world.transition(learner, 256))
    items.retire(torch.arange(1, 7))
    sample = learner._sample(64)
    seen, actions = sample.observations, sample.actions
    assert actions.shape == seen["candidates"].shape == sample.next_observations["candidates"].shape
    assert ((actions > 0).sum(1) == SLATE).all()
    assert (seen["mask"][actions > 0] == 1).all()
    chosen = torch.where(actions > 0, seen["candidates"], 0)
    assert (chosen <= 6).logical_and(chosen > 0).any()
    valid = torch.where(seen["mask"] > 0, seen["candidates"], -torch.arange(actions.shape[1]) - 1)
    ordered = valid.sort(1).values
    assert (ordered[:, 1:] != ordered[:, :-1]).all()


def test_one_shown_slot_is_the_action_of_dqn() -> None:
    learner, world = agent("DQN", n_step=1), Identity(seed=3)
    learner.observe(world.transition(learner, 256))
    sample = learner._sample(256)
    item = sample.observations["candidates"].gather(1, sample.actions).squeeze(1)
    right = world.follows[sample.observations["clicked"][:, -1].long()]
    assert torch.equal(sample.rewards.squeeze(1), (item == right).float())
    assert sample.discounts is not None
    assert sample.discounts.unique().tolist() == pytest.approx([0.0, 0.9])


def test_the_target_network_follows_the_clock_of_decisions() -> None:
    learner, world = agent("DQN", settings={"target_update_interval": 1000, "learning_rate": 0.01}), Identity(seed=3)
    copied = []
    target = learner.policy.q_net_target.features_extractor.items.weight
    before = target.detach().clone()
    for _ in range(9):
        run(learner, world, 1)
        copied.append(not torch.equal(before, target))
        before = target.detach().clone()
    assert copied == [at in (3, 7) for at in range(9)]  # 256 decisions a time: 1024 and 2048 have passed then


def test_candidates_may_come_from_another_agent() -> None:
    items = catalog(ITEMS)
    popular = Popular(items, slate=5)
    learner, world = agent("DQN", items, candidates=popular, **LEARNING["DQN"]), Identity(seed=3)
    run(learner, world, 4)
    history = world.history(50)
    wide = copy_of(popular, items).act(history).slate
    decision = learner.act(history)
    assert (decision.slate.unsqueeze(2) == wide.unsqueeze(1)).any(2).all()
    assert learner.state_dict()["candidates"]


def copy_of(popular: Popular, items: Catalog) -> Popular:
    other = Popular(items, slate=5)
    other.load_state_dict(popular.state_dict())
    return other


def test_without_an_encoder_context_and_features_are_read() -> None:
    items = catalog(ITEMS)
    items.reserve(2)
    generator = torch.Generator().manual_seed(0)
    items.features[1 : ITEMS + 1] = torch.randn(ITEMS, 2, generator=generator)
    sessions = SessionStore(users=4096, length=LENGTH, skips=4, slate=SLATE)
    sessions.reserve(context=2)
    settings = {"learning_rate": 0.02}
    learner = StableBaselines("DQN", items, sessions, SLATE, batch=64, steps=4, epsilon=0.1, settings=settings)
    world = Identity(seed=3)
    clicks = []
    for _ in range(60):
        history = replace(world.history(256), context=torch.randn(256, 2, generator=generator))
        shown = learner.act(history)
        liked = (items.features[shown.slate] * history.context.unsqueeze(1)).sum(2) > 1.0
        clicks.append(float(liked.float().mean()))
        kinds = torch.where(liked, int(Kind.CLICK), int(Kind.SKIP)).to(torch.int8)
        time, done = history.time + 5, torch.ones(256, dtype=torch.bool)
        learner.observe(Transition(history, shown, shown, kinds, liked.float(), history, time, done, history.time))
        learner.update()
    assert np.mean(clicks[:3]) < 0.4
    assert np.mean(clicks[-5:]) > 0.6


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"algorithm": "HER"}, "algorithm must be one of A2C, DDPG, DQN, PPO, SAC, TD3"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"epsilon": 1.5}, "epsilon must be between 0 and 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"algorithm": "PPO", "rollout": 4096}, "memory must hold a rollout of 4096"),
        ({"settings": {"gamma": 0.5, "batch_size": 3}}, "settings must leave batch_size, gamma to the keywords"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        agent(**{"algorithm": "DQN", **settings})
