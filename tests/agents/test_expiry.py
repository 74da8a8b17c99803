"""Agents while items expire: nothing that is kept about a row outlives its item, and resuming changes no bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from streamrec import checkpoint
from streamrec.build import BadSpec, build
from streamrec.catalog import Catalog
from streamrec.loop import Loop
from streamrec.nn.items import ItemVectors
from streamrec.records import History, Rows
from streamrec.sessions import SessionStore
from tests.streamrec.test_expiry import Endless
from tests.streamrec.test_loop import assert_same

GRU = {"use": "streamrec.encoders.gru4rec.GRU4Rec", "dim": 8}
CARRIED = {"use": "streamrec.carried.Carried", "encoder": GRU}
MODEL = {"use": "streamrec.models.next_item.NextItem", "encoder": CARRIED, "n_sample": 16, "loss": "cross-entropy"}
SUPERVISED = {"use": "agents.supervised.Supervised", "model": MODEL, "batch": 16, "memory": 128, "momentum": 0.3}
KNN = {"use": "agents.itemknn.ItemKNN", "neighbours": 8}
AGENTS: dict[str, dict[str, Any]] = {
    "supervised": SUPERVISED,
    "dqn": {
        "use": "agents.dqn.DQN",
        "encoder": GRU,
        "candidates": {**KNN, "slate": 12},
        "batch": 16,
        "memory": 128,
        "n_step": 2,
        "target_every": 3,
    },
    "panel": {
        "use": "agents.panel.Panel",
        "agents": {
            "popular": {"use": "agents.popular.Popular"},
            "split": {"use": "agents.split.Split", "agents": {"knn": KNN, "random": {"use": "agents.random.Random"}}},
            "rules": {"use": "agents.frozen.Frozen", "after_s": 900, "agent": {"use": "agents.rules.SequentialRules"}},
        },
    },
}


def make(agent: dict[str, Any], ttl_s: float | None = 1200.0) -> Loop:
    catalog, sessions = Catalog(200, ttl_s=ttl_s), SessionStore(users=9, length=4, skips=1, slate=1)
    context = {"catalog": catalog, "sessions": sessions, "slate": 1, "seed": 0, "device": torch.device("cpu")}
    return Loop(Endless(catalog, sessions, alive=60), sessions, catalog, build(agent, context, "agent"), update_every=9)


@pytest.fixture(params=AGENTS)
def agent(request: pytest.FixtureRequest) -> dict[str, Any]:
    return AGENTS[request.param]


def parts(owner: object, seen: set[int]) -> list[object]:
    """Everything an object consists of that belongs to this project or to torch."""
    if id(owner) in seen or isinstance(owner, Catalog):
        return []
    seen.add(id(owner))
    inner = list(owner.values()) if isinstance(owner, dict) else list(owner) if isinstance(owner, list | tuple) else []
    inner += list(vars(owner).values()) if hasattr(owner, "__dict__") else []
    return [owner, *(part for one in inner for part in parts(one, seen))]


def test_nothing_about_a_row_outlives_its_item(agent: dict[str, Any]) -> None:
    loop = make(agent)
    for _ in range(50):
        loop.step()
    empty = torch.tensor([row for row, item in enumerate(loop.catalog.ids) if row and not item])
    assert len(empty) > 5
    found = {"tables": 0, "records": 0}
    for part in parts(loop.agent, set()):
        if isinstance(part, ItemVectors):
            assert float(part.weight.detach()[empty].abs().max()) <= part.bound
        elif isinstance(part, nn.Parameter) or not isinstance(part, Tensor):
            found["records"] += isinstance(part, Rows) and check_record(part, empty)
        elif part.shape[:1] == (201,):
            assert not part[empty].any()
            found["tables"] += 1
            assert part.dtype != torch.int32 or not torch.isin(part, empty.int()).any(), "lists of neighbours"
    assert found["tables"]
    assert found["records"] or agent is AGENTS["panel"]


def check_record(record: Rows, empty: Tensor) -> bool:
    for name, column in record.columns():
        if name.split(".")[-1] in ("items", "skipped", "slate", "shadow", "target"):
            assert not torch.isin(column, empty).any(), name
    return isinstance(record, History)


def test_killed_and_resumed_equals_never_killed(agent: dict[str, Any], tmp_path: Path) -> None:
    never = make(agent)
    for _ in range(45):
        never.step()
    for killed_at in (31,):
        victim = make(agent)
        for _ in range(killed_at):
            victim.step()
        checkpoint.save(tmp_path / str(killed_at), victim.state_dict(), killed_at)
        found = checkpoint.load_newest(tmp_path / str(killed_at))
        assert found is not None
        again = make(agent)
        again.load_state_dict(found[0])
        for _ in range(killed_at, 45):
            again.step()
        assert_same(again.state_dict(), never.state_dict())


def test_a_target_network_begins_with_a_new_item_where_the_online_one_does() -> None:
    loop = make(AGENTS["dqn"])
    for _ in range(20):
        loop.step()
    dqn: Any = loop.agent
    rows = torch.tensor([1, 2, 3])
    assert not torch.equal(dqn.target.inputs.encoder.items.weight[rows], dqn.online.inputs.encoder.items.weight[rows])
    dqn.recycle(rows)
    for name in dqn.optimiser.tables.parameters:
        assert torch.equal(dqn.target.get_parameter(name)[rows], dqn.online.get_parameter(name)[rows])


def test_clicks_on_items_that_are_gone_are_not_trained() -> None:
    loop = make(SUPERVISED)
    for _ in range(6):
        loop.step()
    agent: Any = loop.agent
    agent.recycle(torch.arange(1, loop.catalog.size))
    assert agent.update() == {}
    loop.step()
    assert agent.update()["loss"] > 0


def test_an_agent_that_cannot_follow_is_refused() -> None:
    a2c = {"use": "agents.a2c.A2C", "encoder": GRU}
    make(a2c, ttl_s=None)
    with pytest.raises(ValueError, match=r"catalog\.ttl_s is set, but A2C has no recycle"):
        make(a2c)
    with pytest.raises(BadSpec, match=r"catalog\.ttl_s is set, but A2C has no recycle"):
        make({"use": "agents.dqn.DQN", "encoder": GRU, "candidates": a2c})
