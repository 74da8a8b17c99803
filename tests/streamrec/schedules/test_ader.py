"""ADER: the weight of distillation, which exemplars, what is stored of them, and when they come up."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from streamrec.catalog import Catalog
from streamrec.encoders.sasrec import SASRec
from streamrec.models.next_item import NextItem
from streamrec.records import History
from streamrec.schedules import heads
from streamrec.schedules.ader import ADER
from streamrec.schedules.distillation import divergence
from tests.histories import catalog, history, window


def model(of: Catalog) -> NextItem:
    made = NextItem(SASRec(of, dim=8, blocks=1, length=6, dropout=0.0), of, loss="cross-entropy")
    with torch.no_grad():
        made.encoder.items.weight.copy_(torch.randn(65, 8, generator=Generator().manual_seed(0)))
    return made


def clicks(count: int, items: int = 30, seed: int = 0) -> tuple[History, Tensor]:
    draws = Generator().manual_seed(seed)
    before = window(torch.randint(1, items + 1, (count, 6), generator=draws))
    return before, torch.randint(1, items + 1, (count,), generator=draws)


def after_a_period(of: Catalog, made: NextItem, count: int = 200, **settings: Any) -> ADER:
    schedule = ADER(**{"exemplars": 50, "batch": 16} | settings)
    schedule.add(made, *clicks(count))
    schedule.end_period(made)
    return schedule


def test_lambda_is_the_formula_of_the_paper() -> None:
    of = catalog(30)
    made = model(of)
    schedule = after_a_period(of, made, strength=0.8)
    assert schedule.kept is not None
    of.rows([f"new{i}" for i in range(10)])
    schedule.add(made, *clicks(400, seed=1))
    expected = 0.8 * math.sqrt(30 / 40 * len(schedule.kept) / 400)
    assert schedule.weight(40) == pytest.approx(expected)


def test_without_exemplars_it_is_plain_training_on_the_period() -> None:
    of = catalog(30)
    made, schedule = model(of), ADER(batch=16)
    assert schedule.draw() is None
    schedule.add(made, *clicks(20))
    some = schedule.draw()
    assert some is not None
    assert schedule.penalty(made, 20) is None
    assert schedule.weight(30) == 0.0
    assert schedule.loss(made, some).item() == made.loss(some.history, some.target).item()


def test_exemplars_are_few_frequent_and_from_old_and_new() -> None:
    of = catalog(30)
    made = model(of)
    schedule = ADER(exemplars=60, batch=16)
    before, _ = clicks(400)
    schedule.add(made, before, torch.tensor([1, 1, 1, 2] * 100))
    schedule.end_period(made)
    assert schedule.kept is not None
    first = schedule.kept.click.target
    assert len(first) == 60
    assert (first == 1).sum().item() == pytest.approx(45, abs=12)
    before, _ = clicks(60, seed=1)
    schedule.add(made, before, torch.full((60,), 3))
    schedule.end_period(made)
    assert set(schedule.kept.click.target.tolist()) == {1, 2, 3}
    assert len(schedule.kept) <= 60
    for at in range(2, 30):  # memory does not grow with the periods
        schedule.add(made, *clicks(100, seed=at))
        schedule.end_period(made)
    assert len(schedule.kept) <= 60
    assert schedule.kept.hidden.shape == (len(schedule.kept), 8)


def test_what_is_stored_are_the_logits_of_the_model_at_that_time() -> None:
    of = catalog(30)
    made = model(of)
    schedule = after_a_period(of, made)
    assert schedule.kept is not None
    assert schedule.table is not None
    stored = made.score(schedule.kept.click.history)[:, 1:].detach()
    with torch.no_grad():
        made.encoder.items.weight.mul_(-0.5)
    of.rows(["new"])
    torch.testing.assert_close(schedule.table.scores(schedule.kept.hidden), stored)
    torch.testing.assert_close(schedule.kept.log_z, stored.logsumexp(1))
    assert schedule.kept.top[:, 0].tolist() == (stored.argmax(1) + 1).tolist()


@pytest.mark.parametrize("columns", [None, 20])
def test_the_loss_is_that_of_the_clicks_plus_lambda_times_the_divergence(columns: int | None) -> None:
    of = catalog(30)
    made = model(of)
    schedule = after_a_period(of, made, columns=columns, top=30)
    schedule.add(made, *clicks(400, seed=1))
    some = schedule.draw()
    assert some is not None
    assert schedule.kept is not None
    assert schedule.table is not None
    with torch.no_grad():
        made.encoder.items.weight.add_(torch.randn(65, 8, generator=Generator().manual_seed(9)))
    loss = schedule.loss(made, some)
    count = round(len(schedule.kept) * len(some) / 400)
    rest = set(schedule.order.tolist())
    used = torch.tensor([i for i in range(len(schedule.kept)) if i not in rest])
    assert len(used) == count
    kept = schedule.kept[used]
    mine = heads.scores(made, heads.features(made, kept.click.history), 31)
    kd = divergence(mine, schedule.table.scores(kept.hidden))
    expected = made.loss(some.history, some.target) + schedule.weight(30) * kd
    torch.testing.assert_close(loss, expected)


def test_exemplars_are_through_when_the_clicks_of_the_period_are() -> None:
    of = catalog(30)
    made = model(of)
    schedule = after_a_period(of, made)
    assert schedule.kept is not None
    schedule.add(made, *clicks(400, seed=1))
    for step in range(25):
        left = len(schedule.order)
        assert schedule.penalty(made, 16) is not None
        assert len(schedule.order) < left or step == 0
    assert len(schedule.order) == 0


def test_distillation_holds_a_model_where_it_was() -> None:
    of = catalog(30)
    moved = []
    for strength in (0.0, 3.0):
        made = model(of)
        schedule = after_a_period(of, made, strength=strength)
        asked, _ = clicks(50, seed=5)
        before = made.score(asked).detach().log_softmax(1)
        schedule.add(made, *clicks(64, seed=1))
        optimiser = torch.optim.SGD(made.parameters(), lr=0.02)
        for _ in range(30):
            some = schedule.draw()
            assert some is not None
            optimiser.zero_grad()
            schedule.loss(made, some).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        after = made.score(asked).detach().log_softmax(1)
        moved.append((before.exp() * (before - after)).sum(1).mean().item())
    assert moved[1] < 0.6 * moved[0]


def test_periods_of_event_time_end_by_themselves() -> None:
    of = catalog(30)
    made, schedule = model(of), ADER(period_s=10.0, exemplars=50, batch=16)
    before, target = clicks(100)
    for at in range(4):
        before.time[:] = 7.0 * at  # 0, 7, 14, 21: a period ends before the third and the fourth
        schedule.add(made, before, target)
        assert (schedule.kept is not None) == (at >= 2)
    assert schedule.period.before == 100


@pytest.mark.parametrize("columns", [None, 20])
def test_expired_items_are_in_no_exemplar_and_in_no_stored_logit(columns: int | None) -> None:
    of = catalog(30)
    made = model(of)
    schedule = after_a_period(of, made, columns=columns)
    schedule.add(made, *clicks(400, seed=1))
    assert schedule.kept is not None
    before = schedule.kept.click.target.clone()
    gone = torch.tensor([3, 7, 20])
    schedule.recycle(gone)
    assert len(schedule.kept) == int((~torch.isin(before, gone)).sum())
    assert not torch.isin(schedule.kept.click.history.items, gone).any()
    assert not torch.isin(schedule.kept.top[:, :27], gone).any()
    assert schedule.table is not None
    assert schedule.table.scores(schedule.kept.hidden).softmax(1)[:, gone - 1].max() == 0.0
    with torch.no_grad():
        made.encoder.items.weight.mul_(-0.5)  # it has learned since; else only rounding would move the bias
    penalty = schedule.penalty(made, 16)
    assert penalty is not None
    made.zero_grad()
    penalty.backward()  # type: ignore[no-untyped-call]
    assert made.bias.grad is not None
    moved = (made.bias.grad.to_dense() if made.bias.grad.is_sparse else made.bias.grad).squeeze(1)
    assert moved.abs().sum() > 0
    assert (moved[gone] == 0).all(), "whoever has the rows now is not pushed down by what was before"


def test_a_model_without_features_is_refused() -> None:
    schedule = ADER(batch=4)
    schedule.add(object(), history([[1]]), torch.tensor([2]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ADER needs a model with"):
        schedule.end_period(object())  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", [{"exemplars": 0}, {"strength": -1.0}, {"columns": 0}, {"top": 0}])
def test_settings_out_of_range_are_named(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        ADER(**setting)
