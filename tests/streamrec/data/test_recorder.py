from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from streamrec.catalog import Catalog
from streamrec.data.events import BadLog, read, validate
from streamrec.data.logs import LogWorld
from streamrec.data.recorder import Recorder
from streamrec.loop import Loop
from streamrec.ports import State, World
from streamrec.records import Decision, Events, History, Kind, Transition
from streamrec.sessions import SessionStore
from tests.worlds import Counter, EchoWorld


class Script:
    """A world that plays fixed polls; what is sent is shown as it is."""

    def __init__(self, polls: list[Events]) -> None:
        self.polls, self.at = polls, 0
        self.calls: list[str] = []

    def poll(self, timeout_s: float = 0.0) -> Events | None:
        self.at += 1
        return self.polls[self.at - 1] if self.at <= len(self.polls) else None

    def send(self, wanted: Decision, asked: Events) -> Decision:
        return wanted

    def position(self) -> State:
        return {"at": self.at}

    def seek(self, position: State) -> None:
        self.at = position["at"]

    def flush(self) -> None:
        self.calls.append("flush")

    def commit(self, position: State) -> None:
        self.calls.append(f"commit {position}")

    def close(self) -> None:
        self.calls.append("close")


def core() -> tuple[Catalog, SessionStore]:
    catalog, sessions = Catalog(20), SessionStore(users=8, slate=3)
    catalog.rows(list("abcdefgh"))
    sessions.rows(["ann", "bob"])
    return catalog, sessions


def poll(*rows: tuple[int, Kind, int, int]) -> Events:
    """Events of (user, kind, item, decision), a second apart."""
    user, kind, item, decision = torch.tensor(rows).unbind(1)
    return Events.of(user, kind, torch.arange(len(rows)) + 100.0, item=item, decision=decision)


def answer(recorder: Recorder, asked: Events, slates: list[list[int]], ids: list[int], p: float = 0.5) -> Decision:
    slate = torch.tensor(slates)
    decision = Decision.of(asked.user, slate, torch.full(slate.shape, math.log(p)))
    decision.id = torch.tensor(ids)
    return recorder.send(decision, asked)


def recorded(path: Path) -> pd.DataFrame:
    return pd.concat(list(read(path)), ignore_index=True)


def lines(path: Path) -> list[str]:
    columns = ["user", "kind", "item", "slate", "slot"]
    return [
        " ".join(str(value) for value in row if value not in ("", -1)) for row in recorded(path)[columns].to_numpy()
    ]


ANN, BOB = 0, 1


def test_slates_stand_where_they_were_asked_for(tmp_path: Path) -> None:
    events = poll(
        (ANN, Kind.CLICK, 1, 0),
        (ANN, Kind.REQUEST, 0, 0),
        (BOB, Kind.REQUEST, 0, 0),
        (ANN, Kind.SKIP, 2, 0),
        (ANN, Kind.REQUEST, 0, 0),
        (BOB, Kind.REQUEST, 0, 0),
        (BOB, Kind.LEAVE, 0, 0),
    )
    recorder = Recorder(Script([events]), tmp_path, *core())
    out = recorder.poll()
    assert out is not None
    first, second = out[torch.tensor([2, 1])], out[torch.tensor([4])]
    answer(recorder, first, [[3, 4, 0], [5, 0, 6]], [71, 72])
    answer(recorder, second, [[7, 8, 1]], [73])  # the second request of bob is never answered
    recorder.flush()
    assert lines(tmp_path) == [
        "ann click a",
        "ann impression e 72 0",
        "ann impression f 72 2",
        "bob impression c 71 0",
        "bob impression d 71 1",
        "ann skip b",
        "ann impression g 73 0",
        "ann impression h 73 1",
        "ann impression a 73 2",
        "bob request",
        "bob leave",
    ]
    assert recorded(tmp_path)["time"].tolist() == [100, 101, 101, 102, 102, 103, 104, 104, 104, 105, 106]


def test_reactions_carry_their_slate_and_propensities_stay_in_bounds(tmp_path: Path) -> None:
    reactions = poll(
        (ANN, Kind.CLICK, 3, 71), (ANN, Kind.IMPRESSION, 4, 71), (BOB, Kind.SKIP, 0, 71), (BOB, Kind.IMPRESSION, 1, 0)
    )
    reactions.slot[0], reactions.value[0], reactions.session[0] = 2, 4.5, 99
    recorder = Recorder(Script([poll((ANN, Kind.REQUEST, 0, 0)), reactions]), tmp_path, *core())
    asked = recorder.poll()
    assert asked is not None
    decision = Decision.of(
        asked.user, torch.tensor([[1, 2, 3, 4]]), torch.tensor([[-800.0, 1e-7, -torch.inf, math.log(0.3)]])
    )
    recorder.send(replace(decision, id=torch.tensor([71])), asked)
    recorder.poll()
    recorder.close()
    frame = recorded(tmp_path)
    assert frame["propensity"].isna().tolist() == [False, False, True, False, True, True]
    assert frame["propensity"][0] > 0
    assert frame["propensity"][1] == 1.0
    assert frame["propensity"][3] == pytest.approx(0.3, rel=1e-7)
    click = frame.iloc[4]
    assert click[["user", "item", "kind", "slate", "session"]].tolist() == ["ann", "c", "click", "71", "99"]
    assert (click["slot"], click["value"]) == (2, 4.5)
    assert frame.iloc[5][["user", "item", "kind", "slate"]].tolist() == ["bob", "a", "impression", ""]
    assert recorder.left_out == 1  # the skip of no item; silence needs no row of its own
    assert validate(tmp_path)["faults"] == {}


