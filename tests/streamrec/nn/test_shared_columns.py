"""Chunked losses against the plain ones: same values, same gradients, whatever the size of a chunk."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from streamrec.nn import losses, shared_columns
from streamrec.nn.shared_columns import Loss, Slope

T, C, D = 13, 9, 4


def elu_bpr_max(scores: Tensor, positive: Tensor, valid: Tensor | None) -> Tensor:
    return losses.bpr_max(F.elu(scores, 0.5), positive, valid, 1.95)


PAIRS: dict[str, tuple[Slope, Loss]] = {
    "cross-entropy": (shared_columns.cross_entropy, losses.cross_entropy),
    "bpr-max": (shared_columns.by_autograd(elu_bpr_max), elu_bpr_max),
    "top1": (shared_columns.by_autograd(losses.top1), losses.top1),
}


@pytest.fixture(params=[1, 2 * C, 10_000], ids=lambda n: f"{n} scores at once")
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_columns, "SCORES_AT_ONCE", request.param)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.double).requires_grad_()


def same(one: Callable[..., Tensor], other: Callable[..., Tensor], *inputs: Tensor) -> None:
    mine, theirs = one(*inputs), other(*inputs)
    torch.testing.assert_close(mine, theirs)
    # Scaled by 3, as by a sum of several losses.
    for a, b in zip(torch.autograd.grad(3 * mine, inputs), torch.autograd.grad(3 * theirs, inputs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_whole_is_the_plain_loss(pair: tuple[Slope, Loss]) -> None:
    slope, loss = pair
    positive = torch.arange(T) * 5 % C
    same(
        lambda h, v, b: shared_columns.whole(slope, h, v, b, positive),
        lambda h, v, b: loss(h @ v.t() + b, positive, None),
        draw(T, D),
        draw(C, D),
        draw(C),
    )


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_sampled_is_the_plain_loss_without_negatives_that_are_the_target(pair: tuple[Slope, Loss]) -> None:
    slope, loss = pair
    columns = torch.tensor([1, 2, 3, 3, 5, 6, 7, 1, 9])
    target = torch.arange(T) % 10 + 1
    valid = F.pad(columns != target.unsqueeze(1), (1, 0), value=True)

    def plain(h: Tensor, own: Tensor, v: Tensor, b: Tensor) -> Tensor:
        scores = torch.cat([own.unsqueeze(1), h @ v.t() + b], dim=1)
        return loss(scores, torch.zeros(T, dtype=torch.int64), valid)

    same(
        lambda h, own, v, b: shared_columns.sampled(slope, h, own, v, b, target, columns),
        plain,
        draw(T, D),
        draw(T),
        draw(C, D),
        draw(C),
    )


@pytest.mark.parametrize("name", ["cross-entropy", "bpr-max"])
def test_a_state_whose_negatives_are_all_its_target_teaches_nothing(name: str) -> None:
    hidden, own, vectors, bias = draw(2, D), draw(2), draw(3, D), draw(3)
    same_item = torch.full((3,), 4)
    loss = shared_columns.sampled(PAIRS[name][0], hidden, own, vectors, bias, torch.tensor([4, 4]), same_item)
    assert loss.isfinite()
    for gradient in torch.autograd.grad(loss, (hidden, own, vectors, bias)):
        assert (gradient == 0).all()


def test_cross_entropy_of_a_hopeless_target_is_finite() -> None:
    scores = torch.tensor([[0.0, 300.0, -200.0]])
    total, gradient = shared_columns.cross_entropy(scores, torch.tensor([2]), None)
    assert float(total) == pytest.approx(500.0)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 1.0, -1.0]]))


def test_scores_of_the_whole_batch_are_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_columns, "SCORES_AT_ONCE", 3 * C)
    held: list[tuple[int, ...]] = []

    def watching(scores: Tensor, positive: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        held.append(tuple(scores.shape))
        return shared_columns.cross_entropy(scores, positive, valid)

    shared_columns.whole(watching, draw(T, D), draw(C, D), draw(C), torch.zeros(T, dtype=torch.int64))
    assert held == [(3, C)] * 4 + [(1, C)]
