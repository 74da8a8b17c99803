"""What a shadow would have earned, against the truth of a made-up traffic and against replays of the same decisions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from consumers.serving.beside import ENOUGH, Beside
from consumers.serving.follower import Closed
from consumers.serving.model import ServedModel
from streamrec.catalog import Catalog
from streamrec.records import History
from streamrec.served import served_state
from streamrec.sessions import SessionStore

RATES = torch.tensor([0.0, 0.5, 0.1, 0.2, 0.3, 0.4])
"""Chance of a click in the first slot, by the row of the item in the service."""

EPSILON, SLOTS, BATCH = 0.4, 2, 100


def service() -> Catalog:
    catalog = Catalog(10)
    catalog.see(catalog.rows([f"i{row}" for row in range(1, 6)]))
    return catalog


def built(table: dict[str, object], seed: int) -> ServedModel:
    about = {"sessions": SessionStore(users=BATCH, slate=SLOTS), "slate": SLOTS, "seed": seed, "run_dir": Path()}
    return ServedModel(table, {**about, "device": torch.device("cpu")}, 10)


def popular(best: int, seed: int = 0, epsilon: float = EPSILON) -> ServedModel:
    """A model that finds row `best` of the service most popular; its own rows are in another order."""
    model = built({"use": "agents.popular.Popular", "epsilon": epsilon}, seed)
    own = Catalog(10)
    own.see(own.rows([f"i{row}" for row in range(5, 0, -1)]))
    model.load(str(best), {"agent": served_state(model.agent), "catalog": own.state_dict()})
    model.agent.counts[own.find([f"i{best}"])] = 9.0  # type: ignore[attr-defined]
    return model


def truth(best: int, epsilon: float = EPSILON) -> float:
    return float((1 - epsilon) * RATES[best] + epsilon * RATES[1:].mean())


def asking(rows: int = BATCH) -> History:
    return History.of(user=torch.arange(rows), items=torch.zeros(rows, 1, dtype=torch.int32))


def traffic(serving: ServedModel, shadow: ServedModel, batches: int, seed: int, beside: Beside | None = None) -> Beside:
    """Answers, clicks on the first slot, and what `Beside` makes of them; the second slot is clicked at random."""
    beside, catalog, draws = beside or Beside(), service(), torch.Generator().manual_seed(seed)
    for model in (serving, shadow):
        model.sync(catalog.ids, catalog.available)
    for batch in range(batches):
        history = asking()
        shown = serving.act(history)
        chances = beside.compare(shadow, history, shown, None)
        rewards = (torch.rand(BATCH, generator=draws) < RATES[shown.slate[:, 0]]).double().tolist()
        numbers = [-1 - batch * BATCH - row for row in range(BATCH)]
        for number, logp, chance in zip(numbers, shown.slot_logp[:, 0].tolist(), chances, strict=True):
            if chance is not None:
                beside.note(number, logp, chance)
        beside.close(Closed(["1"] * BATCH, list(range(BATCH)), rewards, rewards, numbers))
    return beside


def test_a_better_shadow_is_seen_to_be_better_and_the_interval_holds_the_truth() -> None:
    held = better = 0
    for seed in range(40):
        value = traffic(popular(2, seed), popular(1), 12, seed).value()
        assert value is not None
        assert (value["decisions"], value["users"], value["cut"]) == (1200, BATCH, 0)
        held += value["low"] <= truth(1) <= value["high"]
        better += value["reward"] > value["serving"] and "more than" in value["says"]
    assert held >= 34, "of 40 intervals of 95 %; fewer have a chance of 1 in 300"
    assert better == 40


def test_a_shadow_that_is_the_serving_model_earns_what_it_earns() -> None:
    value = traffic(popular(3), popular(3), 5, 0).value()
    assert value is not None
    assert value["reward"] == pytest.approx(value["serving"], rel=1e-6)
    assert value["low"] <= value["serving"] <= value["high"]
    assert value["ess"] == pytest.approx(500, rel=1e-6)
    assert "not clearly more or less" in value["says"]


def test_the_chance_of_a_first_slot_is_how_often_it_is_chosen() -> None:
    model, catalog, rows = popular(4, epsilon=0.5), service(), 20_000
    model.sync(catalog.ids, catalog.available)
    without = catalog.find(["i2"])
    offers = torch.zeros(rows, 3, dtype=torch.int64)
    offers[:, :2] = torch.tensor([1, 4])
    for offer, hidden in ((offers[:, :0], without), (offers, None)):
        history = asking(rows)
        history.offer = offer
        drawn = model.act(history, hidden).slate[:, 0].bincount(minlength=6) / rows
        policy = torch.zeros(6, dtype=torch.int64)
        asked = history[torch.arange(6)]
        chances = model.chances(asked, torch.arange(6), policy, hidden)
        assert float(chances.sum()) == pytest.approx(1.0)
        torch.testing.assert_close(chances, drawn.double(), rtol=0, atol=0.015)
        assert bool(model.own.available[1:6].all()), "what was hidden for one answer is not gone"


def test_large_weights_are_cut_and_told() -> None:
    shadow, serving = popular(1, epsilon=0.0), popular(2, epsilon=0.2)
    value = traffic(serving, shadow, 12, 1, Beside(clip=5.0)).value()
    assert value is not None
    assert value["cut"] > 0
    assert "weights were cut" in value["says"]
    heavy = traffic(popular(2, epsilon=0.2), shadow, 12, 1).value()
    assert heavy is not None
    assert heavy["cut"] == 0
    assert heavy["reward"] == pytest.approx(value["reward"]), "all that count weigh the same here: 1 / 0.04, or 5"


def test_without_probabilities_only_the_agreement_is_told() -> None:
    said = traffic(popular(2), built({"use": "agents.linucb.LinUCB"}, 0), 1, 0).read()
    assert said["answers"] == BATCH
    assert 0 < said["agreement"] < 1
    assert said["value"] is None


def test_too_few_decisions_say_so_and_no_more_are_kept_than_allowed() -> None:
    beside = Beside(waiting=10)
    for number in range(1, 31):
        beside.note(-number, -0.5, 0.5)
    beside.close(Closed(["1"] * 30, [1] * 30, [1.0] * 30, [1.0] * 30, [-number for number in range(1, 31)]))
    value = beside.value()
    assert value is not None
    assert value["decisions"] == 10 < ENOUGH
    assert "too few" in value["says"]
    assert beside.metrics()["shadow.decisions"] == 10
