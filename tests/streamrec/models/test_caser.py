"""Caser against a plain evaluation of the paper's formulas for one user. The shared properties: tests/contracts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from streamrec.models.caser import Caser
from streamrec.nn.adagrad import Adagrad
from tests.histories import catalog, history

ROWS = [[3, 1, 4, 1, 5], [9, 2], [], [6]]


def made(**settings: Any) -> Caser:
    return Caser(
        catalog(20), **{"dim": 6, "window": 3, "horizontal": 2, "vertical": 2, "users": 5, "seed": 4} | settings
    )


def by_the_paper(model: Caser, row: list[int], user: int) -> Tensor:
    """Scores of all items, filter by filter and place by place."""
    net = model.encoder
    image = torch.zeros(3, 6)
    for place, item in enumerate(reversed(row[-3:])):
        image[2 - place] = net.inputs.weight[item]
    answers = []
    for height, (filters, bias) in enumerate(zip(net.filters, net.filter_bias, strict=True), start=1):
        for weight, b in zip(filters, bias, strict=True):
            slid = [torch.relu((weight.T * image[at : at + height]).sum() + b) for at in range(4 - height)]
            answers.append(torch.stack(slid).max())
    vertical = [weights @ image + b for weights, b in zip(net.columns, net.column_bias, strict=True)]
    z = torch.relu(net.joined @ torch.cat([torch.stack(answers), *vertical]) + net.joined_bias)
    return net.items.weight[:21] @ torch.cat([z, net.user[user % 5]]) + model.bias[:21, 0]


def test_scores_are_those_of_the_paper() -> None:
    model = made()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "bias" in name:
                value.uniform_(-0.3, 0.3, generator=generator)
    asked = replace(history(ROWS), key=torch.tensor([2, 8, 11, 4]))
    scores = model.score(asked)
    for at, row in enumerate(ROWS):
        torch.testing.assert_close(scores[at], by_the_paper(model, row, int(asked.key[at])))


def test_horizontal_filters_see_order() -> None:
    model = made(vertical=0, users=0)
    one, other = model.encoder(history([[1, 2, 3], [3, 2, 1]]))
    assert not torch.allclose(one, other)
    with torch.no_grad():
        for filters in list(model.encoder.filters)[1:]:
            filters.zero_()  # filters of height 1 are left: they see which items there are
    one, other = model.encoder(history([[1, 2, 3], [3, 2, 1]]))
    torch.testing.assert_close(one, other)


def test_padding_and_clicks_before_the_window_have_no_influence() -> None:
    model = made()
    asked = history([[1, 2, 3], [4]])
    torch.testing.assert_close(model.score(asked), model.score(history([[1, 2, 3], [4]], length=30)))
    torch.testing.assert_close(model.score(asked), model.score(history([[9, 1, 2, 3], [4]])))
    torch.testing.assert_close(model.score(asked[1:]), model.score(replace(asked[1:], items=asked.items[1:, -1:])))


def test_users_differ_and_without_them_only_clicks_count() -> None:
    asked = history([[1, 2], [1, 2]])
    one, other = made().score(asked)
    assert not torch.allclose(one, other)
    one, other = made(users=0).score(asked)
    torch.testing.assert_close(one, other)


def test_states_end_in_the_vector_and_do_not_look_ahead() -> None:
    net = made().encoder
    asked = history(ROWS)
    states = net.states(asked)
    torch.testing.assert_close(states[[0, 1, 3], -1], net(asked)[[0, 1, 3]])
    assert (states[1, :4] == 0).all()
    shorter = history([row[:-1] for row in ROWS])
    torch.testing.assert_close(states[0, -2], net(shorter)[0])


def test_every_parameter_learns_and_dropout_draws_from_its_own_generator() -> None:
    model, torch_state = made(horizontal=8), torch.get_rng_state()
    model.loss(history(ROWS), torch.tensor([9, 6, 5, 3])).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.to_dense().abs().sum() > 0]
    assert still == []
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize("loss", ["bce", "cross-entropy"])
def test_learns_what_follows_what(loss: Any) -> None:
    """The next item depends on the order of the last two."""
    generator = torch.Generator().manual_seed(0)
    model = Caser(catalog(12), dim=16, users=0, dropout=0.0, loss=loss, n_sample=None)
    optimiser = Adagrad(model.named_parameters(), 0.1)
    row = torch.randint(1, 13, (4000, 4), generator=generator)
    for part in row.split(50):
        optimiser.zero_grad()
        model.loss(history(part.tolist()), follows(part)).backward()
        optimiser.step()
    asked = torch.randint(1, 13, (200, 4), generator=generator)
    best = model.score(history(asked.tolist()))[:, 1:].argmax(1) + 1
    assert (best == follows(asked)).float().mean() > 0.8


def follows(row: Tensor) -> Tensor:
    return torch.where(row[:, -2] > row[:, -1], row[:, -1], row[:, -1] % 12 + 1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"horizontal": 0, "vertical": 0}, "filters"),
        ({"users": -1}, "users"),
        ({"window": 0}, "length"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**setting)
