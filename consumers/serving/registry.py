"""Which versions there are, which one answers, and how one takes the place of another."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from consumers.serving.checks import Passed, Rejected, Surroundings, check_answers, load_checked
from consumers.serving.model import ServedModel
from consumers.serving.settings import ServeSettings
from consumers.serving.shelved import Shelved, described
from consumers.serving.timings import Timings
from consumers.serving.types import ModelInfo, ModelState, UnknownModel

log = logging.getLogger(__name__)

LATEST = "latest"
"""Name under which the newest good version can be promoted, and those after it follow again."""

LOOK_S = 0.1
"""Wall seconds between two looks at the folder."""

STREAM_S = 5.0
"""Wall seconds between the newest events of two versions up to which events came all the time in between."""

LISTED = 100
"""Versions that are remembered."""


class Registry:
    """Versions in a folder, and the models they are loaded into.

    Two models take turns: one answers, into the other the next version is loaded by a thread. A version takes over by
    one assignment between two batches, so no answer is made by two of them.

    Args:
        folder: where the learner publishes.
        make: builds one model, empty.
        around: the service as it is now.
        settings: see `ServeSettings`.
        spare: a model that is built already.
    """

    def __init__(
        self,
        folder: Path,
        make: Callable[[], ServedModel],
        around: Callable[[], Surroundings],
        settings: ServeSettings,
        spare: ServedModel | None = None,
    ) -> None:
        self.settings, self.disk = settings, Shelved(folder, settings.retained)
        self.serving: ServedModel | None = None
        self.shadowing: ServedModel | None = None
        self.pinned = False
        self.because = ""  # why one is pinned: "by hand", or what the guard saw
        self.since = 0.0  # wall clock of the last swap
        self.swaps: deque[dict[str, Any]] = deque(maxlen=50)
        self.outcomes: dict[str, int] = {"served": 0, "rejected": 0, "rolled_back": 0}
        self.to_served = Timings()
        self.events_to_served = Timings()
        self._newest_sent = 0.0  # wall clock when the newest event was sent that the weights in use know
        self.about: dict[str, Any] = {}  # of the version that answers
        self._make, self._around = make, around
        self._spare = spare
        self._infos: OrderedDict[str, ModelInfo] = OrderedDict()
        self._passed: Passed | None = None  # the version that answers
        self._served: list[str] = []  # versions that answered, newest last
        self._retained = float("-inf")
        self._busy = asyncio.Lock()

    # --- following the learner -----------------------------------------------------------------------------------

    async def look(self) -> None:
        """Take notice of new versions, and serve the newest unless one is pinned."""
        fresh = [path for path in self.disk.published() if path.name not in self._infos]
        for path in fresh:
            info = await asyncio.to_thread(described, path)
            if info is not None:
                self._infos[path.name] = info
        if not fresh:
            return
        self._forget_old()
        if fresh[-1].name in self._infos:
            async with self._busy:
                if not self.pinned:  # asked here: a rollback may just have come to its end
                    await self._try(fresh[-1].name)

    def _forget_old(self) -> None:
        """Versions that nobody can load any more make room."""
        gone = [name for name in self._infos if self.disk.path(name) is None and name != self._version()]
        for name in gone[: max(0, len(self._infos) - LISTED)]:
            del self._infos[name]

    def _version(self) -> str:
        return self.serving.version if self.serving is not None else ""

    async def resume(self) -> None:
        """At the start: what an earlier life pinned, or the newest version that passes and was not turned down."""
        for path in self.disk.all():
            info = await asyncio.to_thread(described, path)
            if info is not None:
                self._infos[path.name] = info
        pinned = self._remembered()
        usable = [name for name, info in self._infos.items() if info.state == "standby"]
        async with self._busy:
            for version in [*([pinned] if pinned in self._infos else []), *reversed(usable)]:
                if await self._try(version):
                    self.pinned = version == pinned
                    self.because = self.because if self.pinned else ""
                    return

    def _remembered(self) -> str:
        """Take over what an earlier life thought of versions; returns the one it had pinned, "" = none."""
        said = self.disk.read_opinion()
        for version, (state, reason) in said.get("refused", {}).items():
            self._mark(version, state, reason)
        self._served = [version for version in said.get("served", []) if version in self._infos]
        self.disk.anchor, self.because = said.get("anchor", ""), str(said.get("because", ""))
        return str(said.get("pinned", ""))

    def _remember(self) -> None:
        refused = {v: [i.state, i.reason] for v, i in self._infos.items() if i.state in ("rejected", "rolled_back")}
        pinned = self._version() if self.pinned else ""
        kept = {"pinned": pinned, "because": self.because, "refused": refused, "served": self._served}
        self.disk.write_opinion(kept | {"anchor": self.disk.anchor})

    def _pin(self, because: str) -> None:
        """Stay with the version that serves; "" = follow the learner."""
        self.pinned, self.because = bool(because), because
        self._remember()

    async def _try(self, version: str) -> bool:
        path = self.disk.path(version)
        if path is None:
            return False
        if self._spare is None:
            self._spare = await asyncio.to_thread(self._make)
        into = self._spare
        try:
            passed = await self._load(path, into, self._passed)
        except Rejected as error:
            if not path.exists():  # the learner has dropped it meanwhile: newer ones are there
                return False
            self._mark(version, "rejected", str(error))
            self._note(version, "rejected", str(error))
            self._remember()
            return False
        self._swap(version, into, passed)
        return True

    async def _load(self, path: Path, into: ServedModel, before: Passed | None) -> Passed:
        around = self._around()
        passed = await asyncio.to_thread(load_checked, path, into, around, before, self.settings.growth)
        await check_answers(into, around)
        return passed

    def _swap(self, version: str, into: ServedModel, passed: Passed) -> None:
        now = time.time()
        before, self.serving = self.serving, into
        self._spare = before
        if before is not None:
            self._retain(before.version)
            if self._infos.get(before.version, _NOBODY).state == "serving":
                self._mark(before.version, "standby", "")
        self._passed, self.about, self.since = passed, passed.about, now
        self._mark(version, "serving", "")
        self._served = [*(v for v in self._served if v != version), version][-LISTED:]
        self.to_served.note([max(0.0, now - float(passed.about["made"]))])
        self._note_events(now, float(passed.about["newest_sent"]))
        self._note(version, "served", "")

    def _note_events(self, now: float, newest: float) -> None:
        """How old events were when weights that know them took over.

        A version knows those sent since the newest of the version before: five of them, evenly spread, stand for all.
        After a pause nobody knows when they were sent, and only the newest counts. The first version is not counted.
        """
        before, self._newest_sent = self._newest_sent, newest
        if not before or newest <= before:
            return
        oldest = before if newest - before < STREAM_S else newest
        self.events_to_served.note(now - oldest - share * (newest - oldest) for share in (0.2, 0.4, 0.6, 0.8, 1.0))

    # --- by hand and by the guard --------------------------------------------------------------------------------

    async def promote(self, version: str) -> ModelInfo:
        """Serve `version` and no other, or, with "latest", the newest and those after it.

        Raises:
            UnknownModel: it is not there, or does not pass the checks.
        """
        async with self._busy:
            if version == LATEST:
                return await self._follow_again()
            if self.disk.path(version) is None:
                raise self._unknown(version)
            if self._version() != version and not await self._try(version):
                raise UnknownModel(f"version {version!r} cannot serve: {self._infos[version].reason or 'it is gone'}")
            self._pin("by hand")
            return self._infos[version]

    async def _follow_again(self) -> ModelInfo:
        self._pin("")
        for path in reversed(self.disk.published()):
            if self._version() == path.name:
                break
            if self._infos.get(path.name, _NOBODY).state not in ("rejected", "rolled_back") and await self._try(
                path.name
            ):
                break
        if self.serving is None:
            raise self._unknown(LATEST)
        return self._infos[self.serving.version]

    async def rollback(self, reason: str = "by hand", to_anchor: bool = False) -> ModelInfo:
        """Serve a version that answered before, and stay with it.

        Args:
            reason: why, for whoever looks later.
            to_anchor: back to the one the guard found good last; those since are not trusted either.

        Raises:
            UnknownModel: none of them is left.
        """
        async with self._busy:
            bad = self._version()
            targets = self._earlier(bad)
            if to_anchor and self.disk.anchor in targets:
                targets = targets[targets.index(self.disk.anchor) :]
            for version in targets:
                if await self._try(version):
                    self._turn_down(version, bad, reason)
                    self._pin(reason)
                    return self._infos[version]
            raise UnknownModel(f"there is no version before {bad or 'the first'} that can serve")

    def _turn_down(self, to: str, bad: str, reason: str) -> None:
        """Everything served after `to` is not trusted any more."""
        after = self._served[:-1]  # `to` itself was just put at the end
        later = [v for v in after if v > to] or [bad]
        for version in later:
            if self._infos.get(version, _NOBODY).state == "standby":
                self._mark(version, "rolled_back", reason)
        self._note(bad, "rolled_back", reason)

    def _earlier(self, version: str) -> list[str]:
        at = self._served.index(version) if version in self._served else len(self._served)
        usable = [v for v in self._served[:at] if v in self._infos and self._infos[v].state == "standby"]
        return [v for v in usable if self.disk.path(v) is not None][::-1]

    async def fail(self, version: str, reason: str) -> None:
        """`version` failed while it answered: another one has to."""
        if self._version() != version:
            return
        try:
            await self.rollback(reason)
            self.pinned, self.because = False, ""  # the learner's next version may be a good one
        except UnknownModel:
            self._mark(version, "rejected", reason)
            self._note(version, "rejected", reason)
            self.serving, self._passed = None, None
        self._remember()

    async def shadow(self, version: str | None) -> None:
        """Let `version` see what is asked; None = nobody.

        Raises:
            UnknownModel: it is not there, or does not pass the checks.
        """
        async with self._busy:
            before, self.shadowing = self.shadowing, None
            if before is not None:
                self._mark(before.version, "standby", "")
            if version is None:
                return
            path = self.disk.path(version)
            if path is None or version == self._version():
                raise self._unknown(version)
            into = before if before is not None else await asyncio.to_thread(self._make)
            try:
                await self._load(path, into, None)
            except Rejected as error:
                self._mark(version, "rejected", str(error))
                raise UnknownModel(f"version {version!r} cannot answer: {error}") from error
            self.shadowing = into
            self._mark(version, "shadow", "")

    def anchor(self, version: str) -> None:
        """Keep `version`, whatever comes: the guard found it good."""
        if version and self.disk.path(version) is not None:
            self.disk.anchor = version
            self.disk.keep(version)
            self._remember()

    # --- looking -------------------------------------------------------------------------------------------------

    def versions(self) -> list[ModelInfo]:
        """Newest first."""
        return list(reversed(self._infos.values()))

    def _retain(self, version: str) -> None:
        """Now and then, keep a version that has served: the learner drops its own after a few seconds."""
        now = time.monotonic()
        if now - self._retained >= self.settings.retain_s and self.disk.keep(version):
            self._retained = now

    def _unknown(self, version: str) -> UnknownModel:
        there = [name for name in self._infos if self.disk.path(name) is not None][-8:]
        return UnknownModel(f"there is no version {version!r} to load; there is {', '.join(there) or 'none yet'}")

    def _mark(self, version: str, state: ModelState, reason: str) -> None:
        if version in self._infos:
            self._infos[version] = msgspec.structs.replace(self._infos[version], state=state, reason=reason)

    def _note(self, version: str, outcome: str, reason: str) -> None:
        self.outcomes[outcome] += 1
        self.swaps.append({"t": time.time(), "version": version, "outcome": outcome, "reason": reason})
        if outcome != "served":
            log.warning("model %s %s: %s", version, outcome, reason)


_NOBODY = ModelInfo("", 0.0, "standby", "", 0, 0, {}, "")
