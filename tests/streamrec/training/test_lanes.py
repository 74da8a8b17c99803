"""Session-parallel training: whole runs against a plain implementation of its definition, and the schedule of lanes.

The plain implementation makes every column of the score matrix on its own, has dense tables and torch's own autograd:
it would differ if states were not reset or reset in the wrong lane, if the gradient were cut elsewhere, if a repeated
item were not summed, if negatives, logQ or the two exponents of the popularity were wrong, if a softmax held the
positive, if the loss were divided by another number, or if momentum came before the scaling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamrec.catalog import Catalog
from streamrec.data.sequences import Sequences
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.encoders.sasrec import SASRec
from streamrec.models.next_item import NextItem
from streamrec.nn.adagrad import Adagrad
from streamrec.training import fused
from streamrec.training.lanes import Lanes, blocks, epoch
from streamrec.training.shared import SharedNegatives
from tests.histories import catalog

ROWS = [[3, 1, 4, 1, 5], [9, 2], [6], [3, 1, 4, 8, 9, 7], [3, 1], [], [3, 2, 9], [9, 2, 2, 7], [5, 4]]
DIM, RATE = 6, 0.1


def walk(rows: list[list[int]], lanes: int) -> list[list[tuple[int, int, int, bool]]]:
    """What each step trains on, click by click: lane, input, target, whether a session begins."""
    waiting = [row for row in rows if len(row) > 1]
    running: list[list[int] | None] = []
    for _ in range(min(lanes, len(waiting))):
        running.append(waiting.pop(0))
    at, out = [0] * len(running), []
    while any(row is not None for row in running):
        step = []
        for lane, row in enumerate(running):
            if row is not None:
                step.append((lane, row[at[lane]], row[at[lane] + 1], at[lane] == 0))
        out.append(step)
        for lane, row in enumerate(running):
            if row is not None:
                at[lane] += 1
                if at[lane] == len(row) - 1:
                    running[lane], at[lane] = (waiting.pop(0) if waiting else None), 0
    return out


@pytest.mark.parametrize("lanes", [1, 2, 3, 50])
def test_sessions_stand_side_by_side_in_their_order(lanes: int) -> None:
    names: list[int] = []  # lane numbers of the walk that are still there
    for block, step in zip(blocks(Sequences.of(ROWS), lanes), walk(ROWS, lanes), strict=True):
        names = names or list(range(block.lanes))
        if block.kept is not None:
            names = [names[at] for at in block.kept.tolist()]
        goes_on = block.goes_on.flatten().tolist()
        found = zip(names, block.inputs.tolist(), block.targets.tolist(), goes_on, strict=True)
        assert [(lane, i, t, not on) for lane, i, t, on in found] == step


@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_every_click_is_trained_on_once(steps: int) -> None:
    pairs = sorted((row[at], row[at + 1]) for row in ROWS for at in range(len(row) - 1))
    found = [
        pair
        for block in blocks(Sequences.of(ROWS), 3, steps)
        for pair in zip(block.inputs.tolist(), block.targets.tolist(), strict=True)
    ]
    assert sorted(found) == pairs
    assert all(len(block.inputs) <= steps * block.lanes for block in blocks(Sequences.of(ROWS), 3, steps))


class Plain:
    """GRU4Rec as its papers and its authors' code define it, without regard to speed."""

    def __init__(self, model: NextItem, rows: list[list[int]], momentum: float) -> None:
        self.model, self.momentum = model, momentum
        encoder = model.encoder
        assert isinstance(encoder, GRU4Rec)
        self.cell = nn.GRUCell(DIM, DIM)
        layer = encoder.layers[0]
        self.weights = {
            "table": encoder.items.weight.detach().clone(),
            "bias": model.bias.detach().view(-1).clone(),
            **{f"cell.{n}": p.detach().clone() for n, p in zip(NAMES, layer_parameters(layer), strict=True)},
        }
        self.acc = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        self.velocity = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        self.support = torch.bincount(torch.tensor([i for row in rows for i in row]), minlength=100).float()
        self.state: dict[int, Tensor] = {}

    def step(self, together: list[list[tuple[int, int, int, bool]]], drawn: list[int], divide: int) -> None:
        """One optimiser step on some steps of the walk."""
        w = {name: value.clone().requires_grad_() for name, value in self.weights.items()}
        state, hidden, targets = dict(self.state), [], []
        for step in together:
            for lane, item, target, began in step:
                before = torch.zeros(DIM) if began else state[lane]
                cell = {name.removeprefix("cell."): value for name, value in w.items() if name.startswith("cell.")}
                after = torch.func.functional_call(self.cell, cell, (w["table"][item][None], before[None]))[0]
                state[lane] = after
                hidden.append(after)
                targets.append(target)
        columns = torch.tensor(targets + drawn)
        scores = torch.stack(hidden) @ w["table"][columns].T + w["bias"][columns]
        loss = self.loss(scores, columns, len(targets)) / divide
        grads = torch.autograd.grad(loss, list(w.values()))
        read = [item for step in together for _, item, _, _ in step]
        self.move(dict(zip(w, grads, strict=True)), set(read), set(columns.tolist()))
        self.state = {lane: value.detach() for lane, value in state.items()}

    def loss(self, scores: Tensor, columns: Tensor, many: int) -> Tensor:
        model, own = self.model, torch.arange(many)
        if model.objective == "cross-entropy":
            mass = self.support[columns]
            correction = torch.cat([mass[:many].log(), model.sample_alpha * mass[many:].log()])
            return F.cross_entropy(scores - model.logq * correction, own, reduction="sum")
        r = F.elu(scores, model.elu_param) if model.objective == "bpr-max" else scores
        negative = 1 - torch.eye(*scores.shape)
        target = torch.diag(r).unsqueeze(1)
        s = torch.exp(r) * negative
        s = s / s.sum(1, keepdim=True)
        mean = negative / negative.sum(1, keepdim=True)
        ranked = torch.sigmoid(r - target) + torch.sigmoid(r**2)
        rows = {
            "bpr-max": -torch.log((s * torch.sigmoid(target - r)).sum(1)) + model.bpreg * (s * r**2).sum(1),
            "top1": (mean * ranked).sum(1),
            "top1-max": (s * ranked).sum(1),
            "bpr": -(mean * torch.log(torch.sigmoid(target - r))).sum(1),
        }
        return rows[model.objective].sum()

    def move(self, grads: dict[str, Tensor], read: set[int], listed: set[int]) -> None:
        for name, grad in grads.items():
            rows = {"table": sorted(read | listed), "bias": sorted(listed)}.get(name, slice(None))
            self.acc[name] += grad**2
            step = -RATE * grad / torch.sqrt(self.acc[name] + 1e-6)
            self.velocity[name][rows] = self.momentum * self.velocity[name][rows] + step[rows]
            self.weights[name][rows] += self.velocity[name][rows]


NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def layer_parameters(layer: Any) -> list[Tensor]:
    return [layer.weight_input, layer.weight_hidden, layer.bias_input, layer.bias_hidden]


def build(of: Catalog, **settings: Any) -> NextItem:
    settings = {"n_sample": 5, "sample_alpha": 0.4, "logq": 0.7, "bpreg": 1.3, "elu_param": 0.5, **settings}
    return NextItem(GRU4Rec(of, dim=DIM, seed=4), of, **settings)


LOSSES = ["cross-entropy", "bpr-max", "top1", "bpr", "top1-max"]


@pytest.mark.parametrize(
    ("loss", "momentum", "steps", "compiled"),
    [
        *((loss, momentum, steps, None) for loss in LOSSES for momentum in (0.0, 0.4) for steps in (1, 3)),
        *((loss, 0.4, 1, lambda function: function) for loss in LOSSES[:2]),
        *(pytest.param(loss, 0.4, 1, fused.compiled, marks=pytest.mark.slow) for loss in LOSSES[:2]),
    ],
)
def test_an_epoch_equals_the_definition(
    loss: str, momentum: float, steps: int, compiled: Callable[..., Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(catalog(12), loss=loss)
    plain = Plain(model, ROWS, momentum)
    drawn = [[3, 3, 7, 8, 6], [2, 9, 9, 9, 1], [4, 6, 8, 5, 1]]  # repetitions, and targets among them
    made: list[list[int]] = []

    def draw(self: SharedNegatives) -> Tensor:
        made.append(drawn[len(made) % 3])
        return torch.tensor(made[-1])

    monkeypatch.setattr(SharedNegatives, "_draw", draw)
    monkeypatch.setattr(fused, "compiled", compiled)
    optimiser = Adagrad(model.named_parameters(), RATE, momentum)
    figures = epoch(model, Sequences.of(ROWS), optimiser, 3, steps, compiled is not None)
    together: list[list[tuple[int, int, int, bool]]] = []
    number = 0
    for step in [*walk(ROWS, 3), []]:
        narrower = together and len(step) < len(together[-1])
        if together and (narrower or len(together) == steps):
            plain.step(together, drawn[number % 3], 3 * steps)
            together, number = [], number + 1
        together.append(step)
    assert figures["steps"] == number
    assert figures["events"] == 17
    encoder = model.encoder
    assert isinstance(encoder, GRU4Rec)
    ours = [encoder.items.weight, model.bias.view(-1), *layer_parameters(encoder.layers[0])]
    for name, mine, theirs in zip(plain.weights, ours, plain.weights.values(), strict=True):
        torch.testing.assert_close(mine.detach(), theirs, atol=1e-5, rtol=0, msg=lambda text, at=name: f"{at}: {text}")


def test_a_session_does_not_depend_on_the_lanes_beside_it() -> None:
    model = build(catalog(12))
    encoder = model.encoder
    assert isinstance(encoder, GRU4Rec)
    still = Adagrad(model.named_parameters(), 1e-30)
    history = Sequences.of(ROWS).prefixes(torch.tensor([0, 3]), torch.tensor([4, 5]))[0]
    for lanes in (1, 3, 50):
        trainer, found = Lanes(model, Sequences.of(ROWS), still, lanes), []
        for block in blocks(Sequences.of(ROWS), lanes):
            trainer.step(block)
            found.append(trainer.states[-1])
        distances = torch.cdist(encoder(history), torch.cat(found))
        assert (distances.min(1).values < 1e-6).all()


def test_dropout_is_carried_and_comes_from_the_models_generator() -> None:
    of, state = catalog(12), torch.get_rng_state()
    weights = []
    for _ in range(2):
        model = NextItem(GRU4Rec(of, DIM, dropout_embed=0.5, dropout_hidden=0.3, seed=4), of, n_sample=5, seed=7)
        epoch(model, Sequences.of(ROWS), Adagrad(model.named_parameters(), RATE), 3)
        weights.append(model.encoder.items.weight.detach())
    assert torch.equal(*weights)
    assert torch.equal(torch.get_rng_state(), state)
    dropped = NextItem(GRU4Rec(of, DIM, dropout_hidden=0.999999, seed=4), of, n_sample=5)
    trainer = Lanes(dropped, Sequences.of(ROWS), Adagrad(dropped.named_parameters(), RATE), 3)
    trainer.step(next(blocks(Sequences.of(ROWS), 3)))
    assert (trainer.states[0] == 0).all(), "the state after dropout is the one that goes on"


def test_support_counts_every_click_once_however_many_epochs() -> None:
    model = build(catalog(12))
    optimiser = Adagrad(model.named_parameters(), RATE)
    for _ in range(2):
        epoch(model, Sequences.of(ROWS), optimiser, 3)
    assert torch.equal(model.popularity.support, Sequences.of(ROWS).support(len(model.popularity.support)))


def test_only_rows_of_the_batch_move() -> None:
    model = build(catalog(40), n_sample=2)
    before = model.encoder.items.weight.detach().clone()
    trainer = Lanes(model, Sequences.of(ROWS), Adagrad(model.named_parameters(), RATE), 2)
    trainer.step(next(blocks(Sequences.of(ROWS), 2)))
    moved = (model.encoder.items.weight != before).any(1).sum()
    assert 0 < moved <= 2 * 2 + 2
    assert (model.encoder.items.weight[0] == 0).all()


@pytest.mark.parametrize("rows", [[], [[1], [2]], [[1, 2]], [[1, 2], [3]], [[1, 2, 3]] * 2])
def test_few_or_short_sessions(rows: list[list[int]]) -> None:
    model = build(catalog(12))
    figures = epoch(model, Sequences.of(rows), Adagrad(model.named_parameters(), RATE), 64) if rows else {"events": 0}
    assert figures["events"] == sum(max(len(row) - 1, 0) for row in rows)


def test_without_drawn_items_a_last_lane_alone_is_left_out() -> None:
    model = build(catalog(12), n_sample=0)
    figures = epoch(model, Sequences.of([[1, 2, 3, 4], [5, 6]]), Adagrad(model.named_parameters(), RATE), 2)
    assert figures["events"] == 2
    assert math.isfinite(figures["loss"])


def test_losses_fall() -> None:
    model = build(catalog(12))
    optimiser = Adagrad(model.named_parameters(), RATE)
    losses = [epoch(model, Sequences.of(ROWS), optimiser, 3)["loss"] for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0]


Refused = Callable[[Catalog], tuple[NextItem, dict[str, Any]]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda of: (build(of), {"lanes": 0}), "lanes=0"),
        (lambda of: (build(of), {"steps": 0}), "steps=0"),
        (lambda of: (build(of, loss="bce"), {}), "bce"),
        (lambda of: (build(of, loss="top1"), {"compile": True}), "cross-entropy, got 'top1'"),
        (lambda of: (build(of), {"compile": True}), "with momentum"),
        (lambda of: (build(of), {"compile": True, "steps": 2}), "steps=2"),
        (lambda of: (build(of, n_sample=None), {}), "n_sample=None"),
        (lambda of: (NextItem(SASRec(of, DIM), of), {}), "SASRec"),
    ],
)
def test_what_does_not_go_is_refused(make: Refused, message: str) -> None:
    model, settings = make(catalog(12))
    with pytest.raises(ValueError, match=message):
        epoch(model, Sequences.of(ROWS), Adagrad(model.named_parameters()), **settings)


def test_a_loss_that_explodes_is_said() -> None:
    model = build(catalog(12))
    with torch.no_grad():
        model.bias.fill_(torch.nan)
    with pytest.raises(ArithmeticError, match="learning rate"):
        epoch(model, Sequences.of(ROWS), Adagrad(model.named_parameters()), 3)
