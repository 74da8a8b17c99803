"""Blend: the sum of both scores on one scale, learning of each part where it belongs, and a blend beating its parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from agents.supervised import Supervised
from streamrec.catalog import Catalog
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.models.blend import Blend
from streamrec.models.next_item import NextItem
from streamrec.models.vsknn import VSKNN
from streamrec.records import History
from tests.histories import catalog, clicked, history

ROWS = [[3, 1, 4], [9, 2], [], [6]]


def made(weight: float = 0.3, temperature: float = 1.0) -> Blend:
    items = catalog(12)
    model = NextItem(GRU4Rec(items, 8, seed=1), items)
    near = VSKNN(items, 5, 5)
    near.append(torch.tensor([1, 4, 2, 7, 6, 4, 9]), torch.tensor([0, 2, 5, 7]))
    return Blend(model, near, weight, temperature)


def test_scores_are_shares_of_the_whole_of_each_part() -> None:
    blend = made(0.3, temperature=2.0)
    blend.model.popularity.count(torch.tensor([1, 2, 3, 7, 7, 9]))
    network, near = blend.model.score(history(ROWS)), blend.neighbours.score(history(ROWS))
    odds = (network / 2.0).exp()
    total = near.sum(1, keepdim=True)
    expected = 0.7 * odds / odds[:, [1, 2, 3, 7, 9]].sum(1, keepdim=True)
    expected += 0.3 * torch.where(total > 0, near / total, 0.0)
    torch.testing.assert_close(blend.score(history(ROWS)), expected)
    assert (total[[1, 2]].squeeze(1) > 0).tolist() == [True, False]


def test_large_scores_of_the_network_are_no_obstacle() -> None:
    blend = made(0.3)
    blend.model.popularity.count(torch.tensor([4, 5]))
    with torch.no_grad():
        blend.model.bias[4:6] += 500.0
    scores = blend.score(history([[]]))[0]
    assert scores[4:6].sum() == pytest.approx(0.7)
    assert scores[[1, 9]].max() < 1e-30


def test_the_ends_of_the_weight_are_the_parts() -> None:
    for weight in (0.0, 1.0):
        blend = made(weight)
        part = blend.neighbours if weight else blend.model
        order = part.score(history(ROWS[:2])).argsort(dim=1, descending=True, stable=True)
        assert torch.equal(blend.score(history(ROWS[:2])).argsort(dim=1, descending=True, stable=True), order)


def test_the_loss_trains_the_network_and_observing_the_neighbours() -> None:
    blend = made()
    held = blend.neighbours.index.begun
    blend.loss(history(ROWS), torch.tensor([1, 2, 3, 4])).backward()
    assert {name.split(".")[0] for name, _ in blend.named_parameters()} == {"model"}
    assert blend.model.encoder.items.weight.grad is not None
    assert blend.neighbours.index.begun == held
    blend.observe(history(ROWS), torch.tensor([1, 2, 3, 4]))
    assert blend.neighbours.index.begun == held + 3
    assert set(blend.reads) == {"items", "in_session"}


def test_an_agent_trains_and_saves_it_as_any_model() -> None:
    items = catalog(12)

    def agent(seed: int) -> Supervised:
        model = NextItem(GRU4Rec(items, 8, seed=seed), items, seed=seed)
        return Supervised(Blend(model, VSKNN(items)), items, slate=3, batch=4, memory=16)

    one, other = agent(1), agent(2)
    for each in (one, one):
        each.observe(clicked(history(ROWS), torch.tensor([1, 2, 3, 4])))
        assert "loss" in each.update()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.act(history(ROWS)).slate, other.act(history(ROWS)).slate)
    assert (one.act(history(ROWS)).slate > 0).all()


def test_parts_that_know_different_things_are_better_together() -> None:
    """Half of the sessions follow a rule that the network has learned, half repeat what another session did today."""
    items = catalog(40, capacity=64)
    blend = Blend(Rule(items), VSKNN(items, 20, 20), 0.5)
    today = torch.randperm(20, generator=torch.Generator().manual_seed(0)).view(10, 2) + 21
    blend.append(today.flatten(), torch.arange(0, 21, 2))
    known = torch.arange(1, 20)
    asked = history([[i] for i in known.tolist()] + [[i] for i in today[:, 0].tolist()])
    target = torch.cat([known + 1, today[:, 1]])
    hits = {
        name: float((second(scores, asked.items[:, -1].long()) == target).float().mean())
        for name, scores in (
            ("blend", blend.score(asked)),
            ("network", blend.model.score(asked)),
            ("neighbours", blend.neighbours.score(asked)),
        )
    }
    assert hits["blend"] == 1.0
    assert max(hits["network"], hits["neighbours"]) < 0.7


class Rule(NextItem):
    """Says i + 1 after i, for i up to 20, and is not sure of anything else."""

    def __init__(self, items: Catalog) -> None:
        super().__init__(GRU4Rec(items, 2), items)

    def score(self, history: History, items: Tensor | None = None) -> Tensor:
        last = history.items[:, -1].long()
        return 3.0 * one_hot(torch.where(last <= 20, last + 1, 0), self.catalog.size).float()


def second(scores: Tensor, last: Tensor) -> Tensor:
    """The best item that is not the last one clicked."""
    return scores.scatter(1, last.unsqueeze(1), -1.0)[:, 1:].argmax(1) + 1


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="weight must be"):
        made(1.5)
    with pytest.raises(ValueError, match="temperature must be"):
        made(0.5, 0.0)
