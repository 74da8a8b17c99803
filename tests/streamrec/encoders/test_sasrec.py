"""SASRec against a plain evaluation of the paper's formulas for one user. The shared properties: tests/contracts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from streamrec.encoders.sasrec import SASRec
from tests.histories import catalog, history


def by_the_paper(encoder: SASRec, row: list[int]) -> Tensor:
    """One user, position by position: loops where the encoder has tensors."""
    n, dim = len(row), encoder.dim
    places = torch.arange(n - 1, -1, -1)
    x = encoder.items.weight[torch.tensor(row)] * dim**0.5 + encoder.positions[places]
    for block in encoder.blocks:
        normed = F.layer_norm(x, (dim,), block.norm_attention.weight, block.norm_attention.bias)
        q, k, v = (normed @ part.T for part in block.queries_keys_values.chunk(3))
        wide = dim // block.heads
        attended = torch.zeros_like(x)
        for head in range(block.heads):
            cut = slice(head * wide, (head + 1) * wide)
            for t in range(n):
                weights = torch.softmax(q[t, cut] @ k[: t + 1, cut].T / wide**0.5, dim=0)
                attended[t, cut] = weights @ v[: t + 1, cut]
        x = x + attended
        normed = F.layer_norm(x, (dim,), block.norm_forward.weight, block.norm_forward.bias)
        x = x + torch.relu(normed @ block.inner.T + block.inner_bias) @ block.outer.T + block.outer_bias
    return F.layer_norm(x, (dim,), encoder.norm.weight, encoder.norm.bias)


@pytest.mark.parametrize("heads", [1, 2])
def test_equals_the_formulas_of_the_paper(heads: int) -> None:
    encoder = SASRec(catalog(20), dim=8, heads=heads, seed=4)
    rows = [[3, 1, 4, 1, 5], [9, 2], [], [6]]
    states = encoder.states(history(rows))
    for at, row in enumerate(rows):
        if row:
            torch.testing.assert_close(states[at, 6 - len(row) :], by_the_paper(encoder, row))


def test_reads_at_most_length_clicks() -> None:
    encoder = SASRec(catalog(20), dim=8, length=3)
    torch.testing.assert_close(encoder(history([[9, 9, 1, 2, 3]])), encoder(history([[1, 2, 3]])))


def test_scope_session_reads_the_running_session_only() -> None:
    encoder = SASRec(catalog(20), dim=8, scope="session")
    torch.testing.assert_close(
        encoder(history([[7, 8, 1, 2]], in_session=[2])), encoder(history([[1, 2]], in_session=[2]))
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"blocks": 0}, "blocks=0"),
        ({"heads": 3, "dim": 8}, "heads=3"),
        ({"dropout": 1.0}, "dropout"),
        ({"length": 0}, "length"),
    ],
)
def test_settings_out_of_range_are_named(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SASRec(catalog(20), **setting)
