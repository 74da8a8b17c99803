"""The recurrence: forward against torch's GRU over packed rows, backward against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from streamrec.nn.recurrence import gru

SIZES = [4, 3, 3, 1, 1]
TOKENS = sum(SIZES)


def test_states_and_gradients_equal_torch_gru() -> None:
    torch.manual_seed(0)
    reference = nn.GRU(6, 5).double()
    x = torch.randn(TOKENS, 6, dtype=torch.double)
    into, ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.randn(TOKENS, 5, dtype=torch.double)
    expected = reference(PackedSequence(into, torch.tensor(SIZES)))[0].data
    (expected * weights).sum().backward()
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    mine = [getattr(reference, name).detach().clone().requires_grad_() for name in names]
    states = gru(nn.functional.linear(ours, mine[0], mine[2]), mine[1], mine[3], SIZES)
    (states * weights).sum().backward()
    torch.testing.assert_close(states, expected)
    torch.testing.assert_close(ours.grad, into.grad)
    for name, value in zip(names, mine, strict=True):
        torch.testing.assert_close(value.grad, getattr(reference, name).grad)


@pytest.mark.parametrize("dropped", [False, True])
def test_gradient_equals_finite_differences(dropped: bool) -> None:
    torch.manual_seed(1)
    keep = (torch.rand(TOKENS, 3) > 0.4).double() / 0.6 if dropped else None
    inputs = [torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in ((TOKENS, 9), (9, 3), (9,))]
    assert torch.autograd.gradcheck(lambda g, w, b: gru(g, w, b, SIZES, keep), inputs)


def test_rows_that_start_anew_forget_what_was_before() -> None:
    torch.manual_seed(2)
    weight = torch.randn(9, 3, dtype=torch.double, requires_grad=True)
    bias = torch.randn(9, dtype=torch.double, requires_grad=True)
    gates = torch.randn(8, 9, dtype=torch.double, requires_grad=True)
    start = torch.randn(2, 3, dtype=torch.double)
    goes_on = torch.tensor([1, 0, 1, 1, 0, 1, 1, 1], dtype=torch.double).unsqueeze(
        1
    )  # row 1 at step 0, row 0 at step 2
    assert torch.autograd.gradcheck(lambda g, w, b: gru(g, w, b, [2] * 4, None, start, goes_on), [gates, weight, bias])
    states = gru(gates, weight, bias, [2] * 4, None, start, goes_on).view(4, 2, 3)
    rows = gates.view(4, 2, 9)
    first = gru(rows[:2, 0], weight, bias, [1, 1], None, start[:1])
    torch.testing.assert_close(states[:2, 0], first)
    torch.testing.assert_close(states[2:, 0], gru(rows[2:, 0], weight, bias, [1, 1]))
    torch.testing.assert_close(states[:, 1], gru(rows[:, 1], weight, bias, [1] * 4))


def test_no_tokens_at_all() -> None:
    assert gru(torch.zeros(0, 9), torch.zeros(9, 3), torch.zeros(9), []).shape == (0, 3)
