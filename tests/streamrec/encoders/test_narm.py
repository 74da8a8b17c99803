"""NARM against a plain evaluation of the paper's formulas for one user. The shared properties: tests/contracts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from streamrec.encoders.narm import NARM
from streamrec.models.next_item import NextItem
from streamrec.nn.adagrad import Adagrad
from tests.histories import catalog, history

ROWS = [[3, 1, 4, 1, 5], [9, 2], [], [6]]


def by_the_paper(encoder: NARM, row: list[int]) -> tuple[Tensor, Tensor]:
    """The vector after the whole row and the attention, click by click: loops where the encoder has tensors."""
    state, states = torch.zeros(encoder.hidden), []
    for item in row:
        gates = encoder.weight_input @ encoder.items.weight[item] + encoder.bias_input
        carried = encoder.weight_hidden @ state + encoder.bias_hidden
        reset, update = ((a + b).sigmoid() for a, b in zip(gates.chunk(3)[:2], carried.chunk(3)[:2], strict=True))
        new = (gates.chunk(3)[2] + reset * carried.chunk(3)[2]).tanh()
        state = (1 - update) * new + update * state
        states.append(state)
    energy = [encoder.energy[0] @ (encoder.newest @ state + encoder.each @ each).sigmoid() for each in states]
    alpha = torch.stack(energy).softmax(0)
    local = sum(weight * each for weight, each in zip(alpha, states, strict=True))
    return encoder.decoder @ torch.cat([state, local]), alpha


def test_equals_the_formulas_of_the_paper() -> None:
    encoder = NARM(catalog(20), dim=8, hidden=6, seed=4)
    found, attention = encoder(history(ROWS)), encoder.attention(history(ROWS))
    for at, row in enumerate(ROWS):
        if row:
            vector, alpha = by_the_paper(encoder, row)
            torch.testing.assert_close(found[at], vector)
            torch.testing.assert_close(attention[at, 6 - len(row) :], alpha)


def test_attention_is_a_distribution_over_the_clicks_that_are_there() -> None:
    encoder = NARM(catalog(20), dim=8, length=3)
    attention = encoder.attention(history(ROWS))
    torch.testing.assert_close(attention.sum(1), torch.tensor([1.0, 1.0, 0.0, 1.0]))
    assert ((attention > 0).sum(1) == torch.tensor([3, 2, 0, 1])).all()
    assert encoder.attention(history([[], []])).shape == (2, 6)


def test_the_score_is_bilinear_in_item_and_session() -> None:
    items = catalog(20)
    model = NextItem(NARM(items, dim=8, hidden=6), items)
    with torch.no_grad():
        before = model.score(history(ROWS))
        model.encoder.decoder *= 3.0
    torch.testing.assert_close(model.score(history(ROWS)), 3 * before)


def test_learns_what_follows_what() -> None:
    """After a, b comes b + 1 where a was small and b + 2 where it was large: the last click alone does not tell."""
    generator = torch.Generator().manual_seed(0)
    items = catalog(12)
    model = NextItem(NARM(items, dim=12, hidden=16), items, loss="cross-entropy")
    optimiser = Adagrad(model.named_parameters(), 0.1)
    first, last = torch.randint(1, 11, (2, 3000), generator=generator)
    target = last + torch.where(first < 6, 1, 2)
    for part in torch.arange(3000).split(50):
        optimiser.zero_grad()
        model.loss(history(torch.stack([first, last], 1)[part].tolist()), target[part]).backward()
        optimiser.step()
    pairs = torch.cartesian_prod(torch.arange(1, 11), torch.arange(1, 11))
    best = model.score(history(pairs.tolist())).argmax(1)
    assert (best == pairs[:, 1] + torch.where(pairs[:, 0] < 6, 1, 2)).float().mean() > 0.9


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"hidden": 0}, "hidden"), ({"dropout_embed": 1.0}, "dropout_embed"), ({"length": 0}, "length")],
)
def test_settings_out_of_range_are_refused(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NARM(catalog(3), **setting)
