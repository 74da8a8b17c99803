"""Snapshots of what the service knows of the log, so that a restart need not read it from the beginning."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from consumers.serving.follower import Follower
from streamrec import checkpoint
from streamrec.ports import State

log = logging.getLogger(__name__)


class Shelf:
    """Keeps the newest two snapshots. What came after the newest is read from the log again.

    Args:
        folder: where.
        every_s: wall seconds between them.
    """

    def __init__(self, folder: Path, every_s: float) -> None:
        self.folder, self.every_s = folder, every_s
        self._due = time.monotonic() + every_s

    def due(self) -> bool:
        return time.monotonic() >= self._due

    def expire(self) -> None:
        """What is on disk must not stay the newest: somebody was erased."""
        self._due = 0.0

    def restore(self, follower: Follower) -> bool:
        """Put `follower` where the newest whole snapshot was; False = there is none."""
        found = checkpoint.load_newest(self.folder)
        if found is None:
            return False
        follower.load_state_dict(found[0])
        log.info("sessions restored from %s", found[1])
        return True

    async def keep(self, state: State) -> None:
        """Write a snapshot, in a thread. A full disk is told of and stops nobody."""
        self._due = time.monotonic() + self.every_s
        await asyncio.to_thread(self._write, state)

    def _write(self, state: State) -> None:
        number = max((int(path.name) for path in self.folder.glob("[0-9]*")), default=0) + 1
        try:
            checkpoint.save(self.folder, state, number, keep=2)
        except OSError as error:
            log.warning("no snapshot of the sessions was written: %s", error)
