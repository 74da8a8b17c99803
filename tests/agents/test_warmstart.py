"""A teacher's knowledge in other heads: each agent solves the teacher's task before it has learned anything itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from agents.a2c import A2C
from agents.deers import DEERS
from agents.dqn import DQN
from agents.drn import DRN
from agents.itemknn import ItemKNN
from agents.lird import LIRD
from agents.popular import Popular
from agents.random import Random
from agents.supervised import Supervised
from agents.warmstart import PARTS, HandOver
from streamrec.catalog import Catalog
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.models.next_item import NextItem
from streamrec.ports import Agent
from streamrec.sessions import SessionStore
from streamrec.warmstart import BadHandOver, Witness
from tests.contracts.identity import CHANCE, ITEMS, LENGTH, SLATE, Identity
from tests.transitions import transition

DIM = 16

Make = Callable[[Catalog, SessionStore], Any]


def encoder(catalog: Catalog, dim: int = DIM) -> GRU4Rec:
    return GRU4Rec(catalog, dim=dim, scope="user")


STUDENTS: dict[str, Make] = {
    "dqn": lambda catalog, sessions: DQN(catalog, sessions, SLATE, encoder(catalog), epsilon_start=0.0, epsilon=0.0),
    "dueling": lambda catalog, sessions: DQN(
        catalog, sessions, SLATE, encoder(catalog), dueling=True, epsilon_start=0.0, epsilon=0.0
    ),
    "deers": lambda catalog, sessions: DEERS(
        catalog, sessions, SLATE, dim=DIM, hidden=DIM, epsilon_start=0.0, epsilon=0.0, extra=ITEMS
    ),
    "a2c": lambda catalog, sessions: A2C(catalog, sessions, SLATE, encoder(catalog)),
    "lird": lambda catalog, sessions: LIRD(
        catalog, sessions, SLATE, dim=DIM, window=LENGTH, epsilon_start=0.0, epsilon=0.0
    ),
}


@pytest.fixture(scope="module")
def taught() -> tuple[Catalog, Witness]:
    """A teacher who has learned the identity world from a random logger."""
    catalog = Catalog(40)
    catalog.see(catalog.rows([f"i{i}" for i in range(ITEMS)]))
    model = NextItem(encoder(catalog), catalog, loss="cross-entropy")
    witness = Witness(Supervised(model, catalog, SLATE), Random(catalog, SLATE), gamma=0.0)
    world = Identity()
    for _ in range(60):
        witness.observe(world.transition(witness, 256))
        witness.update()
    assert world.solved(witness.teacher) > 0.95
    return catalog, witness


def student(name: str, catalog: Catalog) -> Agent:
    made: Agent = STUDENTS[name](catalog, SessionStore(users=8, slate=SLATE, length=LENGTH, skips=4))
    return made


@pytest.mark.parametrize("name", STUDENTS)
def test_an_agent_knows_what_its_teacher_knows(name: str, taught: tuple[Catalog, Witness]) -> None:
    catalog, witness = taught
    agent = student(name, catalog)
    assert Identity(seed=1).solved(agent) < 3 * CHANCE
    # LIRD's scores lie between -1 and 1 over its temperature, so it cannot be as sure as the teacher is.
    found = HandOver(temperature=2.0 if name == "lird" else 1.0, steps=300)(agent, witness)
    assert set(found) == set(PARTS[type(agent)])
    assert found["items"] == {"neighbour_overlap": 1.0}
    assert Identity(seed=1).solved(agent) > 0.9
    if "q" in found:
        assert found["q"]["rank_correlation"] >= 0.95
        assert found["q"]["mean_value"] == pytest.approx(found["q"]["mean_return"], rel=0.1)
    if "actor" in found:
        assert found["actor"]["kl"] <= 0.1 * found["actor"]["kl_uniform"]


@pytest.mark.parametrize("name", ["dqn", "dueling"])
def test_a_dqn_shows_its_teachers_lists_and_its_target_is_itself(name: str, taught: tuple[Catalog, Witness]) -> None:
    catalog, witness = taught
    agent = student(name, catalog)
    assert isinstance(agent, DQN)
    assert HandOver(["items", "encoder"])(agent, witness)["encoder"] == {"same_lists": 1.0}
    before = Identity(seed=2).history(200)
    assert torch.equal(agent.act(before).slate, witness.teacher.act(before).slate)
    HandOver()(agent, witness)
    items = torch.arange(1, ITEMS + 1).expand(200, -1)
    assert torch.equal(agent.online(before, items), agent.target(before, items))


def test_a_warm_agent_learns_on_and_can_be_saved(taught: tuple[Catalog, Witness]) -> None:
    catalog, witness = taught
    agent, other = student("dqn", catalog), student("dqn", catalog)
    HandOver()(agent, witness)
    world = Identity(seed=3)
    for _ in range(30):
        agent.observe(world.transition(agent, 256))
        assert agent.update()
    assert world.solved(agent) > 0.9
    other.load_state_dict(agent.state_dict())
    before = world.history(50)
    assert torch.equal(agent.act(before).slate, other.act(before).slate)


def test_what_the_log_never_shows_is_doubted(taught: tuple[Catalog, Witness]) -> None:
    catalog, witness = taught
    more = Catalog(40)
    more.see(more.rows([f"i{i}" for i in range(ITEMS + 1)]))
    witness.teacher.catalog = witness.teacher.model.catalog = more  # type: ignore[attr-defined]
    try:
        bold, careful = student("dqn", more), student("dqn", more)
        HandOver(pessimism=0.0)(bold, witness)
        HandOver(pessimism=2.0)(careful, witness)
    finally:
        witness.teacher.catalog = witness.teacher.model.catalog = catalog  # type: ignore[attr-defined]
    gap = bold.online.bias[:, 0] - careful.online.bias[:, 0]  # type: ignore[attr-defined]
    assert gap[: ITEMS + 1].eq(0).all(), "also of row 0, which is no item"
    assert float(gap[ITEMS + 1].detach()) > 0


def test_the_agent_that_proposes_candidates_sees_the_log(taught: tuple[Catalog, Witness]) -> None:
    catalog, witness = taught
    sessions = SessionStore(users=8, slate=SLATE, length=LENGTH, skips=4)
    agent = DQN(catalog, sessions, SLATE, encoder(catalog), ItemKNN(catalog, slate=6, last=1, shrink=0.0))
    found = HandOver(["candidates"])(agent, witness)
    assert found["candidates"]["recall"] > 0.9
    cold = DQN(catalog, sessions, SLATE, encoder(catalog), Popular(catalog, slate=2))
    assert HandOver(["candidates"])(cold, witness)["candidates"]["recall"] < 0.5


def test_drn_learns_how_long_people_stay_away(taught: tuple[Catalog, Witness]) -> None:
    catalog, known = taught
    agent = DRN(catalog, SessionStore(users=8, slate=SLATE, length=LENGTH, skips=4), SLATE, dim=DIM)
    witness = Witness(known.teacher, gamma=0.0)
    with pytest.raises(BadHandOver, match="no absences"):
        HandOver(["activeness"])(agent, known)
    hours = 6 * torch.arange(1, 41).double()
    for visit in range(2):
        witness.memory.add(transition(torch.ones(40), time=visit * 3600.0 * hours))
    found = HandOver(["items", "activeness"])(agent, witness)["activeness"]
    taught_hours = hours[torch.arange(40) % 10 != 0]
    assert agent.activeness.decay == found["hazard"] == pytest.approx(1 / (3600 * float(taught_hours.mean())))
    assert found["loss"] < found["loss_before"]
    start = agent.activeness.start
    back = start * math.exp(-agent.activeness.decay / found["hazard"]) + agent.activeness.gain
    assert back == pytest.approx(start)


def test_what_does_not_fit_is_refused(taught: tuple[Catalog, Witness]) -> None:
    catalog, witness = taught
    sessions = SessionStore(users=8, slate=SLATE, length=LENGTH, skips=4)
    with pytest.raises(BadHandOver, match="same dim"):
        HandOver(["items"])(DQN(catalog, sessions, SLATE, encoder(catalog, 8)), witness)
    with pytest.raises(BadHandOver, match="same keywords"):
        HandOver(["encoder"])(DQN(catalog, sessions, SLATE, GRU4Rec(catalog, dim=DIM, layers=2)), witness)
    with pytest.raises(BadHandOver, match="cannot take 'actor'"):
        HandOver(["actor"])(student("dqn", catalog), witness)
    with pytest.raises(BadHandOver, match="cannot take 'items'"):
        HandOver(["items"])(Random(catalog, SLATE), witness)
    with pytest.raises(ValueError, match="parts must be among"):
        HandOver(["brain"])
    with pytest.raises(BadHandOver, match="Supervised"):
        HandOver()(student("dqn", catalog), Witness(Random(catalog, SLATE), gamma=0.0))
