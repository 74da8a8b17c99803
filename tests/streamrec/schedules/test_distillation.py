"""Distillation against values worked out by hand, and its estimate against the whole."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator

from streamrec.encoders.sasrec import SASRec
from streamrec.models.next_item import NextItem
from streamrec.schedules import heads
from streamrec.schedules.distillation import divergence, sampled_divergence
from streamrec.schedules.heads import Table
from tests.histories import catalog, window


def test_divergence_by_hand() -> None:
    teacher = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])) + torch.tensor([[3.0], [-1.0]])
    student = torch.log(torch.tensor([[0.25, 0.25, 0.5], [0.2, 0.2, 0.6]]))
    one = -(0.5 * math.log(0.25) + 0.25 * math.log(0.25) + 0.25 * math.log(0.5))
    other = -(0.2 * math.log(0.2) + 0.8 * math.log(0.6))
    assert divergence(student, teacher).item() == pytest.approx((one + other) / 2, abs=1e-6)


def test_divergence_is_least_for_equal_selves() -> None:
    logits = torch.randn(4, 9, generator=Generator().manual_seed(0)).requires_grad_()
    divergence(logits, logits.detach() + 2.0).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-7


def selves(items: int = 60) -> tuple[NextItem, Table, torch.Tensor, torch.Tensor]:
    """A model, its former self as a table, and features of 8 histories in both."""
    of = catalog(items)
    made = NextItem(SASRec(of, dim=8, blocks=1, length=6, dropout=0.0), of)
    draws = Generator().manual_seed(3)
    with torch.no_grad():
        made.encoder.items.weight.copy_(torch.randn(65, 8, generator=draws))
        made.bias.copy_(torch.randn(65, 1, generator=draws))
    table = Table.of(made)
    hidden = heads.features(made, window(torch.randint(1, items + 1, (8, 6), generator=draws))).detach()
    with torch.no_grad():
        made.encoder.items.weight.add_(0.3 * torch.randn(65, 8, generator=draws))
    return made, table, hidden + 0.3 * torch.randn(8, 8, generator=draws), hidden


@pytest.mark.parametrize("top", [5, 60])
def test_a_sample_that_is_the_whole_catalogue_gives_the_whole(top: int) -> None:
    made, table, now, before = selves()
    now.requires_grad_()
    exact = divergence(heads.scores(made, now, 61), table.scores(before))
    (expected,) = torch.autograd.grad(exact, now)
    logits = table.scores(before)
    best = logits.topk(top, 1).indices + 1
    estimate = sampled_divergence(made, now, table, before, logits.logsumexp(1), best, 100_000)
    (gradient,) = torch.autograd.grad(estimate, now)
    torch.testing.assert_close(estimate, exact)
    torch.testing.assert_close(gradient, expected)


def test_the_estimate_is_near_the_whole_on_average() -> None:
    made, table, now, before = selves()
    logits = table.scores(before)
    exact = divergence(heads.scores(made, now, 61), logits).item()
    best = logits.topk(8, 1).indices + 1
    drawn = [sampled_divergence(made, now, table, before, logits.logsumexp(1), best, 25).item() for _ in range(200)]
    assert sum(drawn) / len(drawn) == pytest.approx(exact, abs=0.03)
    without = (torch.softmax(logits, 1).gather(1, best - 1).sum(1) < 0.95).any()
    assert without, "the test needs probability outside the top"
