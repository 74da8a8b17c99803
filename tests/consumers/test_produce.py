"""Logs and simulated users into Kafka: nothing lost, in order, closed at the end."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import signal
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from kafka import KafkaConsumer

from consumers import wire
from consumers.broker import EmbeddedBroker, create_topics
from consumers.kafka import KafkaWorld
from consumers.pace import Pace
from consumers.players import Players
from consumers.produce import play, send_log
from streamrec.build import BadSpec
from streamrec.catalog import Catalog
from streamrec.data.events import read
from streamrec.data.formats import BadLog
from streamrec.data.logs import LogWorld
from streamrec.loop import Loop
from streamrec.mixing import keys_of
from streamrec.ports import State
from streamrec.records import Decision, Events, Kind
from streamrec.sessions import SessionStore
from tests.consumers.kafka_topics import Open, read_all, send
from tests.worlds import Counter

pytestmark = pytest.mark.kafka


def write_log(path: Path, rows: int, slates: bool = False) -> Path:
    """Clicks by 30 users, every seventh row a slate of three with a click on its second slot, if wished."""
    columns = ["user", "item", "kind", "time", "session", "value", "slate", "slot", "propensity"]
    table: list[list[object]] = []
    for at in range(rows):
        user, when = f"u{at % 30}", 1000.0 + at
        if slates and at % 7 == 0:
            for slot in range(3):
                p = 0.5 if slot != 1 else None
                table.append([user, f"i{at + slot}", "impression", when, "s", 1.0, f"d{at}", slot, p])
            table.append([user, f"i{at + 1}", "click", when + 0.5, "s", 2.0, f"d{at}", 1, None])
        else:
            table.append([user, f"i{at % 11}", "click", when, f"s{at % 30}", 1.0, "", -1, None])
    frame = pd.DataFrame(table, columns=columns)
    frame["slot"] = frame["slot"].where(frame["slot"] >= 0).astype("Int64")
    frame.to_parquet(path)
    return path


def columns(events: Events, sessions: SessionStore, catalog: Catalog) -> list[tuple[object, ...]]:
    names = ("kind", "time", "value", "decision", "slot")
    shown = [[catalog.ids[row] for row in slate if row] for slate in events.shown.tolist()]
    logp = [[None if math.isnan(p) else round(p, 6) for p in slate] for slate in events.slot_logp.tolist()]
    items = [catalog.ids[row] for row in events.item.tolist()]
    plain = (getattr(events, name).tolist() for name in names)
    return list(zip(sessions.user_ids(events.user), items, map(tuple, shown), map(tuple, logp), *plain, strict=True))


def test_a_log_arrives_in_order_with_nothing_lost(
    broker: EmbeddedBroker, topic: str, open_world: Open, tmp_path: Path
) -> None:
    path = write_log(tmp_path / "log.parquet", 500)
    report = send_log(path, broker.address, topic, quiet=True)
    assert (report["events"], report["rows"], report["partitions"]) == (500, 500, 1)
    world = open_world()
    events = Events.cat(read_all(world))
    assert world.events_consumed == report["events"]
    log = next(read(path))
    assert world.sessions.user_ids(events.user) == log["user"].tolist()
    assert [world.catalog.ids[row] for row in events.item] == log["item"].tolist()
    assert events.time.tolist() == log["time"].tolist()
    assert events.session.tolist() == keys_of(log["session"].to_numpy(object)).tolist()


def test_a_log_with_slates_over_kafka_is_what_its_replay_is(
    broker: EmbeddedBroker, topic: str, open_world: Open, tmp_path: Path
) -> None:
    path = write_log(tmp_path / "log.parquet", 200, slates=True)
    report = send_log(path, broker.address, topic, quiet=True)
    live = open_world(ask=True, slate=3)
    over_kafka = Events.cat(read_all(live))
    replay = LogWorld(path, Catalog(1000), SessionStore(users=1000), slate=3)
    parts = []
    while (events := replay.poll()) is not None:
        parts.append(events)
    replayed = Events.cat(parts)
    assert columns(over_kafka, live.sessions, live.catalog) == columns(replayed, replay.sessions, replay.catalog)
    assert int((over_kafka.decision < -(1 << 51)).sum()) == 2 * 29
    assert report["events"] == 200 + 29  # a slate is one request, and its click


def test_a_user_keeps_to_one_partition(broker: EmbeddedBroker, topic: str, open_world: Open, tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.parquet", 300)
    assert send_log(path, broker.address, topic, partitions=3, quiet=True)["partitions"] == 3
    world = open_world(batch=40)
    events = Events.cat(read_all(world))
    assert world.events_consumed == 300
    assert sum(world.position()["offsets"].values()) == 300 + 3
    assert min(world.position()["offsets"].values()) > 1
    for row in events.user.unique():
        times = events.time[events.user == row]
        assert torch.equal(times, times.sort().values)


def test_a_limit_and_columns_in_other_words(
    broker: EmbeddedBroker, topic: str, open_world: Open, tmp_path: Path
) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text("sid,article,ms\n" + "".join(f"{at % 3},a{at},{1000 * at}\n" for at in range(50)))
    names = {"user": "sid", "session": "sid", "item": "article", "time": "ms/1000", "kind": "'click'"}
    report = send_log(path, broker.address, topic, names, limit=20, quiet=True)
    assert (report["events"], report["rows"]) == (20, 20)
    events = Events.cat(read_all(open_world()))
    assert events.time.tolist() == [float(at) for at in range(20)]


def test_a_bad_log_is_refused_and_sends_no_end(
    broker: EmbeddedBroker, topic: str, open_world: Open, tmp_path: Path
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("user,item,kind,time\nu,i,click,1\nu,i,clack,2\n")
    with pytest.raises(BadLog, match="clack"):
        send_log(path, broker.address, topic, quiet=True)
    world = open_world()
    assert world.poll(0.2) is not None


def test_a_speed_holds_events_back(broker: EmbeddedBroker, topic: str, tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.parquet", 20)  # 19 s of event time
    start = time.monotonic()
    report = send_log(path, broker.address, topic, speed=40.0, quiet=True)
    assert report["events"] == 20
    assert 19 / 40 <= time.monotonic() - start < 5
    with pytest.raises(ValueError, match="speed"):
        send_log(path, broker.address, topic, speed=0.0, quiet=True)


def test_the_first_event_is_due_at_once_and_later_ones_by_their_distance() -> None:
    pace = Pace(2.0)
    assert pace.left(100.0) <= 0
    assert pace.left(110.0) == pytest.approx(5.0, abs=0.1)
    assert Pace(None).left(1e9) == 0


def interrupt_at_the_first_event(servers: str, topic: str) -> None:
    """SIGINT to this process once `topic` holds an event: by then its sender listens for signals. None, no signal."""
    with contextlib.closing(KafkaConsumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest")) as consumer:
        if consumer.poll(20_000):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_ends_a_log_in_order(broker: EmbeddedBroker, topic: str, open_world: Open, tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.parquet", 3000)
    broker.create_topic(topic)
    interrupter = threading.Thread(target=interrupt_at_the_first_event, args=(broker.address, topic))
    interrupter.start()
    report = send_log(path, broker.address, topic, speed=100.0, quiet=True)
    interrupter.join()
    assert 0 < report["events"] < 3000
    world = open_world()
    read_all(world)
    assert world.events_consumed == report["events"]


# --- simulated users -------------------------------------------------------------------------------------------------


class Regulars:
    """Users who ask every minute, click slot 0 of what they get, and wait when they get nothing."""

    def __init__(self, catalog: Catalog, sessions: SessionStore, slate: int, users: int = 5, rounds: int = 6) -> None:
        self.items = catalog.rows([f"i{at}" for at in range(20)])
        self.user = sessions.rows([f"u{at}" for at in range(users)])
        self.left = torch.full((users,), rounds)
        self.time = torch.zeros(users, dtype=torch.float64)
        self.asks = torch.ones(users, dtype=torch.bool)
        self.reactions: list[Events] = []
        self.shown: list[Decision] = []
        self.slate = slate

    def poll(self, timeout_s: float = 0.0) -> Events | None:
        asking = self.asks & (self.left > 0)
        if not bool((self.left > 0).any()) and not self.reactions:
            return None
        self.asks[asking] = False
        request = Events.of(self.user[asking], Kind.REQUEST, self.time[asking], shown=torch.zeros(int(asking.sum()), 0))
        events = Events.cat([*self.reactions, request])
        self.reactions = []
        return events

    def send(self, wanted: Decision, asked: Events) -> Decision:
        assert wanted.slate.shape[1] == self.slate
        assert len(wanted.user.unique()) == len(wanted)
        self.shown.append(wanted)
        self.time[wanted.user] += 60
        self.left[wanted.user] -= 1
        self.asks[wanted.user] = True
        when = self.time[wanted.user] - 30
        zero = torch.zeros_like(wanted.user)
        clicks = Events.of(wanted.user, Kind.CLICK, when, item=wanted.slate[:, 0], decision=wanted.id, slot=zero)
        self.reactions.append(clicks)
        return wanted

    def position(self) -> State:
        return {}

    def seek(self, position: State) -> None: ...

    def flush(self) -> None: ...

    def commit(self, position: State) -> None: ...

    def close(self) -> None: ...


def answer(world: KafkaWorld, stop: threading.Event, clicked: list[Events]) -> None:
    """Show i3 and an item the players do not know to whoever asks, twice each, as after a crash."""
    rows = world.catalog.rows(["i3", "unheard of"])
    number = 0
    while not stop.is_set():
        events = world.poll(0.05)
        if events is None:
            return
        for wave in events.waves():
            clicked.append(wave.only(Kind.CLICK))
            asked = wave.only(Kind.REQUEST)
            if len(asked) == 0:
                continue
            wanted = Decision.of(asked.user, rows.repeat(len(asked), 1))
            wanted.id = torch.arange(number + 1, number + 1 + len(asked))
            number += len(asked)
            requests = copy.deepcopy(world._asked)
            world.send(wanted, asked)
            world._asked = requests
            world.send(wanted, asked)


def test_players_ask_get_answers_and_react(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    answers = f"{topic}-decisions"
    create_topics(broker.address, {answers: 1})
    stale = wire.DecisionMessage(7, "u0", 1.0, ["i1"], request="another-1")
    target_values = [wire.encode(stale), b"garbage"]
    consumer, stop, clicked = open_world(), threading.Event(), []
    thread = threading.Thread(target=answer, args=(consumer, stop, clicked))
    catalog, sessions = Catalog(100), SessionStore(users=100)
    crowd = Regulars(catalog, sessions, slate=4)
    players = Players(crowd, catalog, sessions, 4, broker.address, topic, answers)
    send(broker.address, answers, [*target_values])
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while players.step() and time.monotonic() < deadline:
            pass
        players.finish()
        thread.join(10)
    finally:
        stop.set()
        players.close()
    report = players.report()
    assert (report["requests"], report["answered"], report["unanswered"]) == (30, 30, 0)
    assert report["ignored"] >= 2  # the stale one, the garbage, and what came twice
    assert report["events"] == 60
    assert consumer.events_consumed == 60
    shown = Decision.cat(crowd.shown)
    assert (shown.slate == torch.tensor([4, 0, 0, 0])).all()  # i3 has row 4 there, the other item is not for sale
    assert sorted(shown.id.tolist()) == list(range(1, 31))
    back = Events.cat(clicked)
    assert sorted(back.decision.tolist()) == list(range(1, 31))
    assert {consumer.catalog.ids[row] for row in back.item.tolist()} == {"i3"}


def test_play_builds_the_world_of_a_spec_and_stops_on_time(broker: EmbeddedBroker, topic: str) -> None:
    spec = {"world": {"use": f"{__name__}.Regulars", "users": 3}, "run": {"slate": 4}}
    start = time.monotonic()
    report = play(spec, broker.address, topic, 0.5, decisions=f"{topic}-decisions", quiet=True)
    assert 0.5 <= time.monotonic() - start < 5
    assert (report["events"], report["requests"], report["unanswered"]) == (3, 3, 3)
    with pytest.raises(BadSpec, match=r"\[world\]"):
        play({}, broker.address, topic, 0.5)


def test_the_simulators_users_play_over_kafka_and_not_one_event_is_lost(
    broker: EmbeddedBroker, topic: str, open_world: Open
) -> None:
    users = {"use": "simulators.feed.Feed", "users": 50, "items": 40, "topics": 4, "slate": 3}
    world = {"use": "simulators.world.SimulatorWorld", "core": users, "decisions": 300}
    spec = {"world": world, "sessions": {"slate": 3}, "run": {"slate": 3}}
    catalog, sessions = Catalog(100), SessionStore(users=100, slate=3)
    live = open_world(catalog=catalog, sessions=sessions, slate=3)
    loop = Loop(live, sessions, catalog, Counter(catalog, slate=3), update_every=50)
    catalog.see(catalog.rows([f"i{at}" for at in range(1, 41)]))
    ended = threading.Event()

    def consume() -> None:
        while loop.step():
            pass
        ended.set()

    thread = threading.Thread(target=consume)
    thread.start()
    report = play(spec, broker.address, topic, 20.0, decisions=f"{topic}-decisions", quiet=True)
    thread.join(10)
    assert ended.is_set()
    assert (report["requests"], report["answered"], report["ignored"]) == (300, 300, 0)
    assert live.events_consumed == report["events"] > 300
    assert loop.counts["requests"] == 300
    assert loop.sessions.counts["unknown"] == 0


def test_a_pace_holds_simulated_users_to_the_clock(broker: EmbeddedBroker, topic: str, open_world: Open) -> None:
    users = {"use": "simulators.feed.Feed", "users": 50, "items": 40, "topics": 4, "slate": 3}
    spec = {
        "world": {"use": "simulators.world.SimulatorWorld", "core": users, "start": 5000.0},
        "sessions": {"slate": 3},
        "run": {"slate": 3},
    }
    play(spec, broker.address, topic, 1.0, decisions=f"{topic}-decisions", pace=20.0, quiet=True)
    events = Events.cat(read_all(open_world()))
    assert float(events.time.min()) >= 5000.0
    assert float(events.time.max()) <= 5000.0 + 20.0 * 2
