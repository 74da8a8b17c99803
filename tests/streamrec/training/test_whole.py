"""Whole sequences and prefixes: both train on every click, and learn a stream that can be learned."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from streamrec.data.sequences import Sequences
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.encoders.sasrec import SASRec
from streamrec.evaluation.next_item import evaluate
from streamrec.models.next_item import NextItem
from streamrec.nn.adagrad import Adagrad
from streamrec.nn.optimiser import Optimiser
from streamrec.training import lanes, prefixes, whole
from streamrec.training.batches import in_batches, pieces
from tests.histories import catalog

ROWS = [[3, 1, 4, 1, 5], [9, 2], [6], [3, 1, 4, 8, 9, 7], [3, 1], [], [3, 2, 9], [9, 2, 2, 7], [5, 4]]
CYCLE = Sequences.of([[1 + (start + 3 * step) % 11 for step in range(2 + start % 6)] for start in range(60)])
"""After item i comes i + 3, round and round."""


@pytest.mark.parametrize("kind", [GRU4Rec, SASRec])
@pytest.mark.parametrize("how", ["whole", "prefixes", "lanes"])
def test_a_stream_with_a_rule_is_learned(kind: type[GRU4Rec | SASRec], how: str) -> None:
    if how == "lanes" and kind is SASRec:
        pytest.skip("lanes carry states of a GRU4Rec")
    of = catalog(11)
    model = NextItem(kind(of, dim=16), of, n_sample=4, loss="cross-entropy")
    optimiser = Optimiser(model, of, 0.01, 0.1) if kind is SASRec else Adagrad(model.named_parameters(), 0.1)
    for _ in range(25):
        if how == "whole":
            figures = whole.epoch(model, CYCLE, optimiser, rows=8)
        elif how == "prefixes":
            figures = prefixes.epoch(model, CYCLE, optimiser, batch=16)
        else:
            assert isinstance(optimiser, Adagrad)
            figures = lanes.epoch(model, CYCLE, optimiser, lanes=4, steps=2)
        assert figures["events"] == int((CYCLE.lengths - 1).sum())
    assert evaluate(model, CYCLE, ks=(1,))["recall1"] > 0.95


def test_whole_windows_count_the_clicks_they_train_on() -> None:
    of = catalog(11)
    model = NextItem(GRU4Rec(of, dim=4, length=3), of, n_sample=4)
    optimiser = Adagrad(model.named_parameters())
    assert whole.epoch(model, Sequences.of(ROWS), optimiser)["events"] == 3 + 1 + 3 + 1 + 2 + 3 + 1
    assert whole.epoch(model, Sequences.of(ROWS), optimiser, length=2)["events"] == 7


def test_cut_sequences_hold_every_click_once_and_are_cut_elsewhere_each_time() -> None:
    generator = Generator().manual_seed(0)
    whole_rows = Sequences.of(ROWS)
    cuts = [pieces(whole_rows, 3, generator) for _ in range(20)]
    for cut in cuts:
        assert torch.equal(cut.items, whole_rows.items)
        assert int(cut.lengths.max()) <= 3
        assert int(cut.lengths.min()) >= 1
        assert set(whole_rows.starts.tolist()) <= set(cut.starts.tolist()), "no piece holds clicks of two sequences"
        within = cut.starts[(cut.starts > 8) & (cut.starts < 14)]  # of the row of six clicks
        assert (within.diff() == 3).all()
    assert len({tuple(cut.starts.tolist()) for cut in cuts}) > 10


def test_older_clicks_are_learned_where_sequences_are_cut() -> None:
    of = catalog(11)
    model = NextItem(SASRec(of, dim=4, length=3), of, n_sample=4)
    optimiser, generator = Adagrad(model.named_parameters()), Generator().manual_seed(0)
    row = Sequences.of([[1 + step % 11 for step in range(50)]])
    assert whole.epoch(model, row, optimiser, length=4)["events"] == 3
    figures = whole.epoch(model, row, optimiser, length=4, cut=True, generator=generator)
    assert 36 <= figures["events"] <= 37, "all but the first click of each piece"
    for wrong in ({"length": None}, {"generator": None}):
        with pytest.raises(ValueError, match="to cut sequences"):
            whole.epoch(model, row, optimiser, cut=True, **{"length": 4, "generator": generator, **wrong})
    with pytest.raises(ValueError, match="length=0"):
        pieces(row, 0, generator)


def test_nothing_to_train_on() -> None:
    of = catalog(11)
    model = NextItem(GRU4Rec(of, dim=4), of, n_sample=4)
    for train in (whole.epoch, prefixes.epoch, lanes.epoch):
        figures = train(model, Sequences.of([[1], []]), Adagrad(model.named_parameters()))
        assert (figures["events"], figures["steps"]) == (0, 0)


def test_batches_hold_everything_once_and_shuffle_by_the_generator_alone() -> None:
    order = torch.arange(10)
    assert [part.tolist() for part in in_batches(order, 4, None)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    state = torch.get_rng_state()
    shuffled = [torch.cat(list(in_batches(order, 4, Generator().manual_seed(seed)))) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(shuffled[0], shuffled[1])
    assert not torch.equal(shuffled[0], shuffled[2])
    assert torch.equal(shuffled[0].sort()[0], order)
    with pytest.raises(ValueError, match="at least 1"):
        next(in_batches(order, 0, None))
