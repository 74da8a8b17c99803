"""Event time against the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Holds events back until their time has come.

    Args:
        speed: seconds of event time per second of wall clock; None = everything is due at once.
    """

    def __init__(self, speed: float | None) -> None:
        if speed is not None and not speed > 0:
            raise ValueError(f"speed must be above 0 seconds of event time per second, got {speed}")
        self.speed = speed
        self._start: tuple[float, float] | None = None  # event time, wall clock

    def wait(self, when: float, stopped: Callable[[], bool]) -> None:
        """Return when an event of the time `when` is due. The first event is due at once."""
        left = self.left(when)
        while left > 0 and not stopped():
            time.sleep(min(left, 0.1))
            left = self.left(when)

    def left(self, when: float) -> float:
        """Wall seconds until an event of the time `when` is due."""
        if self.speed is None:
            return 0.0
        if self._start is None:
            self._start = when, time.monotonic()
        first, began = self._start
        return began + (when - first) / self.speed - time.monotonic()
