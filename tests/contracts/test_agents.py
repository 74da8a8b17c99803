"""What every agent must do. Agents are found by walking `agents`; nothing has to be registered.

A class whose arguments are filled in by a run (`catalog`, `slate`, ...) needs nothing here. One that has to be given
something more gets a row in `ARGUMENTS`, written like its table in a spec.
"""

from __future__ import annotations

import copy
import gc
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

import agents
from streamrec import checkpoint, records
from streamrec.build import build
from streamrec.catalog import Catalog
from streamrec.nn import products
from streamrec.ports import Agent, State
from streamrec.records import Decision
from streamrec.sessions import SessionStore
from tests.contracts.identity import CHANCE, ITEMS, LENGTH, SLATE, Identity
from tests.histories import catalog

VERBS = ("act", "observe", "update", "state_dict", "load_state_dict")
MODULES = [importlib.import_module(f"{agents.__name__}.{m.name}") for m in pkgutil.iter_modules(agents.__path__)]
AGENTS = {
    name: cls
    for module in MODULES
    for name, cls in vars(module).items()
    if inspect.isclass(cls) and cls.__module__ == module.__name__ and all(hasattr(cls, verb) for verb in VERBS)
}

RULES = {"use": "agents.rules.SequentialRules"}
KNN = {"use": "agents.itemknn.ItemKNN"}
GRU = {"use": "streamrec.encoders.gru4rec.GRU4Rec", "dim": 16}
MODEL = {"use": "streamrec.models.next_item.NextItem", "encoder": GRU}
SUPERVISED = {"use": "agents.supervised.Supervised", "model": MODEL, "batch": 64, "memory": 512}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "Supervised": {"model": MODEL},
    "DQN": {
        "encoder": GRU,
        "candidates": {"use": "agents.popular.Popular", "slate": ITEMS},
        "epsilon": 0.0,
        "epsilon_start": 0.0,
        "item_learning_rate": 0.1,
        "learning_rate": 0.01,
    },
    "DeepPage": {
        "temperature": 0.0,
        "temperature_start": 0.0,
        "neighbours": 0,
        "hidden": 32,
        "page": 16,
        "filters": 16,
        "steps": 2,
        "actor_rate": 5e-3,
    },
    "RobustDQN": {
        "benchmark": {"use": "agents.popular.Popular"},
        "encoder": GRU,
        "candidates": {"use": "agents.popular.Popular", "slate": ITEMS},
        "epsilon": 0.0,
        "epsilon_start": 0.0,
        "item_learning_rate": 0.1,
        "learning_rate": 0.01,
    },
    "SlateQ": {
        "encoder": GRU,
        "candidates": {"use": "agents.popular.Popular", "slate": ITEMS},
        "epsilon": 0.0,
        "epsilon_start": 0.0,
        "item_learning_rate": 0.1,
        "learning_rate": 0.01,
        "choice_rate": 0.01,
        "gamma": 0.5,
        "value_scale": 5.0,
        "hidden": 32,
    },
    "DEERS": {
        "extra": ITEMS,
        "epsilon": 0.0,
        "epsilon_start": 0.0,
        "dim": 32,
        "steps": 4,
        "gamma": 0.5,
        "learning_rate": 0.005,
        "item_learning_rate": 0.1,
    },
    "StableBaselines": {
        "algorithm": "DQN",
        "encoder": GRU,
        "epsilon": 0.0,
        "steps": 2,
        "settings": {"learning_rate": 0.01, "target_update_interval": 1000},
    },
    "Split": {"agents": {"rules": RULES, "supervised": SUPERVISED}},
    "Panel": {
        "agents": {
            "rules": RULES,
            "split": {"use": "agents.split.Split", "agents": {"knn": KNN, "rules": RULES}},
            "panel": {"use": "agents.panel.Panel", "agents": {"rules": RULES, "knn": KNN}, "lead": "knn"},
        },
        "lead": "panel",
    },
    "Reinforce": {
        "encoder": {"use": "streamrec.encoders.cfn.CFN", "dim": 16},
        "batch": 256,
        "learning_rate": 0.01,
        "steps": 2,
    },
    "LIRD": {"epsilon": 0.0, "epsilon_start": 0.0, "batch": 256, "dim": 16, "hidden": 64},
    "A2C": {"encoder": GRU, "learning_rate": 0.003, "batch": 256, "steps": 2},
    "DRN": {
        "windows": [1.5, 6.0, 60.0],
        "minor_s": 60.0,
        "major_s": 10.0,
        "minibatches": 4,
        "item_learning_rate": 0.1,
        "learning_rate": 0.005,
    },
    "Counting": {
        "model": {"use": "streamrec.models.vsknn.VSKNN", "neighbours": 100, "sample": 100, "last": 1, "sessions": 512}
    },
    "Frozen": {"agent": SUPERVISED, "after_s": 1e12},
}
SMALL = {"memory": 512, "batch": 64}
"""Given to whoever has parameters of these names, so that tests are quick and reach the bounds."""

