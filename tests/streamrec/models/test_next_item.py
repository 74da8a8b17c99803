"""NextItem: whole training steps against plain loops and finite differences, and how it chooses its columns."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from streamrec.catalog import Catalog
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.encoders.sasrec import SASRec
from streamrec.models.next_item import NextItem, Objective
from streamrec.nn import losses
from streamrec.nn.adagrad import Adagrad
from streamrec.nn.items import ItemVectors
from streamrec.records import History
from tests.histories import catalog, history

ROWS = [[1], [2], [3], [1], [6]]
TARGET = torch.tensor([4, 1, 4, 5, 2])  # item 4 is the target twice; items 1 and 2 are input and target at once


class Newest(nn.Module):
    """The vector of the newest click: the smallest encoder there is."""

    reads: tuple[str, ...] = ("items",)

    def __init__(self, of: Catalog, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.items = ItemVectors(of, dim, Generator().manual_seed(0))

    def forward(self, history: History, generator: Generator | None = None) -> Tensor:
        out: Tensor = self.items(history.items[:, -1])
        return out


Plain = tuple[np.ndarray, np.ndarray]  # item vectors, biases
Loss = Callable[[Plain], float]


def scores_by_hand(weights: Plain, columns: list[int]) -> list[list[float]]:
    table, bias = weights
    return [[float(table[row[-1]] @ table[j] + bias[j]) for j in columns] for row in ROWS]


def cross_entropy_by_hand(columns: list[int], log_q: list[float]) -> Loss:
    def loss(weights: Plain) -> float:
        total = 0.0
        for row, scores in enumerate(scores_by_hand(weights, columns)):
            shifted = [s - q for s, q in zip(scores, log_q, strict=True)]
            counted = [j for j, item in enumerate(columns) if j == row or item != columns[row]]
            total -= shifted[row] - math.log(sum(math.exp(shifted[j]) for j in counted))
        return total / len(ROWS)

    return loss


def bpr_max_by_hand(columns: list[int], elu: float, regularisation: float) -> Loss:
    def loss(weights: Plain) -> float:
        total = 0.0
        for row, scores in enumerate(scores_by_hand(weights, columns)):
            r = [s if s > 0 else elu * (math.exp(s) - 1) for s in scores]
            negatives = [j for j, item in enumerate(columns) if item != columns[row]]
            mass = sum(math.exp(r[j]) for j in negatives)
            s = {j: math.exp(r[j]) / mass for j in negatives}
            better = sum(s[j] / (1 + math.exp(r[j] - r[row])) for j in negatives)
            total += regularisation * sum(s[j] * r[j] ** 2 for j in negatives) - math.log(better)
        return total / len(ROWS)

    return loss


def gradient(loss: Loss, weights: Plain) -> Plain:
    """Central differences, one weight at a time."""
    out = (np.zeros_like(weights[0]), np.zeros_like(weights[1]))
    for values, slope in zip(weights, out, strict=True):
        for at in np.ndindex(values.shape):
            kept = values[at]
            values[at] = kept + 1e-5
            up = loss(weights)
            values[at] = kept - 1e-5
            slope[at] = (up - loss(weights)) / 2e-5
            values[at] = kept
    return out


class AdagradByHand:
    def __init__(self, weights: Plain, rate: float, momentum: float) -> None:
        self.rate, self.momentum = rate, momentum
        self.acc = [np.zeros_like(w) for w in weights]
        self.velocity = [np.zeros_like(w) for w in weights]

    def step(self, weights: Plain, slopes: Plain, touched: set[int]) -> None:
        for w, g, acc, v in zip(weights, slopes, self.acc, self.velocity, strict=True):
            for row in touched:
                acc[row] += g[row] ** 2
                v[row] = self.momentum * v[row] - self.rate * g[row] / np.sqrt(acc[row] + 1e-6)
                w[row] += v[row]


@pytest.mark.parametrize("momentum", [0.0, 0.3])
@pytest.mark.parametrize("objective", ["cross-entropy", "bpr-max"])
def test_steps_equal_plain_loops_with_finite_differences(objective: str, momentum: float) -> None:
    items = catalog(12, capacity=12)
    model = NextItem(
        Newest(items, 4),
        items,
        loss=objective,  # type: ignore[arg-type]
        n_sample=6,
        sample_alpha=0.5,
        logq=1.0,
        bpreg=1.5,
        elu_param=0.5,
    )
    model.popularity.count(torch.arange(1, 13).repeat(2))
    optimiser = Adagrad(model.named_parameters(), learning_rate=0.1, momentum=momentum)
    weights = (model.encoder.items.weight.detach().double().numpy().copy(), np.zeros(13))
    by_hand = AdagradByHand(weights, 0.1, momentum)
    for _ in range(3):
        twin = copy.deepcopy(model.popularity)  # what the model is about to count and draw
        twin.count(TARGET)
        draws = Generator()
        draws.set_state(model.generator.get_state())
        sampled = twin.draw(6, 0.5, draws).tolist()
        columns = [*TARGET.tolist(), *sampled]
        support = twin.support.tolist()
        log_q = [math.log(support[j]) for j in TARGET.tolist()] + [0.5 * math.log(support[j]) for j in sampled]
        loss = (
            cross_entropy_by_hand(columns, log_q)
            if objective == "cross-entropy"
            else bpr_max_by_hand(columns, 0.5, 1.5)
        )

        optimiser.zero_grad()
        value = model.loss(history(ROWS), TARGET)
        torch.autograd.backward(value)
        optimiser.step()
        assert float(value.detach()) == pytest.approx(loss(weights), abs=1e-5)
        by_hand.step(weights, gradient(loss, weights), {row[-1] for row in ROWS} | set(columns))
        np.testing.assert_allclose(model.encoder.items.weight.detach().numpy(), weights[0], atol=1e-5)
        np.testing.assert_allclose(model.bias.detach().numpy()[:, 0], weights[1], atol=1e-5)


def test_a_small_catalogue_is_scored_whole() -> None:
    items = catalog(10)
    model = NextItem(Newest(items, 4), items, loss="cross-entropy", n_sample=10, seed=0)
    state = model.generator.get_state()
    with torch.no_grad():
        model.bias.normal_()
    expected = nn.functional.cross_entropy(model.score(history(ROWS))[:, 1:], TARGET - 1)
    torch.testing.assert_close(model.loss(history(ROWS), TARGET), expected)
    assert torch.equal(model.generator.get_state(), state), "nothing has to be drawn"


def test_sampled_loss_estimates_the_whole_softmax() -> None:
    # All items equally popular and P ~ support: the corrected sampled softmax comes near the whole one.
    items = catalog(400, capacity=400)
    model = NextItem(Newest(items, 4), items, loss="cross-entropy", n_sample=399, sample_alpha=1.0, logq=1.0)
    model.popularity.count(torch.arange(1, 401).repeat(1_000))
    with torch.no_grad():
        model.bias.normal_(generator=Generator().manual_seed(0))
    drawn = torch.stack([model.loss(history(ROWS), TARGET) for _ in range(100)]).mean()
    sampled = torch.autograd.grad(drawn, model.bias)[0].to_dense()
    model.n_sample = 400
    whole = torch.autograd.grad(model.loss(history(ROWS), TARGET), model.bias)[0].to_dense()
    assert nn.functional.cosine_similarity(sampled, whole, dim=0) > 0.99


def test_an_item_never_trained_on_starts_in_the_middle() -> None:
    items = catalog(50)
    model = NextItem(GRU4Rec(items, 16), items, seed=0)
    optimiser = Adagrad(model.named_parameters(), learning_rate=0.05)
    chain = torch.arange(1, 41)
    for _ in range(60):
        optimiser.zero_grad()
        torch.autograd.backward(model.loss(history([[int(i)] for i in chain]), chain % 40 + 1))
        optimiser.step()
    items.see(items.rows(["brand new"]))
    scores = model.score(history([[1]]))[0]
    new = scores[items.rows(["brand new"])].item()
    assert scores[1:41].median().item() - 1 < new < scores[2].item()


def test_support_counts_the_targets() -> None:
    items = catalog(12)
    model = NextItem(Newest(items, 4), items)
    model.loss(history(ROWS), TARGET)
    model.loss(history(ROWS), TARGET)
    assert model.popularity.support[:7].tolist() == [0, 2, 2, 0, 4, 2, 0]


def pairs_by_hand(rows: list[list[int]]) -> tuple[History, Tensor]:
    """Every prefix with the click that follows it, one after the other."""
    cut = [(row[:at], row[at]) for row in rows for at in range(1, len(row))]
    return history([before for before, _ in cut], length=8), torch.tensor([after for _, after in cut])


SEQUENCES = [[3, 1, 4, 1, 5], [9, 2], [], [6], [5, 3, 5, 8, 9, 7, 2, 1]]


@pytest.mark.parametrize("objective", ["cross-entropy", "bpr-max", "top1", "bpr", "top1-max", "bce"])
@pytest.mark.parametrize("n_sample", [None, 5])
def test_sequence_loss_is_the_mean_over_all_prefixes(objective: Objective, n_sample: int | None) -> None:
    items = catalog(12)
    model = NextItem(GRU4Rec(items, 6, seed=2), items, loss=objective, n_sample=n_sample, elu_param=0.3)
    before, after = pairs_by_hand(SEQUENCES)
    with torch.no_grad():
        model.bias.normal_(generator=Generator().manual_seed(1))
    twin = copy.deepcopy(model, {id(items): items})
    value = model.sequence_loss(history(SEQUENCES, length=9))
    torch.autograd.backward(value)

    twin.popularity.count(after)
    hidden = twin.encoder(before)
    valid, log_q = None, None
    if n_sample is None:
        scores, positive = hidden @ twin.encoder.items.weight[1:13].t() + twin.bias[1:13, 0], after - 1
    else:
        drawn = twin.popularity.draw(n_sample, 0.5, twin.generator)
        columns = torch.cat([after.unsqueeze(1), drawn.expand(len(after), -1)], dim=1)
        scores, positive = twin.score(before, columns), torch.zeros_like(after)
        valid = columns != after.unsqueeze(1)
        support = twin.popularity.support[columns].float().log()
        log_q = support * 0.5
    expected = {
        "cross-entropy": lambda: losses.cross_entropy(scores, positive, valid, log_q),
        "bpr-max": lambda: losses.bpr_max(nn.functional.elu(scores, 0.3), positive, valid, 1.95),
        "top1": lambda: losses.top1(scores, positive, valid),
        "bpr": lambda: losses.bpr(scores, positive, valid),
        "top1-max": lambda: losses.top1_max(scores, positive, valid),
        "bce": lambda: losses.binary_cross_entropy(scores, positive, valid, 0.25 + 0.75 * 5 / 11 if n_sample else 1.0),
    }[objective]()
    torch.autograd.backward(expected)
    torch.testing.assert_close(value, expected)
    for (name, mine), (_, theirs) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        assert mine.grad is not None, name
        assert theirs.grad is not None, name
        torch.testing.assert_close(mine.grad.to_dense(), theirs.grad.to_dense(), atol=1e-6, rtol=1e-4)
    assert torch.equal(model.popularity.support, twin.popularity.support)


def test_sequence_loss_reads_what_the_encoder_reads() -> None:
    items = catalog(12)
    session = NextItem(GRU4Rec(items, 6, scope="session"), items, n_sample=None)
    in_session = history([[7, 8, 1, 2, 3]], in_session=[3])
    torch.testing.assert_close(session.sequence_loss(in_session), session.sequence_loss(history([[1, 2, 3]])))
    newest = NextItem(SASRec(items, 6, length=3, dropout=0.0), items, n_sample=None)
    long, short = history([[7, 8, 1, 2, 3, 4]]), history([[1, 2, 3, 4]])
    torch.testing.assert_close(newest.sequence_loss(long), newest.sequence_loss(short))


def test_sequence_loss_without_any_pair_is_zero() -> None:
    items = catalog(12)
    model = NextItem(GRU4Rec(items, 6), items)
    nothing: list[list[list[int]]] = [[], [[], []], [[3], []]]
    for rows in nothing:
        value = model.sequence_loss(history(rows))
        assert value.requires_grad
        assert float(value.detach()) == 0.0


def test_one_click_per_session_pair_learns_the_same_either_way() -> None:
    # Rows of two clicks have one pair each: with the whole catalogue both ways are the same training step.
    items = catalog(12)
    one = NextItem(GRU4Rec(items, 6), items, loss="cross-entropy")
    other = NextItem(GRU4Rec(items, 6), items, loss="cross-entropy")
    sequences = history([[row[0], int(t)] for row, t in zip(ROWS, TARGET, strict=True)])
    torch.testing.assert_close(one.sequence_loss(sequences), other.loss(history(ROWS), TARGET))


def test_none_scores_the_whole_catalogue_however_large() -> None:
    items = catalog(3_000, capacity=3_000)
    model = NextItem(Newest(items, 4), items, loss="cross-entropy", n_sample=None)
    expected = nn.functional.cross_entropy(model.score(history(ROWS))[:, 1:], TARGET - 1)
    torch.testing.assert_close(model.loss(history(ROWS), TARGET), expected)


def test_targets_of_others_are_no_negatives_of_bce() -> None:
    items = catalog(12)
    model = NextItem(Newest(items, 4), items, loss="bce", n_sample=3, calibration=0.0)
    model.popularity.count(torch.tensor([11, 12]).repeat(1_000_000))
    value = model.loss(history(ROWS), TARGET)
    slope = torch.autograd.grad(value, model.bias)[0].to_dense()[:, 0]
    assert set(slope.nonzero().flatten().tolist()) <= {*TARGET.tolist(), 11, 12}
    assert (slope[TARGET] < 0).all(), "nothing pushes a target of the batch down"


def test_sequence_loss_needs_negatives() -> None:
    items = catalog(12)
    model = NextItem(GRU4Rec(items, 6), items, n_sample=0)
    with pytest.raises(ValueError, match="n_sample"):
        model.sequence_loss(history([[1, 2]]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"loss": "hinge"}, "'hinge'"),
        ({"n_sample": -1}, "n_sample"),
        ({"loss": "bce", "n_sample": 0}, "n_sample"),
        ({"calibration": 1.5}, "calibration"),
    ],
)
def test_settings_out_of_range_are_named(setting: dict[str, object], message: str) -> None:
    items = catalog(12)
    with pytest.raises(ValueError, match=message):
        NextItem(Newest(items, 4), items, **setting)  # type: ignore[arg-type]


def test_a_new_item_starts_near_its_company_and_an_old_one_where_it_is() -> None:
    of = catalog(20)
    plain, warm = (NextItem(GRU4Rec(of, dim=8), of, company=company) for company in (0.0, 0.5))
    clicks = history([[9, 1, 2], [3, 4]], in_session=[2, 2])
    for model in (plain, warm):
        model.popularity.count(torch.tensor([6]))
        model.loss(clicks, torch.tensor([5, 6]))
    before, after = plain.encoder.items.weight.detach(), warm.encoder.items.weight.detach()
    torch.testing.assert_close(after[5], before[5] + 0.5 * before[[1, 2]].mean(0))
    assert torch.equal(after[6], before[6])
    again = after.clone()
    warm.loss(clicks, torch.tensor([5, 6]))
    assert torch.equal(warm.encoder.items.weight.detach(), again), "only once"


def test_new_items_inside_a_sequence_start_near_what_came_before_them_in_their_session() -> None:
    of = catalog(20)
    plain, warm = (NextItem(GRU4Rec(of, dim=8), of, company=company) for company in (0.0, 0.5))
    for model in (plain, warm):
        model.popularity.count(torch.tensor([3]))
        model.sequence_loss(history([[9, 1, 2, 5], [4, 3, 6]], in_session=[3, 3]))
    before, after = plain.encoder.items.weight.detach(), warm.encoder.items.weight.detach()
    torch.testing.assert_close(after[2], before[2] + 0.5 * before[1])
    torch.testing.assert_close(after[5], before[5] + 0.5 * before[[1, 2]].mean(0))
    torch.testing.assert_close(after[6], before[6] + 0.5 * before[[4, 3]].mean(0))
    assert torch.equal(after[[1, 3, 4, 9]], before[[1, 3, 4, 9]])
