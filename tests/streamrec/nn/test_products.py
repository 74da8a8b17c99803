"""Products equal torch's own, whichever library makes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from streamrec.nn import products
from streamrec.nn.products import WORTH, affine, linear, over_rows, product

ROWS = [0, 1, 23, 24, 170, 300, 1300]  # no multiples: 170 of 16, 300 of 32, 1300 of 128


@pytest.fixture(params=["oneDNN", "torch"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the processor here."""
    made = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if request.param == "oneDNN" else None
    monkeypatch.setattr(products, "_ONEDNN", made)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("rows", ROWS)
def test_products_equal_matmul(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    assert 24 * 300 * 100 < WORTH < 170 * 300 * 100
    x, w, b = (torch.randn(*shape, generator=generator) for shape in ((rows, 100), (300, 100), (300,)))
    torch.testing.assert_close(linear(x, w, b), x @ w.t() + b)
    torch.testing.assert_close(product(x, w.t()), x @ w.t())
    left = torch.randn(rows, 300, generator=generator)
    torch.testing.assert_close(over_rows(left, x), left.t() @ x, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("library")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of the process from Linux")
def test_many_numbers_of_rows_leave_no_memory_behind() -> None:
    """What a stream's batches do to a learner; every number of rows by itself took 1.6 MB, 580 MB here."""
    x, grad, w, b = torch.randn(4000, 64), torch.randn(4000, 192), torch.randn(192, 64), torch.randn(192)

    def both(rows: int) -> None:
        linear(x[:rows], w, b)
        over_rows(grad[:rows], x[:rows])

    both(4000)
    before = resident_mb()
    for rows in range(400, 4000, 20):
        both(rows)
    assert resident_mb() - before < 150.0


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


@pytest.mark.usefixtures("library")
def test_gradients_of_affine_are_those_of_linear() -> None:
    leaves = [torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in ((4, 3), (5, 3), (5,))]
    assert torch.autograd.gradcheck(affine, leaves)