Make = Callable[..., Agent]


@pytest.fixture(params=list(AGENTS))
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Build one agent as a run does, from a spec."""
    cls = AGENTS[request.param]

    def made(seed: int = 0, of: Catalog | None = None, **more: Any) -> Agent:
        parameters = inspect.signature(cls).parameters
        small = {name: value for name, value in SMALL.items() if name in parameters}
        spec = {"use": f"{cls.__module__}.{cls.__name__}", **small, **ARGUMENTS.get(cls.__name__, {}), **more}
        context = {
            "catalog": catalog(ITEMS) if of is None else of,
            "sessions": SessionStore(users=4096, length=LENGTH, skips=4, slate=SLATE),
            "slate": SLATE,
            "seed": seed,
            "device": "cpu",
            "run_dir": tmp_path,
        }
        agent: Agent = build(copy.deepcopy(spec), context, "agent")
        return agent

    made.parameters = inspect.signature(cls).parameters  # type: ignore[attr-defined]
    return made


def trained(make: Make, steps: int = 6, n: int = 128, **settings: Any) -> Agent:
    agent, world = make(**settings), Identity(seed=3)
    run(agent, world, steps, n)
    return agent


def run(agent: Agent, world: Identity, steps: int, n: int = 128) -> list[dict[str, float]]:
    said = []
    for _ in range(steps):
        agent.observe(world.transition(agent, n))
        said.append(agent.update())
    return said


def leaves(state: Any, path: str = "") -> dict[str, Any]:
    if isinstance(state, dict):
        return {at: leaf for key, value in state.items() for at, leaf in leaves(value, f"{path}/{key}").items()}
    return {path: state}


def differing(before: State, after: State) -> list[str]:
    """Paths of leaves that are not the same to the bit."""
    one, other = leaves(before), leaves(after)
    same = {at for at in one.keys() & other.keys() if equal(one[at], other[at])}
    return sorted((one.keys() | other.keys()) - same)


def equal(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor):
        return bool(one == other)
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.nan_to_num(nan=-7.5), other.nan_to_num(nan=-7.5))


def same_decision(one: Decision, other: Decision) -> bool:
    pairs = zip(one.columns(), other.columns(), strict=True)
    return all(equal(a, b) for (_, a), (_, b) in pairs)


def check(decision: Decision, users: Tensor, available: Tensor) -> None:
    n = len(users)
    slate = decision.slate
    assert torch.equal(decision.user, users)
    assert slate.shape == (n, SLATE)
    assert slate.dtype == torch.int64
    assert decision.slot_logp.shape == (n, SLATE)
    assert decision.logp.shape == decision.policy.shape == decision.id.shape == (n,)
    assert decision.shadow.shape[::2] == (n, SLATE)
    assert (slate >= 0).all()
    assert (slate < len(available)).all()
    assert (available[slate] | (slate == 0)).all(), "an item was shown that is not available"
    filled = slate > 0
    assert (filled[:, :-1] | ~filled[:, 1:]).all(), "empty slots belong at the end"
    marked = torch.where(filled, slate, -torch.arange(SLATE))
    ordered = marked.sort(1).values
    assert (ordered[:, 1:] != ordered[:, :-1]).all(), "an item stands twice in a slate"
    for logp in (decision.logp, decision.slot_logp):
        assert logp.isfinite().all()
        assert (logp <= 0).all()
    torch.testing.assert_close(decision.logp, decision.slot_logp.sum(1))
    assert (decision.slot_logp[~filled] == 0).all(), "an empty slot is certain"


# --- found -------------------------------------------------------------------------------------------------------


def test_agents_are_found_by_walking_the_folder() -> None:
    assert {"Random", "Popular", "ItemKNN", "SequentialRules", "Supervised", "DQN"} <= AGENTS.keys()
    assert ARGUMENTS.keys() <= AGENTS.keys()


def test_is_an_agent(make: Make) -> None:
    assert isinstance(make(), Agent)


# --- acting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learned", [False, True])
def test_slates_are_whole_and_propensities_possible(make: Make, learned: bool) -> None:
    agent = trained(make) if learned else make()
    history = Identity().history(200)
    decision = agent.act(history)
    check(decision, history.user, catalog(ITEMS).available)
    assert (decision.slate > 0).all(), "there are items enough for every slot"


def test_users_without_clicks_and_waves_without_users_are_fine(make: Make) -> None:
    agent = trained(make)
    for n in (0, 5):
        history = Identity().history(n, times=0)
        check(agent.act(history), history.user, catalog(ITEMS).available)


def test_only_available_items_are_shown(make: Make) -> None:
    items = catalog(ITEMS)
    agent, history = trained(make, of=items), Identity().history(200)
    items.retire(torch.arange(1, ITEMS, 2))
    check(agent.act(history), history.user, items.available)
    items.retire(torch.arange(1, ITEMS + 1))
    items.see(torch.tensor([4, 9]))
    decision = agent.act(history)
    check(decision, history.user, items.available)
    assert ((decision.slate > 0).sum(1) == 2).all()


def test_new_items_can_be_shown_at_once(make: Make) -> None:
    items = catalog(ITEMS)
    agent, history = trained(make, of=items), Identity().history(50)
    old = items.available.nonzero().squeeze(1)
    items.see(items.rows(["new one", "new two", "new three"]))
    items.retire(old)
    decision = agent.act(history)
    check(decision, history.user, items.available)
    assert set(decision.slate.unique().tolist()) == {ITEMS + 1, ITEMS + 2, ITEMS + 3}


def test_only_what_was_offered_is_shown(make: Make) -> None:
    """A request may bring its own candidates, some of which are not available or missing."""
    items = catalog(ITEMS)
    agent, history = trained(make, of=items), Identity().history(60)
    offer = torch.rand(60, ITEMS, generator=torch.Generator().manual_seed(1)).topk(8).indices + 1
    items.retire(offer[0, :2])
    offer[1, 2:] = 0
    decision = agent.act(replace(history, offer=offer))
    check(decision, history.user, items.available)
    inside = (decision.slate.unsqueeze(2) == offer.unsqueeze(1)).any(2)
    assert (inside | (decision.slate == 0)).all()
    few = (items.available[offer[1]] & (offer[1] > 0)).sum()
    assert (decision.slate[1] > 0).sum() == min(int(few), SLATE)
    assert (decision.slate[2:] > 0).all()


def test_exploration_keeps_slates_whole_however_few_items_there_are(make: Make) -> None:
    parameters = make.parameters  # type: ignore[attr-defined]
    if "epsilon" not in parameters:
        pytest.skip("does not explore")
    items, both = catalog(ITEMS), {name: 0.6 for name in ("epsilon", "epsilon_start") if name in parameters}
    agent, history = trained(make, of=items, **both), Identity().history(300)
    decision = agent.act(history)
    check(decision, history.user, items.available)
    assert len(decision.logp.unique()) > 1
    assert not same_decision(decision, agent.act(history))
    items.retire(torch.arange(1, ITEMS + 1))
    items.see(torch.tensor([5, 6]))
    check(agent.act(history), history.user, items.available)


def test_seen_items_are_left_out_on_demand(make: Make) -> None:
    if "exclude_seen" not in make.parameters:  # type: ignore[attr-defined]
        pytest.skip("has no exclude_seen")
    agent, history = trained(make, exclude_seen=True), Identity().history(300)
    decision = agent.act(history)
    check(decision, history.user, catalog(ITEMS).available)
    assert (decision.slate > 0).all()
    assert not (decision.slate.unsqueeze(2) == history.items.unsqueeze(1)).any()


def test_batch_equals_single_where_nothing_is_drawn(make: Make) -> None:
    agent, history = trained(make, steps=20), Identity().history(40)
    together = agent.act(history)
    if not same_decision(together, agent.act(history)):
        pytest.skip("draws")
    alone = Decision.cat([agent.act(history[at : at + 1]) for at in range(len(history))])
    assert same_decision(together, alone)


def test_acting_changes_nothing_but_randomness(make: Make) -> None:
    agent = trained(make)
    before = copy.deepcopy(agent.state_dict())
    agent.act(Identity().history(64))
    changed = differing(before, agent.state_dict())
    assert all("generator" in path or "random" in path for path in changed), changed


def test_torchs_own_randomness_is_left_alone(make: Make) -> None:
    before = torch.get_rng_state()
    trained(make)
    assert torch.equal(before, torch.get_rng_state())


# --- learning ----------------------------------------------------------------------------------------------------


def test_updating_before_anything_was_observed_is_fine(make: Make) -> None:
    assert make().update() == {}


def test_says_finite_numbers_about_learning(make: Make) -> None:
    for said in run(make(), Identity(), 6):
        assert all(isinstance(name, str) and value == value and abs(value) < 1e6 for name, value in said.items())


def test_keeps_no_hand_on_what_it_observed(make: Make) -> None:
    agent, world = trained(make), Identity()
    transition = world.transition(agent, 64)
    agent.observe(transition)
    before = copy.deepcopy(agent.state_dict())
    for _, column in transition.columns():
        column.fill_(1)
    assert differing(before, agent.state_dict()) == []


def test_leaves_what_it_observed_alone(make: Make) -> None:
    agent, world = trained(make), Identity()
    transition = world.transition(agent, 64)
    kept = copy.deepcopy(transition)
    agent.observe(transition)
    agent.update()
    assert differing(dict(kept.columns()), dict(transition.columns())) == []


def test_the_seed_decides_everything(make: Make) -> None:
    one, other = trained(make, seed=4), trained(make, seed=4)
    assert differing(one.state_dict(), other.state_dict()) == []
    history = Identity().history(64)
    assert same_decision(one.act(history), other.act(history))


def test_goes_on_from_a_checkpoint_as_if_never_stopped(make: Make, tmp_path: Path) -> None:
    """In the middle of learning, through the files a run writes, into an agent that started elsewhere."""
    agent = trained(make, steps=7)
    path = checkpoint.save(tmp_path, {"agent": agent.state_dict()}, 1)
    again = make(seed=11)
    again.load_state_dict(checkpoint.load(path)["agent"])
    assert differing(agent.state_dict(), again.state_dict()) == []
    one, other = (run(each, Identity(seed=5), 7) for each in (agent, again))
    assert one == other
    assert differing(agent.state_dict(), again.state_dict()) == []
    history = Identity().history(64)
    assert same_decision(agent.act(history), again.act(history))


def test_a_state_stays_what_it_was_while_the_agent_goes_on(make: Make) -> None:
    agent = trained(make)
    state = agent.state_dict()
    kept = copy.deepcopy(state)
    run(agent, Identity(seed=8), 3)
    assert differing(kept, state) == []


def test_memory_is_bounded(make: Make) -> None:
    agent, world = make(), Identity()
    run(agent, world, 16)
    before = size(agent)
    run(agent, world, 16)
    assert size(agent) <= before


def size(agent: Agent) -> int:
    return sum(x.numel() if isinstance(x, Tensor) else 1 for x in leaves(agent.state_dict()).values())


# --- what is learned ---------------------------------------------------------------------------------------------


def test_solves_the_identity_world(make: Make) -> None:
    """Unless it says that it reads nothing of the history (`reads = ()`): then it cannot."""
    agent, world = make(), Identity()
    if getattr(agent, "reads", None) == ():
        pytest.skip("reads nothing of the history")
    for _ in range(5):
        run(agent, world, 30, 256)
        if world.solved(agent) >= 0.9:
            return
    pytest.fail(f"after 150 updates it solves {world.solved(agent):.0%}")


def test_learns_from_feedback_and_not_from_what_was_shown(make: Make) -> None:
    """The same world with feedback that means nothing leaves the agent at chance."""
    agent, world = make(), Identity(noise=True)
    run(agent, world, 60, 256)
    assert world.solved(agent) < CHANCE + 0.3


# --- cost --------------------------------------------------------------------------------------------------------


def calls(work: Callable[[], object]) -> int:
    """Python functions entered while `work` runs."""
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    gc.disable()  # a collection would run callbacks of hypothesis, which are functions too
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def test_costs_no_python_per_user(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "WORTH", sys.maxsize)  # one library multiplies
    monkeypatch.setattr(records, "FEW_ROWS", 1)  # and one sorts
    agent, world = trained(make), Identity()
    transitions = {n: world.transition(agent, n) for n in (64, 1024)}
    for work in (agent.observe, lambda t: agent.act(t.history)):
        work(transitions[64])  # what the first call allocates is not counted
        work(transitions[1024])
        assert calls(partial(work, transitions[64])) == calls(partial(work, transitions[1024]))


def test_same_users_get_the_same_answer_whoever_asks_beside_them(make: Make) -> None:
    agent, history = trained(make, steps=20), Identity().history(40)
    if not same_decision(agent.act(history), agent.act(history)):
        pytest.skip("draws")
    order = torch.arange(len(history)).flip(0)
    assert same_decision(agent.act(history[order])[order], agent.act(history))
