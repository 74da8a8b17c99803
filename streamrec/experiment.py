"""A run: the loop built from a spec, with its directory, checkpoints, metrics and report.

The directory holds `spec.toml`, `metrics.jsonl` (one JSON object a second), `checkpoints/`, `summary.json` and
`report.html`. Dashboards read `metrics.jsonl` only.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from streamrec import checkpoint, parallel
from streamrec import spec as specs
from streamrec.build import BadSpec, build, did_you_mean
from streamrec.catalog import Catalog
from streamrec.evaluation.report import recovery, write_report
from streamrec.interrupts import interrupts
from streamrec.loop import Loop, policy_names
from streamrec.ports import Agent, State
from streamrec.publish import Publisher
from streamrec.sessions import SessionStore
from streamrec.warmstart import Witness

log = logging.getLogger(__name__)


@dataclass
class Settings:
    """The `[run]` table.

    Attributes:
        decisions: stop once this many decisions have closed; 0 = when the world is over.
        seconds: stop after this much wall time; 0 = no limit.
        update_every: closed decisions per learning step.
        update_s: wall seconds after which fewer decisions are learned from too; 0 = never, which is repeatable.
        checkpoint_s: wall seconds between checkpoints.
        metrics_s: wall seconds between lines of `metrics.jsonl`.
        threads: torch threads; small operations on a shared machine are many times slower with two than with one.
        device: "auto" takes a GPU where there is one.
        slate: K, items per decision.
        publish_s: least wall seconds between the versions of the model in `models/`, which a service answers with; 0 =
            none are published.
        learners: processes that learn this model together, each started with this spec; see `streamrec.parallel`.
        marks: texts for the plots by event time in seconds since the epoch, as a string key: {"1700001200" = "shift"}.
    """

    decisions: int = 0
    seconds: float = 0.0
    update_every: int = 512
    update_s: float = 0.0
    checkpoint_s: float = 30.0
    metrics_s: float = 1.0
    threads: int = 1
    device: str = "auto"
    slate: int = 10
    publish_s: float = 0.0
    learners: int = 1
    marks: dict[str, str] | None = None

    def torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)


class Experiment:
    """One run of one spec.

    Args:
        spec: tables as in a spec file.
        run_dir: created if missing; what an earlier run left there is continued with `resume()`. Of several learners,
            the first has it and the others a folder in it each.
        command: the command line, for the report.

    Attributes:
        leads: it is the only learner, or the first of them: who publishes, and speaks to whoever started them.
    """

    def __init__(self, spec: specs.Spec, run_dir: Path, command: str = "") -> None:
        self.spec, self.command = spec, specs.without_passwords(command)
        known = Settings.__dataclass_fields__
        for key in spec.get("run", {}):
            if key not in known:
                raise BadSpec(f"run: there is no setting {key!r}{did_you_mean(key, known)}")
        self.settings = Settings(**spec.get("run", {}))
        torch.set_num_threads(self.settings.threads)
        self.leads = parallel.rank(self.settings.learners) == 0
        run_dir = parallel.folder(run_dir, self.settings.learners)
        self.run_dir = run_dir
        self.seed = int(spec.get("seed", 0))
        torch.manual_seed(self.seed)
        run_dir.mkdir(parents=True, exist_ok=True)
        self._context: dict[str, Any] = {
            "seed": self.seed,
            "device": self.settings.torch_device(),
            "slate": self.settings.slate,
            "run_dir": run_dir,
        }
        self.loop = self._build_loop()
        self.stopped = False  # by a signal
        self.warm = not spec.get("warm_start")  # the warm start is over, or there is none
        self._elapsed_s = 0.0  # of earlier lives of this run
        self._started = time.monotonic()
        self._written = 0  # bytes of metrics.jsonl
        self._before: tuple[float, int, int] = (0.0, 0, 0)  # elapsed, events, updates at the last metrics line
        self._marks = {float(at): text for at, text in (self.settings.marks or {}).items()}

    def _build_loop(self) -> Loop:
        spec, context = self.spec, self._context
        for table in ("world", "agent"):
            if table not in spec:
                raise BadSpec(f"the spec has no [{table}] table")
        context["catalog"] = catalog = self._make(Catalog, "catalog")
        context["sessions"] = self._make(SessionStore, "sessions")
        learners = parallel.start(self.settings.learners, catalog)
        # The world first: it says how wide contexts and features are, which agents are built for.
        world = build(spec["world"], context, "world")
        if learners is not None and getattr(world, "rows_may_wait", False):
            catalog.waiting = {}
        agent = build(spec["agent"], context, "agent")
        context["policies"] = list(policy_names(agent))
        if not getattr(world, "policies", True):  # a world that names them on the wire is built before they are known
            world.policies = tuple(context["policies"])
        meters = build(spec.get("meters", {}), context, "meters")
        limit = self.settings.decisions or None
        every, device = self.settings.update_every, self.settings.torch_device()
        sessions, quiet = context["sessions"], self.settings.update_s
        return Loop(world, sessions, catalog, agent, meters, every, limit, device, learners=learners, update_s=quiet)

    def _make(self, cls: type, table: str) -> Any:
        return build({"use": f"{cls.__module__}.{cls.__qualname__}", **self.spec.get(table, {})}, self._context, table)

    # --- running -----------------------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Continue from the newest whole checkpoint of the run directory. False: there is none."""
        folder, learners = self.run_dir / "checkpoints", self.loop.learners
        if learners is None:
            found = checkpoint.load_newest(folder)
            state = None if found is None else found[0]
        else:
            state = learners.newest(checkpoint.numbers(folder), lambda number: checkpoint.load_number(folder, number))
        if state is None:
            return False
        self._load(state)
        log.info("resumed at poll %d", self.loop.counts["polls"])
        return True

    def run(self) -> dict[str, Any]:
        """Run to the end, or to a signal, and leave checkpoint, metrics and report. Returns the summary."""
        (self.run_dir / "summary.json").unlink(missing_ok=True)  # of an earlier life: this run is not finished
        (self.run_dir / "spec.toml").write_text(specs.dump(self.spec))
        self._started = time.monotonic()
        with interrupts(self.stop):
            try:
                self._warm_start()
                self._started = time.monotonic()  # plots and time limits count from the first poll
                self._main()
                self._checkpoint()
            finally:
                self.loop.world.close()
                if self.loop.learners is not None:
                    self.loop.learners.close()
        self._write_metrics()
        return self._finish()

    def _main(self) -> None:
        next_line, next_checkpoint = time.monotonic(), time.monotonic() + self.settings.checkpoint_s
        publishes = self.settings.publish_s and self.leads
        publisher = Publisher(self.run_dir / "models", self.settings.publish_s) if publishes else None
        learners = self.loop.learners
        if learners is not None:
            learners.same(learners.weights())
        halt = learners is None and self._halts()
        while not halt and self.loop.step():
            now, halt = time.monotonic(), self._halts()
            if learners is not None:
                halt = halt or self.loop.enough
                now, halt, self.stopped = learners.in_step(now, next_checkpoint, halt, self.stopped)
            if publisher is not None:
                publisher.step(self.loop)
            if now >= next_line:
                self._write_metrics()
                next_line = now + self.settings.metrics_s
            if now >= next_checkpoint:
                self._checkpoint()
                next_checkpoint = time.monotonic() + self.settings.checkpoint_s
        if publisher is not None:
            publisher.close(self.loop)

    def _warm_start(self) -> None:
        """Before the run: a policy learns from a log, or a teacher does and hands over to it.

        That is the loop over another world, with sessions of its own. With a `teacher` the policy sees nothing of the
        log itself, and what the hand-over says of its checks stands in `warm_start.json`.
        """
        if self.warm:
            return
        table = dict(self.spec["warm_start"])
        student = self._warm_policy(table.get("policy"))
        witness = self._witness(table, student)
        for number in range(int(table.get("passes", 1))):
            # Only the first pass is kept for lessons: a log read twice would look like users who live twice.
            self._pass(table, student if witness is None else witness if number == 0 else witness.teacher)
        if witness is not None and not self.stopped:
            hand_over = build(table["hand_over"], self._context, "warm_start.hand_over")
            (self.run_dir / "warm_start.json").write_text(json.dumps(hand_over(student, witness), indent=1))
        self.warm = not self.stopped

    def _warm_policy(self, name: str | None) -> Agent:
        members: dict[str, Agent] = getattr(self.loop.agent, "agents", {})
        if name is None and not members:
            return self.loop.agent
        if name not in members:
            names = list(policy_names(self.loop.agent))
            raise BadSpec(f"warm_start.policy must name a policy of the agent, got {name!r}; there is {names}")
        return members[name]

    def _witness(self, table: dict[str, Any], student: Agent) -> Witness | None:
        if ("teacher" in table) != ("hand_over" in table):
            raise BadSpec("warm_start needs both teacher and hand_over, or neither: one learns, the other passes it on")
        if "teacher" not in table:
            return None
        gamma = getattr(getattr(student, "replay", None), "gamma", 0.9)
        teacher = build(table["teacher"], self._context, "warm_start.teacher")
        return Witness(teacher, gamma=gamma, device=self.settings.torch_device())

    def _pass(self, table: dict[str, Any], learner: Agent) -> None:
        sessions = self._make(SessionStore, "sessions")
        world = build(table["world"], self._context | {"sessions": sessions}, "warm_start.world")
        every, device = self.settings.update_every, self.settings.torch_device()
        loop = Loop(world, sessions, self.loop.catalog, learner, {}, every, None, device)
        while not self.stopped and loop.step():
            pass
        world.close()

    def _halts(self) -> bool:
        return self.stopped or self._out_of_time()

    def _out_of_time(self) -> bool:
        return 0 < self.settings.seconds <= self._elapsed()

    def _elapsed(self) -> float:
        return self._elapsed_s + time.monotonic() - self._started

    def stop(self) -> None:
        """End after the batch in hand."""
        self.stopped = True

    # --- what a run leaves ---------------------------------------------------------------------------------------

    def _write_metrics(self) -> None:
        elapsed, figures = self._elapsed(), self.loop.read()
        before, events, updates = self._before
        span = max(elapsed - before, 1e-9)
        line = {
            "t": elapsed,
            "events_per_s": (figures["events"] - events) / span,
            "updates_per_s": (figures["updates"] - updates) / span,
            **figures,
        }
        self._before = (elapsed, figures["events"], figures["updates"])
        due = [at for at in self._marks if figures["time"] is not None and figures["time"] >= at]
        if due:
            line["mark"] = ", ".join(self._marks.pop(at) for at in sorted(due))
        with (self.run_dir / "metrics.jsonl").open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            self._written = file.tell()

    def _checkpoint(self) -> None:
        state = self._state()
        checkpoint.save(self.run_dir / "checkpoints", state, self.loop.counts["polls"])
        self.loop.world.commit(state["position"])

    def _state(self) -> State:
        run = {
            "elapsed_s": self._elapsed(),
            "metrics_bytes": self._written,
            "warm": self.warm,
            "marks": {str(at): text for at, text in self._marks.items()},
            "before": list(self._before),
        }
        return {**self.loop.state_dict(), "run": run}

    def _load(self, state: State) -> None:
        run = state["run"]
        self._elapsed_s, self._written, self.warm = run["elapsed_s"], run["metrics_bytes"], run["warm"]
        self._marks = {float(at): text for at, text in run["marks"].items()}
        elapsed, events, updates = run["before"]
        self._before = (elapsed, int(events), int(updates))
        self.loop.load_state_dict(state)
        metrics = self.run_dir / "metrics.jsonl"
        if metrics.exists():
            with metrics.open("r+b") as file:
                file.truncate(self._written)

    def _finish(self) -> dict[str, Any]:
        lines = [json.loads(line) for line in (self.run_dir / "metrics.jsonl").read_text().splitlines()]
        last = lines[-1]
        marked = next((line for line in lines if "mark" in line), None)
        summary: dict[str, Any] = {
            "command": self.command,
            "run_dir": str(self.run_dir),
            "stopped": self.stopped,
            "seconds": last["t"],
            **{key: last[key] for key in ("events", "requests", "decisions", "updates", "items", "dead_letters")},
            **{key: last[key] for key in ("late", "duplicate", "unknown", "event_to_weights_ms")},
            "events_consumed": getattr(self.loop.world, "events_consumed", last["events"]),
            **_by_policy(last["meters"]),
        }
        if marked is not None:
            summary["recovery_s"] = recovery(lines, marked["t"])
        scale = getattr(self.loop.world, "scale", None)
        if scale is not None:
            summary["scale"] = scale(summary.get("policies", {}))
        (self.run_dir / "summary.json").write_text(json.dumps(summary, indent=1))
        summary["report"] = str(write_report(self.run_dir))
        return summary


def _by_policy(meters: dict[str, Any]) -> dict[str, Any]:
    """What the meters say, merged: `policies` of a reward meter and `periods`, `total` of a ranking meter."""
    merged: dict[str, Any] = {}
    for figures in meters.values():
        merged |= figures
    return merged
