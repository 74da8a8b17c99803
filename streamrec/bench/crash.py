"""Consumers and brokers that die again and again, against a run that never did: the same state to the bit, or not.

    streamrec bench crash --kills 200

A recorded stream lies in a broker that keeps its log on disk (noida-db). A consumer of it learns as in any run. It is
killed with SIGKILL after random times and at every kind of step in the writing of a checkpoint; the broker is frozen,
or killed and started again with what it had written. Each life goes on from the newest checkpoint. Whenever the
stream has been read to its end, the last checkpoint must have the same hashes as that of a run that was left alone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from consumers import wire
from consumers.durable import DurableBroker
from consumers.topic import EventTopic
from streamrec.bench import crash_group
from streamrec.bench.crash_life import live
from streamrec.spec import Spec

EVENTS, SHORT, PARTITIONS = 4000, 1000, 3
TOPIC = "streamrec.events"
KINDS: list[wire.Name] = ["click", "skip", "purchase"]
_PRELOADED = ["streamrec.bench.crash_life", "streamrec.experiment", "consumers.kafka", "agents.split"]
_PRELOADED += ["agents.supervised", "agents.dqn", "agents.itemknn", "agents.random", "streamrec.models.next_item"]
_PRELOADED += ["streamrec.encoders.gru4rec", "streamrec.evaluation.ranking", "streamrec.evaluation.reward"]


@dataclass
class Tally:
    """What was done to the runs, and what came of it."""

    kills: int = 0
    kills_in_checkpoints: int = 0
    outages: int = 0
    restarts: int = 0  # of the consumer, from a checkpoint or, before the first, from nothing
    rounds: int = 0  # streams read to their end
    equal: bool = True
    differences: list[str] = field(default_factory=list)


def all_of_it(kills: int, short: bool, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Both benches: one consumer on a broker that keeps its log, and a group on one that evicts the dead.

    Of the kills of the long form every tenth is a member's.
    """
    alone = run(6 if short else kills, seed, SHORT if short else EVENTS, say)
    group = crash_group.run(1 if short else max(1, kills // 10), seed=seed, freeze=not short, say=say)
    equal = alone["equal"] and group["equal"]
    return {"bench": "crash", "equal": equal, "seconds": alone["seconds"] + group["seconds"], **_sums(alone, group)}


def _sums(alone: dict[str, Any], group: dict[str, Any]) -> dict[str, Any]:
    return {
        "kills": alone["kills"] + group["kills"],
        "outages": alone["outages"] + group["frozen"],
        "restarts": alone["restarts"] + group["kills"],
        "rebalances": group["rebalances"],
        "alone": alone,
        "group": group,
    }


def run(
    kills: int = 200, seed: int = 0, events: int = EVENTS, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Kill consumers of one recorded stream until `kills` is reached and the stream of that round has ended.

    Returns:
        `kills`, `kills_in_checkpoints`, `outages`, `restarts`, `rounds`, `equal`, `differences` (names of what was not
        equal), `events`, `seconds`.

    Raises:
        BrokerUnavailable: the broker for this is not installed.
        RuntimeError: a consumer ended by itself with an error.
    """
    start = time.monotonic()
    # In memory where there is such a folder: SIGKILL leaves what was written either way, and fsync is most of the time.
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="streamrec-crash-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        with DurableBroker(folder / "broker") as broker:
            record(broker.address, events, seed)
            tally = _Bench(broker, folder, seed, say).all(kills)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {**asdict(tally), "events": events, "seconds": round(time.monotonic() - start, 1)}


def record(address: str, events: int, seed: int) -> None:
    """Fill the topic: clicks, skips, a few purchases, and here and there something that cannot be read."""
    draw = random.Random(seed)
    target = EventTopic(address, TOPIC, partitions=PARTITIONS)
    for at in range(events):
        user = f"u{draw.randrange(120)}"
        kind = draw.choices(KINDS, [8, 2, 1])[0]
        item = f"i{int(200 * draw.random() ** 2)}"
        message = wire.Event(kind, user, item=item, time=1_700_000_000.0 + at)
        target.send(user.encode(), b"garbage" if draw.random() < 0.005 else wire.encode(message))
    target.end()
    target.close()


def spec_for(address: str, seed: int = 0) -> Spec:
    """Two policies that learn from clicks: whatever could differ after a crash does so within a few polls."""
    encoder = {"use": "streamrec.encoders.gru4rec.GRU4Rec", "dim": 16}
    ranker = {"use": "streamrec.models.next_item.NextItem", "encoder": encoder}
    return {
        "seed": seed,
        "run": {"slate": 5, "update_every": 64, "checkpoint_s": 0.05, "metrics_s": 1.0, "device": "cpu"},
        "catalog": {"capacity": 256},
        "sessions": {"users": 100, "length": 10, "skips": 5},  # fewer than there are: some make room
        "meters": {"reward": {"use": "streamrec.evaluation.reward.Reward"}},
        "agent": {
            "use": "agents.split.Split",
            "agents": {
                "gru4rec": {"use": "agents.supervised.Supervised", "epsilon": 0.05, "model": ranker},
                "dqn": {
                    "use": "agents.dqn.DQN",
                    "encoder": encoder,
                    "candidates": {"use": "agents.itemknn.ItemKNN", "slate": 20},
                },
            },
        },
        "world": {
            "use": "consumers.kafka.KafkaWorld",
            "bootstrap_servers": address,
            "topic": TOPIC,
            "batch": 50,
            "ask": True,
            "linger_s": 60.0,  # a broker that is away must not cut the polls otherwise
        },
    }


class _Bench:
    def __init__(self, broker: DurableBroker, folder: Path, seed: int, say: Callable[[str], None]) -> None:
        self.broker, self.folder, self.say = broker, folder, say
        self.draw = random.Random(seed + 1)
        self.spec = spec_for(broker.address, seed)
        self.tally = Tally()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)

    def all(self, kills: int) -> Tally:
        warm = self._context.Process(target=os.getpid)  # the forking process has imported everything then
        warm.start()
        warm.join()
        begun = time.monotonic()
        never = self._unharmed()
        whole = time.monotonic() - begun
        while self.tally.kills < kills:
            self.tally.rounds += 1
            run_dir = self.folder / f"round-{self.tally.rounds}"
            self._round(run_dir, kills, whole)
            wrong = [name for name, digest in digests(run_dir).items() if never.get(name) != digest]
            self.tally.differences += wrong
            self.tally.equal = self.tally.equal and not wrong
            self.say(f"round {self.tally.rounds}: {self.tally.kills} kills, {self.tally.outages} outages, {wrong}")
            shutil.rmtree(run_dir)
        return self.tally

    def _unharmed(self) -> dict[str, str]:
        run_dir = self.folder / "never"
        with self._life(run_dir) as process:
            process.join()
            _check(process, run_dir)
        return digests(run_dir)

    def _round(self, run_dir: Path, kills: int, whole: float) -> None:
        """Lives of one run, until one of them reaches the end of the stream."""
        while True:
            die_at = self.draw.randrange(1, 25) if self.draw.random() < 0.4 and self.tally.kills < kills else 0
            with self._life(run_dir, die_at) as process:
                if self.tally.kills >= kills:
                    process.join()
                elif not die_at:
                    process.join(self.draw.uniform(0.0, 0.7 * whole))
                    if process.is_alive() and self.draw.random() < 0.4:
                        self._outage()
                else:
                    process.join()
                ended = not process.is_alive() and process.exitcode != -signal.SIGKILL
                if not ended:
                    self._kill(process)
                    self.tally.kills_in_checkpoints += bool(die_at)
                    continue
                _check(process, run_dir)
                return

    def _kill(self, process: BaseProcess) -> None:
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        self.tally.kills += 1
        self.tally.restarts += 1

    def _outage(self) -> None:
        self.tally.outages += 1
        if self.draw.random() < 0.5:
            self.broker.freeze()
            time.sleep(self.draw.uniform(0.05, 1.5))
            self.broker.thaw()
        else:
            self.broker.kill()
            time.sleep(self.draw.uniform(0.0, 0.3))
            self.broker.start()
        time.sleep(self.draw.uniform(0.0, 0.5))

    @contextmanager
    def _life(self, run_dir: Path, die_at: int = 0) -> Iterator[BaseProcess]:
        process = self._context.Process(target=live, args=(self.spec, str(run_dir), die_at))
        process.start()
        try:
            yield process
        finally:
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


def _check(process: BaseProcess, run_dir: Path) -> None:
    if process.exitcode != 0:
        last = (run_dir / "life.log").read_text()[-2000:]
        raise RuntimeError(f"a consumer ended with exit code {process.exitcode}:\n{last}")


def digests(run_dir: Path) -> dict[str, str]:
    """sha256 of the parts of the newest checkpoint that say what was learned and remembered, by name.

    Left out is what belongs to this machine's time: `run` (seconds so far, length of the metrics) and, of the loop's
    counters, how often it polled, since waiting for a broker means polls without events.
    """
    newest = sorted((run_dir / "checkpoints").glob("[0-9]*"))[-1]
    found: dict[str, str] = json.loads((newest / "manifest.json").read_text())["sha256"]
    loop = json.loads((newest / "loop.json").read_text())
    loop["counts"].pop("polls")
    kept = {name: digest for name, digest in found.items() if name.split(".")[0] not in ("run", "loop")}
    return {**kept, "loop.json": json.dumps(loop, sort_keys=True)}
