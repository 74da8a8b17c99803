"""The learner as a child process: it publishes, survives SIGKILL, and ends with the service."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from consumers.serving import learner as module
from consumers.serving.types import Ask
from streamrec import checkpoint
from tests.consumers.serving.conftest import Stage, clicks, together, until

pytestmark = pytest.mark.kafka


def test_a_killed_learner_comes_back_and_nobody_notices(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", (0.05, 0.2))
    stage.spec["run"] = {**stage.spec["run"], "checkpoint_s": 0.2, "update_s": 0.1}

    async def work() -> None:
        async with stage.engine(learner=True) as engine:
            learner = engine.learner
            assert learner is not None
            await engine.append(clicks(20, 30))
            await until(lambda: engine.registry.about.get("events", 0) >= 240)
            await until(lambda: any((stage.run_dir / "checkpoints").glob("[0-9]*")))
            assert learner.pid is not None
            os.kill(learner.pid, signal.SIGKILL)
            await until(lambda: learner.restarts == 1)
            assert (await engine.recommend(Ask("u1", k=5, deadline_ms=5000.0))).fallback is None
            await engine.append(clicks(20, 30))
            await until(lambda: engine.registry.about.get("events", 0) >= 480)
            figures: dict[str, Any] = engine.live()["learner"]
            assert figures["alive"]
            assert figures["restarts"] == 1
            assert figures["updates"] > 0
            assert engine.health().parts["learner"].ok
        assert not learner.alive
        last = checkpoint.load_newest(stage.run_dir / "checkpoints")
        assert last is not None
        assert last[0]["position"]["events_consumed"] == 241, "120 clicks twice and one answer, each of them once"

    together(work)
