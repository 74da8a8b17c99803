"""Pre-training on everything, then the newest period alone."""

from __future__ import annotations

import pytest
import torch

from streamrec.schedules.finetune import FineTune
from tests.histories import history


def targets_drawn(schedule: FineTune, draws: int = 30) -> set[int]:
    schedule.draw()
    some = [schedule.draw() for _ in range(draws)]
    return {target for clicks in some if clicks is not None for target in clicks.target.tolist()}


@pytest.mark.parametrize(("pretrain", "expected"), [(1, {3}), (2, {3}), (3, {1, 2, 3}), (9, {1, 2, 3})])
def test_older_periods_are_drawn_while_pre_training_lasts(pretrain: int, expected: set[int]) -> None:
    schedule = FineTune(pretrain=pretrain, batch=16)
    for period in (1, 2, 3):
        if period > 1:
            schedule.end_period(None)
        schedule.add(None, history([[9]] * 10), torch.full((10,), period))
    assert targets_drawn(schedule) == expected


def test_periods_of_event_time_end_by_themselves() -> None:
    schedule = FineTune(period_s=60.0, batch=4)
    before = history([[9]] * 4)
    before.time = torch.tensor([0.0, 59.0, 61.0, 62.0], dtype=torch.float64)
    schedule.add(None, before, torch.tensor([1, 2, 3, 4]))
    assert schedule.ended == 1
    assert targets_drawn(schedule) == {3, 4}


def test_pre_training_is_at_least_a_period() -> None:
    with pytest.raises(ValueError, match="pretrain"):
        FineTune(pretrain=0)
