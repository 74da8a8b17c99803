"""The engine of the service: one thread that reads the log, answers, and swaps models; the log is the only truth."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from msgspec import structs

from consumers import wire
from consumers.broker import BrokerUnavailable
from consumers.serving.answers import POPULAR, Answers
from consumers.serving.beside import Beside
from consumers.serving.checks import Surroundings
from consumers.serving.figures import Figures
from consumers.serving.follower import Closed, Follower
from consumers.serving.guard import Guard
from consumers.serving.journal import Journal
from consumers.serving.learner import Learner
from consumers.serving.plan import Plan
from consumers.serving.registry import Registry
from consumers.serving.settings import ServeSettings
from consumers.serving.shelf import Shelf
from consumers.serving.types import Answer, Ask, Health, ItemInfo, ModelInfo, UnknownModel, UserState, Verdict
from streamrec import spec as specs
from streamrec.records import History
from streamrec.sessions import SessionStore

log = logging.getLogger(__name__)

PAUSE_S = 0.010
"""Wall seconds between two looks at a log that has little new: a slice of ten events costs hardly more than one."""

WAIT_S = 0.25
"""Wall seconds in which somebody waits for new records, at most."""


class Engine:
    """Answers requests from the state of the log, with the model that a learner keeps fresh.

    Every method is called on the thread of one event loop. Taking in what was read, answering and swapping take turns
    there in small slices; other threads wait for the broker, and read and write files.

    Args:
        spec: tables as in a spec file; `[serve]` as in `ServeSettings`.
        run_dir: models, snapshots, the learner's files. What an earlier life left there is gone on with.
        servers: host:port[,host:port].
        learner: start a learner; False = somebody else publishes into `run_dir/models`.
        others: keys of `[serve]` that are not the engine's.

    Raises:
        BadSpec: a table is missing or has a setting that does not exist.
    """

    def __init__(
        self, spec: specs.Spec, run_dir: Path, servers: str, learner: bool = True, others: Sequence[str] = ()
    ) -> None:
        self.plan = Plan(spec, run_dir, servers)
        self.run_dir, self.servers = run_dir, servers
        self.settings = ServeSettings.of(spec.get("serve", {}), others)
        self.learner: Learner | None = None
        self.restored = False
        self.consumer_says = "not started"
        self.reading_since = time.monotonic()  # when the log was asked for more
        self._wants_learner = learner
        self._tasks: list[asyncio.Task[None]] = []
        self._answering: asyncio.Task[None] | None = None
        self._closed = False
        self._reading = ThreadPoolExecutor(1, "reading")  # of one thread: a client is not used by two at once
        run_dir.mkdir(parents=True, exist_ok=True)

    @property
    def slots(self) -> int:
        """Widest slate that can be asked for."""
        return self.plan.run.slate

    # --- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, restore, and begin to read; returns when a request can be answered, if only by the popular list.

        Raises:
            BrokerUnavailable: nobody answers at `servers`.
            BadSpec: the spec cannot be built.
        """
        await asyncio.to_thread(self._build)
        await self.registry.resume()
        if self._wants_learner:
            self.learner = Learner(self.plan.learner(), self.run_dir)
            self._begin("learner", self.learner.keep_running)
        self._begin("follow", self._follow)
        self._answering = asyncio.create_task(self.answers.run(), name="answers")
        self._begin("models", self._watch_models)
        self._begin("snapshots", self._snapshots)

    def _build(self) -> None:
        plan, policy = self.plan, self.settings
        torch.set_num_threads(plan.run.threads)
        sessions, catalog = plan.stores()
        world = plan.world(sessions, catalog, policy, bury=not self._wants_learner)
        first = plan.model()  # before the first event: it may ask the sessions for more
        names = [*first.policies, POPULAR]
        self.follower = Follower(world, sessions, catalog, names, policy.recent, policy.recent_users, self._on_closed)
        self.shelf = Shelf(self.run_dir / "serving", policy.snapshot_s)
        self.restored = self.shelf.restore(self.follower)
        servers, topic = self.servers, world.topic
        self.journal = Journal(servers, topic, policy.remembered, plan.client, policy.ack_s, plan.client_library)
        self.guard = Guard(policy.guard_decisions, policy.guard_drop, policy.guard_z, policy.guard_spans)
        self.registry = Registry(self.run_dir / "models", plan.model, self._surroundings, policy, first)
        self.answers = Answers(
            lambda: self.registry.serving,
            lambda: self.registry.shadowing,
            self.follower,
            plan.run.slate,
            self.journal.post,
            self._model_failed,
            policy.batch,
            policy.waiting,
            policy.remembered,
        )
        self.figures = Figures(self)

    async def close(self) -> None:
        """Answer who waits, flush what was appended, stop the learner, keep the state. Calling it twice is fine."""
        if self._closed or not hasattr(self, "figures"):
            return
        self._closed = True
        for task in self._tasks:
            if task.get_name() == "learner":
                task.cancel()  # or it would be started again
        learning = asyncio.create_task(self.learner.stop()) if self.learner is not None else None
        if self._answering is not None:
            self.answers.drain()
            await self._answering
        await self.journal.flush()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.shelf.keep(self.follower.state_dict())
        if learning is not None:
            await learning
        await asyncio.get_running_loop().run_in_executor(self._reading, self.follower.world.close)
        self._reading.shutdown()
        await asyncio.to_thread(self.journal.close)

    def _begin(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(asyncio.create_task(self._again(name, work), name=name))

    async def _again(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """A task that fails is told of and begun again: none of them may take the others down."""
        while True:
            try:
                await work()
                return
            except Exception:
                log.exception("%s failed and begins again", name)
                await asyncio.sleep(1.0)

    # --- the log -------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        loop, world = asyncio.get_running_loop(), self.follower.world
        while True:
            wait = PAUSE_S if self.follower.lag is None else WAIT_S  # how far behind it is must be known soon
            self.reading_since = time.monotonic()
            try:
                await loop.run_in_executor(self._reading, world.fetch, wait)
                count = self.follower.step()
                self.consumer_says = "reads"
            except BrokerUnavailable as error:
                self.consumer_says = f"cannot read: {error}"
                await asyncio.sleep(0.5)
                continue
            await asyncio.sleep(0.0 if count >= self.settings.slice // 2 else PAUSE_S)

    async def append(self, events: Sequence[wire.Event]) -> list[Verdict]:
        """Append events; one verdict for each, in order, after the broker has them.

        Raises:
            BrokerUnavailable: it did not take them; sending them again, with their ids, is safe.
        """
        return await self.journal.append(events)

    def user(self, user: str) -> UserState | None:
        """What is held of a user; None = nothing."""
        return self.follower.user(user)

    def users(self, query: str = "", limit: int = 50) -> list[str]:
        """Ids of users, those heard of last first."""
        return self.follower.users(query, limit)

    async def erase(self, user: str) -> bool:
        """Have everybody who reads the log forget a user, and forget it here at once; False = there was none."""
        known = self.follower.sessions.find(user) is not None
        await self.journal.append([wire.Event("erase", user)])
        self.follower.sessions.erase([user])
        self.follower.forget(user)
        self.shelf.expire()
        return known

    async def upsert(self, items: Sequence[ItemInfo]) -> None:
        """Add items, or change what is known of them.

        Raises:
            BrokerUnavailable: the broker did not take it.
        """
        said = [wire.Event("item", item=i.item, category=i.category, available=i.available) for i in items]
        await self.journal.append(said)

    async def retire(self, item: str) -> bool:
        """Never show an item again, from the next request on; False = there was none.

        Raises:
            BrokerUnavailable: the broker did not take it.
        """
        row = self.follower.catalog.find([item])
        await self.journal.append([wire.Event("retire", item=item)])
        self.follower.catalog.withdraw(row[row > 0])
        return bool((row > 0).all())

    def items(self, query: str = "", limit: int = 50) -> list[ItemInfo]:
        """Items, those seen most often first."""
        return self.follower.items(query, limit)

    def dead_letters(self, limit: int) -> list[wire.DeadLetter]:
        """The newest records that could not be read, newest first."""
        return list(self.follower.world.letters)[::-1][:limit]

    # --- answers and models --------------------------------------------------------------------------------------

    async def recommend(self, ask: Ask) -> Answer:
        """A slate for a user, by the model, or by the popular list and saying so.

        Raises:
            BadAsk: no model could answer this.
            Overloaded: too many requests wait.
        """
        return await self.answers.ask(ask)

    def models(self) -> list[ModelInfo]:
        """Versions, newest first; `metrics` of the shadow have what it would have earned (`beside.Beside`)."""
        infos = self.registry.versions()
        if self.registry.shadowing is None:
            return infos
        said = self.answers.beside.metrics()
        return [m if m.state != "shadow" else structs.replace(m, metrics=m.metrics | said) for m in infos]

    async def promote(self, version: str) -> ModelInfo:
        """Serve `version` and no other; "latest" = the newest, and follow the learner again.

        Raises:
            UnknownModel: it is not there, or does not pass the checks.
        """
        info = await self.registry.promote(version)
        self.guard.restart()
        return info

    async def rollback(self) -> ModelInfo:
        """Serve the version that answered before, and no other.

        Raises:
            UnknownModel: there is none left.
        """
        info = await self.registry.rollback()
        self.guard.restart()
        return info

    async def shadow(self, version: str | None) -> None:
        """Let a version answer beside the one that serves, and show nothing; None = no more.

        Raises:
            UnknownModel: it cannot be loaded.
        """
        await self.registry.shadow(version)
        self.answers.beside = Beside()

    def _surroundings(self) -> Surroundings:
        """What a version is checked against: the users heard of last, and what may be shown now."""
        catalog, sessions = self.follower.catalog, self.follower.sessions
        held = len(sessions.users.ids)
        last = sessions.heard(torch.arange(held))
        rows = torch.topk(last, min(self.settings.probe, held)).indices
        probe = sessions.read(rows, last[rows]) if held else _nobody(sessions)
        probe.offer = probe.offer[:, :0]
        return Surroundings(list(catalog.ids), catalog.available.clone(), probe)

    async def _watch_models(self) -> None:
        while True:
            await self.registry.look()
            await asyncio.sleep(0.1)

    def _model_failed(self, version: str, reason: str) -> None:
        self._begin("failed model", lambda: self.registry.fail(version, reason))

    def _on_closed(self, closed: Closed) -> None:
        """The guard sees what came of the answers of models; of the popular list it learns nothing."""
        mine = closed.of_models()
        self.answers.close(mine)
        span = self.guard.note(mine.models, mine.users, mine.rewards)
        if span is None or self.registry.pinned:
            return
        reason = self.guard.judge(span)
        if reason is None:
            self.registry.anchor(span.version)
        else:
            self._begin("rollback", lambda: self._guarded(reason))

    async def _guarded(self, reason: str) -> None:
        try:
            await self.registry.rollback(reason, to_anchor=True)
        except UnknownModel as error:
            log.warning("the guard found the model worse and cannot go back: %s", error)
        self.guard.restart()

    # --- state ---------------------------------------------------------------------------------------------------

    async def _snapshots(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            if self.shelf.due():
                await self.shelf.keep(self.follower.state_dict())

    # --- figures -------------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """Whether requests should come here, and why not."""
        return self.figures.health()

    def live(self) -> dict[str, Any]:
        """The figures of this moment, as JSON values."""
        return self.figures.live()


def _nobody(sessions: SessionStore) -> History:
    """One user of whom nothing is known."""
    rows = torch.zeros(1, dtype=torch.int64)
    return sessions.read(rows, torch.tensor([time.time()], dtype=torch.float64))
