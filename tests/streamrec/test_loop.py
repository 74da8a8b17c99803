from __future__ import annotations

from pathlib import Path

import pytest
import torch

from streamrec import checkpoint
from streamrec.catalog import Catalog
from streamrec.evaluation.ranking import Ranking
from streamrec.evaluation.reward import Reward
from streamrec.loop import Loop
from streamrec.ports import State
from streamrec.records import Decision, Events, History, Kind, Transition
from streamrec.sessions import SessionStore
from tests.worlds import Counter, EchoWorld


def make_loop(decisions: int | None = None) -> Loop:
    catalog = Catalog(capacity=64)
    sessions = SessionStore(users=32, length=5, skips=5, slate=4)
    world = EchoWorld(catalog, sessions)
    meters = {"reward": Reward(["counter"]), "ranking": Ranking(["counter"], k=4)}
    return Loop(world, sessions, catalog, Counter(catalog, slate=4), meters, update_every=10, decisions=decisions)


def flat(tree: object, path: str = "") -> dict[str, object]:
    if isinstance(tree, dict):
        return {k: v for key, value in tree.items() for k, v in flat(value, f"{path}/{key}").items()}
    return {path: tree}


def assert_same(one: State, two: State) -> None:
    a, b = flat(one), flat(two)
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(torch.nan_to_num(value.float()), torch.nan_to_num(b[name].float())), name  # type: ignore[attr-defined]
        else:
            assert value == b[name], name


def test_killed_at_any_batch_and_resumed_equals_never_killed(tmp_path: Path) -> None:
    """Kill after every single batch in turn; the checkpoint is taken a few batches before the kill."""
    never = make_loop()
    for _ in range(40):
        never.step()
    for killed_at in range(1, 40, 2):
        victim = make_loop()
        saved = 0
        for done in range(1, killed_at + 1):
            victim.step()
            if done % 3 == 0:
                checkpoint.save(tmp_path / str(killed_at), victim.state_dict(), done)
                saved = done
        del victim
        again = make_loop()
        if found := checkpoint.load_newest(tmp_path / str(killed_at)):
            again.load_state_dict(found[0])
        for _ in range(saved, 40):
            again.step()
        assert_same(again.state_dict(), never.state_dict())


def test_learning_happens_and_raises_the_reward() -> None:
    loop = make_loop(decisions=2000)
    while loop.step():
        pass
    figures = loop.read()
    policy = figures["meters"]["reward"]["policies"]["counter"]
    assert figures["updates"] == figures["decisions"] // 10
    assert policy["decisions"] == figures["decisions"] >= 2000
    assert policy["recent"] > policy["low"]


class Journal:
    """A meter and an agent that write down the order in which they are called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def see(self, transition: Transition) -> None:
        self.calls.append("see")

    def read(self) -> dict[str, object]:
        return {}

    def act(self, history: History) -> Decision:
        self.calls.append("act")
        return Decision.of(history.user, torch.ones(len(history), 1, dtype=torch.int64))

    def observe(self, transition: Transition) -> None:
        self.calls.append("observe")

    def update(self) -> dict[str, float]:
        self.calls.append("update")
        return {}

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None: ...


class ClickLog:
    """Two clicks of one user in one poll, each asked for before it is told."""

    def __init__(self, catalog: Catalog, sessions: SessionStore) -> None:
        self.user = sessions.rows(["a"]).repeat(4)
        self.items = catalog.rows(["x", "y"])
        self.available: list[list[bool]] = []
        self.catalog, self.over = catalog, False

    def poll(self, timeout_s: float = 0.0) -> Events | None:
        if self.over:
            return None
        self.over = True
        x, y = self.items.tolist()
        kinds = torch.tensor([Kind.REQUEST, Kind.CLICK, Kind.REQUEST, Kind.CLICK])
        shown = torch.tensor([[x], [0], [y], [0]])
        item, ticket = torch.tensor([0, x, 0, y]), torch.tensor([-1, -1, -2, -2])
        return Events.of(self.user, kinds, torch.arange(4), item=item, decision=ticket, shown=shown)

    def send(self, wanted: Decision, asked: Events) -> Decision:
        self.available.append(self.catalog.available[1:3].tolist())
        shown = Decision.of(wanted.user, asked.shown)
        shown.id = wanted.id
        return shown

    def position(self) -> State:
        return {}

    def seek(self, position: State) -> None: ...

    def flush(self) -> None: ...

    def commit(self, position: State) -> None: ...

    def close(self) -> None: ...


def test_predict_score_then_learn_and_no_item_before_its_first_click() -> None:
    catalog, sessions = Catalog(8), SessionStore(users=4, slate=1)
    world, journal = ClickLog(catalog, sessions), Journal()
    loop = Loop(world, sessions, catalog, journal, {"journal": journal}, update_every=1)
    while loop.step():
        pass
    assert journal.calls == ["act", "see", "observe", "update"] * 2
    assert world.available == [[False, False], [True, False]]


def test_event_to_weights_is_measured_from_when_the_event_was_sent() -> None:
    catalog, sessions = Catalog(8), SessionStore(users=4, slate=1)
    world = ClickLog(catalog, sessions)
    loop = Loop(world, sessions, catalog, Journal(), update_every=2, clock=lambda: 1000.0)
    poll = world.poll

    def stamped(timeout_s: float = 0.0) -> Events | None:
        events = poll(timeout_s)
        if events is not None:
            events.sent = torch.tensor([999.0, 999.5, 999.6, 999.9], dtype=torch.float64)
        return events

    world.poll = stamped  # type: ignore[method-assign]
    loop.step()
    assert loop.read()["event_to_weights_ms"] == pytest.approx({"p50": 300.0, "p95": 480.0}, abs=1.0)


def test_a_quiet_stream_is_learned_after_a_while() -> None:
    catalog, sessions = Catalog(40), SessionStore(users=20, slate=4)
    now = [0.0]
    loop = Loop(
        EchoWorld(catalog, sessions, users=4),
        sessions,
        catalog,
        Counter(catalog, slate=4),
        update_every=1000,
        clock=lambda: now[0],
        update_s=5.0,
    )
    while loop.counts["decisions"] < 8:
        loop.step()
    assert loop.counts["updates"] == 0
    now[0] = 6.0
    loop.step()
    assert (loop.counts["updates"], loop.pending) == (1, 0)
    loop.step()
    assert loop.counts["updates"] == 1, "time has to pass again"
