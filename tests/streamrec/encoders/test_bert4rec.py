"""BERT4Rec against a plain evaluation of its formulas, and what it may and may not see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from streamrec.encoders.bert4rec import BERT4Rec
from tests.histories import catalog, history


def norm(x: Tensor, layer: Any) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias)


def dense(x: Tensor, layer: Any) -> Tensor:
    out: Tensor = x @ layer.weight.T + layer.bias
    return out


def by_the_paper(encoder: BERT4Rec, row: list[int | None]) -> Tensor:
    """One user, None = hidden: loops where the encoder has tensors."""
    n, dim = len(row), encoder.dim
    vectors = torch.stack([encoder.mask if item is None else encoder.items.weight[item] for item in row])
    x = norm(vectors + encoder.positions[torch.arange(n - 1, -1, -1)], encoder.norm)
    blocks: Any = encoder.blocks
    for block in blocks:
        q, k, v = dense(x, block.queries_keys_values).chunk(3, dim=1)
        wide = dim // block.heads
        cuts = [slice(head * wide, (head + 1) * wide) for head in range(block.heads)]
        heads = [torch.softmax(q[:, c] @ k[:, c].T / wide**0.5, dim=1) @ v[:, c] for c in cuts]
        x = norm(x + dense(torch.cat(heads, dim=1), block.mixed), block.norm_attention)
        x = norm(x + dense(F.gelu(dense(x, block.inner)), block.outer), block.norm_forward)
    return norm(F.gelu(dense(x, encoder.out)), encoder.norm_out)


@pytest.mark.parametrize("heads", [1, 2])
def test_predicts_at_a_mask_behind_the_newest_click(heads: int) -> None:
    encoder = BERT4Rec(catalog(20), dim=8, heads=heads, seed=4)
    rows = [[3, 1, 4, 1, 5], [9, 2], [6]]
    out = encoder(history(rows))
    for at, row in enumerate(rows):
        torch.testing.assert_close(out[at], by_the_paper(encoder, [*row, None])[-1])


def test_fills_in_what_is_hidden() -> None:
    encoder = BERT4Rec(catalog(20), dim=8, seed=4)
    windows = history([[3, 1, 4, 1, 5], [9, 2], []])
    hidden = torch.zeros(3, 6, dtype=torch.bool)
    hidden[0, 2] = hidden[0, 4] = hidden[1, 5] = hidden[2, 5] = True
    outputs, place = encoder.fill(windows, hidden)
    assert place.tolist() == [2, 4, 11], "the empty row has nothing to fill in"
    long = by_the_paper(encoder, [3, None, 4, None, 5])
    torch.testing.assert_close(outputs, torch.stack([long[1], long[3], by_the_paper(encoder, [9, None])[1]]))


def test_what_is_hidden_does_not_leak_and_both_sides_are_seen() -> None:
    encoder = BERT4Rec(catalog(20), dim=8)
    hidden = torch.zeros(1, 6, dtype=torch.bool)
    hidden[0, 3] = True

    def at_the_gap(row: list[int]) -> Tensor:
        return encoder.fill(history([row]), hidden)[0]

    plain = at_the_gap([1, 2, 3, 4, 5, 6])
    assert torch.equal(plain, at_the_gap([1, 2, 3, 17, 5, 6]))
    assert not torch.allclose(plain, at_the_gap([1, 2, 17, 4, 5, 6]))
    assert not torch.allclose(plain, at_the_gap([1, 2, 3, 4, 5, 17]))


def test_hidden_items_get_no_gradient_as_inputs() -> None:
    encoder = BERT4Rec(catalog(20), dim=8)
    hidden = torch.tensor([[False, False, False, False, True, False]])
    torch.autograd.backward(encoder.fill(history([[1, 2, 3, 4, 5, 6]]), hidden)[0].square().sum())
    gradient = encoder.items.weight.grad
    assert gradient is not None
    assert 5 not in gradient.to_dense().abs().sum(1).nonzero().flatten().tolist()


def test_reads_one_click_less_than_its_places() -> None:
    encoder = BERT4Rec(catalog(20), dim=8, length=4)
    torch.testing.assert_close(encoder(history([[9, 9, 1, 2, 3]])), encoder(history([[1, 2, 3]])))
    assert not torch.allclose(encoder(history([[9, 1, 2]])), encoder(history([[1, 2]])))


def test_scope_session_reads_the_running_session_only() -> None:
    encoder = BERT4Rec(catalog(20), dim=8, scope="session")
    torch.testing.assert_close(
        encoder(history([[7, 8, 1, 2]], in_session=[2])), encoder(history([[1, 2]], in_session=[2]))
    )
    assert (encoder(history([[7, 8]], in_session=[0])) == 0).all()


def test_states_are_the_vectors_of_the_prefixes() -> None:
    encoder = BERT4Rec(catalog(20), dim=8, scope="session")
    windows = history([[7, 3, 1, 4], [9, 2], []], in_session=[3, 2, 0])
    states = encoder.states(windows)
    prefixes = encoder(history([[3], [3, 1], [3, 1, 4], [9], [9, 2]]))
    torch.testing.assert_close(states[0, 3:], prefixes[:3])
    torch.testing.assert_close(states[1, 4:], prefixes[3:])
    assert (states[0, :3] == 0).all()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"blocks": 0}, "blocks=0"),
        ({"heads": 3, "dim": 8}, "heads=3"),
        ({"dropout": 1.0}, "dropout"),
        ({"length": 1}, "length"),
        ({"scope": "week"}, "week"),
    ],
)
def test_settings_out_of_range_are_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BERT4Rec(catalog(20), **setting)