def test_everything_passes_unchanged(tmp_path: Path) -> None:
    events = poll((ANN, Kind.CLICK, 1, 5), (ANN, Kind.REQUEST, 2, -9), (BOB, Kind.IMPRESSION, 3, 7))
    before = [column.clone() for _, column in events.columns()]
    world = Script([events])
    recorder = Recorder(world, tmp_path, *core())
    assert isinstance(recorder, World)
    out = recorder.poll()
    assert out is not None
    answer(recorder, out[1:2], [[3, 4, 5]], [71])
    assert recorder.poll() is None
    recorder.flush()
    assert all(torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, (_, b) in zip(before, out.columns(), strict=True))
    assert lines(tmp_path)[1] == "ann impression c -9 0"  # a ticket of a log names the slate before our own number
    position = recorder.position()
    assert position == {"world": {"at": 2}, "parts": 1, "left_out": 0}
    recorder.commit(position)
    recorder.close()
    recorder.close()
    assert world.calls == ["flush", "commit {'at': 2}", "close", "close"]


def test_what_the_world_tells_about_the_stream_passes_too(tmp_path: Path) -> None:
    catalog, sessions = core()
    world = Script([])
    world.dead_letters = 3  # type: ignore[attr-defined]
    recorder = Recorder(world, tmp_path, catalog, sessions)
    assert recorder.dead_letters == 3
    assert not hasattr(recorder, "lag")


def test_users_are_named_before_their_rows_are_given_away(tmp_path: Path) -> None:
    catalog, sessions = Catalog(4), SessionStore(users=1, slate=1)
    catalog.rows(["a"])

    class Crowd(Script):
        def poll(self, timeout_s: float = 0.0) -> Events | None:
            self.at += 1
            return Events.of(sessions.rows([f"user {self.at}"]), Kind.CLICK, torch.ones(1), item=torch.ones(1))

    recorder = Recorder(Crowd([]), tmp_path, catalog, sessions)
    for _ in range(3):
        recorder.poll()
    recorder.close()
    assert recorded(tmp_path)["user"].tolist() == ["user 1", "user 2", "user 3"]


def test_parts_after_the_position_are_deleted_and_written_again(tmp_path: Path) -> None:
    polls = [poll((ANN, Kind.CLICK, n, 0)) for n in range(1, 7)]
    recorder = Recorder(Script(polls), tmp_path, *core())
    recorder.poll()
    recorder.poll()
    position = recorder.position()
    assert position["parts"] == 1
    assert recorder.position() == position  # nothing new, no new part
    recorder.poll()
    recorder.flush()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["part-00000.parquet", "part-00001.parquet"]
    (tmp_path / "part-00002.parquet.partial").write_bytes(b"what a crash leaves")

    resumed = Recorder(Script(polls), tmp_path, *core())
    resumed.seek(position)
    assert [p.name for p in tmp_path.iterdir()] == ["part-00000.parquet"]
    while resumed.poll() is not None:
        resumed.flush()
    resumed.close()
    assert recorded(tmp_path)["item"].tolist() == list("abcdef")


def test_a_missing_part_is_refused(tmp_path: Path) -> None:
    recorder = Recorder(Script([]), tmp_path, *core())
    with pytest.raises(BadLog, match=r"part-00000\.parquet: expected the 2 parts recorded so far, got fewer"):
        recorder.seek({"world": {"at": 0}, "parts": 2, "left_out": 0})


def test_the_log_of_another_run_is_not_written_over(tmp_path: Path) -> None:
    first = Recorder(Script([poll((ANN, Kind.CLICK, 1, 0))]), tmp_path, *core())
    first.poll()
    first.close()
    with pytest.raises(BadLog, match="expected an empty folder, got 1 parts of a log of another run; name another"):
        Recorder(Script([]), tmp_path, *core()).poll()


# --- round trip: a run, and the replay of its log ---------------------------------------------------------------


