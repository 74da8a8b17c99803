from __future__ import annotations

import torch
from torch import Generator

from streamrec.catalog import Catalog
from streamrec.nn.items import ItemVectors


def table(capacity: int = 500, dim: int = 16, seed: int = 0) -> ItemVectors:
    return ItemVectors(Catalog(capacity), dim, Generator().manual_seed(seed))


def test_a_recycled_row_starts_like_a_new_one_and_other_rows_keep_their_bits() -> None:
    items = table()
    with torch.no_grad():
        items.weight[1:] += 5.0
    before = items.weight.detach().clone()
    rows = torch.arange(10, 410)
    items.recycle(rows)
    fresh = items.weight.detach()[rows]
    other = torch.ones(501, dtype=torch.bool).index_fill_(0, rows, False)
    assert torch.equal(items.weight.detach()[other], before[other])
    bound = (6 / (501 + 16)) ** 0.5
    assert float(fresh.abs().max()) <= bound
    assert float(fresh.std()) > 0.55 * bound, "uniform: its deviation is bound / sqrt(3)"
    assert (items.weight[0] == 0).all()
    assert len(torch.unique(fresh, dim=0)) == len(rows)


def test_what_a_recycled_row_gets_is_set_by_what_stood_there() -> None:
    one, two, other = table(), table(), table(seed=1)
    rows, torch_state = torch.tensor([3, 8]), torch.get_rng_state()
    for items in (one, two, other):
        items.recycle(rows)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.equal(one.weight, two.weight), "a resumed run draws alike"
    assert not torch.equal(one.weight[rows], other.weight[rows])
    first = one.weight.detach()[rows]
    one.recycle(rows)
    assert not torch.equal(one.weight[rows], first), "the same rows again, other vectors"


def test_new_items_start_near_what_they_were_met_with() -> None:
    items = table()
    before = items.weight.detach().clone()
    rows = torch.tensor([7, 9, 7, 12, 0])
    items.welcome(rows, torch.tensor([[0, 1, 2], [3, 3, 4], [7, 0, 5], [0, 0, 12], [1, 2, 3]]))
    after = items.weight.detach()
    torch.testing.assert_close(after[7], before[7] + 0.5 * before[[1, 2, 5]].mean(0))
    torch.testing.assert_close(after[9], before[9] + 0.5 * before[[3, 3, 4]].mean(0))
    untouched = torch.ones(501, dtype=torch.bool).index_fill_(0, torch.tensor([7, 9]), False)
    assert torch.equal(after[untouched], before[untouched])
