"""Times as people write them: `10m` is 600 seconds, `2026-05-01` is a point in time."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?\s*")


def seconds(text: str) -> float:
    """Seconds of a duration such as `90`, `90s`, `10m`, `6h` or `2d`.

    Raises:
        ValueError: it is none.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a duration such as 90s, 10m, 6h or 2d, got {text!r}")
    return float(found[1]) * _UNITS[found[2] or "s"]


def moment(text: str) -> float:
    """Seconds since the epoch of a date, a date with a time (ISO 8601, UTC where it names no zone), or of a number.

    Raises:
        ValueError: it is none of these.
    """
    try:
        return float(text)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(
            f"expected a time such as 2026-05-01T12:00 or seconds since the epoch, got {text!r}"
        ) from error
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def written(time: float | None) -> str:
    """A point in time for people, in UTC."""
    if time is None:
        return "–"
    return datetime.fromtimestamp(time, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
