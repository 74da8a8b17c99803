"""EWC: the Fisher information and the penalty against values from the definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator
from torch.nn import functional as F

from streamrec.encoders.sasrec import SASRec
from streamrec.models.next_item import NextItem
from streamrec.schedules.ewc import EWC
from tests.histories import catalog, history


def model(dropout: float = 0.5) -> NextItem:
    of = catalog(20)
    return NextItem(SASRec(of, dim=4, blocks=1, length=6, dropout=dropout), of, loss="cross-entropy")


def test_fisher_is_the_mean_squared_gradient_of_the_log_likelihood() -> None:
    made, schedule = model(), EWC(samples=3, batch=4)
    schedule.add(made, history([[1, 2, 3]]), torch.tensor([7]))  # one click: every sample is this one
    schedule.end_period(made)
    score = made.score(history([[1, 2, 3]]))[:, 1:]
    F.cross_entropy(score, torch.tensor([6])).backward()  # type: ignore[no-untyped-call]
    for name, weight in made.named_parameters():
        assert weight.grad is not None
        dense = weight.grad.to_dense() if weight.grad.is_sparse else weight.grad
        torch.testing.assert_close(schedule.fisher[name], dense[: len(schedule.fisher[name])].square())
    assert len(schedule.fisher["encoder.items.weight"]) == 21
    assert schedule.fisher["encoder.items.weight"].sum() > 0


def test_the_penalty_is_half_the_strength_times_the_weighted_squares() -> None:
    made, schedule = model(), EWC(strength=10.0, samples=5, batch=4)
    schedule.add(made, history([[1, 2], [3, 4]]), torch.tensor([5, 6]))
    assert schedule.penalty(made, 2) is None
    schedule.end_period(made)
    assert schedule.penalty(made, 2).item() == 0.0  # type: ignore[union-attr]
    with torch.no_grad():
        for _, weight in made.named_parameters():
            weight.add_(0.5)
    expected = 5.0 * 0.25 * sum(float(fisher.sum()) for fisher in schedule.fisher.values())
    assert schedule.penalty(made, 2).item() == pytest.approx(expected, rel=1e-5)  # type: ignore[union-attr]
    schedule.add(made, history([[1]]), torch.tensor([2]))
    some = schedule.draw()
    assert some is not None
    state = made.generator.get_state()
    plain = made.loss(some.history, some.target)
    made.generator.set_state(state)
    assert schedule.loss(made, some).item() == pytest.approx(plain.item() + expected, rel=1e-5)


def test_an_empty_period_leaves_the_anchor_and_ending_one_leaves_the_model() -> None:
    made, schedule = model(), EWC(samples=5, batch=4)
    schedule.add(made, history([[1, 2]]), torch.tensor([5]))
    before = {name: value.clone() for name, value in made.state_dict().items()}
    schedule.end_period(made)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    anchor = schedule.anchor
    schedule.end_period(made)
    assert schedule.anchor is anchor


def test_weights_that_matter_move_less() -> None:
    moved = []
    for strength in (0.0, 100.0):
        # Four dimensions with dropout have steps that explode whatever the penalty is.
        made, schedule = model(dropout=0.0), EWC(strength=strength, samples=30, batch=16, seed=1)
        draws = Generator().manual_seed(0)
        targets = torch.randint(1, 21, (2, 50), generator=draws)
        schedule.add(made, history([[i] for i in targets[0].tolist()]), targets[1])
        schedule.end_period(made)
        schedule.add(made, history([[i] for i in targets[1].tolist()]), targets[0])
        optimiser = torch.optim.SGD(made.parameters(), lr=0.01)
        for _ in range(40):
            some = schedule.draw()
            assert some is not None
            optimiser.zero_grad()
            schedule.loss(made, some).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        moved.append(
            sum(
                float((schedule.fisher[name] * (weight.detach()[: len(anchor)] - anchor).square()).sum())
                for (name, weight), anchor in zip(made.named_parameters(), schedule.anchor.values(), strict=True)
            )
        )
    assert moved[1] < 0.3 * moved[0]


@pytest.mark.parametrize("setting", [{"strength": -1.0}, {"samples": 0}, {"period_s": -5.0}])
def test_settings_out_of_range_are_named(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        EWC(**setting)
