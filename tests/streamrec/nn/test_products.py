"""Products equal torch's own, whichever library makes them."""

from __future__ import annotations

import torch

from streamrec.nn.products import affine, linear, product


def test_products_equal_matmul() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(*shape, generator=generator) for shape in ((9, 7), (11, 7), (11,)))
    torch.testing.assert_close(linear(x, w, b), x @ w.t() + b)
    torch.testing.assert_close(product(x, w.t()), x @ w.t())
    torch.testing.assert_close(product(x.t(), x), x.t() @ x)
    assert linear(x[:0], w, b).shape == (0, 11)


def test_gradients_of_affine_are_those_of_linear() -> None:
    leaves = [torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in ((4, 3), (5, 3), (5,))]
    assert torch.autograd.gradcheck(affine, leaves)
