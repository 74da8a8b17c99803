"""Ranks from 8-bit products against those from float32 scores, in cases that are close, equal or out of proportion."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from streamrec.data.sequences import Sequences
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.evaluation import next_item, screened
from streamrec.evaluation.next_item import evaluate
from streamrec.models.next_item import NextItem
from tests.histories import catalog

pytest.importorskip("numba")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, items: int, dim: int, rows: int, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors of very different lengths, biases, states."""
    make = generator(seed)
    weight = torch.randn(items, dim, generator=make) * torch.rand(items, 1, generator=make) ** spread
    return weight, torch.randn(items, generator=make), torch.randn(rows, dim, generator=make).tanh()


def expected(weight: Tensor, bias: Tensor, hidden: Tensor, row: Tensor, target: Tensor, slack: float = 0.0) -> Tensor:
    """Ranks by scores in float64, an item counting that is up to `slack` below the target."""
    scores = (hidden.double() @ weight.double().T + bias.double())[row]
    return (scores[:, 1:] >= scores.gather(1, target.unsqueeze(1)) - slack).sum(1)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(2, 700),
    st.sampled_from([1, 5, 64]),
    st.sampled_from([0.0, 1.0, 4.0]),
    st.sampled_from([0.0, 1.0, 100.0]),
    st.integers(1, 30),
)
def test_ranks_are_those_of_the_scores_up_to_the_depth(
    seed: int, items: int, dim: int, spread: float, biased: float, depth: int
) -> None:
    weight, bias, hidden = drawn(seed, items, dim, 6, spread)
    row, target = torch.arange(6).repeat_interleave(4), torch.randint(0, items, (24,), generator=generator(seed))
    bias = biased * bias
    found = screened.Screen.of(weight, bias).ranks(hidden, row, target, depth).long().clamp(max=depth + 1)
    slack = 1e-6 * float(hidden.norm(dim=1).max() * weight.norm(dim=1).max() + bias.abs().max())  # float32
    at_least, at_most = (expected(weight, bias, hidden, row, target, off) for off in (-slack, slack))
    assert (found >= (at_least + (target > 0)).clamp(max=depth + 1)).all()
    assert (found <= at_most.clamp(max=depth + 1)).all()


def test_products_of_8_bits_alone_would_not_do() -> None:
    weight, bias, hidden = drawn(0, 5000, 64, 50, 1.0)
    screen = screened.Screen.of(weight, 0 * bias)
    row, target = torch.arange(50), (hidden @ weight.T).topk(10).indices[:, 9]
    assert torch.equal(screen.ranks(hidden, row, target, 20).long(), torch.full((50,), 10))
    rough = (hidden * screen.columns * 40).round() @ screen.levels.float()
    assert ((rough >= rough.gather(1, target.unsqueeze(1))).sum(1) != 10).any()


def test_equal_items_count_against_the_target() -> None:
    weight, bias, hidden = drawn(1, 300, 16, 4, 0.0)
    weight[100:140], bias[100:140] = weight[99], bias[99]
    row, target = torch.arange(4), torch.full((4,), 120)
    found = screened.Screen.of(weight, bias).ranks(hidden, row, target, 1000)
    assert torch.equal(found.long(), expected(weight, bias, hidden, row, target))
    assert (found >= 41).all()


def test_states_and_items_of_zeros_are_told_apart_by_their_biases() -> None:
    weight, hidden = torch.zeros(9, 4), torch.zeros(1, 4)
    bias = torch.tensor([9.0, 5, 5, 4, 3, 2, 1, 1 + 1e-6, 0])
    row, target = torch.zeros(8, dtype=torch.int64), torch.arange(1, 9)
    for states in (hidden, hidden + 1):
        found = screened.Screen.of(weight, bias).ranks(states, row, target, 20)
        assert found.tolist() == [2, 2, 3, 4, 5, 7, 6, 8]


def test_an_evaluation_finds_the_same_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randint(1, 500, (60, 6), generator=generator(2))
    of = catalog(500, 500)
    model = NextItem(GRU4Rec(of, dim=16, seed=1), of)
    with torch.no_grad():
        model.bias.normal_(std=0.1)
    asked: list[int] = []
    ranks = screened.Screen.ranks
    monkeypatch.setattr(screened.Screen, "ranks", lambda self, *rest: asked.append(1) or ranks(self, *rest))
    monkeypatch.setattr(next_item, "SCORES_AT_ONCE", 4000)
    usual = evaluate(model, Sequences.of(rows.tolist()), ks=(5, 100))
    assert not asked, "too little work"
    monkeypatch.setattr(screened, "WORTH", 0)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    assert evaluate(model, Sequences.of(rows.tolist()), ks=(5, 100)) == pytest.approx(usual)
    assert len(asked) > 10


def test_what_is_no_number_is_left_to_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screened, "WORTH", 0)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)

    def refuse(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(screened.Screen, "of", refuse)
    of = catalog(9)
    model = NextItem(GRU4Rec(of, dim=4, seed=1), of)
    with torch.no_grad():
        model.bias[3] = torch.nan
    assert evaluate(model, Sequences.of([[1, 3], [1, 2, 4]]), ks=(9,))["recall9"] < 1.0
