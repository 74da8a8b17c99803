"""The small parts of a replay: reward model, visits, fingerprint, table, translation, policies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from streamrec.build import BadSpec
from streamrec.catalog import Catalog
from streamrec.ope.codes import Refused
from streamrec.records import Events, Kind
from streamrec.replay.fingerprint import Fingerprint
from streamrec.replay.policies import Named, with_baselines
from streamrec.replay.reward_model import RewardTable
from streamrec.replay.table import Table
from streamrec.replay.translated import Translated
from streamrec.replay.visits import Visits
from tests.histories import catalog, clicked, history
from tests.streamrec.replay.test_probabilities import Lister, candidates

# --- reward model ------------------------------------------------------------------------------------------------


def fed(block: int = 4) -> RewardTable:
    table = RewardTable(capacity=5, slots=2, prior=2.0, block=block)
    rewards = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    times = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    table.learn(torch.tensor([1, 1, 2, 2]), torch.tensor([0, 1, 0, 1]), rewards, times)
    return table


def test_the_model_is_means_drawn_towards_the_mean() -> None:
    """Mean .75; item 1: (1 + 1.5) / 4; item 2: (2 + 1.5) / 4; slot 0: (2 + 1.5) / 4 - .75; unknown items have .75."""
    table = fed()
    assert table.predict(torch.tensor([1, 2]), 0).tolist() == [0.0, 0.0]
    table.turn(5.0)
    assert table.predict(torch.tensor([1, 2, 3]), 0).tolist() == pytest.approx([0.75, 1.0, 0.875])
    assert table.predict(torch.tensor([1]), 1).tolist() == pytest.approx([0.5])


def test_rows_enter_only_when_every_request_to_come_is_later() -> None:
    table = fed(block=2)
    table.turn(1.5)
    assert table.newest == float("-inf")
    table.turn(3.0)
    assert table.newest == 2.0
    assert table.predict(torch.tensor([2]), 0).tolist() == pytest.approx([0.5 + (1.0 + 1.0) / 3 - 0.5])
    table.turn(4.0)
    assert table.newest == 2.0  # one row is no block
    table.turn(4.5)
    assert table.newest == 4.0


def test_the_model_survives_a_checkpoint() -> None:
    table, other = fed(block=2), RewardTable(capacity=5, slots=2, prior=2.0, block=2)
    table.turn(3.5)
    other.load_state_dict(table.state_dict())
    for one in (table, other):
        one.learn(torch.tensor([3]), torch.tensor([0]), torch.tensor([1.0]).double(), torch.tensor([9.0]))
        one.turn(50.0)
    assert torch.equal(table.predict(torch.arange(6), 1), other.predict(torch.arange(6), 1))


def test_items_that_are_gone_have_the_mean() -> None:
    table = fed()
    table.turn(9.0)
    table.recycle(torch.tensor([2]))
    assert float(table.predict(torch.tensor([2]), 0)) == pytest.approx(0.875)


# --- visits ------------------------------------------------------------------------------------------------------


def asked(times: list[float], sessions: list[int]) -> tuple[object, Events]:
    made = history([[1]] * len(times))
    made = replace(made, time=torch.tensor(times, dtype=torch.float64))
    return made, Events.of(made.user, Kind.REQUEST, made.time, session=torch.tensor(sessions))


def test_sessions_are_what_the_log_says_or_cut_by_the_gap() -> None:
    visits = Visits(users=4, gap_s=10.0)
    named, begin, place = visits.take(*asked([1.0, 1.0], [77, 0]))  # type: ignore[arg-type]
    assert named[0] == 77
    assert named[1] > 0
    again, begin, place = visits.take(*asked([50.0, 9.0], [77, 0]))  # type: ignore[arg-type]
    assert again.tolist() == named.tolist()
    assert begin.tolist() == [1.0, 1.0]
    assert place.tolist() == [1, 1]
    other = Visits(users=4, gap_s=10.0)
    other.load_state_dict(visits.state_dict())
    for one in (visits, other):
        later, begin, place = one.take(*asked([60.0, 60.0], [78, 0]))  # type: ignore[arg-type]
        assert (later != named).all()
        assert begin.tolist() == [60.0, 60.0]
        assert place.tolist() == [0, 0]


def test_a_row_given_to_another_user_begins_anew() -> None:
    visits = Visits(users=4, gap_s=10.0)
    visits.take(*asked([1.0], [0]))  # type: ignore[arg-type]
    made, events = asked([2.0], [0])
    _, begin, place = visits.take(replace(made, key=torch.tensor([99])), events)  # type: ignore[type-var]
    assert begin.tolist() == [2.0]
    assert place.tolist() == [0]


# --- fingerprint -------------------------------------------------------------------------------------------------


def signed(items: Catalog, order: list[int], reward: float = 1.0) -> str:
    rows = torch.tensor(order)
    ids = items.rows([f"i{at}" for at in order])
    made = Fingerprint(items)
    made.add(rows * 7, rows.double(), rows * 0, ids, torch.full((len(order),), reward))
    return made.read()


def test_order_and_catalogue_rows_do_not_matter_and_everything_else_does() -> None:
    first = signed(Catalog(16), [0, 1, 2, 3])
    assert signed(Catalog(16), [3, 1, 0, 2]) == first
    assert len(first) == 32
    assert signed(Catalog(16), [0, 1, 2]) != first
    assert signed(Catalog(16), [0, 1, 2, 2]) != first
    assert signed(Catalog(16), [0, 1, 2, 3], reward=2.0) != first


def test_parts_add_up_and_unknown_numbers_are_one_value() -> None:
    items = Catalog(8)
    rows, nan = items.rows(["a", "b"]), torch.tensor([torch.nan, -torch.nan])
    whole, parts = Fingerprint(items), Fingerprint(items)
    whole.add(rows, rows.double(), rows, rows, nan)
    parts.add(rows[:1], rows[:1].double(), rows[:1], rows[:1], nan[1:])
    later = Fingerprint(items)
    later.load_state_dict(parts.state_dict())
    later.add(rows[1:], rows[1:].double(), rows[1:], rows[1:], nan[:1])
    assert later.read() == whole.read()
    assert later.rows == whole.rows == 2


# --- tables ------------------------------------------------------------------------------------------------------


def table(tmp_path: Path, frame: pd.DataFrame, items: Catalog | None = None) -> Table:
    frame.to_csv(tmp_path / "table.csv", index=False)
    return Table(tmp_path / "table.csv", catalog(4) if items is None else items, 3)


def test_a_table_has_its_probabilities_by_slot(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"item": ["i0", "i1", "i0", "i1"], "slot": [0, 0, 1, 1], "probability": [0.25, 0.75, 1.0, 0.0]}
    )
    made, (items, mask) = table(tmp_path, frame), candidates(1)
    assert made.probabilities(history([[]]), items, mask)[0, :3].tolist() == [0.25, 0.75, 0.0]
    assert made.at_slot(1, history([[]]), items, mask)[0, :3].tolist() == [1.0, 0.0, 0.0]
    assert made.act(history([[]])).slate.tolist() == [[2, 1, 3]]


def test_what_is_taken_goes_to_the_others(tmp_path: Path) -> None:
    frame = pd.DataFrame({"item": ["i0", "i1", "i2"], "probability": [0.5, 0.3, 0.2]})
    made, (items, mask) = table(tmp_path, frame), candidates(1)
    chance = made.probabilities(history([[]]), items, mask & (items != 1))[0]
    assert chance[:4].tolist() == pytest.approx([0.0, 0.6, 0.4, 0.0])


def test_tables_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"not_a_distribution.*slot 0 sums to 0.7"):
        table(tmp_path, pd.DataFrame({"item": ["i0"], "probability": [0.7]}))
    with pytest.raises(ValueError, match="not between 0 and 1"):
        table(tmp_path, pd.DataFrame({"item": ["i0"], "probability": ["x"]}))
    with pytest.raises(ValueError, match="columns item and probability"):
        table(tmp_path, pd.DataFrame({"item": ["i0"], "p": [1.0]}))
    with pytest.raises(ValueError, match="more items than"):
        table(tmp_path, pd.DataFrame({"item": ["a", "b"], "probability": [0.5, 0.5]}), Catalog(1))


# --- agents of other runs ----------------------------------------------------------------------------------------


def test_an_agent_of_another_run_speaks_of_the_same_items() -> None:
    """The agent lists its rows 3 and 1, "c" and "a"; in this run these are rows 1 and 3."""
    own, shared = Catalog(8), Catalog(8)
    own.see(own.rows(["a", "b", "c"]))
    shared.see(shared.rows(["c", "x", "a"]))
    agent = Translated(Lister(), own, shared)
    decision = agent.act(history([[1, 2]]))
    assert [shared.ids[row] for row in decision.slate[0].tolist()] == ["c", "a"]
    assert shared.ids == ["", "c", "x", "a", "b"]
    with pytest.raises(Refused, match="policy_not_probabilistic"):
        agent.probabilities(history([[1]]), *candidates(1))


def test_what_happened_is_told_in_the_agents_rows() -> None:
    from agents.popular import Popular

    own, shared = Catalog(8), Catalog(8)
    own.see(own.rows(["a", "b", "c"]))
    shared.see(shared.rows(["new", "c"]))
    agent = Translated(Popular(own, 2), own, shared)
    agent.observe(clicked(history([[1], [2]]), torch.tensor([2, 1])))
    counts = agent.agent.counts  # type: ignore[attr-defined]
    assert float(counts[own.rows(["c"])]) > 0
    assert float(counts[own.rows(["new"])]) > 0
    items = torch.tensor([[1, 2, 3]])
    chance = agent.probabilities(history([[]]), items, items > 0)
    assert float(chance.sum()) == pytest.approx(1.0)
    other = Translated(Popular(Catalog(8), 2), Catalog(8), shared)
    other.agent.catalog = other.own  # type: ignore[attr-defined]
    other.load_state_dict(agent.state_dict())
    assert torch.equal(other.act(history([[]])).slate, agent.act(history([[]])).slate)


# --- policies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("baseline:popular", Named("popular", "baseline:popular")),
        ("best=runs/dqn#dqn", Named("best", "runs/dqn#dqn")),
        ("runs/dqn#dqn", Named("dqn", "runs/dqn#dqn")),
        ("table:there/bts.csv", Named("bts", "table:there/bts.csv")),
        ("agents.popular.Popular@softmax:0.5", Named("popular+softmax", "agents.popular.Popular", "softmax", 0.5)),
    ],
)
def test_policies_are_named_by_text(text: str, wanted: Named) -> None:
    assert Named.of(text) == wanted


@pytest.mark.parametrize("text", ["", "@softmax", "baseline:popular@nothing", "baseline:popular@softmax:1e"])
def test_what_names_no_policy_is_refused(text: str) -> None:
    with pytest.raises(BadSpec, match="--policy"):
        Named.of(text)


def test_baselines_come_first_and_once() -> None:
    wanted = [Named.of("baseline:popular"), Named.of("baseline:logged"), Named.of("x=baseline:random@softmax")]
    names = [named.name for named in with_baselines(wanted, {"ease": "too many items"})]
    assert names == ["random", "itemknn", "vsknn", "popular", "x"]
