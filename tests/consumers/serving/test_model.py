"""A model behind its door answers as it would at home, whatever rows the service has given the same items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from consumers.serving.model import ServedModel, member
from streamrec.build import build
from streamrec.catalog import Catalog
from streamrec.records import Events, History, Kind
from streamrec.served import served_state
from streamrec.sessions import SessionStore

K, ITEMS, USERS = 4, 40, 25
KNN = {"use": "agents.itemknn.ItemKNN"}
GRU = {
    "use": "agents.supervised.Supervised",
    "model": {
        "use": "streamrec.models.next_item.NextItem",
        "encoder": {"use": "streamrec.encoders.gru4rec.GRU4Rec", "dim": 8},
    },
}
SPLIT = {"use": "agents.split.Split", "agents": {"knn": KNN, "gru": GRU}}


def store() -> SessionStore:
    return SessionStore(users=50, length=6, skips=3, slate=K)


def context(sessions: SessionStore) -> dict[str, Any]:
    return {"sessions": sessions, "slate": K, "seed": 0, "device": torch.device("cpu"), "run_dir": Path(".")}


def read(sessions: SessionStore, catalog: Catalog) -> History:
    """The same clicks of the same users, in the rows of `catalog`."""
    users = sessions.rows([f"u{n}" for n in range(USERS)])
    for step in range(6):
        items = catalog.rows([f"i{(7 * n + 3 * step) % ITEMS}" for n in range(USERS)])
        sessions.take(Events.of(users, Kind.CLICK, torch.full((USERS,), 100.0 + step), item=items))
        catalog.see(items)
    return sessions.read(users, torch.full((USERS,), 200.0, dtype=torch.float64))


@pytest.fixture
def pair() -> tuple[Any, Catalog, History, ServedModel, Catalog, History]:
    """An agent at home and the same one served where rows are others."""
    home, here = Catalog(60), Catalog(90)
    home.see(home.rows([f"i{n}" for n in range(ITEMS)]))
    here.see(here.rows([f"i{n}" for n in reversed(range(ITEMS))]))
    at_home, at_here = store(), store()
    agent = build(SPLIT, {**context(at_home), "catalog": home}, "agent")
    own = read(at_home, home)
    model = ServedModel(SPLIT, context(at_here), 60)
    model.load("1", {"agent": served_state(agent), "catalog": home.state_dict()})
    history = read(at_here, here)
    model.sync(here.ids, here.available)
    return agent, home, own, model, here, history


def names(slate: torch.Tensor, catalog: Catalog) -> list[list[str]]:
    return [[catalog.ids[row] for row in rows if row] for rows in slate.tolist()]


def test_the_same_answers_in_other_rows(pair: Any) -> None:
    agent, home, own, model, here, history = pair
    at_home, served = agent.act(own), model.act(history)
    assert names(at_home.slate, home) == names(served.slate, here)
    assert torch.equal(at_home.slot_logp, served.slot_logp)
    assert torch.equal(at_home.policy, served.policy)


def test_only_what_the_service_may_show_is_shown(pair: Any) -> None:
    _, _, _, model, here, history = pair
    first = names(model.act(history).slate, here)
    gone = here.find([first[0][0]])
    hidden = here.find([first[0][1]])
    here.withdraw(gone)
    fresh = here.rows(["new one", "new two"])
    here.see(fresh)
    model.sync(here.ids, here.available)
    shown = names(model.act(history, hidden).slate, here)
    assert not {first[0][0], first[0][1]} & {item for slate in shown for item in slate}
    again = names(model.act(history).slate, here)
    assert first[0][1] in {item for slate in again for item in slate}, "hidden once is not gone"
    history.offer = fresh.expand(USERS, 2)
    assert {tuple(sorted(slate)) for slate in names(model.act(history).slate, here)} == {("new one", "new two")}


def test_a_version_leaves_nothing_of_the_one_before(pair: Any) -> None:
    agent, home, own, model, here, history = pair
    other = Catalog(60)
    other.see(other.rows(["else", *(f"i{n}" for n in range(5, ITEMS))]))
    model.load("2", {"agent": served_state(agent), "catalog": other.state_dict()})
    model.sync(here.ids, here.available)
    model.load("3", {"agent": served_state(agent), "catalog": home.state_dict()})
    model.sync(here.ids, here.available)
    assert names(model.act(history).slate, here) == names(agent.act(own).slate, home)


def test_scores_are_of_the_policy_that_answered(pair: Any) -> None:
    _, _, _, model, _, history = pair
    slate = model.act(history).slate
    assert member(model.agent, 0) is model.agent.agents["knn"]
    assert member(model.agent, 1) is model.agent.agents["gru"]
    scores = model.scores(history, slate, 1)
    assert scores is not None
    assert scores.shape == slate.shape
    mine = model.scores(history[:1], slate[:1].flip(1), 1)
    assert mine is not None
    assert torch.allclose(mine.flip(1), scores[:1], atol=1e-5)


def test_rows_are_those_of_the_newest_version_whatever_came_before(pair: Any) -> None:
    """Versions that know the same items, more, fewer, or have them in other rows, while the service hears of more."""
    agent, _, _, model, here, _ = pair
    state = served_state(agent)
    lists = [range(ITEMS), range(ITEMS + 5), range(ITEMS + 5), range(ITEMS - 5), range(ITEMS)[::-1], [3, 50, 51]]
    for number, items in enumerate(lists):
        version = Catalog(60)
        version.see(version.rows([f"i{n}" for n in items]))
        here.see(here.rows([f"i{ITEMS + number}"]))
        here.retire(here.rows([f"i{number}"]))
        fresh = ServedModel(SPLIT, context(store()), 60)
        for one in (model, fresh):
            one.load(str(number), {"agent": state, "catalog": version.state_dict()})
            one.sync(here.ids, here.available)
        assert meanings(model, here) == meanings(fresh, here)
        may = {here.ids[row] for row in torch.nonzero(here.available).squeeze(1).tolist()}
        assert {model.own.ids[row] for row in torch.nonzero(model.own.available).squeeze(1).tolist()} == may


def meanings(model: ServedModel, here: Catalog) -> list[tuple[str, str, str]]:
    """Each item of the service, what it is in the model, and what it comes back as."""
    mine = model._in[: here.size].tolist()
    return [(item, model.own.ids[row], here.ids[model._out[row]]) for item, row in zip(here.ids, mine, strict=True)]
