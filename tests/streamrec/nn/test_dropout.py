"""Dropout: how much is dropped, what stands for it, whose randomness it is."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from streamrec.nn.dropout import dropout, mask

CPU = torch.device("cpu")


@pytest.mark.parametrize("p", [0.05, 0.5, 0.99999])
def test_so_many_are_dropped_and_the_others_make_up_for_it(p: float) -> None:
    made = mask((401, 333), p, Generator().manual_seed(0), CPU)
    kept = 1.0 / (1.0 - p)
    assert set(made.unique().tolist()) <= {0.0, made.max().item()}
    if p < 0.99:
        assert made.max().item() == pytest.approx(kept)
        assert made.mean().item() == pytest.approx(1.0, abs=5.0 * (p / (1.0 - p) / made.numel()) ** 0.5)
    assert ((made > 0).float().mean() - (1.0 - p)).abs() < 0.01
    assert ((made[:, 0] > 0) & (made[:, 1] > 0)).float().mean() == pytest.approx((1.0 - p) ** 2, abs=0.1)


def test_masks_come_from_the_generator_alone() -> None:
    state = torch.get_rng_state()
    made, again = (Generator().manual_seed(1) for _ in range(2))
    one, same, next_ = (mask((7, 5), 0.5, generator, CPU) for generator in (made, again, made))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, same)
    assert not torch.equal(one, next_)
    assert mask((0, 3), 0.5, made, CPU).shape == (0, 3)


def test_without_a_generator_nothing_is_dropped() -> None:
    x = torch.ones(3)
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, Generator()) is x
    assert torch.equal(dropout(x, 0.5, Generator().manual_seed(0)), mask((3,), 0.5, Generator().manual_seed(0), CPU))
