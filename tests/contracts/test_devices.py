"""What encoders, models, agents and the session store say does not depend on where their tensors live.

The processor against itself checks that these tests are sound; with `-m gpu` a GPU is held against the processor.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from streamrec.build import build
from streamrec.catalog import Catalog
from streamrec.models.next_item import NextItem
from streamrec.nn.adagrad import Adagrad
from streamrec.ports import Agent
from streamrec.records import Events, Kind
from streamrec.sessions import SessionStore
from tests.contracts.identity import CHANCE, ITEMS, LENGTH, SLATE, Identity
from tests.contracts.test_agents import AGENTS, ARGUMENTS, SMALL
from tests.contracts.test_encoders import ENCODERS
from tests.histories import catalog, history

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
ROWS = [[3, 1, 4, 1, 5], [9, 2], [], [6], [5, 3, 5, 8, 9, 7]]
CLOSE = {"rtol": 1e-3, "atol": 1e-4}
"""A GPU adds up in another order, and may multiply with 10 bits of mantissa less."""

LEARNERS = ["Supervised", "DQN", "DEERS", "DRN", "A2C", "SlateQ", "LIRD", "Reinforce"]
RUNS = [("Supervised", "cpu"), *(pytest.param(name, "cuda", marks=pytest.mark.gpu) for name in LEARNERS)]
"""On the processor the contract of agents has them all."""


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def on(device: str, items: int = 20) -> Catalog:
    made = Catalog(64, device)
    made.see(made.rows([f"i{at}" for at in range(items)]).to(device))
    return made


@pytest.mark.parametrize("cls", ENCODERS, ids=lambda cls: cls.__name__)
def test_an_encoder_reads_the_same(cls: Callable[..., Any], device: str) -> None:
    here, there = cls(catalog(20), dim=8, seed=1), cls(on(device), dim=8, seed=2).to(device)
    there.load_state_dict(here.state_dict())
    some = history(ROWS)
    torch.testing.assert_close(there(some.to(device)).cpu(), here(some), **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(there(some.to(device)).cpu(), here(some), **CLOSE)
    assert there(some.to(device), torch.Generator(device).manual_seed(0)).isfinite().all()


@pytest.mark.parametrize("cls", ENCODERS, ids=lambda cls: cls.__name__)
def test_a_model_is_trained_the_same(cls: Callable[..., Any], device: str) -> None:
    target = torch.tensor([9, 6, 5, 3, 5])
    models = []
    for place in ("cpu", device):
        of = on(place)
        model = NextItem(cls(of, dim=8, seed=1), of, loss="cross-entropy", n_sample=None, device=place)
        model.generator = None  # nothing is dropped
        optimiser = Adagrad(model.named_parameters(), learning_rate=0.05)
        for _ in range(3):
            optimiser.zero_grad()
            model.loss(history(ROWS).to(place), target.to(place)).backward()
            optimiser.step()
        models.append(model)
    here, there = (model.score(history(ROWS).to(model.bias.device)).cpu() for model in models)
    torch.testing.assert_close(there, here, **CLOSE)


def test_sessions_and_transitions_are_the_same(device: str) -> None:
    stores = [SessionStore(users=50, length=4, skips=3, slate=3, device=place) for place in ("cpu", device)]
    draw = torch.Generator().manual_seed(0)
    rows, same = (store.rows([f"u{at}" for at in range(40)]) for store in stores)
    assert torch.equal(rows, same)
    for step in range(30):
        kind = torch.where(torch.rand(40, generator=draw) < 0.7, int(Kind.CLICK), int(Kind.SKIP)).to(torch.int8)
        item = torch.randint(1, 20, (40,), generator=draw)
        time = torch.full((40,), 1e9 + 40.0 * step, dtype=torch.float64)
        for store in stores:
            wave = replace(Events.of(rows, Kind.CLICK, time, item=item), kind=kind).to(store.device)
            store.take(wave)
    one, other = (store.read(rows.to(store.device), time.to(store.device)).to("cpu") for store in stores)
    for (name, mine), (_, theirs) in zip(one.columns(), other.columns(), strict=True):
        assert torch.equal(mine, theirs), name


class Elsewhere:
    """An agent on another device, for a world on the processor."""

    def __init__(self, agent: Agent, device: str) -> None:
        self.agent, self.device = agent, device

    def act(self, history: Any) -> Any:
        return self.agent.act(history.to(self.device)).to("cpu")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.agent, name)


@pytest.mark.parametrize(("name", "device"), RUNS)
def test_an_agent_learns_anywhere(name: str, device: str, tmp_path: Path) -> None:
    cls = AGENTS[name]
    small = {key: value for key, value in SMALL.items() if key in inspect.signature(cls).parameters}
    spec = {"use": f"{cls.__module__}.{name}", **small, **copy.deepcopy(ARGUMENTS.get(name, {}))}
    sessions = SessionStore(users=4096, length=LENGTH, skips=4, slate=SLATE, device=device)
    context = {"catalog": on(device, ITEMS), "sessions": sessions, "slate": SLATE, "seed": 0}
    agent = build(spec, {**context, "device": torch.device(device), "run_dir": tmp_path}, "agent")
    world, away = Identity(seed=3), Elsewhere(agent, device)
    for _ in range(60):
        agent.observe(world.transition(away, 128).to(device))  # type: ignore[arg-type]
        assert all(value == value for value in agent.update().values()), "a figure is no number"
    assert world.solved(away) > 2 * CHANCE  # type: ignore[arg-type]
    fresh = build(copy.deepcopy(spec), {**context, "device": torch.device(device), "run_dir": tmp_path}, "agent")
    fresh.load_state_dict(agent.state_dict())
    some = world.history(32).to(device)
    assert torch.equal(fresh.act(some).slate, agent.act(some).slate)
