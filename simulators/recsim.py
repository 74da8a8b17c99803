"""RecSim's own interest-evolution environment, many of them side by side, as a core like the others."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from simulators.core import Feedback
from simulators.interest import Choice, Interest
from streamrec.mixing import mix

_DOCUMENTS, _CHOICE = 21, 22  # streams of randomness
_STEP = 0x2545F4914F6CDD1D  # odd: keys of successive steps never meet
_CHOICES = {"mnl": "MultinomialLogitChoiceModel", "proportional": "MultinomialProportionalChoiceModel"}


class RecSim(Interest):
    """The interest evolution of RecSim 0.2.4 (Ie et al., arXiv 1909.04847), its code untouched.

    `simulators.interest` is what we made of its description; this is the original, to check agents and our world
    against. Every user is an environment of RecSim's with a person and documents of its own, stepped one after the
    other in Python: some thousand requests a second. Items, context, candidates and policies are those of `Interest`.

    RecSim draws partly from NumPy's global generator. That, and the generator of the documents, are set to a hash of
    user and step before each step (and the global one is put back after it), so a life does not depend on who else is
    stepped, and a state resumes to the bit.

    The package needs neither TensorFlow nor gym for this: `pip install --no-deps recsim==0.2.4 absl-py six`.

    Args:
        users: U, environments.
        slate: K, documents shown.
        candidates: documents that come with a request.
        choice: RecSim's choice model, see `Interest`; "proportional" is the one it ships the environment with.
        observe_budget: `context` ends with the share of the time that is left.
        think_s: seconds between requests.
        seed: who the people are, until `reset` with other seeds.

    Raises:
        ImportError: RecSim is not installed.
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        users: int = 256,
        slate: int = 3,
        candidates: int = 10,
        choice: Choice = "proportional",
        observe_budget: bool = False,
        think_s: float = 10.0,
        seed: int = 0,
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self._recsim = load()
        self._lives: list[Any] = [None] * users  # an environment of RecSim's per user
        self._offer = torch.zeros(users, candidates, dtype=torch.int64)
        self._quality = torch.zeros(users, 20 * candidates + 1)  # of what is offered now, by item
        super().__init__(**settings)
        self._settings = settings

    def _settle(self, users: Tensor) -> None:
        super()._settle(users)
        numbers = _numbers(mix(self.key[users] + _CHOICE))
        with _numpy_left_alone():
            for user, number in zip(users.tolist(), numbers, strict=True):
                self._lives[user] = self._live(number)
        self._arrive(users)
        self._read(users)

    def _live(self, number: int) -> Any:
        """RecSim's environment with a new person; documents are drawn when they are needed."""
        world = self._recsim["recsim.environments.interest_evolution"]
        model = getattr(self._recsim["recsim.choice_model"], _CHOICES[self.choice])
        person = world.IEvUserModel(self.slate, choice_model_ctor=model, seed=number)
        sampler = world.UtilityModelVideoSampler()
        return self._recsim["recsim.simulator.environment"].Environment(person, sampler, self.offered, self.slate)

    def _arrive(self, users: Tensor) -> None:
        """Draw the documents of the users' coming requests anew, from the key of the step."""
        numbers = _numbers(mix(self._now(users) + _DOCUMENTS))
        for user, number in zip(users.tolist(), numbers, strict=True):
            life = self._lives[user]
            life._document_sampler._rng.seed(number)
            life._do_resample_documents()
            life._current_documents = life.candidate_set.create_observation()

    def _read(self, users: Tensor) -> None:
        """Copy what the environments hold into tensors. RecSim changes the interests it has handed out in place."""
        lives = [self._lives[user] for user in users.tolist()]
        people = [life.user_model._user_state for life in lives]
        documents = [life.candidate_set.get_all_documents() for life in lives]
        shape = (len(lives), self.offered)
        interests = np.array([p.user_interests for p in people], dtype=np.float32).reshape(-1, self.topics)
        topic = torch.tensor([d.cluster_id for own in documents for d in own], dtype=torch.int64).view(shape)
        quality = torch.tensor([d.quality for own in documents for d in own], dtype=torch.float32).view(shape)
        self.interest[users] = torch.from_numpy(interests)
        self.budget[users] = torch.tensor([p.time_budget for p in people], dtype=torch.float32)
        number = (topic.unsqueeze(2) == topic.unsqueeze(1)).tril(-1).sum(2)
        self._offer[users] = topic * self.offered + number + 1
        self._quality[users.unsqueeze(1), self._offer[users]] = quality

    # --- dynamics ----------------------------------------------------------------------------------------------

    def step(self, users: Tensor, slates: Tensor, time: Tensor | None = None) -> Feedback:
        """As `Interest.step`.

        Raises:
            ValueError: slates of another shape than [n, K], or with an item that is not among the candidates.
        """
        if slates.shape != (len(users), self.slate):
            raise ValueError(f"expected slates of shape {(len(users), self.slate)}, got {tuple(slates.shape)}")
        same = slates.unsqueeze(2) == self._offer[users].unsqueeze(1)  # [n, K, C]
        if not bool((same.any(2) | (slates == 0)).all()):
            raise ValueError("RecSim shows documents of its own lists only: choose among what `sample` gives")
        places = same.int().argmax(2)
        slot, watched = self._play(users, places, slates > 0)
        self.time[users] = self.time[users] if time is None else torch.maximum(self.time[users], time)
        self.time[users] += self.think_s
        self.steps[users] += 1
        self._arrive(users)
        self._read(users)
        return self._feedback(users, slates, one_hot(slot, self.slate + 1)[:, : self.slate].bool(), watched)

    def _play(self, users: Tensor, places: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
        """Let RecSim react: the slot chosen, K = none, and the minutes watched, two of [n]."""
        slots, minutes = [], []
        numbers = _numbers(mix(self._now(users) + _CHOICE))
        rows = zip(users.tolist(), numbers, places.tolist(), filled.tolist(), strict=True)
        with _numpy_left_alone():
            for user, number, place, there in rows:
                shown = [slot for slot in range(self.slate) if there[slot]]
                np.random.seed(number)
                responses = self._lives[user].step([place[slot] for slot in shown])[2]
                clicked = [at for at, response in enumerate(responses) if response.clicked]
                slots.append(shown[clicked[0]] if clicked else self.slate)
                minutes.append(float(responses[clicked[0]].watch_time) if clicked else 0.0)
        return torch.tensor(slots, dtype=torch.int64), torch.tensor(minutes, dtype=torch.float32)

    def sample(self, users: Tensor, count: int) -> Tensor:
        """The first `count` of the documents that come with the users' coming requests, [n, count] int64."""
        return torch.nn.functional.pad(self._offer[users][:, :count], (0, max(0, count - self.offered)))

    def quality(self, users: Tensor, items: Tensor) -> Tensor:
        """Hidden quality of `items` [n, C] of the users' lists: [n, C] float32; of others, what was there before."""
        return self._quality[users].gather(1, items)

    # --- state -------------------------------------------------------------------------------------------------

    def like(self, **changes: object) -> RecSim:
        """A fresh core with the same settings except `changes`."""
        return RecSim(**{**self._settings, **changes})

    def state_dict(self) -> dict[str, Any]:
        """The people; their documents follow from the keys."""
        people = [life.user_model._user_state for life in self._lives]
        exact = np.array([[*p.user_interests, p.time_budget] for p in people], dtype=np.float64)
        return {**super().state_dict(), "exact": torch.from_numpy(exact)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a `state_dict()` of a core with the same settings."""
        super().load_state_dict({name: table for name, table in state.items() if name != "exact"})
        for life, row in zip(self._lives, state["exact"].numpy(), strict=True):
            person = life.user_model._user_state
            person.user_interests, person.time_budget = row[:-1].copy(), float(row[-1])
        users = torch.arange(self.users)
        self._arrive(users)
        self._read(users)


def _numbers(key: Tensor) -> list[int]:
    """Seeds of NumPy generators."""
    return [int(number) for number in (key & 0xFFFFFFFF).tolist()]


@contextmanager
def _numpy_left_alone() -> Iterator[None]:
    """Put NumPy's global generator back where it was: it belongs to others too."""
    before = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(before)


def load() -> dict[str, Any]:
    """RecSim's modules by name, imported without TensorFlow, gin, dopamine and gym.

    It asks for `gym` and gets Gymnasium, asks for gin and gets decorators that do nothing; its training harness, which
    alone needs the others, is left out. These stand-ins are only there while it is imported.

    Raises:
        ImportError: RecSim is not installed.
    """
    names = ("recsim.environments.interest_evolution", "recsim.choice_model", "recsim.simulator.environment")
    stand_ins = _stand_ins()
    missing = [name for name in stand_ins if name not in sys.modules]
    sys.modules.update({name: stand_ins[name] for name in missing})
    try:
        return {name: importlib.import_module(name) for name in names}
    except ModuleNotFoundError as error:
        raise ImportError(
            f"RecSim cannot be imported ({error}); it is installed by: pip install --no-deps recsim==0.2.4 absl-py six"
        ) from error
    finally:
        for name in missing:
            sys.modules.pop(name, None)


def _stand_ins() -> dict[str, ModuleType]:
    gin = ModuleType("gin")
    gin.__dict__.update(configurable=lambda made: made, tf=gin)
    modules = {"gin": gin, "gin.tf": gin, "gym": gymnasium, "gym.spaces": gymnasium.spaces}
    return {**modules, "recsim.simulator.runner_lib": ModuleType("recsim.simulator.runner_lib")}
