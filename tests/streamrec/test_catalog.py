from __future__ import annotations

import pytest
import torch

from streamrec.catalog import Catalog


def test_ids_keep_their_rows_and_new_ones_are_appended() -> None:
    catalog = Catalog(capacity=10)
    assert catalog.rows(["a", "b", "a", ""]).tolist() == [1, 2, 1, 0]
    assert catalog.rows(["c", "a"]).tolist() == [3, 1]
    assert (len(catalog), catalog.size) == (3, 4)


def test_an_item_can_be_recommended_only_once_seen() -> None:
    catalog = Catalog(capacity=4)
    rows = catalog.rows(["a", "b"])
    assert not catalog.available.any()
    catalog.see(torch.tensor([0, int(rows[1])]))
    assert catalog.available.tolist() == [False, False, True, False, False]
    catalog.retire(rows)
    assert not catalog.available.any()


def test_a_full_catalogue_gives_row_zero_and_goes_on() -> None:
    catalog = Catalog(capacity=2)
    assert catalog.rows(["a", "b", "c", "a"]).tolist() == [1, 2, 0, 1]


def test_state_round_trip_and_a_checkpoint_that_is_too_large() -> None:
    catalog = Catalog(capacity=4)
    catalog.see(catalog.rows(["a", "b", "c"])[1:])
    other = Catalog(capacity=4)
    other.load_state_dict(catalog.state_dict())
    assert other.rows(["c", "d"]).tolist() == [3, 4]
    assert other.available.tolist() == catalog.available.tolist()
    with pytest.raises(ValueError, match=r"holds 3 items but catalog.capacity is 2: raise"):
        Catalog(capacity=2).load_state_dict(catalog.state_dict())
