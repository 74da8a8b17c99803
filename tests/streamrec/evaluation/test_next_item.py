"""Ranking of next clicks against a plain loop, and what may not make a model look better than it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from streamrec.data.sequences import Sequences
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.encoders.sasrec import SASRec
from streamrec.evaluation import next_item
from streamrec.evaluation.next_item import evaluate
from streamrec.models.next_item import NextItem
from streamrec.records import History
from tests.histories import catalog

ROWS = [[3, 1, 4, 1, 5], [9, 2], [], [6], [3, 1, 4, 8, 9, 7], [3, 1], [3, 2, 9], [9, 2]]


@dataclass
class Fixed:
    """Scores that depend on the newest click only."""

    table: Tensor  # [N, N]
    reads: tuple[str, ...] = ("items",)
    calls: int = 0

    def score(self, history: History) -> Tensor:
        self.calls += 1
        return self.table[history.items[:, -1].long()]


def plain(
    model: Fixed | NextItem, rows: list[list[int]], k: int, length: int = 99, seen: bool = False, last: bool = False
) -> dict[str, float]:
    """The definition, one click after the other."""
    n, recall, mrr, ndcg = 0, 0.0, 0.0, 0.0
    for row in rows:
        for end in range(max(1, len(row) - 1) if last else 1, len(row)):
            window = torch.tensor([row[:end][-length:]], dtype=torch.int32)
            history = History.of(user=torch.zeros(1, dtype=torch.int64), items=window)
            scores = model.score(history)[0].tolist()
            shown = set(row[:end][-length:]) if seen else set()
            target = row[end]
            n += 1
            if target in shown:
                continue
            rank = sum(1 for i in range(1, len(scores)) if i not in shown and not scores[i] < scores[target])
            if rank <= k:
                recall, mrr, ndcg = recall + 1, mrr + 1 / rank, ndcg + 1 / math.log2(rank + 1)
    return {f"recall{k}": recall / n, f"mrr{k}": mrr / n, f"ndcg{k}": ndcg / n, "n": n}


def fixed(levels: int = 6) -> Fixed:
    """Few different scores: many ties."""
    return Fixed(torch.randint(0, levels, (12, 12), generator=torch.Generator().manual_seed(1)).float())


@pytest.mark.parametrize("at_once", [1, 40, 10_000])
@pytest.mark.parametrize(("seen", "last"), [(False, False), (True, False), (False, True), (True, True)])
def test_equals_the_definition(seen: bool, last: bool, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_item, "SCORES_AT_ONCE", at_once)
    monkeypatch.setattr(next_item, "CLICKS_AT_ONCE", at_once)
    found = evaluate(fixed(), Sequences.of(ROWS), ks=(1, 5), mask_seen=seen, only_last=last)
    for k in (1, 5):
        expected = plain(fixed(), ROWS, k, seen=seen, last=last)
        assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("length", [None, 2, 8])
@pytest.mark.parametrize("kind", [GRU4Rec, SASRec])
@pytest.mark.parametrize("encoder_length", [3, 20])
def test_neural_models_equal_the_definition(
    kind: type[GRU4Rec | SASRec], encoder_length: int, length: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(next_item, "STATES_AT_ONCE", 7)
    of = catalog(11)
    model = NextItem(kind(of, dim=6, length=encoder_length, seed=2), of, n_sample=4)
    with torch.no_grad():
        model.bias.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
    found = evaluate(model, Sequences.of(ROWS), ks=(4,), length=length)
    assert found == pytest.approx(plain(model, ROWS, 4, length or 99))


def test_a_sequence_is_encoded_once_where_that_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    of = catalog(11)
    model = NextItem(GRU4Rec(of, dim=6), of)

    def refuse(history: History, items: Tensor | None = None) -> Tensor:
        raise AssertionError("scored prefix by prefix")

    monkeypatch.setattr(model, "score", refuse)
    assert evaluate(model, Sequences.of(ROWS))["n"] == 14


def test_equal_prefixes_are_scored_once() -> None:
    model = fixed()
    evaluate(model, Sequences.of([[1, 2, 3]] * 50))
    assert model.calls == 2


def test_who_reads_the_user_is_asked_for_each() -> None:
    model = Fixed(fixed().table, reads=("items", "user"))
    assert evaluate(model, Sequences.of(ROWS), ks=(5,)) == pytest.approx(plain(fixed(), ROWS, 5))


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), float("-inf")])
def test_the_same_score_for_all_is_no_recall(value: float) -> None:
    model = Fixed(torch.full((12, 12), value))
    found = evaluate(model, Sequences.of(ROWS), ks=(10,))
    assert found == {"recall10": 0.0, "mrr10": 0.0, "ndcg10": 0.0, "n": 14}


def test_a_perfect_and_a_wrong_model() -> None:
    table = torch.eye(12).roll(1, 1)  # after item i comes i + 1
    rows = [[1, 2, 3, 4], [7, 8]]
    assert evaluate(Fixed(table), Sequences.of(rows), ks=(1,))["recall1"] == 1.0
    assert evaluate(Fixed(-table), Sequences.of(rows), ks=(10,))["recall10"] == 0.0


def test_items_that_are_not_known_are_neither_asked_nor_ranked() -> None:
    known = torch.ones(12, dtype=torch.bool)
    known[[9, 5]] = False
    table = torch.zeros(12, 12)
    table[:, 9], table[:, 1] = 2.0, 1.0
    rows = [[3, 1], [3, 9], [3, 1, 5]]
    assert evaluate(Fixed(table), Sequences.of(rows), ks=(1,))["recall1"] == 0.25
    found = evaluate(Fixed(table), Sequences.of(rows), ks=(1,), known=known)
    assert (found["recall1"], found["n"]) == (1.0, 2)


def test_row_0_is_never_ahead() -> None:
    table = torch.zeros(12, 12)
    table[:, 0], table[:, 1] = 9.0, 1.0
    assert evaluate(Fixed(table), Sequences.of([[3, 1]]), ks=(1,))["recall1"] == 1.0


def test_the_scores_of_the_model_are_left_alone() -> None:
    model = fixed()
    before = model.table.clone()
    evaluate(model, Sequences.of(ROWS), mask_seen=True, known=torch.ones(12, dtype=torch.bool))
    assert torch.equal(model.table, before)


def test_nothing_to_predict() -> None:
    found = evaluate(fixed(), Sequences.of([[1], [], [2]]))
    assert found["n"] == 0
    assert math.isnan(found["recall20"])
    assert evaluate(fixed(), Sequences.of([]))["n"] == 0


def test_lists_of_no_length_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        evaluate(fixed(), Sequences.of(ROWS), ks=(0,))
