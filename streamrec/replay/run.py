"""One replay: the loop over a recorded world with every policy, and its checkpoints."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from streamrec import checkpoint
from streamrec.build import BadSpec, build
from streamrec.catalog import Catalog
from streamrec.data.events import read
from streamrec.data.logs import LogWorld
from streamrec.evaluation.lists.names import NEED_CATEGORIES, POPULARITY
from streamrec.interrupts import interrupts
from streamrec.loop import Loop
from streamrec.ope.codes import NO_PROPENSITY, TIME_DISORDER, Refused
from streamrec.ports import Agent, Meter, State, World
from streamrec.replay.audit import Audit
from streamrec.replay.jury import Jury, Member
from streamrec.replay.learning import Delayed, Fixed
from streamrec.replay.measures import Measures
from streamrec.replay.past import Past
from streamrec.replay.policies import Builder, Named, with_baselines
from streamrec.replay.rejection import Rejecting
from streamrec.replay.reward_model import RewardTable
from streamrec.replay.settings import VALUES, Settings
from streamrec.sessions import SessionStore

SESSION_S = 86_400.0
"""Silence after which a session that the log names is over for the estimators of sequences."""

SAY_S = 5.0
"""Seconds between two lines about how far it has come."""

USERS = 131_072
"""Users held at once, at most, unless told otherwise: about 6 kB each."""

NEIGHBOURS = 200_000
"""Newest sessions that V-SKNN looks for neighbours in, at most."""

EASE_ITEMS = 4096
"""Largest catalogue that EASE is tried on: it inverts a matrix with a row and a column per item."""


class Replay:
    """A replay and its directory: `checkpoints/` while it runs; `streamrec.replay.store` writes the rest.

    Killed and resumed it gives the same figures to the bit as one that was not: positions, sessions, policies and sums
    are in one checkpoint, and nothing in the figures depends on the clock.

    Args:
        settings: what is asked for.
        folder: where it keeps its checkpoints.
        checkpoint_s: wall seconds between checkpoints.
        agents: policies beside those of the settings, name -> class or function that makes an agent; its parameters
            `catalog`, `sessions`, `slate`, `seed`, `device` and `run_dir` are filled in by name.

    Raises:
        Refused: the audit of the log says no; `audit` has the whole of it.
        BadSpec: settings that do not fit the log, or a policy that cannot be built.
        BadLog: the log cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        checkpoint_s: float = 30.0,
        agents: Mapping[str, Callable[..., Agent]] | None = None,
    ) -> None:
        self.settings, self.folder, self.checkpoint_s = settings, folder, checkpoint_s
        self._agents = dict(agents or {})
        self.audit = self._audited()
        self.stopped = False
        self.start = self._start()
        self.estimators = self._estimators()
        torch.manual_seed(settings.seed)
        self.catalog = Catalog(self._capacity())
        self.sessions = SessionStore(
            users=self._users(),
            length=settings.history,
            skips=settings.history,
            slate=settings.slate,
            gap_s=settings.gap_s,
            patience_s=settings.attribution_s,
            reward=settings.reward or None,
        )
        self.sessions.reserve(context=settings.context, offer=settings.candidates)
        self._declare_items()
        self.depth = max([*settings.ks, settings.slate])
        self.left_out: dict[str, str] = {}
        self.members = self._members()
        self.rewards = RewardTable(self.catalog.capacity, settings.slate)
        noted = self.depth if POPULARITY & set(settings.metrics) else 0
        self.jury = Jury(
            self.members,
            self.catalog,
            self.sessions.users.capacity,
            settings.slate,
            self.rewards,
            settings.gap_s,
            settings.marginal,
            settings.cluster,
            self._window,
            noted,
            self.depth,
        )
        self.measures = Measures(
            self.jury,
            self.catalog,
            self.rewards,
            self.estimators,
            settings.metrics,
            settings.ks,
            settings.reward_range,
            settings.max_weight,
            settings.clip,
            settings.lam,
            settings.gamma,
            max(SESSION_S, settings.gap_s + 2 * settings.attribution_s),
            lengths=None if self.audit is None or self.audit.counts["unnamed"] else self.audit.lengths,
            independent=settings.cluster == "row",
        )
        late_s = settings.late_s if self.audit is None else self.audit.worst_late
        self.world = Past(self._world(), self.jury, lambda: self.sessions.watermark, late_s)
        agent: Agent = self.jury
        if settings.mode == "prequential":
            agent = Delayed(self.jury, settings.delay_s, lambda: self.jury.oldest)
        meters: dict[str, Meter] = {"measures": self.measures}
        self.loop = Loop(self.world, self.sessions, self.catalog, agent, meters, settings.update_every)

    # --- building --------------------------------------------------------------------------------------------------

    def _audited(self) -> Audit | None:
        """The audit of a file, which has to allow the replay; a topic is read once only."""
        if self.settings.topic is not None:
            return None
        audit = Audit(self.settings.log, self.settings.columns, self.settings.late_s, self.settings.start).run()
        if audit.refused:
            first = audit.refused[0]
            raise Unusable(first.code, " ".join(one.message for one in audit.refused))
        return audit

    def _start(self) -> float | None:
        if self.settings.start is not None or self.settings.mode != "frozen":
            return self.settings.start
        if self.audit is None:
            raise BadSpec("frozen mode over a topic needs --from, the event time at which policies stop learning")
        return (self.audit.first + self.audit.last) / 2

    def _estimators(self) -> list[str]:
        wanted, audit = self.settings.estimators, self.audit
        none = audit is not None and not audit.propensities.rows
        if wanted is None:
            return [] if none else list(VALUES)
        if none and wanted:
            raise Refused(NO_PROPENSITY, f"{', '.join(wanted)} were asked for and no impression of the log has one")
        return wanted

    def _capacity(self) -> int:
        if self.settings.capacity is not None:
            return self.settings.capacity
        if self.audit is None:
            return 65_536
        listed = 0 if self.settings.items in ("", "log") else len(_items(Path(self.settings.items)))
        return _above(1.1 * len(self.audit.items) + listed)

    def _users(self) -> int:
        if self.settings.users is not None:
            return self.settings.users
        return USERS if self.audit is None else min(USERS, _above(1.1 * len(self.audit.users) + 1024))

    def _declare_items(self) -> None:
        """Items that may be shown before the log mentions them."""
        if self.settings.items == "log" and self.settings.topic is None:
            for frame in read(self.settings.log, self.settings.columns):
                named = pd.unique(frame["item"])
                self.catalog.see(self.catalog.rows([item for item in named if item]))
        elif self.settings.items:
            table = _items(Path(self.settings.items))
            rows = self.catalog.rows(table["item"].tolist())
            self.catalog.see(rows)
            if "category" in table:
                codes, _ = pd.factorize(table["category"])  # -1 = none
                self.catalog.describe(rows, category=torch.from_numpy(codes.astype(np.int64) + 1))
        lacking = [] if bool(self.catalog.category.any()) else sorted(NEED_CATEGORIES & set(self.settings.metrics))
        if lacking:
            raise BadSpec(
                f"{' and '.join(lacking)}: needs the categories of items: give --items a table with the columns item "
                "and category"
            )

    def _members(self) -> list[Member]:
        settings = self.settings
        context: dict[str, Any] = {"catalog": self.catalog, "sessions": self.sessions, "slate": self.depth}
        context |= {"seed": settings.seed, "device": "cpu", "run_dir": self.folder}
        kept = NEIGHBOURS if self.audit is None else min(NEIGHBOURS, _above(self.audit.rows + 1))
        builder = Builder(context, kept, settings.mode == "frozen")
        if self.catalog.capacity > EASE_ITEMS:
            self.left_out["ease"] = (
                f"it inverts a matrix of items, up to {EASE_ITEMS}; here are {self.catalog.capacity}"
            )
        wanted = with_baselines([Named.of(text) for text in settings.policies], self.left_out)
        made = [self._learner(builder.member(named), named) for named in wanted]
        for name, maker in self._agents.items():
            agent = maker(**{key: context[key] for key in signature(maker).parameters if key in context})
            about = getattr(maker, "__qualname__", type(agent).__qualname__)
            made.append(self._learner(Member(name, agent, agent, about), Named(name, about)))
        return made

    def _learner(self, member: Member, named: Named) -> Member:
        """The member with the rule of this mode for when it learns."""
        learner: Agent = member.learner
        if self.settings.mode == "frozen":
            until = float("-inf") if Path(named.what.partition("#")[0]).is_dir() else self.start
            learner = Fixed(learner, float("-inf") if until is None else until)
        elif self.settings.mode == "rejection":
            delayed = Delayed(learner, self.settings.delay_s, lambda: self.jury.oldest)
            learner = Rejecting(delayed, self._bound(), self.settings.update_every, self.settings.seed)
        member.learner = learner
        return member

    def _bound(self) -> float:
        if self.settings.bound is not None:
            return self.settings.bound
        if self.audit is None or not self.audit.propensities.rows:
            raise Refused(NO_PROPENSITY, "rejection corrects by propensities; give --bound for a topic")
        return math.exp(-self.audit.rarest)

    def _world(self) -> World:
        settings = self.settings
        context = {"catalog": self.catalog, "sessions": self.sessions, "slate": settings.slate}
        if settings.topic is None:
            return LogWorld(
                settings.log, self.catalog, self.sessions, settings.slate, settings.columns, until=settings.until
            )
        kafka = {"use": "consumers.kafka.KafkaWorld", "bootstrap_servers": settings.servers, "topic": settings.topic}
        world: World = build({**kafka, "until": settings.until_offset, "ask": True}, context, "log")
        if settings.first_offset is not None:
            begin = world.position()
            world.seek(begin | {"offsets": dict.fromkeys(begin["offsets"], settings.first_offset)})
        return world

    def _window(self, moment: torch.Tensor, begin: torch.Tensor) -> torch.Tensor:
        inside = torch.ones_like(moment, dtype=torch.bool)
        if self.start is not None:
            inside &= begin >= self.start
        if self.settings.until is not None:
            inside &= moment < self.settings.until
        return inside

    # --- running ---------------------------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Go on from the newest whole checkpoint. False: there is none.

        Raises:
            BadSpec: it was made with other settings.
        """
        found = checkpoint.load_newest(self.folder / "checkpoints")
        if found is None:
            return False
        state, path = found
        mine = self.settings.as_json()
        other = [name for name, value in state["run"]["settings"].items() if mine.get(name) != value]
        if other:
            raise BadSpec(f"{path} was made with other {', '.join(other)}: resume with the same, or start afresh")
        self.loop.load_state_dict(state)
        return True

    def run(self, say: Callable[[str], None] | None = None) -> bool:
        """Run to the end of the log. False: a signal came before; the checkpoint is good.

        Args:
            say: told how far it has come, every few seconds.

        Raises:
            Refused: what is found on the way, such as `not_a_distribution` or `time_disorder`.
        """
        due, said = time.monotonic() + self.checkpoint_s, time.monotonic()
        try:
            with interrupts(self.stop):
                while not self.stopped and self.loop.step():
                    if say is not None and time.monotonic() >= said + SAY_S:
                        say(self._progress())
                        said = time.monotonic()
                    if time.monotonic() >= due:
                        self.save()
                        due = time.monotonic() + self.checkpoint_s
            if self.stopped:
                self.save()
            else:
                self.measures.settle()
        finally:
            self.world.close()
        if self.world.disorder > self.settings.late_s and self.audit is None:
            raise Refused(TIME_DISORDER, f"an event came {self.world.disorder:.6g} s after a newer one")
        return not self.stopped

    def _progress(self) -> str:
        counts = self.loop.counts
        whole = "" if self.audit is None else f" of about {self.audit.rows:,} rows"
        return f"{counts['events']:,} events{whole}, {counts['decisions']:,} decisions"

    def save(self) -> Path:
        """Write a checkpoint."""
        state: State = {**self.loop.state_dict(), "run": {"settings": self.settings.as_json()}}
        return checkpoint.save(self.folder / "checkpoints", state, self.loop.counts["polls"])

    def clean(self) -> None:
        """Take away the checkpoints of a replay whose report is written."""
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)

    def stop(self) -> None:
        """End after the batch in hand."""
        self.stopped = True


class Unusable(Refused):
    """A log that an audit refuses, with everything it found."""

    def __init__(self, code: str, text: str) -> None:
        ValueError.__init__(self, text)
        self.code, self.found = code, text


def _items(path: Path) -> pd.DataFrame:
    """A table of items, .csv or .parquet: the column `item`, each once, and `category` if it has that."""
    if not path.is_file():
        raise BadSpec(f"--items takes log, or a table of items, .csv or .parquet; there is no file {path}")
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=str)
    if "item" not in frame:
        raise BadSpec(f"--items {path} must have a column item, it has {', '.join(frame.columns)}")
    frame = frame[[name for name in ("item", "category") if name in frame]]
    return frame.dropna(subset="item").astype({"item": str}).drop_duplicates("item")


def _above(number: float) -> int:
    """The next power of two: logs of nearly the same size get tables of the same one."""
    return 1 << int(np.ceil(np.log2(max(number, 2.0))))
