"""Members of a group that are killed, frozen, replaced and joined by others, against one process that read it all.

What must be equal in the end is the state of every user: windows, counters, the open decision and what it showed. What
was learned is each member's own. Left out of the comparison are therefore what an agent would have shown (`wanted`) and
the numbers that a stream without decisions gives its questions (`ticket`).
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from consumers import wire
from consumers.broker import EmbeddedBroker
from consumers.clients.settings import ClientSettings
from consumers.handover.member import Member
from consumers.kafka import KafkaWorld, connect_consumer
from consumers.topic import EventTopic
from streamrec.bench.crash_life import live
from streamrec.catalog import Catalog
from streamrec.loop import Loop
from streamrec.moving import pack
from streamrec.sessions import SessionStore
from streamrec.spec import Spec

TOPIC, GROUP, USERS, SLATE = "streamrec.events", "members", 300, 5
KINDS: list[wire.Name] = ["click", "skip", "leave"]
PATIENCE_S = 40.0
"""How long the group may take to read everything once it is left alone."""

_PRELOADED = ["streamrec.bench.crash_life", "streamrec.experiment", "consumers.kafka", "agents.random"]


def run(
    kills: int = 1,
    members: int = 3,
    partitions: int = 12,
    events: int = 6000,
    seed: int = 0,
    session_s: float = 1.5,
    freeze: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """One group reads one stream while it is written. The last member joins late.

    Args:
        kills: members killed with SIGKILL; each is replaced, by turns with the checkpoint of the dead or without.
        members: of the group.
        partitions: of the events.
        events: written in all, from the beginning to the last kill.
        session_s: after how long the group gives up a member that is silent.
        freeze: also stop a member for longer than that, and let it go on.

    Returns:
        `kills`, `joins`, `frozen`, `rebalances` (seen by those alive at the end), `again` (events that had to be
        read again after all members had left in good order), `equal`, `differences` (names of tables), `users`,
        `events`, `seconds`.

    Raises:
        BrokerUnavailable: the embedded broker is not installed.
        RuntimeError: the group does not get to the end of the stream.
    """
    start = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="streamrec-group-"))
    try:
        with EmbeddedBroker() as broker:
            bench = _Group(broker.address, folder, partitions, seed, session_s, say)
            try:
                found = bench.all(kills, members, events, freeze)
            finally:
                bench.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {**found, "events": events, "seconds": round(time.monotonic() - start, 1)}


@dataclass
class _Running:
    process: BaseProcess
    run_dir: Path


class _Group:
    def __init__(
        self, address: str, folder: Path, partitions: int, seed: int, session_s: float, say: Callable[[str], None]
    ) -> None:
        self.address, self.folder, self.say, self.session_s = address, folder, say, session_s
        self.draw = random.Random(seed)
        self.target = EventTopic(address, TOPIC, partitions=partitions)
        self.members: list[_Running] = []
        self.joins = self.written = 0
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)

    def all(self, kills: int, members: int, events: int, freeze: bool) -> dict[str, Any]:
        acts = kills + 2 + freeze  # after the start, the late member, and each blow
        for _ in range(members - 1):
            self.join()
        self.write(events // acts)
        self.join()
        self.write(events // acts)
        for at in range(kills):
            self._kill(resume=at % 2 == 1)
            self.write(events // acts)
        if freeze:
            self._freeze()
            self.write(events // acts)
        self.write(events - self.written)
        alone = self._alone()
        self._wait(alone.world.position()["offsets"])
        rebalances = self._drain()
        expected = portrait(alone.sessions, alone.catalog)
        found, again = self._restored()
        wrong = sorted(name for name in expected if expected[name] != found.get(name))
        about = {"kills": kills, "joins": self.joins, "frozen": int(freeze), "rebalances": rebalances, "again": again}
        return {**about, "equal": not wrong, "differences": wrong, "users": len(alone.sessions.users.ids)}

    # --- the stream --------------------------------------------------------------------------------------------------

    def write(self, count: int, seconds: float = 2.0) -> None:
        """Some of the stream, over `seconds`, so that members are at work while it comes."""
        for at in range(count):
            user = f"u{self.draw.randrange(USERS)}"
            kind = self.draw.choices(KINDS, [8, 2, 0.2])[0]
            item = "" if kind == "leave" else f"i{self.draw.randrange(400)}"
            event = wire.Event(kind, user, item=item, time=1_700_000_000.0 + self.written)
            self.target.send(user.encode(), wire.encode(event))
            self.written += 1
            if at % 100 == 99:
                time.sleep(100 * seconds / count)
        self.target.flush()

    # --- members -----------------------------------------------------------------------------------------------------

    def spec(self) -> Spec:
        silence = {"session_timeout_ms": int(1000 * self.session_s), "heartbeat_interval_ms": 300}
        return {
            "run": {"slate": SLATE, "checkpoint_s": 0.3, "metrics_s": 0.5, "device": "cpu"},
            "catalog": {"capacity": 2000},
            "sessions": {"users": 2 * USERS, "length": 12, "skips": 6, "patience_s": 1e9},
            "agent": {"use": "agents.random.Random"},
            "world": {
                "use": "consumers.kafka.KafkaWorld",
                "bootstrap_servers": self.address,
                "topic": TOPIC,
                "group": GROUP,
                "batch": 100,
                "ask": True,
                "follow": True,
                "client": silence,
            },
        }

    def join(self, run_dir: Path | None = None) -> None:
        run_dir = run_dir or self.folder / f"member-{self.joins}"
        self.joins += 1
        process = self._context.Process(target=live, args=(self.spec(), str(run_dir), 0))
        process.start()
        self.members.append(_Running(process, run_dir))
        self.say(f"{self.written} events: {run_dir.name} joins")

    def _kill(self, resume: bool) -> None:
        victim = self.members.pop(self.draw.randrange(len(self.members)))
        self._signal(victim, signal.SIGKILL)
        victim.process.join()
        self.say(f"{self.written} events: {victim.run_dir.name} is killed")
        self.join(victim.run_dir if resume else None)

    def _freeze(self) -> None:
        victim = self.members[self.draw.randrange(len(self.members))]
        self._signal(victim, signal.SIGSTOP)
        self.say(f"{self.written} events: {victim.run_dir.name} is frozen")
        time.sleep(3 * self.session_s)
        self._signal(victim, signal.SIGCONT)

    def _wait(self, ends: dict[str, int]) -> None:
        """Until the group has committed all of the stream, which it does with each checkpoint."""
        from kafka import TopicPartition

        consumer = connect_consumer(self.address, GROUP)
        try:
            deadline = time.monotonic() + PATIENCE_S
            left = {TopicPartition(TOPIC, int(p)): end for p, end in ends.items()}
            while left:
                left = {place: end for place, end in left.items() if (consumer.committed(place) or 0) < end}
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the group did not get to the end of {sorted(p.partition for p in left)}")
                time.sleep(0.1)
        finally:
            consumer.close(autocommit=False)

    def _drain(self) -> int:
        """End the members politely; returns the rebalances they saw."""
        seen = 0
        for member in self.members:
            self._signal(member, signal.SIGTERM)
        for member in self.members:
            member.process.join(30)
            if member.process.exitcode != 0:
                last = (member.run_dir / "life.log").read_text()[-2000:]
                raise RuntimeError(f"{member.run_dir.name} ended with exit code {member.process.exitcode}:\n{last}")
            last = (member.run_dir / "metrics.jsonl").read_text().splitlines()[-1]
            seen += json.loads(last)["world"]["rebalances"]
        return seen

    def end(self) -> None:
        self.target.close()
        for member in self.members:
            if member.process.is_alive():
                member.process.kill()
                member.process.join()

    def _signal(self, member: _Running, number: signal.Signals) -> None:
        assert member.process.pid is not None
        os.kill(member.process.pid, number)

    # --- what came of it ---------------------------------------------------------------------------------------------

    def _world(self, **settings: Any) -> tuple[KafkaWorld, SessionStore, Catalog]:
        table = self.spec()["sessions"]
        sessions, catalog = SessionStore(slate=SLATE, **table), Catalog(2000)
        client = self.spec()["world"]["client"]
        world = KafkaWorld(
            self.address, catalog, sessions, SLATE, topic=TOPIC, ask=True, client=client, batch=100, **settings
        )
        return world, sessions, catalog

    def _alone(self) -> Loop:
        """One process that reads everything."""
        from agents.random import Random

        world, sessions, catalog = self._world(until="latest")
        loop = Loop(world, sessions, catalog, Random(catalog, SLATE))
        while loop.step():
            pass
        world.close()
        return loop

    def _restored(self) -> tuple[dict[str, str], int]:
        """What the state topic says when all have gone, and the events that had to be read again on top of it.

        Not as a member: when all members leave, the embedded broker may go on waiting for the leader that has gone.
        """
        from agents.random import Random

        world, sessions, catalog = self._world(until="latest")
        where = {name: str(world.position()[name]) for name in ("cluster", "topic")}
        member = Member(
            self.address, "streamrec.state", GROUP, where, world.places, sessions, catalog, world.remembered,
            world._outbox, ClientSettings(None),
        )  # fmt: skip
        ready = member.keeper.arrive(dict.fromkeys(world.places.offsets))
        while member.keeper.busy:
            ready += member.keeper.work(0.01)
        for one in ready:
            world.places.begin_at(one.partition, one.offset, one.ended)
        loop = Loop(world, sessions, catalog, Random(catalog, SLATE))
        while loop.step():
            pass
        member.close()
        world.close()
        return portrait(sessions, catalog), world.events_consumed


def portrait(sessions: SessionStore, catalog: Catalog) -> dict[str, str]:
    """sha256 of every table of the users that are known, in the order of their ids, items by their ids."""
    names = [(name, row) for row, name in enumerate(sessions.users.ids) if name is not None]
    order = torch.tensor([row for _, row in sorted(names)], dtype=torch.int64)
    parcel = pack(sessions, catalog, order)
    ids = np.array(["", *parcel["items"]], dtype="U")
    waiting = parcel["tables"]["open_id"] != 0
    digests = {"users": _digest(np.array(parcel["users"], dtype="U"))}
    for name, table in parcel["tables"].items():
        last = name.rpartition(".")[2]
        if name.startswith("open.wanted") or last in ("ticket", "closed_ticket") or name.endswith(".user"):
            continue
        rows = table[waiting] if name.startswith("open.") else table
        by_item = last in ("items", "skipped", "pages", "offer", "slate", "shadow")
        digests[name] = _digest(ids[rows.numpy()] if by_item else rows.numpy())
    return digests


def _digest(values: np.ndarray[Any, Any]) -> str:
    text = values.astype("U128") if values.dtype.kind == "U" else values
    return hashlib.sha256(np.ascontiguousarray(text).tobytes()).hexdigest()
