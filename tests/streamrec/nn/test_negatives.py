"""Draws follow support^alpha."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from streamrec.nn import negatives
from streamrec.nn.negatives import Frozen, Popularity
from tests.histories import catalog

SUPPORT = [0, 40, 0, 10, 1, 0, 5, 100]


@pytest.fixture
def popularity() -> Popularity:
    made = Popularity(catalog(7))
    made.count(torch.repeat_interleave(torch.arange(8), torch.tensor(SUPPORT)))
    return made


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_frequencies_follow_support_to_the_alpha(popularity: Popularity, alpha: float) -> None:
    n = 50_000
    drawn = torch.bincount(popularity.draw(n, alpha, Generator().manual_seed(0)), minlength=8)[:8].double()
    weights = torch.tensor([s**alpha if s else 0.0 for s in SUPPORT], dtype=torch.float64)
    expected = n * weights / weights.sum()
    seen = weights > 0
    assert (drawn[~seen] == 0).all()
    chi_square = ((drawn - expected).square() / expected)[seen].sum()
    assert chi_square < 18.5  # 99.9 % point of chi-square with 4 degrees of freedom


def test_repeated_items_count_each_time(popularity: Popularity) -> None:
    popularity.count(torch.tensor([2, 2, 2, 7]))
    assert popularity.support[:8].tolist() == [0, 40, 3, 10, 1, 0, 5, 101]


def test_log_weight_is_alpha_times_log_support(popularity: Popularity) -> None:
    expected = 0.5 * torch.tensor([40.0, 100.0]).log()
    torch.testing.assert_close(popularity.log_weight(torch.tensor([1, 7]), 0.5), expected)


def test_nothing_counted_is_said() -> None:
    with pytest.raises(ValueError, match="no item was counted"):
        Popularity(catalog(7)).draw(3, 1.0, Generator())


def test_counting_again_forgets_what_was_counted(popularity: Popularity) -> None:
    popularity.recount(torch.tensor([2, 2, 7]))
    assert popularity.support[:8].tolist() == [0, 0, 2, 0, 0, 0, 0, 1]


def test_frozen_draws_are_those_of_the_counts(popularity: Popularity) -> None:
    frozen = Frozen(popularity.support, 0.5)
    popularity_drawn = popularity.draw(50, 0.5, Generator().manual_seed(3))
    assert torch.equal(frozen.draw(50, Generator().manual_seed(3)), popularity_drawn)
    popularity.count(torch.full((1000,), 2))
    assert (frozen.draw(2000, Generator()) != 2).all()


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_many_draws_are_those_that_few_at_a_time_would_give(
    popularity: Popularity, alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Generator().manual_seed(7), Generator().manual_seed(7)
    searched = torch.cat([Frozen(popularity.support, alpha).draw(500, one) for _ in range(4)])
    for places in (1, 6, 64, 500):
        monkeypatch.setattr(negatives, "_PLACES", places)
        other.manual_seed(7)
        frozen = Frozen(popularity.support, alpha)
        assert torch.equal(torch.cat([frozen.draw(500, other) for _ in range(4)]), searched)
