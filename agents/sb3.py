"""stable-baselines3 and this house: our encoders in its policies, and its algorithms as agents of our loop.

On the worlds as Gymnasium sees them, with an encoder of ours as features extractor:

    from stable_baselines3 import A2C
    env = gymnasium.make("simulators:Feed-v0")
    encoder = partial(GRU4Rec, catalog_of(env.observation_space), dim=32)
    A2C("MultiInputPolicy", env, policy_kwargs=policy_kwargs(encoder)).learn(100_000)

PPO and A2C take slates (`MultiDiscrete`) or scores; DQN takes `action_mode="item"`, one candidate at a time; SAC and
TD3 take scores or a point among the features of items. In the loop, `StableBaselines` is an agent as any other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import DictReplayBufferSamples
from stable_baselines3.common.utils import polyak_update
from torch import Generator, Tensor, nn
from torch.nn.functional import pad

from agents.sb3_buffers import Outside, Rollout, Samples, generalised_advantages, own_randomness
from agents.sb3_policies import ON_POLICY, OURS, POLICIES, Observation
from streamrec.catalog import Catalog
from streamrec.explore import allowed, choose, offered, pick, plackett_luce
from streamrec.memory import Replay, Sample
from streamrec.ports import Agent, State
from streamrec.records import Decision, History, Transition
from streamrec.sessions import SessionStore


class HistoryExtractor(BaseFeaturesExtractor):
    """Observation of a slate world -> what its user is like, and how well each candidate fits.

    The features are the encoding [D] of the history followed by the context of the request where there is one, one
    score per candidate [C], and the mask [C]. A score is the inner product of a vector per item, and of its features
    where they are observed, with a linear map of the encoding, divided by the root of the width: a head that got C * D
    vectors side by side instead would have to find the inner product first, for each place in the list anew.

    stable-baselines3 makes several extractors from one set of keywords (policy, target network), which is why
    `encoder` makes one. It also clips gradients in a way that sparse ones do not survive, so they are made dense.

    Args:
        observation_space: flat dictionary as `simulators.vector.SlateVectorEnv` describes it.
        encoder: makes an encoder; its rows are the item numbers of the world (`catalog_of`). None: only the context is
            read.
        width: width of the item vectors.

    Raises:
        ValueError: the observation space lacks a part, or there is neither an encoder nor a context.
    """

    def __init__(
        self, observation_space: spaces.Dict, encoder: Callable[[], Any] | None = None, width: int = 16
    ) -> None:
        _check(observation_space)
        candidates = _width(observation_space, "candidates")
        made = None if encoder is None else encoder()
        dim = (0 if made is None else made.dim) + _width(observation_space, "context")
        if not dim:
            raise ValueError("this world says nothing in a context, so the agent needs an encoder of histories")
        super().__init__(observation_space, features_dim=dim + 2 * candidates)
        self.dim, self.encoder = dim, made
        for parameter in () if made is None else made.parameters():
            parameter.register_post_accumulate_grad_hook(_densify)
        self.items = nn.Embedding(capacity(observation_space) + 1, width, padding_idx=0)
        self.per_item = _width(observation_space, "candidate_features") // candidates
        self.query = nn.Linear(dim, width + self.per_item)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """[B, D + 2 C] float32."""
        known = [] if self.encoder is None else [self.encoder(history_of(observations))]
        encoding = torch.cat([*known, *(observations[name] for name in ("context",) if name in observations)], 1)
        vectors = self.items(observations["candidates"].long())  # [B, C, W]
        if self.per_item:
            told = observations["candidate_features"].view(*vectors.shape[:2], self.per_item)
            vectors = torch.cat([vectors, told], 2)
        scores = (vectors @ self.query(encoding).unsqueeze(2)).squeeze(2) / vectors.shape[2] ** 0.5
        return torch.cat([encoding, scores, observations["mask"].float()], 1)


def _densify(parameter: Tensor) -> None:
    if parameter.grad is not None and parameter.grad.is_sparse:
        parameter.grad = parameter.grad.to_dense()


def history_of(observations: dict[str, Tensor]) -> History:
    """The record our encoders read, from a batch of observations; ages become times before a "now" of 0."""
    items = observations["clicked"].to(torch.int32)
    rows = torch.arange(len(items), device=items.device)
    return History.of(
        user=rows,
        key=torch.zeros_like(rows),
        time=torch.zeros(len(items), dtype=torch.float64, device=items.device),
        items=items,
        kinds=observations["kinds"].to(torch.int8),
        times=-observations["ages"].double(),
        skipped=observations["skipped"].to(torch.int32),
        skip_times=-observations["skip_ages"].double(),
        in_session=observations["visit"].long().squeeze(1),
    )


def capacity(space: spaces.Space[Any]) -> int:
    """The highest item number there can be."""
    items = _check(space)["clicked"]
    assert isinstance(items, spaces.Box)
    return int(items.high.max())


def catalog_of(space: spaces.Space[Any]) -> Catalog:
    """A catalogue whose rows are the item numbers of the world with this observation space."""
    catalog = Catalog(capacity(space))
    catalog.rows([f"i{number}" for number in range(1, catalog.capacity + 1)])
    return catalog


def policy_kwargs(encoder: Callable[[], Any] | None, width: int = 16, **more: Any) -> dict[str, Any]:
    """`policy_kwargs` of any stable-baselines3 algorithm with `MultiInputPolicy`."""
    kwargs = {"encoder": encoder, "width": width}
    return {"features_extractor_class": HistoryExtractor, "features_extractor_kwargs": kwargs, **more}


def _width(space: spaces.Dict, name: str) -> int:
    """How wide a part of the observation is, 0 = it is not there."""
    shape = space[name].shape if name in space.spaces else (0,)
    assert shape is not None
    return int(shape[0])


def _check(space: spaces.Space[Any]) -> spaces.Dict:
    needed = {"clicked", "kinds", "ages", "skipped", "skip_ages", "visit", "candidates", "mask"}
    found = set(space.spaces) if isinstance(space, spaces.Dict) else set()
    if needed - found:
        raise ValueError(f"expected a Dict observation with {sorted(needed)}, missing {sorted(needed - found)}")
    assert isinstance(space, spaces.Dict)
    return space


# --- agents of the loop ------------------------------------------------------------------------------------------


class StableBaselines:
    """An algorithm of stable-baselines3 (Raffin et al., JMLR 2021) that decides and learns in our loop.

    The loop steps the world, so what is taken over is the learning: the networks, losses and `train` of the algorithm.
    It is fed from our replay memory of transitions, and its observation is that of `simulators.vector.SlateVectorEnv`:
    windows of clicks and skips, candidates, context, features. Candidates are those of the request, else what another
    agent proposes, else everything available. Policies are those of `agents.sb3_policies`, with a number per candidate.

    * DQN: the K highest values, with epsilon-greedy exploration per slot; of each sampled decision one shown slot,
      drawn at random, is the action, with its own reward, the mean reward per slot of later steps, and the value of the
      best candidate afterwards. With K = 1 that is DQN; else it is as if slots did not influence each other.
    * TD3, DDPG: scores between -1 and 1; the K highest, with epsilon-greedy exploration per slot. The critic
      learns from the slate that was shown, as scores of 1 and -1, the actor is moved at the scores it proposes, as
      in Dulac-Arnold et al. (2015). Order within the slate is lost to the critic.
    * SAC: the same, but slates are drawn by a Plackett-Luce distribution of the mean scores over `temperature`. Its own
      Gaussian noise would give slates whose probability has no closed form; it is kept within `train`.
    * PPO, A2C: the policy is the Plackett-Luce distribution of slates itself, so that acting and learning
      speak of the same probabilities. They learn once `rollout` decisions have closed, from those whose slates are
      what this agent wanted, and forget them; advantages are generalised (GAE) along each user's decisions.

    Propensities are exact given the candidates. Departures from stable-baselines3: heads per candidate; exploration
    as above, with a constant epsilon; n-step returns by our memory; encoders without dropout. Its
    losses are as they are, the clipped error of DQN included.

    Args:
        algorithm: "A2C", "DDPG", "DQN", "PPO", "SAC" or "TD3".
        catalog: which items may be shown, and their features.
        sessions: how wide the context of a request is.
        slate: K, slots of a slate.
        encoder: makes the state of a history; each network gets a copy. None where the context says enough.
        candidates: proposes items: any agent with a wide slate. It sees every transition and is updated with this one.
        width: width of the item vectors.
        gamma: discount per decision.
        n_step: decisions whose rewards are counted before the value of the state takes over; not for PPO and A2C.
        gae_lambda: of generalised advantages, PPO and A2C only.
        batch: transitions per gradient step; A2C takes all at once.
        steps: gradient steps per `update`; PPO has its `n_epochs` instead.
        rollout: closed decisions before PPO and A2C learn.
        memory: newest transitions kept.
        epsilon: share of exploration of DQN, TD3 and DDPG.
        temperature: of the slates of SAC.
        settings: more keywords of the algorithm: `learning_rate`, `target_update_interval` (counted in decisions), ...
        seed: start of the networks, of the memory and of exploration.
        device: where networks and memory live.

    Raises:
        ValueError: an unknown algorithm, or a setting out of its range or decided here.
    """

    def __init__(
        self,
        algorithm: str,
        catalog: Catalog,
        sessions: SessionStore,
        slate: int,
        encoder: nn.Module | None = None,
        candidates: Agent | None = None,
        width: int = 16,
        gamma: float = 0.9,
        n_step: int = 1,
        gae_lambda: float = 0.95,
        batch: int = 256,
        steps: int = 1,
        rollout: int = 2048,
        memory: int = 100_000,
        epsilon: float = 0.05,
        temperature: float = 0.1,
        settings: Mapping[str, Any] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if algorithm not in POLICIES:
            raise ValueError(f"algorithm must be one of {', '.join(POLICIES)}, got {algorithm!r}")
        self.on_policy = algorithm in ON_POLICY
        _check_settings(batch, steps, rollout, epsilon, temperature, settings or {})
        if self.on_policy and rollout > memory:
            raise ValueError(f"memory must hold a rollout of {rollout} decisions, got {memory}")
        self.name, self.catalog, self.candidates, self.slate = algorithm, catalog, candidates, slate
        self.gamma, self.gae_lambda, self.batch, self.steps, self.rollout = gamma, gae_lambda, batch, steps, rollout
        self.epsilon, self.temperature = epsilon, temperature
        self.device = torch.device(device)
        self.context = sessions.context_width
        self.generator = Generator(device).manual_seed(seed)
        self.replay = Replay(memory, 1 if self.on_policy else n_step, gamma, self._reads(encoder), self.device)
        self.algorithm = self._make(encoder, width, dict(settings or {}))
        self.algorithm.replay_buffer = Samples(self._sample)
        self.observed = 0  # decisions
        self.learned = 0  # of them, those behind the newest update of PPO or A2C
        self.copied = 0  # target networks of DQN due so far

    def _reads(self, encoder: nn.Module | None) -> list[str] | None:
        """Windows of `History` that somebody here uses; None = all, as long as one of them does not say."""
        asked = [one for one in (encoder, self.candidates) if one is not None]
        if any(getattr(one, "reads", None) is None for one in asked):
            return None
        return sorted({"offer", "context", *(name for one in asked for name in cast(Any, one).reads)})

    def _make(self, encoder: nn.Module | None, width: int, settings: dict[str, Any]) -> Any:
        """The algorithm, around an environment that only has spaces."""
        algorithm, policy = POLICIES[self.name]
        shared = {id(self.catalog): self.catalog}
        make = None if encoder is None else lambda: copy.deepcopy(encoder, dict(shared))
        arch: Any = {"pi": [], "vf": []} if self.on_policy else []
        kwargs = policy_kwargs(make, width, net_arch=arch, **settings.pop("policy_kwargs", {}))
        if self.on_policy:
            kwargs["ortho_init"] = False
            settings |= {"n_steps": max(self.batch, 2), "gae_lambda": self.gae_lambda}
        else:
            settings |= {"buffer_size": 1}
        if self.name != "A2C":
            settings["batch_size"] = self.batch
        with own_randomness(self.generator):
            made = algorithm(
                policy, self._outside(), gamma=self.gamma, policy_kwargs=kwargs, device=self.device, **settings
            )
        made.set_logger(Logger(None, []))
        return made

    def _outside(self) -> gymnasium.Env[Any, Any]:
        """Spaces; how many candidates there are changes from request to request, named is the least: K."""
        capacity, k = self.catalog.capacity, self.slate
        widths = {name: 1 for name in ("clicked", "kinds", "ages", "skipped", "skip_ages", "visit")}
        widths |= {"candidates": k, "mask": k, "context": self.context}
        widths["candidate_features"] = k * self.catalog.features.shape[1]
        boxes: dict[str, spaces.Space[Any]] = {
            name: spaces.Box(0, capacity, (width,)) for name, width in widths.items() if width
        }
        action: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (k,))
        if self.on_policy:
            action = spaces.MultiDiscrete([k] * k)
        elif self.name == "DQN":
            action = spaces.Discrete(k)
        return Outside(spaces.Dict(boxes), action)

    @property
    def policy(self) -> Any:
        """The networks: one of those of `agents.sb3_policies`."""
        return self.algorithm.policy

    # --- deciding ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, history: History) -> Decision:
        items, mask = self._propose(history)
        scores = self.policy.scores(self._observation(history, items, mask)).where(mask, -torch.inf)
        if self.on_policy or self.name == "SAC":
            temperature = 1.0 if self.on_policy else self.temperature
            index, slot_logp = plackett_luce(scores, self.slate, temperature, self.generator)
        else:
            index, slot_logp = choose(scores, self.slate, self.epsilon, self.generator)
        return Decision.of(history.user, pick(items, index), slot_logp)

    def _propose(self, history: History) -> tuple[Tensor, Tensor]:
        """Candidates [B, C] int64, and which of them may be shown [B, C] bool."""
        given = offered(history, self.catalog.available)
        if given is not None:
            return given
        if self.candidates is not None:
            wide = self.candidates.act(history).slate
            return wide, allowed(wide, self.catalog.available)
        available = torch.nonzero(self.catalog.available[: self.catalog.size].to(self.device)).squeeze(1)
        items = pad(available, (0, int(len(available) == 0))).expand(len(history), -1)
        return items, items > 0

    def _observation(self, history: History, items: Tensor, mask: Tensor) -> Observation:
        """What the networks see, [B, ...] each; see `simulators.vector.SlateVectorEnv`."""

        def ages(rows: Tensor, times: Tensor) -> Tensor:
            if rows.shape != times.shape:  # the memory keeps only one of them
                return times.float()
            return ((history.time.unsqueeze(1) - times).clamp(min=0.0) * (rows > 0)).float()

        seen = {
            "clicked": history.items,
            "kinds": history.kinds,
            "ages": ages(history.items, history.times),
            "skipped": history.skipped,
            "skip_ages": ages(history.skipped, history.skip_times),
            "visit": history.in_session.unsqueeze(1),
            "candidates": items,
            "mask": mask,
        }
        if self.context:
            seen["context"] = history.context
        if self.catalog.features.shape[1]:
            seen["candidate_features"] = self.catalog.features[items].flatten(1)
        return {name: column.to(self.device) for name, column in seen.items()}

    # --- learning ----------------------------------------------------------------------------------------------

    def observe(self, transition: Transition) -> None:
        """Remember the transition, if anything was shown; the agent that proposes candidates sees it too."""
        self.observed += len(transition)
        self.replay.add(transition[(transition.shown.slate != 0).any(1)])
        if self.candidates is not None:
            self.candidates.observe(transition)

    def update(self) -> dict[str, float]:
        """Let the algorithm train, as soon as the memory holds what it needs."""
        said: dict[str, float] = {}
        if self.candidates is not None:
            said = {f"candidates.{name}": value for name, value in self.candidates.update().items()}
        ready = self._gather() if self.on_policy else len(self.replay) >= min(self.batch, self.replay.size)
        if not ready:
            return said
        with own_randomness(self.generator):
            if self.on_policy:
                self.algorithm.train()
            else:
                self._copy()
                self.algorithm.train(gradient_steps=self.steps, batch_size=self.batch)
        figures = {name.removeprefix("train/"): float(x) for name, x in self.algorithm.logger.name_to_value.items()}
        self.algorithm.logger.dump()
        return said | {name: x for name, x in figures.items() if np.isfinite(x)}

    def _copy(self) -> None:
        """DQN moves its target network by the clock of the environment, which here is ours."""
        if self.name != "DQN":
            return
        due = self.observed // self.algorithm.target_update_interval
        if due > self.copied:
            self.copied = due
            online, target = self.policy.q_net, self.policy.q_net_target
            polyak_update(online.parameters(), target.parameters(), self.algorithm.tau)

    @torch.no_grad()
    def _sample(self, batch: int) -> DictReplayBufferSamples:
        """What an off-policy algorithm trains on."""
        sample = self.replay.sample(batch, self.generator)
        observation, places = self._with_shown(sample.first)
        items, mask = (pad(x, (0, self.slate)) for x in self._propose(sample.next))
        actions, rewards = (
            self._one_slot(sample, places) if self.name == "DQN" else self._all_slots(sample, places, items)
        )
        return DictReplayBufferSamples(
            observations=observation,
            actions=actions,
            next_observations=self._observation(sample.next, items, mask),
            dones=torch.zeros_like(rewards),  # in the discounts, which end with the visit
            rewards=rewards,
            discounts=sample.discount.unsqueeze(1),
        )

    def _with_shown(self, transition: Transition) -> tuple[Observation, Tensor]:
        """Observations whose candidates hold what was shown, and the places of that [B, K], -1 = empty slot."""
        shown = transition.shown.slate
        items, mask = self._propose(transition.history)
        same = (shown.unsqueeze(2) == items.unsqueeze(1)) & mask.unsqueeze(1)
        found = same.any(2)
        beyond = items.shape[1] + torch.arange(shown.shape[1], device=items.device)
        places = torch.where(found, same.int().argmax(2), beyond).masked_fill(shown == 0, -1)
        wide, there = torch.cat([items, shown], 1), torch.cat([mask, ~found & (shown != 0)], 1)
        return self._observation(transition.history, wide, there), places

    def _one_slot(self, sample: Sample, places: Tensor) -> tuple[Tensor, Tensor]:
        """A place and its reward, [B, 1] each: of one of the slots shown, drawn at random."""
        draw = torch.rand(places.shape, generator=self.generator, device=self.device)
        slot = torch.where(places >= 0, draw, -1.0).argmax(1, keepdim=True)
        later = sample.later / (places >= 0).sum(1)
        return places.gather(1, slot), sample.first.rewards.gather(1, slot) + later.unsqueeze(1)

    def _all_slots(self, sample: Sample, places: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, C], 1 at what was shown and -1 elsewhere, and the reward of the slate [B, 1]."""
        scores = torch.zeros(items.shape, device=self.device)
        scores.scatter_add_(1, places.clamp(min=0), (places >= 0).float())
        return 2.0 * scores - 1.0, (sample.first.reward + sample.later).unsqueeze(1)

    @torch.no_grad()
    def _gather(self) -> bool:
        """Put the decisions since the last time before an on-policy algorithm; False = there are not enough yet."""
        if self.replay.added - self.learned < self.rollout:
            return False
        oldest = max(self.learned, self.replay.added - len(self.replay))
        sample = self.replay.at(torch.arange(oldest, self.replay.added, device=self.device))
        self.learned = self.replay.added
        sample = sample[sample.first.as_wanted()]
        if len(sample) < 2:
            return False
        observation, places = self._with_shown(sample.first)
        values = self.policy.predict_values(observation).squeeze(1)
        after = self.policy.predict_values(self._observation(sample.next, *self._propose(sample.next))).squeeze(1)
        advantages = generalised_advantages(
            sample.first.reward + sample.discount * after - values,
            self.gae_lambda * sample.discount,
            sample.first.history.user,
        )
        self.algorithm.rollout_buffer = Rollout(observation, places, values, sample.first.wanted.logp, advantages)
        return True

    # --- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Weights, optimisers, memory, candidates and randomness, as copies."""
        saved = self.algorithm.get_parameters()
        entropy = getattr(self.algorithm, "log_ent_coef", None)
        counts = {"observed": self.observed, "learned": self.learned, "copied": self.copied}
        return {
            "policy": {name: value.clone() for name, value in saved.pop("policy").items()},
            "optimisers": {name: _moments(state) for name, state in saved.items()},
            "entropy": {} if entropy is None else {"log_ent_coef": entropy.detach().clone()},
            "replay": self.replay.state_dict(),
            "candidates": {} if self.candidates is None else self.candidates.state_dict(),
            "generator": self.generator.get_state(),
            "counts": {**counts, "updates": self.algorithm._n_updates},
        }

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        mine = self.algorithm.get_parameters()
        for name, moments in state["optimisers"].items():
            saved = {int(at): {k: v.clone() for k, v in one.items()} for at, one in moments.items()}
            mine[name] = {"state": saved, "param_groups": mine[name]["param_groups"]}
        self.algorithm.set_parameters({**mine, "policy": state["policy"]}, device=self.device)
        for name, value in state["entropy"].items():
            getattr(self.algorithm, name).copy_(value)
        self.replay.load_state_dict(state["replay"])
        if self.candidates is not None:
            self.candidates.load_state_dict(state["candidates"])
        self.generator.set_state(state["generator"])
        counts = state["counts"]
        self.observed, self.learned, self.copied = counts["observed"], counts["learned"], counts["copied"]
        self.algorithm._n_updates = counts["updates"]


def _moments(optimiser: State) -> State:
    """Of `Optimizer.state_dict()`, what changes while learning."""
    return {str(at): {name: value.clone() for name, value in one.items()} for at, one in optimiser["state"].items()}


def _check_settings(
    batch: int, steps: int, rollout: int, epsilon: float, temperature: float, settings: Mapping[str, Any]
) -> None:
    for name, number in (("batch", batch), ("steps", steps), ("rollout", rollout)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"epsilon must be between 0 and 1, got {epsilon}")
    if temperature <= 0.0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    decided = sorted(set(settings) & set(OURS))
    if decided:
        raise ValueError(f"settings must leave {', '.join(decided)} to the keywords of the agent")
