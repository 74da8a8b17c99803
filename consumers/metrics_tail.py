"""Read `metrics.jsonl` while another process writes it. Imports nothing heavy: the command line's parent uses it."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamrec.evaluation.metrics_file import Line, marks, number, parse, policies

CHUNK = 1 << 20  # bytes handed out at once, so that one answer of the dashboard stays small
_FINGERPRINT = 64  # bytes before the cursor whose checksum tells a grown file from a rewritten one


@dataclass(frozen=True)
class Chunk:
    """Whole lines of the file, never half of one."""

    data: bytes
    next: int  # byte offset to read from next time
    check: str  # checksum of what stands before `next`; hand it back next time
    reset: bool  # the cursor did not fit the file any more (truncated, rewritten): `data` starts at byte 0
    more: bool  # the file goes on behind this chunk: ask again at once


def read_chunk(path: Path, start: int = 0, check: str = "", limit: int = CHUNK) -> Chunk:
    """The whole lines after byte `start`, about `limit` bytes of them.

    A run that resumes cuts its metrics back to its checkpoint and writes on, so the file may be shorter than the
    cursor, or as long with other content. Both are noticed: by length, and by `check`, which the last chunk gave.
    A missing file reads as an empty one.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return Chunk(b"", 0, "", reset=start > 0, more=False)
    with file:
        size = file.seek(0, 2)
        reset = start > 0 and not _fits(file, start, size, check)
        start = 0 if reset else start
        file.seek(start)
        data = file.read(limit)
        while b"\n" not in data and start + len(data) < size:  # one line longer than the limit
            data += file.read(len(data))
        more = start + len(data) < size
        data = data[: data.rfind(b"\n") + 1]
        end = start + len(data)
        return Chunk(data, end, _check(file, end), reset, more=more)


def _fits(file: Any, start: int, size: int, check: str) -> bool:
    if start > size:
        return False
    file.seek(start - 1)
    return file.read(1) == b"\n" and (not check or check == _check(file, start))


def _check(file: Any, end: int) -> str:
    file.seek(max(0, end - _FINGERPRINT))
    return f"{zlib.crc32(file.read(min(end, _FINGERPRINT))):08x}" if end else ""


@dataclass
class MetricsTail:
    """What a live view needs of a growing file: the last line, the marks, each policy's latest `recent` values.

    Args:
        path: the `metrics.jsonl`; it need not exist yet.
        keep: `recent` values kept per policy, for sparklines.
    """

    path: Path
    keep: int = 32
    last: Line | None = None
    marks: list[tuple[float, str]] = field(default_factory=list)  # (seconds since start, text)
    recent: dict[str, deque[float]] = field(default_factory=dict)
    _next: int = 0
    _check: str = ""

    def poll(self) -> bool:
        """Take in what was written since the last call; True if there was anything."""
        changed = False
        while True:
            chunk = read_chunk(self.path, self._next, self._check)
            if chunk.reset:
                self._forget()
            self._next, self._check = chunk.next, chunk.check
            self._take(parse(chunk.data))
            changed = changed or chunk.reset or bool(chunk.data)
            if not chunk.more:
                return changed

    def _forget(self) -> None:
        self.last = None
        self.marks.clear()
        self.recent.clear()

    def _take(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self.last = line
            self.marks += marks([line])
            for name, policy in policies(line).items():
                value = number(policy.get("recent"))
                if value is not None:
                    self.recent.setdefault(name, deque(maxlen=self.keep)).append(value)
