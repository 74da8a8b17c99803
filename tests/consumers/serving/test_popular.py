"""The popular list against a plain count."""

from __future__ import annotations

import torch

from consumers.serving import popular
from consumers.serving.popular import PopularList
from streamrec.catalog import Catalog

NOTHING = torch.zeros(0, dtype=torch.int64)


def filled(items: int = 30) -> tuple[PopularList, Catalog]:
    catalog = Catalog(100)
    catalog.see(catalog.rows([f"i{n}" for n in range(items)]))
    return PopularList(catalog), catalog


def test_most_clicked_first_and_only_what_may_be_shown() -> None:
    listed, catalog = filled()
    for row in range(1, 31):
        listed.note(torch.full((row,), row))
    assert listed.top(3, None, NOTHING) == [30, 29, 28]
    assert listed.top(3, None, torch.tensor([29])) == [30, 28, 27]
    assert listed.top(9, torch.tensor([4, 9, 2]), NOTHING) == [9, 4, 2]
    catalog.retire(torch.tensor([30]))
    assert listed.top(2, None, NOTHING) == [29, 28], "at once, though the list was sorted before"
    catalog.retire(torch.arange(3, 31))
    assert listed.top(5, None, NOTHING) == [2, 1]


def test_old_clicks_count_less_and_no_number_of_clicks_is_too_large() -> None:
    _, catalog = filled()
    listed = PopularList(catalog, half_life=10.0)
    listed.note(torch.full((8,), 1))
    listed.note(torch.arange(5, 30).repeat(4))
    listed.note(torch.full((3,), 2))
    assert listed.top(2, None, NOTHING)[0] == 2
    for _ in range(100):
        listed.note(torch.full((100,), 3))
    listed.forget(torch.tensor([2]))
    listed._sorted = float("-inf")
    assert listed.top(1, None, NOTHING) == [3]
    assert bool(torch.isfinite(listed._clicks).all())


def test_saved_and_loaded_it_lists_the_same() -> None:
    listed, catalog = filled()
    listed.note(torch.tensor([5, 5, 6]))
    other = PopularList(catalog)
    other.load_state_dict(listed.state_dict())
    assert other.top(2, None, NOTHING) == listed.top(2, None, NOTHING) == [5, 6]
    other.note(torch.tensor([6, 6]))
    other._sorted -= 2 * popular.REFRESH_S
    assert other.top(1, None, NOTHING) == [6]
