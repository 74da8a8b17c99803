"""The parts of a hand-over by hand, and a run that begins with one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from agents.random import Random
from streamrec.build import BadSpec
from streamrec.experiment import Experiment
from streamrec.records import Decision, History
from streamrec.warmstart import (
    BadHandOver,
    Lesson,
    Line,
    Witness,
    absences,
    calibrate,
    check_policy,
    check_values,
    copy_items,
    halves,
    neighbour_overlap,
    return_loss,
    same_lists,
    spearman,
    steps_of,
)
from tests.histories import catalog, window
from tests.transitions import transition


def lesson(users: int = 40, items: int = 8, seed: int = 0) -> Lesson:
    """Users whose score of an item is drawn, and who click by it."""
    generator = torch.Generator().manual_seed(seed)
    history = replace(window(torch.ones(users, 2, dtype=torch.int64)), key=torch.arange(users))
    slate = torch.rand(users, items, generator=generator).topk(3).indices + 1
    clicked = torch.rand(users, 3, generator=generator) < slate / (items + 1)
    return Lesson(history, slate, clicked, clicked.float(), 2.0 * clicked.float())


def by_number(history: History, items: Tensor) -> Tensor:
    return items.float()


def backwards(history: History, items: Tensor) -> Tensor:
    return -items.float()


ITEMS = torch.arange(1, 9)


def test_copied_items_keep_their_neighbours() -> None:
    theirs, mine = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(12, 4)
    assert neighbour_overlap(theirs[1:], -theirs[1:]) == 1.0
    assert neighbour_overlap(theirs[1:], theirs[1:].flip(0)) < 1.0
    assert copy_items(theirs, mine, 10) == {"neighbour_overlap": 1.0}
    assert torch.equal(mine[:10], theirs[:10])
    assert mine[10:].eq(0).all()
    with pytest.raises(BadHandOver, match="same dim"):
        copy_items(theirs, torch.zeros(12, 3), 10)
    with pytest.raises(BadHandOver, match="finite"):
        copy_items(theirs, torch.full((12, 4), torch.nan), 10)


def test_lists_are_the_same_whatever_the_scale() -> None:
    assert same_lists(by_number, lambda h, i: 3.0 * by_number(h, i) - 7.0, lesson(), ITEMS, 3) == 1.0
    assert same_lists(by_number, backwards, lesson(), ITEMS, 3) == 0.0


def test_a_line_is_the_regression_of_returns_on_scores() -> None:
    """Least squares, by numpy's closed form."""
    some = lesson(400)
    line = calibrate(by_number, some)
    x, y = some.slate.flatten().double(), some.returns.flatten().double()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    assert line.slope == pytest.approx(slope)
    assert line.slope * float(x.mean()) + line.level == pytest.approx(float(y.mean()))
    p = torch.sigmoid(line.odds_slope * x + line.odds)
    assert float(p.mean()) == pytest.approx(float(some.clicked.double().mean()), abs=0.01)
    assert line.odds_slope > 0
    with pytest.raises(BadHandOver, match="do not rise"):
        calibrate(backwards, some)


def test_values_must_have_the_order_of_the_teacher_and_the_size_of_the_returns() -> None:
    some = lesson(400)
    line = calibrate(by_number, some)
    found = check_values(_on(line), by_number, some, some[:50], ITEMS)
    assert found["rank_correlation"] == pytest.approx(1.0)
    assert found["mean_value"] == pytest.approx(found["mean_return"], rel=1e-4)
    with pytest.raises(BadHandOver, match="10 %"):
        check_values(_on(replace(line, level=line.level + 1.0)), by_number, some, some[:50], ITEMS)
    with pytest.raises(BadHandOver, match="order items"):
        check_values(backwards, by_number, some, some[:50], ITEMS)


def _on(line: Line) -> Any:
    return lambda history, items: line.slope * items.float() + line.level


def test_a_cloned_policy_is_close_to_its_teacher() -> None:
    some = lesson()
    assert check_policy([by_number], by_number, some, ITEMS)["kl"] == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(BadHandOver, match="uniform"):
        check_policy([by_number, backwards], by_number, some, ITEMS)


def test_spearman_by_hand() -> None:
    assert spearman(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 30.0, 20.0]])) == pytest.approx(0.5)


def test_returns_of_a_lesson_are_complete_or_left_out() -> None:
    """Golden values by hand, gamma 1/2 and two steps: 1 + 1/2 * 2 = 2 in 3/4 of the weight."""
    made = catalog(3)
    witness = Witness(Random(made, 1), gamma=0.5, n_step=2)
    for reward, done in ((1.0, False), (2.0, False), (4.0, True)):
        one = transition(torch.full((2,), reward), key=torch.tensor([5, 6]))
        witness.observe(replace(one, done=torch.full((2,), done)))
    found = witness.lesson()
    assert found.returns[:, 0].tolist() == pytest.approx([2 / 0.75, 2 / 0.75, 4.0, 4.0, 4.0, 4.0])
    assert found.reward[:, 0].tolist() == [1.0, 1.0, 2.0, 2.0, 4.0, 4.0]


