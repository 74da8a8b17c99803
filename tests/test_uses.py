"""The three uses of one agent, and a new agent in one file, on small worlds; the same loop each time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from consumers.broker import EmbeddedBroker

NEWCOMER = '''
"""A newcomer's agent, written after the recipe in CONTRIBUTING.md."""

from streamrec.catalog import Catalog
from streamrec.ports import State
from streamrec.records import Decision, History, Transition
import torch


class Newest:
    """Shows the items that arrived last."""

    reads = ()

    def __init__(self, catalog: Catalog, slate: int) -> None:
        self.catalog, self.slate = catalog, slate

    def act(self, history: History) -> Decision:
        rows = torch.nonzero(self.catalog.available).squeeze(1).flip(0)[: self.slate]
        rows = torch.nn.functional.pad(rows, (0, self.slate - len(rows)))
        return Decision.of(history.user, rows.expand(len(history), -1))

    def observe(self, transition: Transition) -> None: ...

    def update(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None: ...
'''


def streamrec(*arguments: str, cwd: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "streamrec.cli", *arguments, "--json", "--quiet"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """600 clicks of 40 users, in order: what a shop would have."""
    rows = range(600)
    frame = pd.DataFrame(
        {
            "user": [f"u{i % 40}" for i in rows],
            "item": [f"i{(i * i) % 23}" for i in rows],
            "kind": "click",
            "time": [1_700_000_000.0 + i for i in rows],
        }
    )
    frame.to_parquet(tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


@pytest.mark.kafka
def test_one_file_is_a_new_agent_in_all_three_uses(tmp_path: Path, log: Path) -> None:
    (tmp_path / "newcomer.py").write_text(NEWCOMER)
    agent = ["--set", 'agent={use="newcomer.Newest"}']
    small = ["--set", "run.decisions=2000", "--set", "world.core.users=100"]
    trained = streamrec("train", *agent, *small, cwd=tmp_path)
    assert trained["policies"]["newest"]["decisions"] >= 2000
    replayed = streamrec("replay", *agent, "--log", str(log), cwd=tmp_path)
    assert replayed["policies"]["logged"]["decisions"] == 600
    with EmbeddedBroker() as broker:
        sent = streamrec("produce", str(log), "--bootstrap-servers", broker.address, cwd=tmp_path)
        click = ["--set", "world.ask=true"]
        consumed = streamrec("consume", *agent, *click, "--bootstrap-servers", broker.address, cwd=tmp_path)
    assert sent["events"] == consumed["events_consumed"] == 600
    assert consumed["total"] == replayed["total"]
    assert consumed["total"]["newest"]["n"] == 560


@pytest.mark.kafka
def test_a_click_stream_scores_alike_from_kafka_and_from_a_file(tmp_path: Path, log: Path) -> None:
    """Frozen against updated, popular and item-kNN, by period, with not one event lost."""
    short = ["--set", "meters.ranking.period_s=200", "--set", "run.update_every=32"]
    short += ["--set", "agent.agents.gru4rec_frozen.after_s=200", "--set", "sessions.users=1000"]
    short += ["--set", "agent.agents.rules_frozen.after_s=200", "--set", "catalog.capacity=100"]
    with EmbeddedBroker() as broker:
        sent = streamrec("produce", str(log), "--bootstrap-servers", broker.address, cwd=tmp_path)
        live = streamrec("consume", "clickstream", *short, "--bootstrap-servers", broker.address, cwd=tmp_path)
    file = streamrec("replay", "clicklog", *short, "--log", str(log), cwd=tmp_path)
    assert sent["events"] == live["events_consumed"] == 600
    assert live["dead_letters"] == live["unknown"] == live["late"] == 0
    assert live["periods"] == file["periods"]
    assert [period["period"] for period in live["periods"]] == [0, 1, 2]
    for period in live["periods"]:
        assert set(period["models"]) >= {"popular", "itemknn", "gru4rec", "gru4rec_frozen"}
        assert {model["n"] for model in period["models"].values()} == {200 - 40 * (period["period"] == 0)}
    first = live["periods"][0]["models"]
    assert first["gru4rec"] == first["gru4rec_frozen"]
