"""The ring of clicks and the mixture of new and old."""

from __future__ import annotations

import pytest
import torch

from streamrec.schedules.clicks import Clicks, Mixture
from tests.histories import history

CPU = torch.device("cpu")


def add(clicks: Clicks, targets: range) -> list[int]:
    return clicks.add(history([[i] for i in targets]), torch.tensor(list(targets))).tolist()


def test_memory_is_a_ring_of_the_newest() -> None:
    clicks = Clicks(5, CPU)
    assert add(clicks, range(1, 4)) == [0, 1, 2]
    assert add(clicks, range(4, 7)) == [3, 4, 5]
    add(clicks, range(7, 10))
    assert clicks.oldest == 4
    assert clicks[torch.arange(4, 9)].target.tolist() == [5, 6, 7, 8, 9]
    assert add(clicks, range(20, 33)) == [17, 18, 19, 20, 21]  # more at once than it holds
    newest = clicks[clicks.take(10)]
    assert newest.target.tolist() == [28, 29, 30, 31, 32]
    assert newest.history.items[:, -1].tolist() == newest.target.tolist()


def test_clicks_are_handed_out_as_new_once_in_order() -> None:
    clicks = Clicks(100, CPU)
    assert clicks.take(5).tolist() == []
    add(clicks, range(10))
    assert clicks.take(8).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert clicks.take(8).tolist() == [8, 9]
    assert clicks.take(8).tolist() == []


def test_restored_to_the_bit_and_only_into_the_same_size() -> None:
    clicks = Clicks(5, CPU)
    add(clicks, range(1, 8))
    clicks.take(1)
    again = Clicks(5, CPU)
    again.load_state_dict(clicks.state_dict())
    assert again.take(9).tolist() == clicks.take(9).tolist() == [3, 4, 5, 6]
    assert again[torch.arange(2, 7)].target.tolist() == [3, 4, 5, 6, 7]
    with pytest.raises(ValueError, match="memory=5"):
        Clicks(6, CPU).load_state_dict(clicks.state_dict())


@pytest.mark.parametrize(("new", "older"), [(0, 10), (4, 6), (10, 5), (30, 15)])
def test_a_step_has_at_least_its_batch_and_its_share_of_old_clicks(new: int, older: int) -> None:
    assert Mixture(10, 0.5).older(new) == older
    assert Mixture(10, 0.5).most_new == 40


@pytest.mark.parametrize(("setting", "name"), [((0, 1.0), "batch"), ((1, -0.1), "replay_ratio")])
def test_settings_out_of_range_are_named(setting: tuple[int, float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Mixture(*setting)
    with pytest.raises(ValueError, match="memory"):
        Clicks(0, CPU)