def test_a_log_that_is_too_short_teaches_nothing() -> None:
    witness = Witness(Random(catalog(3), 1), gamma=0.9)
    with pytest.raises(BadHandOver, match="no decision"):
        witness.lesson()
    witness.observe(transition(torch.ones(2)))
    with pytest.raises(BadHandOver, match="no user"):
        witness.lesson()
    with pytest.raises(BadHandOver, match="too few users"):
        halves(lesson(1))


def test_steps_hold_95_percent_of_the_weight() -> None:
    assert [steps_of(gamma) for gamma in (0.0, 0.5, 0.9, 1.0)] == [1, 5, 29, 50]
    assert 1 - 0.9**29 > 0.95 > 1 - 0.9**28


def test_absences_are_long_pauses_of_one_user() -> None:
    some = lesson(4)
    history = replace(
        some.history, key=torch.tensor([1, 2, 1, 1]), time=torch.tensor([0.0, 10.0, 5000.0, 5100.0]).double()
    )
    away = absences(replace(some, history=history), 1000.0)
    assert away.tolist() == [5000.0]
    assert return_loss(away, 1 / 5000) < return_loss(away, 1 / 4000)
    assert return_loss(away, 1 / 5000) < return_loss(away, 1 / 6000)


def test_a_witness_can_be_saved() -> None:
    made = catalog(3)
    one, other = (Witness(Random(made, 1), Random(made, 1, seed=2), gamma=0.0) for _ in range(2))
    one.observe(transition(torch.ones(3)))
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.lesson().returns, one.lesson().returns)
    before = transition(torch.ones(3)).history
    drawn: list[Decision] = [witness.act(before) for witness in (one, other)]
    assert torch.equal(drawn[0].slate, drawn[1].slate)


# --- in a run ------------------------------------------------------------------------------------------------------


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    """A log in which item follows item, and a run of a DQN that a GRU4Rec has learned it for."""
    rows = [
        (f"u{user}", f"i{(user + step) % 9}", "click", 1e9 + 10.0 * step) for step in range(30) for user in range(40)
    ]
    pd.DataFrame(rows, columns=["user", "item", "kind", "time"]).to_parquet(tmp_path / "log.parquet")
    encoder = {"use": "streamrec.encoders.gru4rec.GRU4Rec", "dim": 8, "scope": "user"}
    model = {"use": "streamrec.models.next_item.NextItem", "encoder": encoder, "loss": "cross-entropy"}
    feed = {"use": "simulators.feed.Feed", "users": 8, "items": 20, "slate": 2}
    return {
        "run": {"slate": 2, "decisions": 64, "update_every": 64},
        "catalog": {"capacity": 100},
        "sessions": {"users": 100, "length": 6},
        "world": {"use": "simulators.world.SimulatorWorld", "core": feed},
        "agent": {"use": "agents.dqn.DQN", "encoder": encoder, "gamma": 0.5},
        "warm_start": {
            "passes": 4,
            "world": {"use": "streamrec.data.logs.LogWorld", "path": str(tmp_path / "log.parquet")},
            "teacher": {"use": "agents.supervised.Supervised", "model": model},
            "hand_over": {"use": "agents.warmstart.HandOver", "parts": ["items", "encoder"]},
        },
    }


def test_a_run_begins_with_a_hand_over(spec: dict[str, Any], tmp_path: Path) -> None:
    run = Experiment(spec, tmp_path / "run")
    cold = run.loop.agent.state_dict()["online"]["inputs.encoder.items.weight"]
    run.run()
    said = json.loads((tmp_path / "run" / "warm_start.json").read_text())
    assert said == {"items": {"neighbour_overlap": 1.0}, "encoder": {"same_lists": 1.0}}
    assert not torch.equal(cold, run.loop.agent.state_dict()["online"]["inputs.encoder.items.weight"])


def test_a_teacher_needs_a_hand_over_and_many_policies_a_name(spec: dict[str, Any], tmp_path: Path) -> None:
    half = {**spec, "warm_start": {k: v for k, v in spec["warm_start"].items() if k != "hand_over"}}
    with pytest.raises(BadSpec, match="both teacher and hand_over"):
        Experiment(half, tmp_path / "half").run()
    many = {**spec, "agent": {"use": "agents.split.Split", "agents": {"dqn": spec["agent"]}}}
    with pytest.raises(BadSpec, match="must name a policy"):
        Experiment(many, tmp_path / "many").run()
