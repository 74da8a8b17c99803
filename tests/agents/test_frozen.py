"""Frozen: learns up to a moment of event time, then never again."""

from __future__ import annotations

import pytest
import torch

from agents.frozen import Frozen
from agents.panel import Panel
from agents.popular import Popular
from streamrec.records import Transition
from tests.histories import catalog, clicked, history


def click(items: list[int], times: list[float]) -> Transition:
    before = history([[]] * len(items))
    before.time = torch.tensor(times, dtype=torch.float64)
    return clicked(before, torch.tensor(items))


class Counting(Popular):
    """Counts how often it was updated."""

    updates = 0

    def update(self) -> dict[str, float]:
        self.updates += 1
        return {"updates": float(self.updates)}


def counts(agent: Frozen) -> list[float]:
    assert isinstance(agent.agent, Popular)
    return agent.agent.counts[1:4].tolist()


def frozen(after_s: float) -> Frozen:
    return Frozen(Counting(catalog(3), 1, half_life_clicks=None), after_s)


def test_learns_from_decisions_before_the_moment_and_from_none_after_it() -> None:
    agent = frozen(100.0)
    agent.observe(click([1, 1], [1000.0, 1050.0]))
    assert agent.update() == {"updates": 1.0}
    agent.observe(click([2, 3], [1099.0, 1100.0]))
    assert counts(agent) == [2.0, 1.0, 0.0]
    assert agent.update() == {}
    agent.observe(click([2], [1060.0]))
    assert counts(agent) == [2.0, 1.0, 0.0]
    assert agent.act(history([[]])).slate.tolist() == [[1]]


def test_without_a_span_it_never_learns() -> None:
    agent = frozen(0.0)
    agent.observe(click([2], [0.0]))
    assert agent.update() == {}
    assert counts(agent) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("stop", [1, 2])
def test_the_moment_survives_a_restart(stop: int) -> None:
    stream = [click([1], [1000.0]), click([2, 3], [1050.0, 1200.0]), click([2], [1010.0])]
    whole, again = frozen(100.0), frozen(100.0)
    for transition in stream:
        whole.observe(transition)
    first = frozen(100.0)
    for transition in stream[:stop]:
        first.observe(transition)
    again.load_state_dict(first.state_dict())
    for transition in stream[stop:]:
        again.observe(transition)
    assert counts(again) == counts(whole) == [1.0, 1.0, 0.0]


def test_a_panel_inside_stays_a_panel() -> None:
    inner = Panel({"a": Popular(catalog(3), 1), "b": Popular(catalog(3), 1)})
    agent = Frozen(inner)
    assert agent.names == ["a", "b"]
    assert agent.shadows == 2
    assert Panel({"f": agent, "p": Popular(catalog(3), 1)}).names == ["f.a", "f.b", "p"]


def test_refuses_a_negative_span() -> None:
    with pytest.raises(ValueError, match="after_s must be at least 0"):
        frozen(-1.0)
