"""What every schedule must do, and what each is good for: topics that come back."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import streamrec.schedules
from agents.supervised import Supervised
from streamrec import checkpoint
from streamrec.build import build
from streamrec.catalog import Catalog
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.models.next_item import NextItem
from streamrec.records import History
from streamrec.schedules.schedule import Schedule
from tests.histories import catalog, clicked, window

VERBS = ("add", "draw", "loss", "end_period", "state_dict", "load_state_dict")
MODULES = [
    importlib.import_module(f"streamrec.schedules.{m.name}") for m in pkgutil.iter_modules(streamrec.schedules.__path__)
]
SCHEDULES = {
    name: cls
    for module in MODULES
    for name, cls in vars(module).items()
    if inspect.isclass(cls)
    and cls.__module__ == module.__name__
    and all(hasattr(cls, verb) for verb in VERBS)
    and not getattr(cls, "_is_protocol", False)
}
ENCODER = {"use": "streamrec.encoders.gru4rec.GRU4Rec", "dim": 8, "dropout_hidden": 0.2}
SMALL = {"memory": 64, "batch": 16, "period_s": 100.0, "exemplars": 20, "columns": 12, "top": 5, "samples": 4}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "ItemDropout": {"schedule": {"use": "streamrec.schedules.reservoir.Reservoir", "memory": 20, "batch": 16}},
    "Privileged": {"teacher": {"use": "streamrec.models.next_item.NextItem", "encoder": ENCODER}},
}
ITEMS = 40

Make = Callable[..., Supervised]


@pytest.fixture(params=list(SCHEDULES))
def make(request: pytest.FixtureRequest) -> Make:
    """Build an agent with this schedule as a run does, from a spec."""
    cls = SCHEDULES[request.param]

    def made(of: Catalog, seed: int = 0) -> Supervised:
        small = {name: value for name, value in SMALL.items() if name in inspect.signature(cls).parameters}
        spec = {
            "use": "agents.supervised.Supervised",
            "model": {"use": "streamrec.models.next_item.NextItem", "encoder": ENCODER, "n_sample": 16},
            "schedule": {"use": f"{cls.__module__}.{cls.__name__}", **small, **ARGUMENTS.get(cls.__name__, {})},
        }
        agent: Supervised = build(spec, {"catalog": of, "slate": 3, "seed": seed, "device": "cpu"}, "agent")
        return agent

    return made


def waves(count: int) -> list[tuple[History, Tensor]]:
    """Sixteen users clicking a minute apart; a period is over every other wave."""
    draws = Generator().manual_seed(3)
    made = []
    for at in range(count):
        before = window(torch.randint(1, ITEMS + 1, (16, 6), generator=draws))
        before.time = torch.full((16,), 60.0 * at, dtype=torch.float64)
        made.append((before, torch.randint(1, ITEMS + 1, (16,), generator=draws)))
    return made


def play(agent: Supervised, stream: list[tuple[History, Tensor]]) -> list[dict[str, float]]:
    said = []
    for before, target in stream:
        agent.observe(clicked(before, target))
        said.append(agent.update())
    return said


def leaves(state: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(state, dict):
        return {path: state}
    return {name: leaf for key, value in state.items() for name, leaf in leaves(value, f"{path}/{key}").items()}


def differing(one: Any, other: Any) -> list[str]:
    a, b = leaves(one), leaves(other)
    assert a.keys() == b.keys()
    return [at for at, x in a.items() if not (torch.equal(x, b[at]) if isinstance(x, Tensor) else x == b[at])]


def test_schedules_are_found_by_walking_the_folder() -> None:
    known = {"Replay", "FineTune", "ADER", "Reservoir", "Decay", "ItemDropout", "Privileged", "EWC"}
    assert known <= SCHEDULES.keys()


@pytest.mark.parametrize("killed_at", [0, 4, 7])
def test_killed_and_resumed_equals_never_killed(make: Make, killed_at: int, tmp_path: Path) -> None:
    of, stream = catalog(ITEMS), waves(10)
    never = make(of)
    expected = play(never, stream)
    killed = make(of)
    first = play(killed, stream[:killed_at])
    path = checkpoint.save(tmp_path, {"agent": killed.state_dict()}, 1)
    play(killed, stream)  # what it does after the checkpoint must not matter
    resumed = make(of, seed=9)
    resumed.load_state_dict(checkpoint.load(path)["agent"])
    assert first + play(resumed, stream[killed_at:]) == expected
    assert differing(never.state_dict(), resumed.state_dict()) == []


def test_memory_is_bounded(make: Make) -> None:
    agent = make(catalog(ITEMS))
    play(agent, waves(12))
    size = sum(x.numel() for x in leaves(agent.state_dict()).values() if isinstance(x, Tensor))
    play(agent, waves(12) * 2)
    later = sum(x.numel() for x in leaves(agent.state_dict()).values() if isinstance(x, Tensor))
    assert later <= 1.05 * size


def test_torchs_own_randomness_and_what_was_observed_are_left_alone(make: Make) -> None:
    agent, stream = make(catalog(ITEMS)), waves(6)
    before, kept = torch.get_rng_state(), [(h[torch.arange(16)], t.clone()) for h, t in stream]
    play(agent, stream)
    assert torch.equal(before, torch.get_rng_state())
    for (history, target), (same, clicked_then) in zip(stream, kept, strict=True):
        assert torch.equal(target, clicked_then)
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(history.columns(), same.columns(), strict=True))


def test_an_update_before_any_click_is_fine(make: Make) -> None:
    assert make(catalog(ITEMS)).update() == {}


def test_items_that_expire_are_never_trained_on_again(make: Make) -> None:
    of, gone = catalog(ITEMS), torch.arange(1, ITEMS + 1, 2)
    agent = make(of)
    play(agent, waves(5))
    agent.recycle(gone)
    for _ in range(5):
        some = agent.schedule.draw()
        assert some is not None
        assert not torch.isin(some.target, gone).any()
        assert not torch.isin(some.history.items, gone).any()
        assert (some.target > 0).all()
        assert agent.schedule.loss(agent.model, some).isfinite()
    agent.recycle(torch.arange(1, ITEMS + 1))
    assert agent.update() == {}
    assert all(value == value for said in play(agent, waves(5)) for value in said.values())


# --- topics that come back ---------------------------------------------------------------------------------------

TOPICS, EACH = 4, 10


def topic(number: int, clicks: int, seed: int) -> tuple[History, Tensor]:
    """All topics share ten items and begin with an item of their own; how far apart clicks are depends on the topic."""
    draws = Generator().manual_seed(seed)
    place = torch.randint(0, EACH, (clicks, 2), generator=draws)
    own = torch.full((clicks, 1), EACH + 1 + number)
    return window(torch.cat([own, 1 + place], 1)), 1 + (place[:, -1] + 1 + number) % EACH


def recall(model: NextItem, number: int) -> float:
    before, target = topic(number, 100, seed=100 + number)
    return (model.score(before)[:, 1:].argmax(1) + 1 == target).float().mean().item()


def through_all_topics(schedule: dict[str, Any], topics: list[int]) -> NextItem:
    """One topic a period; each period is trained for as long as it takes to learn its topic."""
    of = catalog(EACH + TOPICS)
    context = {"catalog": of, "slate": 1, "seed": 0, "device": "cpu"}
    made: Schedule = build({**schedule, "batch": 64}, context, "schedule")
    model = NextItem(GRU4Rec(of, dim=16), of, loss="cross-entropy")
    agent = Supervised(model, of, 1, learning_rate=0.1, schedule=made)
    for at, number in enumerate(topics):
        before, target = topic(number, 200, seed=at)
        agent.observe(clicked(before, target))
        for _ in range(30):
            agent.update()
        made.end_period(model)
    return model


ADER = {"use": "streamrec.schedules.ader.ADER", "exemplars": 100, "strength": 1.0}
RESERVOIR = {"use": "streamrec.schedules.reservoir.Reservoir", "memory": 200}
FINETUNE = {"use": "streamrec.schedules.finetune.FineTune"}


def test_exemplars_and_a_reservoir_remember_topics_that_return_and_fine_tuning_does_not() -> None:
    returning, newest = {}, {}
    for name, schedule in (("ader", ADER), ("reservoir", RESERVOIR), ("finetune", FINETUNE)):
        model = through_all_topics(schedule, list(range(TOPICS)))
        returning[name] = sum(recall(model, number) for number in range(TOPICS - 1)) / (TOPICS - 1)
        newest[name] = recall(model, TOPICS - 1)
    assert min(returning["ader"], returning["reservoir"]) > 0.8
    assert returning["finetune"] < 0.3
    assert min(newest["ader"], newest["finetune"]) > 0.9, "both know the topic of the day"


def test_where_nothing_returns_there_is_nothing_to_gain() -> None:
    """One topic all the time: remembering it is no better than learning it again."""
    right = [recall(through_all_topics(schedule, [0, 0]), 0) for schedule in (ADER, RESERVOIR, FINETUNE)]
    assert min(right) > 0.95
