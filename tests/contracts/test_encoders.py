"""What every encoder must do. Encoders are found by walking `streamrec/encoders`; nothing has to be registered."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator

from streamrec import encoders
from streamrec.catalog import Catalog
from tests.histories import catalog, history

MODULES = [importlib.import_module(f"{encoders.__name__}.{m.name}") for m in pkgutil.iter_modules(encoders.__path__)]
ENCODERS = [
    cls
    for module in MODULES
    for name, cls in vars(module).items()
    if inspect.isclass(cls)
    and cls.__module__ == module.__name__
    and not name.startswith("_")
    and "catalog" in inspect.signature(cls).parameters
]
ROWS = [[3, 1, 4, 1, 5], [9, 2], [], [6], [5, 3, 5, 8, 9, 7]]

Make = Callable[..., Any]


@pytest.fixture(params=ENCODERS, ids=lambda cls: cls.__name__)
def make(request: pytest.FixtureRequest) -> Make:
    def build(seed: int = 0, of: Catalog | None = None) -> Any:
        return request.param(of or catalog(20), dim=8, seed=seed)

    return build


def test_every_file_holds_an_encoder() -> None:
    assert {cls.__module__ for cls in ENCODERS} == {module.__name__ for module in MODULES}


def test_one_vector_per_user_and_zero_without_clicks(make: Make) -> None:
    encoder = make()
    out = encoder(history(ROWS))
    assert out.shape == (5, encoder.dim)
    assert out.isfinite().all()
    assert (out[2] == 0).all()
    assert out[[0, 1, 3, 4]].abs().sum(1).gt(0).all()


def test_no_rows_and_no_clicks_at_all_are_fine(make: Make) -> None:
    encoder = make()
    assert encoder(history([])).shape == (0, encoder.dim)
    assert (encoder(history([[], []])) == 0).all()
    assert encoder.states(history([[], []])).shape == (2, 6, encoder.dim)


def test_batch_equals_single(make: Make) -> None:
    encoder = make()
    every = history(ROWS)
    alone = torch.cat([encoder(every[at : at + 1]) for at in range(len(ROWS))])
    torch.testing.assert_close(encoder(every), alone)


def test_padding_has_no_influence(make: Make) -> None:
    encoder = make()
    torch.testing.assert_close(encoder(history(ROWS, length=6)), encoder(history(ROWS, length=40)))


def test_order_of_the_rows_has_no_influence(make: Make) -> None:
    encoder = make()
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(encoder(history(ROWS)[order]), encoder(history(ROWS))[order])


def test_order_of_the_clicks_matters(make: Make) -> None:
    encoder = make()
    assert not torch.allclose(encoder(history([[1, 2, 3]])), encoder(history([[3, 2, 1]])))


def test_states_end_in_the_vector_and_do_not_look_ahead(make: Make) -> None:
    encoder = make()
    states = encoder.states(history(ROWS))
    torch.testing.assert_close(states[:, -1], encoder(history(ROWS)))
    assert (states[1, :4] == 0).all()
    other = encoder.states(history([[*row[:-1], 11] if row else [] for row in ROWS]))
    torch.testing.assert_close(states[:, :-1], other[:, :-1])
    assert not torch.allclose(states[:, -1], other[:, -1])


def test_only_the_columns_it_reads_matter(make: Make) -> None:
    encoder = make()
    plain = history(ROWS)
    unread = {name: column + 1 for name, column in plain.columns() if name not in encoder.reads}
    assert torch.equal(encoder(plain), encoder(replace(plain, **unread)))


def test_start_is_set_by_the_seed_alone(make: Make) -> None:
    one, torch_state = make(seed=1), torch.get_rng_state()
    again, other = make(seed=1), make(seed=2)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.equal(one(history(ROWS)), again(history(ROWS)))
    assert not torch.equal(one(history(ROWS)), other(history(ROWS)))


def test_dropout_draws_from_the_given_generator_only(make: Make) -> None:
    encoder, torch_state = make(), torch.get_rng_state()
    one = encoder(history(ROWS), Generator().manual_seed(5))
    assert torch.equal(one, encoder(history(ROWS), Generator().manual_seed(5)))
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_table_covers_the_capacity_and_trains_by_rows(make: Make) -> None:
    encoder = make(of=catalog(20, capacity=33))
    table = encoder.items.weight
    assert table.shape == (34, encoder.dim)
    assert (table[0] == 0).all()
    assert table[1:].abs().sum(1).gt(0).all(), "a new item must not start at zero"
    encoder(history(ROWS)).sum().backward()
    assert table.grad.is_sparse
    assert set(table.grad.coalesce().indices()[0].tolist()) == {row for rows in ROWS for row in rows}


def test_every_parameter_learns(make: Make) -> None:
    encoder = make()
    encoder(history(ROWS)).square().sum().backward()
    still = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.to_dense().abs().sum() > 0]
    assert still == []
