"""Cloze: which clicks it hides, what it makes of them, and that it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from streamrec.encoders.bert4rec import BERT4Rec
from streamrec.models.cloze import Cloze
from streamrec.records import History
from tests.histories import catalog, history, window


class Watching(BERT4Rec):
    """Remembers what was hidden from it."""

    def fill(self, history: History, hidden: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        self.windows, self.hidden = history.items, hidden
        outputs, place = super().fill(history, hidden, generator)
        self.outputs = outputs.detach()
        return outputs, place


def build(items: int = 20, length: int = 50, **setting: Any) -> tuple[Cloze, Watching]:
    of = catalog(items)
    encoder = Watching(of, dim=8, length=length)
    return Cloze(encoder, of, **setting), encoder


def full(rows: int, width: int) -> History:
    return window(torch.randint(1, 21, (rows, width), generator=Generator().manual_seed(3)))


def test_hides_the_share_of_every_row_and_at_least_one_click() -> None:
    model, encoder = build(share=0.3, newest=0.0)
    model.sequence_loss(history([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3], [1, 2], [], [7], [1, 2, 3, 4, 5]], length=10))
    assert encoder.hidden.sum(1).tolist() == [3, 1, 0, 0, 2]  # .3 * 5 = 1.5, rounded to even; one click alone: none
    assert not (encoder.hidden & (encoder.windows == 0)).any()


def test_every_click_is_hidden_equally_often() -> None:
    model, encoder = build(share=0.25, newest=0.0)
    model.sequence_loss(full(4_000, 8))
    assert (encoder.hidden.sum(1) == 2).all()
    # 4,000 draws with chance 1/4: standard error .007.
    torch.testing.assert_close(encoder.hidden.float().mean(0), torch.full((8,), 0.25), atol=0.03, rtol=0)


def test_in_a_share_of_the_rows_only_the_newest_click_is_hidden() -> None:
    model, encoder = build(share=0.5, newest=0.2)
    model.sequence_loss(full(4_000, 8))
    alone = encoder.hidden.sum(1) == 1
    assert alone.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert encoder.hidden[alone][:, -1].all()


def test_loss_is_the_cross_entropy_of_all_hidden_clicks() -> None:
    model, encoder = build()
    value = model.sequence_loss(full(30, 8))
    with torch.no_grad():
        scores = encoder.outputs @ encoder.items.weight[1:21].t() + model.bias[1:21, 0]
    # Outputs come longest row first, and these rows are all of one length.
    expected = torch.nn.functional.cross_entropy(scores, encoder.windows[encoder.hidden].long() - 1)
    torch.testing.assert_close(value.detach(), expected)
    assert int(model.popularity.support.sum()) == int(encoder.hidden.sum())


def test_a_stream_asks_for_its_target() -> None:
    model, encoder = build(share=0.5)
    model.loss(full(50, 6), torch.arange(50) % 20 + 1)
    assert torch.equal(encoder.windows[:, -1], (torch.arange(50) % 20 + 1).int())
    assert encoder.hidden[:, -1].all()
    assert encoder.hidden.sum() > 100


def test_without_a_click_before_it_only_the_bias_learns_a_target() -> None:
    model, _ = build()
    torch.autograd.backward(model.loss(history([[]]), torch.tensor([4])))
    assert model.bias.grad is not None
    assert model.bias.grad.to_dense()[4] < 0
    weights = [p.grad for name, p in model.encoder.named_parameters() if name != "items.weight"]
    assert all(grad is None or not grad.any() for grad in weights)


def test_only_what_the_encoder_reads_is_hidden() -> None:
    model, encoder = build(length=4, newest=0.0, share=0.5)
    model.sequence_loss(full(100, 8))
    assert not encoder.hidden[:, :4].any()
    assert (encoder.hidden.sum(1) == 2).all()


def test_without_any_click_the_loss_is_zero() -> None:
    model, _ = build()
    nothing: list[list[list[int]]] = [[], [[], []], [[3], []]]
    for rows in nothing:
        assert float(model.sequence_loss(history(rows)).detach()) == 0.0


def walks(n: int, draws: Generator) -> Tensor:
    return (torch.randint(12, (n, 1), generator=draws) + torch.arange(8)) % 12 + 1


def test_learns_to_continue_and_to_fill_in() -> None:
    # Everybody walks round a circle of 12 items, from anywhere: a click is told by any of its neighbours.
    of = catalog(12)
    model = Cloze(BERT4Rec(of, dim=32, blocks=1, length=8, dropout=0.0), of, share=0.3)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.005)
    draws = Generator().manual_seed(0)
    for _ in range(200):
        optimiser.zero_grad()
        torch.autograd.backward(model.sequence_loss(window(walks(64, draws))))
        for parameter in (model.bias, model.encoder.items.weight):
            assert parameter.grad is not None
            parameter.grad = parameter.grad.to_dense()
        optimiser.step()
    test = walks(60, draws)
    with torch.no_grad():
        guess = model.score(window(test[:, :7]))[:, 1:].argmax(1) + 1
        hidden = torch.zeros(60, 8, dtype=torch.bool)
        hidden[:, 3] = True
        outputs, place = model.encoder.fill(window(test), hidden)
        filled = (outputs @ model.encoder.items.weight[1:13].t() + model.bias[1:13, 0]).argmax(1) + 1
    assert (guess == test[:, 7]).float().mean() > 0.95
    assert (filled == test.flatten()[place]).float().mean() > 0.95


@pytest.mark.parametrize(("setting", "message"), [({"share": 1.2}, "share"), ({"newest": -0.1}, "newest")])
def test_settings_out_of_range_are_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**setting)