class Dicey(Counter):
    """Counter with propensities, some of them unknown."""

    def act(self, history: History) -> Decision:
        decision = super().act(history)
        slot_logp = -3 * torch.rand(decision.slate.shape, generator=self.generator)
        return Decision.of(decision.user, decision.slate, slot_logp.masked_fill(slot_logp < -2.5, torch.nan))


class Notes:
    """A meter that writes down every transition in words, so that runs with other rows for users can be compared."""

    def __init__(self, catalog: Catalog, sessions: SessionStore) -> None:
        self.catalog, self.sessions = catalog, sessions
        self.seen: list[tuple[Any, ...]] = []

    def see(self, transition: Transition) -> None:
        items = self.catalog.ids
        for n, user in enumerate(self.sessions.user_ids(transition.shown.user)):
            row = transition[n : n + 1]
            logp = [round(p, 5) for p in row.shown.slot_logp.nan_to_num(9.0).flatten().tolist()]
            slate = [items[i] for i in row.shown.slate.flatten().tolist()]
            window = [items[i] for i in row.history.items.flatten().tolist()]
            after = [items[i] for i in row.next.items.flatten().tolist()]
            numbers = (row.feedback.flatten().tolist(), row.rewards.flatten().tolist(), row.time.tolist())
            self.seen.append((user, row.history.time.tolist(), slate, logp, *numbers, window, after))

    def read(self) -> dict[str, Any]:
        return {}

    def state_dict(self) -> State:
        return {"count": len(self.seen)}

    def load_state_dict(self, state: State) -> None:
        del self.seen[state["count"] :]


def make_loop(path: Path, notes: list[tuple[Any, ...]] | None = None) -> tuple[Loop, Notes]:
    catalog, sessions = Catalog(64), SessionStore(users=32, length=5, skips=5, slate=4)
    world = Recorder(EchoWorld(catalog, sessions), path, catalog, sessions)
    meter = Notes(catalog, sessions)
    meter.seen = notes if notes is not None else []
    return Loop(world, sessions, catalog, Dicey(catalog, slate=4), {"notes": meter}, update_every=10), meter


def replay(path: Path, batch: int) -> Notes:
    catalog, sessions = Catalog(64), SessionStore(users=32, length=5, skips=5, slate=4)
    catalog.rows([f"i{n}" for n in range(4)])
    catalog.see(torch.arange(1, 5))  # four items to begin with, for the agent that is asked beside the past
    meter = Notes(catalog, sessions)
    world = LogWorld(path, catalog, sessions, slate=4, batch=batch)
    loop = Loop(world, sessions, catalog, Dicey(catalog, slate=4), {"notes": meter})
    while loop.step(0):
        pass
    assert sessions.counts == dict.fromkeys(["late", "duplicate", "unknown", "out_of_order", "evicted_open"], 0)
    return meter


@pytest.mark.parametrize("batch", [1, 13, 1024])
def test_a_recorded_run_is_rebuilt_by_its_replay(tmp_path: Path, batch: int) -> None:
    loop, run = make_loop(tmp_path)
    for _ in range(30):
        loop.step(0)
    loop.world.close()
    again = replay(tmp_path, batch)
    assert len(run.seen) > 300
    assert any(9.0 in row[3] for row in run.seen)
    assert any(row[3] != [9.0] * 4 for row in run.seen)
    assert sorted(again.seen) == sorted(run.seen)


def test_killed_and_resumed_has_recorded_everything_once(tmp_path: Path) -> None:
    whole, run = make_loop(tmp_path / "whole")
    for _ in range(20):
        whole.step(0)
    whole.world.close()

    first, meter = make_loop(tmp_path / "killed")
    for _ in range(8):
        first.step(0)
    state = copy.deepcopy(first.state_dict())  # as a checkpoint on disk: what happens after leaves it alone
    for _ in range(5):
        first.step(0)
    first.world.flush()
    second, meter = make_loop(tmp_path / "killed", meter.seen)
    second.load_state_dict(state)
    for _ in range(12):
        second.step(0)
    second.world.close()
    assert meter.seen == run.seen
    pd.testing.assert_frame_equal(recorded(tmp_path / "killed"), recorded(tmp_path / "whole"))


def test_a_replay_can_be_recorded_again(tmp_path: Path) -> None:
    loop, run = make_loop(tmp_path / "run")
    for _ in range(10):
        loop.step(0)
    loop.world.close()
    catalog, sessions = Catalog(64), SessionStore(users=32, length=5, skips=5, slate=4)
    catalog.see(catalog.rows([f"i{n}" for n in range(4)]))
    world = LogWorld(tmp_path / "run", catalog, sessions, slate=4)
    again = Loop(Recorder(world, tmp_path / "copy", catalog, sessions), sessions, catalog, Dicey(catalog, slate=4))
    while again.step(0):
        pass
    again.world.close()
    assert sorted(replay(tmp_path / "copy", 64).seen) == sorted(run.seen)
