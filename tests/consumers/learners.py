"""Learners of one model as they are started in life: `torchrun ... -m streamrec.cli consume`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor

from consumers import wire
from consumers.clients.kafka_python import connect_producer
from streamrec import checkpoint

ITEMS, PARTITIONS, COUNT = 40, 4, 2


def spec(servers: str, topic: str, follow: bool = False, start: int = 0) -> dict[str, Any]:
    """Two agents that learn with gradients, of item tables and without, in a group.

    Every `start` has a group of its own, which reads the topic from its beginning: in a group that all have left, the
    embedded broker elects no leader where two join at the same moment, as learners do.
    """
    encoder = {"use": "streamrec.encoders.gru4rec.GRU4Rec", "dim": 8}
    agents = {
        "gru4rec": {
            "use": "agents.supervised.Supervised",
            "model": {"use": "streamrec.models.next_item.NextItem", "encoder": encoder},
        },
        "dqn": {"use": "agents.dqn.DQN", "encoder": encoder},
    }
    names = {name: f"{topic}-{name}" for name in ("decisions", "dead_letters", "state")}
    return {
        "run": {"slate": 3, "update_every": 32, "checkpoint_s": 1.0, "learners": COUNT},
        "catalog": {"capacity": 100},
        "sessions": {"users": 500, "length": 10},
        "agent": {"use": "agents.split.Split", "learn_from": "all", "agents": agents},
        "world": {
            "use": "consumers.kafka.KafkaWorld",
            "bootstrap_servers": servers,
            "topic": topic,
            "group": f"{topic}-learners-{start}",
            "batch": 100,
            "ask": True,
            "follow": follow,
            **names,
        },
    }


def write(servers: str, topic: str, events: int, shares: tuple[float, ...], start: int = 0, over: bool = True) -> None:
    """Clicks of users who stay in their partition, of which each gets its share; and the `end` of each."""
    draw = torch.Generator().manual_seed(start)
    where = torch.multinomial(torch.tensor(shares), events, replacement=True, generator=draw).tolist()
    items = torch.randint(ITEMS, (events,), generator=draw).tolist()
    producer = connect_producer(servers)
    for at, (partition, item) in enumerate(zip(where, items, strict=True)):
        user = f"u{partition}-{at % 30}"
        event = wire.Event("click", user, item=f"i{item}", time=1_700_000_000.0 + 5 * (start + at))
        producer.send(topic, wire.encode(event), key=user.encode(), partition=partition)
    for partition in range(len(shares) if over else 0):
        producer.send(topic, wire.encode(wire.Event(wire.END)), partition=partition)
    producer.flush()
    producer.close()


def launch(folder: Path, table: dict[str, Any], *more: str) -> subprocess.Popen[str]:
    """Start them; what they say goes to `said.txt`."""
    (folder / "spec.toml").write_text(tomli_w.dumps(table))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(COUNT), "--standalone"]
    consume = ["-m", "streamrec.cli", "consume", str(folder / "spec.toml"), "--run-dir", str(folder / "run")]
    with (folder / "said.txt").open("a") as said:
        return subprocess.Popen(
            [*torchrun, *consume, *more, "--json"],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def run_dirs(folder: Path) -> list[Path]:
    return [folder / "run", *(folder / "run" / f"learner-{rank}" for rank in range(1, COUNT))]


def summaries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((where / "summary.json").read_text()) for where in run_dirs(folder)]


def newest(where: Path) -> tuple[int, dict[str, Any]]:
    """Number and content of the newest checkpoint."""
    number = checkpoint.numbers(where / "checkpoints")[-1]
    state = checkpoint.load_number(where / "checkpoints", number)
    assert state is not None
    return number, state


def tensors(tree: Any, path: str = "") -> dict[str, Tensor]:
    """Leaves that are tensors, by path."""
    if isinstance(tree, Tensor):
        return {path: tree}
    if isinstance(tree, dict):
        pairs = tree.items()
    elif isinstance(tree, list):
        pairs = enumerate(tree)
    else:
        return {}
    return {name: leaf for key, part in pairs for name, leaf in tensors(part, f"{path}/{key}").items()}
