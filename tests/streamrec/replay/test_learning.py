"""When agents learn: against a recount by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streamrec import checkpoint
from streamrec.ports import State
from streamrec.records import Decision, History, Transition
from streamrec.replay.learning import Delayed, Fixed
from tests.histories import clicked, history


class Notes:
    """Writes down what it learned before each decision."""

    def __init__(self) -> None:
        self.learned: list[float] = []
        self.updates = 0
        self.before: dict[float, list[float]] = {}

    def act(self, history: History) -> Decision:
        for time in history.time.tolist():
            self.before[time] = list(self.learned)
        return Decision.of(history.user, history.user.unsqueeze(1))

    def observe(self, transition: Transition) -> None:
        self.learned += transition.time.tolist()

    def update(self) -> dict[str, float]:
        self.updates += 1
        return {}

    def state_dict(self) -> State:
        return {"learned": list(self.learned)}

    def load_state_dict(self, state: State) -> None:
        self.learned = list(state["learned"])


def asking(*times: float) -> History:
    made = history([[1]] * len(times))
    return replace(made, time=torch.tensor(times, dtype=torch.float64))


def closed(*times: float) -> Transition:
    made = clicked(asking(*times), torch.ones(len(times), dtype=torch.int64))
    return replace(made, time=torch.tensor(times, dtype=torch.float64))


@pytest.mark.parametrize("delay", [0.0, 3.0, 7.5])
def test_an_outcome_is_learned_exactly_when_the_delay_has_passed(delay: float) -> None:
    """Event s is learned for the decision at t iff s < t and s + delay <= t, recounted for every pair."""
    draw = torch.Generator().manual_seed(1)
    asked = (torch.rand(40, generator=draw, dtype=torch.float64) * 100).sort().values.tolist()
    notes = Notes()
    agent = Delayed(notes, delay)
    for time in asked:
        agent.act(asking(time))
        agent.observe(closed(time + 0.25))
    for time in asked:
        wanted = [other + 0.25 for other in asked if other < time and other + 0.25 + delay <= time]
        assert sorted(notes.before[time]) == pytest.approx(sorted(wanted))


def test_a_batch_never_knows_what_is_newer_than_its_oldest_request() -> None:
    notes = Notes()
    agent = Delayed(notes, 0.0, oldest=lambda: 5.0)
    agent.observe(closed(4.0, 5.0, 6.0, 9.0))
    agent.act(asking(10.0, 7.0))
    assert notes.learned == [4.0, 5.0]


def test_outcomes_come_in_the_order_of_time() -> None:
    notes = Notes()
    agent = Delayed(notes)
    agent.observe(closed(3.0, 1.0))
    agent.observe(closed(2.0))
    agent.act(asking(50.0))
    assert notes.learned == [1.0, 2.0, 3.0]
    assert agent.newest == 3.0


def test_what_waits_survives_a_checkpoint(tmp_path: object) -> None:
    notes = Notes()
    agent = Delayed(notes, 5.0)
    agent.observe(closed(1.0, 30.0))
    agent.act(asking(10.0))
    checkpoint.save(tmp_path / "c", {"agent": agent.state_dict()}, 1)  # type: ignore[operator]
    found = checkpoint.load_newest(tmp_path / "c")  # type: ignore[operator]
    assert found is not None
    other = Delayed(Notes(), 5.0)
    other.load_state_dict(found[0]["agent"])
    other.act(asking(40.0))
    agent.act(asking(40.0))
    assert other.agent.state_dict() == notes.state_dict() == {"learned": [1.0, 30.0]}
    assert other.newest == agent.newest


def test_fixed_learns_until_its_moment_and_never_after() -> None:
    notes = Notes()
    agent = Fixed(notes, until=10.0)
    agent.observe(closed(3.0))
    agent.update()
    agent.observe(closed(9.0, 10.0))
    agent.update()
    agent.observe(closed(8.0))
    assert notes.learned == [3.0, 9.0, 8.0]
    assert notes.updates == 1
    never = Fixed(Notes())
    never.observe(closed(3.0))
    never.update()
    assert never.agent.state_dict() == {"learned": []}


def test_a_negative_delay_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        Delayed(Notes(), -1.0)
