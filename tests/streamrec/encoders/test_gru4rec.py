"""GRU4Rec against torch's own GRU, its start, and its two dropouts. The shared properties: tests/contracts."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, nn

from streamrec.encoders import gru4rec
from streamrec.encoders.gru4rec import GRU4Rec
from tests.histories import catalog, history

ROWS = [[3, 1, 4, 1, 5], [9, 2], [], [6], [5, 3, 5, 8, 9, 7]]


@pytest.mark.parametrize("layers", [1, 2])
def test_equals_torch_gru(layers: int) -> None:
    encoder = GRU4Rec(catalog(20), dim=8, layers=layers, seed=3)
    reference = nn.GRU(8, 8, layers, batch_first=True)
    with torch.no_grad():
        for at, layer in enumerate(encoder.layers):
            layer.bias_input.normal_()
            layer.bias_hidden.normal_()
            getattr(reference, f"weight_ih_l{at}").copy_(layer.weight_input)
            getattr(reference, f"weight_hh_l{at}").copy_(layer.weight_hidden)
            getattr(reference, f"bias_ih_l{at}").copy_(layer.bias_input)
            getattr(reference, f"bias_hh_l{at}").copy_(layer.bias_hidden)
    out = encoder(history(ROWS))
    for at, row in enumerate(ROWS):
        if row:
            expected = reference(encoder.items.weight[torch.tensor([row])])[0][0, -1]
            torch.testing.assert_close(out[at], expected)


@pytest.mark.parametrize("rows", [1, gru4rec.FEW, gru4rec.FEW + 1])
def test_a_few_rows_and_many_take_different_ways_to_the_same_states(rows: int) -> None:
    encoder = GRU4Rec(catalog(20), dim=8, layers=2, seed=3)
    with torch.no_grad():
        for weights in encoder.parameters():
            weights.add_(torch.randn(weights.shape, generator=Generator().manual_seed(1)) / 10)
    some = history([ROWS[at % len(ROWS)] for at in range(rows)])
    learned = encoder(some)
    with torch.no_grad():
        torch.testing.assert_close(encoder(some), learned)


def test_start_is_uniform_per_gate() -> None:
    encoder = GRU4Rec(catalog(20), dim=50)
    bound = (6 / 100) ** 0.5
    for weights in (encoder.layers[0].weight_input, encoder.layers[0].weight_hidden):
        assert weights.abs().max() <= bound
        assert weights.abs().max() > 0.99 * bound
        assert weights.var().item() == pytest.approx(bound**2 / 3, rel=0.05)
    assert (encoder.layers[0].bias_input == 0).all()
    assert encoder.items.weight.abs().max() <= (6 / (65 + 50)) ** 0.5


def test_scope_session_reads_the_running_session_only() -> None:
    encoder = GRU4Rec(catalog(20), dim=8)
    running = encoder(history([[7, 8, 1, 2], [7, 8, 1, 2]], in_session=[2, 0]))
    torch.testing.assert_close(running[:1], encoder(history([[1, 2]])))
    assert (running[1] == 0).all()
    whole = GRU4Rec(catalog(20), dim=8, scope="user")
    torch.testing.assert_close(
        whole(history([[7, 8, 1, 2]], in_session=[2])), encoder(history([[7, 8, 1, 2]], in_session=[9]))
    )


def test_length_reads_the_newest_only() -> None:
    encoder = GRU4Rec(catalog(20), dim=8, length=2)
    torch.testing.assert_close(encoder(history([[5, 6, 7, 8]])), encoder(history([[7, 8]])))


def test_dropped_state_is_carried_to_the_next_click() -> None:
    # With a state dropped almost surely, each click starts from zero again: only the last one is left.
    encoder = GRU4Rec(catalog(20), dim=8, dropout_hidden=0.999999)
    states = encoder.states(history([[1, 2, 3]]), Generator().manual_seed(0))
    assert (states == 0).all()
    alone = GRU4Rec(catalog(20), dim=64, dropout_hidden=0.5)
    states = alone.states(history([[1, 2, 3]]), Generator().manual_seed(0))[0, -3:]
    share = (states == 0).float().mean(1)
    assert ((share > 0.3) & (share < 0.7)).all()


def test_dropout_keeps_the_mean_of_the_state() -> None:
    encoder = GRU4Rec(catalog(20), dim=8, dropout_hidden=0.3, seed=1)
    many = history([[4]] * 20_000)
    mean = encoder(many, Generator().manual_seed(0)).mean(0)
    torch.testing.assert_close(mean, encoder(many[:1])[0], atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"dim": 0}, "dim=0"),
        ({"layers": 0}, "layers=0"),
        ({"dropout_embed": 1.0}, "dropout_embed"),
        ({"dropout_hidden": -0.1}, "dropout_hidden"),
        ({"length": 0}, "length"),
        ({"scope": "week"}, "'week'"),
    ],
)
def test_settings_out_of_range_are_named(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GRU4Rec(catalog(20), **setting)
