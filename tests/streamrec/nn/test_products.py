"""Products equal torch's own, whichever library makes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from streamrec.nn.products import LARGE, affine, linear, product


@pytest.mark.parametrize("rows", [11, 3000])
def test_products_equal_matmul(rows: int) -> None:
    assert 11 * 7 < LARGE < 3000 * 7
    generator = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(*shape, generator=generator) for shape in ((9, 7), (rows, 7), (rows,)))
    torch.testing.assert_close(linear(x, w, b), x @ w.t() + b)
    torch.testing.assert_close(product(x, w.t()), x @ w.t())
    torch.testing.assert_close(product(x.t(), x), x.t() @ x)
    assert linear(x[:0], w, b).shape == (0, rows)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of the process from Linux")
def test_many_numbers_of_rows_leave_no_memory_behind() -> None:
    """What a stream's batches do to the encoder of the service; oneDNN kept 1.6 MB for each."""
    w, b = torch.randn(192, 64), torch.randn(192)
    linear(torch.randn(4000, 64), w, b)
    before = resident_mb()
    for rows in range(1000, 4000, 20):
        linear(torch.randn(rows, 64), w, b)
    assert resident_mb() - before < 40.0


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def test_gradients_of_affine_are_those_of_linear() -> None:
    leaves = [torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in ((4, 3), (5, 3), (5,))]
    assert torch.autograd.gradcheck(affine, leaves)
