"""What every supervised model must do. Models are found by walking `streamrec/models`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from streamrec import checkpoint, models
from streamrec.catalog import Catalog
from streamrec.encoders.bert4rec import BERT4Rec
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.models.blend import Blend
from streamrec.models.cloze import Cloze
from streamrec.models.next_item import NextItem
from streamrec.models.vsknn import VSKNN
from streamrec.nn.adagrad import Adagrad
from tests.histories import catalog, history

MODULES = [importlib.import_module(f"{models.__name__}.{m.name}") for m in pkgutil.iter_modules(models.__path__)]
MODELS = [
    cls
    for module in MODULES
    for name, cls in vars(module).items()
    if inspect.isclass(cls)
    and cls.__module__ == module.__name__
    and not name.startswith("_")
    and {"catalog", "model"} & inspect.signature(cls).parameters.keys()
    and hasattr(cls, "score")
]
ROWS = [[3, 1, 4, 1, 5], [9, 2], [], [6], [5, 3, 5, 8, 9, 7]]
TARGET = torch.tensor([9, 6, 5, 3, 5])

Make = Callable[..., Any]


@pytest.fixture(params=MODELS, ids=lambda cls: cls.__name__)
def make(request: pytest.FixtureRequest) -> Make:
    wanted = inspect.signature(request.param).parameters

    def build(of: Catalog, seed: int = 0) -> Any:
        encoder = BERT4Rec(of, dim=8, seed=seed) if request.param is Cloze else GRU4Rec(of, 8, 1, 0.0, 0.2, seed=seed)
        possible = {"encoder": encoder, "catalog": of, "seed": seed}
        if request.param is Blend:
            possible = {"model": NextItem(encoder, of, seed=seed), "neighbours": VSKNN(of), "weight": 0.1}
        return request.param(**{name: value for name, value in possible.items() if name in wanted})

    return build


def train(model: Any, steps: int) -> list[float]:
    """Losses of some steps; none of a model that only counts."""
    if hasattr(model, "observe"):
        model.observe(history(ROWS), TARGET)
    if not hasattr(model, "loss"):
        return []
    optimiser = Adagrad(model.named_parameters(), learning_rate=0.05)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = model.loss(history(ROWS), TARGET)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def test_every_file_holds_a_model() -> None:
    assert {cls.__module__ for cls in MODELS} == {module.__name__ for module in MODULES}


def test_scores_cover_the_rows_in_use(make: Make) -> None:
    model = make(catalog(20))
    scores = model.score(history(ROWS))
    assert scores.shape == (5, 21)
    assert scores.isfinite().all()
    assert model.score(history([])).shape == (0, 21)


def test_scores_of_candidates_are_those_of_the_catalogue(make: Make) -> None:
    model = make(catalog(20))
    train(model, 3)
    items = torch.randint(1, 21, (5, 7), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.score(history(ROWS), items), model.score(history(ROWS)).gather(1, items))


def test_scoring_changes_nothing(make: Make) -> None:
    model = make(catalog(20))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = model.score(history(ROWS))
    assert torch.equal(first, model.score(history(ROWS)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_loss_is_a_number_that_training_brings_down(make: Make) -> None:
    model = make(catalog(20))
    losses = train(model, 100)
    if not losses:
        pytest.skip("has no loss")
    assert all(loss == loss and abs(loss) < float("inf") for loss in losses)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    best = model.score(history(ROWS))[:, 1:].argmax(1) + 1
    assert torch.equal(best, TARGET)


def test_growth_keeps_the_scores_of_old_items(make: Make) -> None:
    grown = catalog(20, capacity=500)
    model = make(grown)
    train(model, 3)
    before = model.score(history(ROWS))
    grown.see(grown.rows([f"new{i}" for i in range(300)]))
    after = model.score(history(ROWS))
    assert after.shape == (5, 321)
    assert torch.equal(after[:, :21], before)
    assert after.isfinite().all()


def test_saved_and_restored_goes_on_as_if_never_stopped(make: Make, tmp_path: Path) -> None:
    model = make(catalog(20))
    train(model, 3)
    checkpoint.save(tmp_path, {"model": dict(model.state_dict())}, 1)
    other = make(catalog(20), seed=9)
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    other.load_state_dict(loaded[0]["model"])
    assert torch.equal(model.score(history(ROWS)), other.score(history(ROWS)))
    assert train(model, 3) == train(other, 3)
    assert torch.equal(model.score(history(ROWS)), other.score(history(ROWS)))


def test_what_it_reads_are_columns_of_a_history(make: Make) -> None:
    assert set(make(catalog(20)).reads) <= {name for name, _ in history(ROWS).columns()}
