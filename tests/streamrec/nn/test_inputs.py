"""What networks read: an encoder's vectors beside the numbers of the world, either half alone, and neither."""

from __future__ import annotations

import copy

import pytest
import torch

from streamrec.catalog import Catalog
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.nn.inputs import Inputs
from streamrec.records import History
from streamrec.sessions import SessionStore
from tests.histories import catalog, history


def world(context: int, features: int) -> tuple[Catalog, SessionStore]:
    items, sessions = catalog(5), SessionStore(users=8, length=6, skips=4, slate=2)
    if features:
        items.reserve(features)
        items.describe(torch.arange(1, 6), features=torch.arange(5.0 * features).view(5, features))
    sessions.reserve(context=context)
    return items, sessions


def asked(context: int) -> History:
    made = history([[1, 2], [3]])
    made.context = torch.arange(2.0 * context).view(2, context)
    return made


def test_states_and_items_are_the_encoders_vectors_and_then_the_numbers_of_the_world() -> None:
    items, sessions = world(3, 2)
    encoder = GRU4Rec(items, dim=4)
    inputs, before, rows = Inputs(items, sessions, encoder), asked(3), torch.tensor([[5, 0], [1, 2]])
    state, vectors = inputs.state(before), inputs.items(rows)
    assert (inputs.state_dim, inputs.item_dim) == (7, 6)
    assert torch.equal(state[:, :4], encoder(before))
    assert state[:, 4:].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert torch.equal(vectors[..., :4], encoder.items(rows))
    assert vectors[..., 4:].tolist() == [[[8, 9], [0, 0]], [[0, 1], [2, 3]]]
    assert {"items", "in_session", "context", "offer"} == set(inputs.reads)


def test_without_an_encoder_the_world_has_to_say_something_of_both() -> None:
    items, sessions = world(3, 2)
    inputs = Inputs(items, sessions)
    assert inputs.state(asked(3)).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert inputs.items(torch.tensor([2])).tolist() == [[2, 3]]
    assert "items" not in inputs.reads
    assert list(inputs.parameters()) == []
    for context, features in ((0, 2), (3, 0)):
        with pytest.raises(ValueError, match=f"gives {context} numbers per request and {features} per item"):
            Inputs(*world(context, features))


def test_a_copy_shares_the_catalogue_and_nothing_else() -> None:
    items, sessions = world(1, 1)
    inputs = Inputs(items, sessions, GRU4Rec(items, dim=4))
    twin = copy.deepcopy(inputs, {id(items): items})
    items.describe(torch.tensor([4]), features=torch.tensor([[9.0]]))
    assert twin.items(torch.tensor([4]))[0, 4] == 9.0
    with torch.no_grad():
        for weight in inputs.parameters():
            weight.zero_()
    assert float(twin.state(asked(1)).detach()[:, :4].abs().sum()) > 0.0
