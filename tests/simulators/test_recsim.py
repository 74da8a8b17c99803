"""RecSim's own code as a core: the same numbers as our world, and lives of their own. Skipped where it is missing."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from simulators.core import Core
from simulators.env import SlateEnv
from simulators.interest import BONUS, Interest
from simulators.oracle import Policy, myopic, play, random
from simulators.recsim import RecSim
from simulators.world import SimulatorWorld
from streamrec.catalog import Catalog
from streamrec.records import Decision, Kind
from streamrec.sessions import SessionStore

if importlib.util.find_spec("recsim") is None:
    pytest.skip("needs: pip install --no-deps recsim==0.2.4 absl-py six", allow_module_level=True)


def test_it_is_a_core_of_recsims_and_leaves_no_stand_ins_behind() -> None:
    core = RecSim(users=3)
    assert isinstance(core, Core)
    assert type(core._lives[0]).__module__ == "recsim.simulator.environment"
    assert not {"gym", "gin", "tensorflow", "recsim.simulator.runner_lib"} & sys.modules.keys()


def test_our_world_is_the_same_world() -> None:
    """Mean returns of 100 people each. The standard errors of a difference are 1.5 (random) and 3 (myopic)."""
    policies: tuple[tuple[Policy, float], ...] = ((random, 4.0), (myopic, 8.0))
    for policy, tolerance in policies:
        theirs = play(RecSim(users=100), policy, 400).mean()
        ours = play(Interest(users=100, choice="proportional"), policy, 400).mean()
        assert abs(float(theirs - ours)) < tolerance


def test_a_step_of_recsim_is_a_step_of_ours() -> None:
    """What RecSim did to interest and budget follows from the click by the formulas of `Interest`."""
    core = RecSim(users=80)
    users = torch.arange(80)
    for _ in range(5):
        slates = core.sample(users, 3)
        before, budget, quality = core.interest.clone(), core.budget.clone(), core.quality(users, slates)
        feedback = core.step(users, slates)
        clicked = feedback.kinds == int(Kind.CLICK)
        some = clicked.any(1)
        spent = torch.where(some, 4 * (1 - BONUS * (quality * clicked).sum(1)), 0.5)
        torch.testing.assert_close(core.budget, budget - spent, atol=1e-3, rtol=0)
        topic = core.topic[(slates * clicked).sum(1)]
        was = before.gather(1, topic.unsqueeze(1)).squeeze(1)
        moved = (core.interest - before).gather(1, topic.unsqueeze(1)).squeeze(1)
        size = 0.3 * (1 - was.abs()) * (1 - was) * some
        torch.testing.assert_close(moved.abs(), size, atol=1e-4, rtol=1e-3)


def test_64_cores_of_one_are_one_core_of_64_and_numpys_randomness_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()
    big, ones = RecSim(users=64), [RecSim(users=1) for _ in range(64)]
    big.reset(torch.arange(64), torch.arange(64) + 7)
    for row, one in enumerate(ones):
        one.reset(torch.tensor([0]), torch.tensor([row + 7]))
    for _ in range(6):
        together = big.step(torch.arange(64), big.best(torch.arange(64), 1.5))
        alone = torch.tensor([0])
        apart = [one.step(alone, one.best(alone, 1.5)) for one in ones]
        assert torch.equal(together.kinds, torch.cat([f.kinds for f in apart]))
        assert torch.equal(big.budget, torch.cat([one.budget for one in ones]))
    assert (np.random.get_state()[1] == before).all()


def test_resumed_is_never_stopped_to_the_bit() -> None:
    straight, resumed = RecSim(users=20), RecSim(users=20, seed=5)
    users = torch.arange(20)
    for _ in range(8):
        straight.step(users, straight.sample(users, 3))
    resumed.load_state_dict(straight.state_dict())
    for _ in range(12):
        one, other = (core.step(users, core.best(users)) for core in (straight, resumed))
        assert torch.equal(one.kinds, other.kinds)
        assert torch.equal(straight.interest, resumed.interest)
        assert torch.equal(straight.budget, resumed.budget)


def test_it_is_a_world_of_the_loop() -> None:
    sessions = SessionStore(users=12, slate=3)
    core = RecSim(users=12)
    world = SimulatorWorld(core, Catalog(200), sessions, tick_s=10.0)
    events = world.poll()
    assert events is not None
    assert events.offer.shape == (12, 10)
    world.send(Decision.of(events.user, events.offer[:, :3]), events)
    assert (core.steps == 1).all()


def test_the_face_of_gymnasium_passes_its_checker() -> None:
    check_env(SlateEnv(core="simulators.recsim:RecSim", horizon=50), skip_render_check=True)


def test_empty_slots_are_not_shown_and_strangers_are_refused() -> None:
    core = RecSim(users=40)
    users = torch.arange(40)
    slates = core.sample(users, 3)
    slates[:, 1] = 0
    assert (core.step(users, slates).kinds[:, 1] == int(Kind.NONE)).all()
    offer = core.sample(users, 10)
    stranger = next(item for item in range(1, 201) if item not in offer[0])
    slates = core.sample(users, 3)
    slates[0, 0] = stranger
    with pytest.raises(ValueError, match="its own lists only"):
        core.step(users, slates)
