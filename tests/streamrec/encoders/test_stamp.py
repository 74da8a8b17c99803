"""STAMP against a plain evaluation of the paper's formulas for one user. The shared properties: tests/contracts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from streamrec.encoders.stamp import STAMP
from streamrec.models.next_item import NextItem
from streamrec.nn.adagrad import Adagrad
from tests.histories import catalog, history

ROWS = [[3, 1, 4, 1, 5], [9, 2], [], [6]]


def made(**settings: int) -> STAMP:
    """With biases that are not zero."""
    encoder = STAMP(catalog(20), dim=8, seed=4, **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for bias in (encoder.bias, encoder.general_bias, encoder.current_bias):
            bias.uniform_(-0.5, 0.5, generator=generator)
    return encoder


def by_the_paper(encoder: STAMP, row: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """h_s, h_t and the attention, click by click."""
    x = [encoder.items.weight[item] for item in row]
    mean = torch.stack(x).mean(0)
    asked = encoder.last @ x[-1] + encoder.mean @ mean + encoder.bias
    alpha = torch.stack([encoder.energy[0] @ (encoder.each @ one + asked).sigmoid() for one in x])
    memory = sum(a * one for a, one in zip(alpha, x, strict=True)) + mean
    general = (encoder.general @ memory + encoder.general_bias).tanh()
    return general, (encoder.current @ x[-1] + encoder.current_bias).tanh(), alpha


def test_scores_are_the_trilinear_product_of_the_paper() -> None:
    encoder = made()
    model = NextItem(encoder, catalog(20))
    scores, attention = model.score(history(ROWS)), encoder.attention(history(ROWS))
    for at, row in enumerate(ROWS):
        if row:
            general, current, alpha = by_the_paper(encoder, row)
            expected = torch.stack([(general * current * encoder.items.weight[j]).sum() for j in range(21)])
            torch.testing.assert_close(scores[at], expected)
            torch.testing.assert_close(attention[at, 6 - len(row) :], alpha)
    assert (attention[2] == 0).all()


def test_the_last_click_is_the_short_term_memory() -> None:
    """The same clicks with another one last: h_t is that of the last click, whatever came before."""
    encoder = made()
    one, other = encoder(history([[1, 2, 3], [2, 1, 3]]))
    torch.testing.assert_close(one, other)  # the rest is a set
    with torch.no_grad():
        encoder.general.zero_()
        encoder.general_bias.fill_(5.0)  # h_s is nearly 1 now, so that h_t is left
    found = encoder(history([[1, 2, 3], [7, 3], [3], [3, 4]]))
    torch.testing.assert_close(found[:1].expand(3, -1), found[:3])
    assert (found[3] - found[0]).abs().max() > 1e-3


def test_reads_at_most_length_clicks() -> None:
    encoder = made(length=3)
    torch.testing.assert_close(encoder(history([[9, 9, 1, 2, 3]])), encoder(history([[1, 2, 3]])))


def test_learns_what_follows_what() -> None:
    generator = torch.Generator().manual_seed(0)
    items = catalog(12)
    model = NextItem(STAMP(items, dim=16), items, loss="cross-entropy")
    optimiser = Adagrad(model.named_parameters(), 0.2)
    row = torch.randint(1, 13, (3000, 3), generator=generator)
    for part in row.split(50):
        optimiser.zero_grad()
        model.loss(history(part.tolist()), part[:, -1] % 12 + 1).backward()
        optimiser.step()
    asked = torch.randint(1, 13, (200, 3), generator=generator)
    best = model.score(history(asked.tolist())).argmax(1)
    assert (best == asked[:, -1] % 12 + 1).float().mean() > 0.95


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="length"):
        STAMP(catalog(3), length=0)
