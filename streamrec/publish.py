"""Versions of a model, published by a run that learns for a service that answers.

A version is a directory `<number>` in the layout of `streamrec.checkpoint`: `agent` is what answers depend on
(`streamrec.served`), `catalog` the items by the rows the agent knows them by, `about` says when and from what it was
made: wall clock, counts of the loop, what the last update said, and how new the newest event is that the weights know.
Weights that are not finite are never published; `status.json` beside the versions counts them.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from pathlib import Path
from typing import Any

from streamrec import checkpoint
from streamrec.loop import Loop
from streamrec.ports import State
from streamrec.served import not_finite, served_state

log = logging.getLogger(__name__)


class Publisher:
    """Publishes what a loop has learned, at most once in `every_s`, and only if it has learned something since.

    Copies are made between two steps of the loop; files are written by a thread.

    Args:
        folder: where versions go; numbers go on behind those that are there.
        every_s: least wall time between versions.
        keep: versions left in the folder.
    """

    def __init__(self, folder: Path, every_s: float = 1.0, keep: int = 8) -> None:
        self.folder, self.every_s, self.keep = folder, every_s, keep
        self.published = self.refused = 0
        self.reason = ""  # why the newest refused version was refused
        folder.mkdir(parents=True, exist_ok=True)
        self._number = max((int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit()), default=0)
        self._next = 0.0
        self._known: tuple[int, int] | None = None  # decisions and updates of the version before
        self._thread: threading.Thread | None = None

    def step(self, loop: Loop) -> None:
        """Called after each step of the loop; publishes if it is time to."""
        now = time.monotonic()
        if now < self._next or (self._thread is not None and self._thread.is_alive()):
            return
        known = (loop.counts["decisions"], loop.counts["updates"])
        if known != self._known:
            self._known, self._next = known, now + self.every_s
            self._thread = threading.Thread(target=self._write, args=(self._state(loop),), name="publish")
            self._thread.start()

    def close(self, loop: Loop) -> None:
        """Publish what is not published yet, and return when it is."""
        for _ in range(2):
            if self._thread is not None:
                self._thread.join()
            self._next = 0.0
            self.step(loop)
        if self._thread is not None:
            self._thread.join()

    def _state(self, loop: Loop) -> State:
        said = loop.read()
        about: dict[str, Any] = {
            "made": time.time(),
            "newest_sent": loop.newest_sent,
            "watermark": said["time"],
            "event_to_weights_ms": said["event_to_weights_ms"],
            "learning": {name: value for name, value in loop.learning.items() if math.isfinite(value)},
            **{name: loop.counts[name] for name in ("events", "requests", "decisions", "updates")},
        }
        return {"agent": served_state(loop.agent), "catalog": loop.catalog.state_dict(), "about": about}

    def _write(self, state: State) -> None:
        bad = not_finite(state["agent"])
        if bad is not None:
            self.refused += 1
            self.reason = f"{bad} is not finite after {state['about']['updates']} updates"
            log.warning("model not published: %s", self.reason)
        else:
            self._number += 1
            try:
                # Another one follows in a second: none is worth waiting for the disk.
                checkpoint.save(self.folder, state, self._number, self.keep, durable=False)
                self.published += 1
            except OSError as error:
                self.refused += 1
                self.reason = f"the version could not be written: {error}"
                log.warning("model not published: %s", self.reason)
        self._tell()

    def _tell(self) -> None:
        status = {"published": self.published, "refused": self.refused, "reason": self.reason}
        temporary = self.folder / ".status.json"
        try:
            temporary.write_text(json.dumps(status))
            os.replace(temporary, self.folder / "status.json")
        except OSError as error:
            log.warning("status of publishing not written: %s", error)
