"""CFN against a plain evaluation of the paper's formulas for one user. The shared properties: tests/contracts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from streamrec.encoders.cfn import CFN
from tests.histories import catalog, history


def by_the_paper(encoder: CFN, row: list[int]) -> Tensor:
    """One user, click by click, [clicks, D]."""
    wz, wi, w = encoder.weight_input.chunk(3)
    uz, ui = encoder.weight_hidden.chunk(2)
    bz, bi = encoder.bias.chunk(2)
    s, states = torch.zeros(encoder.dim), []
    for item in row:
        u = encoder.items.weight[item]
        z, i = torch.sigmoid(uz @ s + wz @ u + bz), torch.sigmoid(ui @ s + wi @ u + bi)
        s = z * torch.tanh(s) + i * torch.tanh(w @ u)
        states.append(s)
    return torch.stack(states)


def test_equals_the_formulas_of_the_paper() -> None:
    encoder = CFN(catalog(20), dim=8, seed=4)
    with torch.no_grad():
        encoder.bias.uniform_(-1.0, 1.0, generator=torch.Generator().manual_seed(1))
    rows = [[3, 1, 4, 1, 5], [9, 2], [], [6]]
    states = encoder.states(history(rows))
    for at, row in enumerate(rows):
        if row:
            torch.testing.assert_close(states[at, 6 - len(row) :], by_the_paper(encoder, row))


def test_settles_when_nothing_comes_in() -> None:
    """Input vectors of zero: the state shrinks at every click, however large the weights."""
    encoder = CFN(catalog(20), dim=8, seed=4)
    with torch.no_grad():
        encoder.weight_hidden.mul_(50.0)
        encoder.items.weight[2:] = 0.0
    norms = encoder.states(history([[1, 2, 2, 2, 2, 2]]))[0].norm(dim=1)
    assert (norms[1:] < norms[:-1]).all()


def test_reads_at_most_length_clicks_of_the_running_session() -> None:
    encoder = CFN(catalog(20), dim=8, length=3)
    torch.testing.assert_close(encoder(history([[9, 9, 1, 2, 3]])), encoder(history([[1, 2, 3]])))
    torch.testing.assert_close(encoder(history([[9, 2, 3]], in_session=[2])), encoder(history([[2, 3]])))
    user = CFN(catalog(20), dim=8, scope="user")
    assert not torch.allclose(user(history([[9, 2, 3]], in_session=[2])), user(history([[2, 3]])))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="dropout_embed"):
        CFN(catalog(3), dropout_embed=1.0)
    with pytest.raises(ValueError, match="length"):
        CFN(catalog(3), length=0)
