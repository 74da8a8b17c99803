"""Packed attention against loops, one row and one click after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from streamrec.nn import attention
from streamrec.nn.attention import attend, pack
from tests.histories import history

ROWS = [[9, 2], [3, 1, 4, 1, 5], [], [6], [5, 3, 5, 8, 9, 7]]


@pytest.fixture(params=[1, 40, 2**20], ids=lambda n: f"{n} weights at once")
def groups(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(attention.WEIGHTS_AT_ONCE, "cpu", request.param)


def by_loops(x: Tensor, lengths: list[int], heads: int, causal: bool) -> Tensor:
    out, start, dim = [], 0, x.shape[1] // 3
    for length in lengths:
        row = x[start : start + length]
        start += length
        for t in range(length):
            seen = row[: t + 1] if causal else row
            parts = []
            for head in range(heads):
                cut = slice(head * dim // heads, (head + 1) * dim // heads)
                query, keys, values = row[t, :dim][cut], seen[:, dim : 2 * dim][:, cut], seen[:, 2 * dim :][:, cut]
                parts.append(torch.softmax(keys @ query / (dim // heads) ** 0.5, 0) @ values)
            out.append(torch.cat(parts))
    return torch.stack(out)


def test_clicks_lie_row_after_row_longest_first() -> None:
    windows = history([[9, 2], [3, 1, 4], []], length=4)
    packed = pack(windows, "user", None)
    assert windows.items.flatten()[packed.token].tolist() == [3, 1, 4, 9, 2]
    assert packed.age.tolist() == [2, 1, 0, 1, 0]
    assert packed.newest.tolist() == [4, 2, 5]


def test_scope_and_length_choose_what_is_packed() -> None:
    windows = history([[9, 2, 7], [3, 1, 4]], in_session=[1, 3])
    assert windows.items.flatten()[pack(windows, "session", 2).token].tolist() == [1, 4, 7]


@pytest.mark.usefixtures("groups")
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_its_formula(heads: int, causal: bool) -> None:
    packed = pack(history(ROWS), "user", None)
    x = torch.randn(14, 3 * 4, generator=Generator().manual_seed(0), dtype=torch.double).requires_grad_()
    expected = by_loops(x, [6, 5, 2, 1], heads, causal)
    mine = attend(x, packed, heads, causal, 0.0, None)
    torch.testing.assert_close(mine, expected)
    slopes = [torch.autograd.grad(y.square().sum(), x)[0] for y in (mine, expected)]
    torch.testing.assert_close(*slopes)


@pytest.mark.usefixtures("groups")
@pytest.mark.parametrize("causal", [False, True])
def test_dropping_almost_nothing_is_no_dropout(causal: bool) -> None:
    # p = 1e-6 rounds to no weight at all, but takes the way of dropout.
    packed = pack(history(ROWS), "user", None)
    x = torch.randn(14, 3 * 4, generator=Generator().manual_seed(0))
    dropped = attend(x, packed, 2, causal, 1e-6, Generator().manual_seed(1))
    torch.testing.assert_close(dropped, attend(x, packed, 2, causal, 0.0, None))


def test_a_share_p_of_the_weights_is_dropped_and_the_others_are_scaled() -> None:
    # Queries and keys of zero spread evenly over what is seen; one-hot values show the weights themselves.
    n = 200
    packed = pack(history([[1] * n], length=n), "user", None)
    x = torch.cat([torch.zeros(n, 2 * n), torch.eye(n)], dim=1)
    state = torch.get_rng_state()
    weights = attend(x, packed, 1, True, 0.3, Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)
    seen = torch.ones(n, n, dtype=torch.bool).tril()
    assert (weights[~seen] == 0).all()
    kept = weights[seen] > 0
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.015)  # 20,100 draws: 4.6 standard errors
    even = (1.0 / torch.arange(1, n + 1)).unsqueeze(1).expand(n, n)
    torch.testing.assert_close(weights[seen][kept], even[seen][kept] / 0.7)


def test_nothing_to_attend_to() -> None:
    packed = pack(history([[], []]), "user", None)
    assert attend(torch.zeros(0, 12), packed, 1, True, 0.0, None).shape == (0, 4)
