"""Writes what passes through a run as a log that `LogWorld` can replay."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from streamrec.catalog import Catalog
from streamrec.data.events import KINDS, EventWriter
from streamrec.data.formats import BadLog
from streamrec.ports import State, World
from streamrec.records import Decision, Events, Kind, rank_within
from streamrec.sessions import SessionStore

GATHERED = 8192
"""Rows that are checked and written together."""


class Recorder:
    """A world around another one: everything passes through unchanged and is written down on the way.

    The log is a folder of files `part-00000.parquet`, ... in the format of `streamrec.data.events`; `flush` and
    `position` each finish a part if there is anything new. A part is whole or not there, and a seek to an earlier
    position deletes the parts written since, so a run that was killed and resumed has recorded everything once.

    Not written: IMPRESSION reactions, since a replay reads silence the same way, and events about items that have no
    row in the catalogue or no item at all (both counted in `left_out`). The log holds raw user ids.

    Args:
        world: where the events come from and the decisions go.
        path: the folder; made if it is not there.
        catalog: gives the item ids.
        sessions: gives the user ids.
        run_dir: a relative `path` is inside it.
    """

    def __init__(
        self, world: World, path: Path | str, catalog: Catalog, sessions: SessionStore, run_dir: Path = Path()
    ) -> None:
        self.world, self.catalog, self.sessions = world, catalog, sessions
        self.path = run_dir / Path(path).expanduser()
        self.path.mkdir(parents=True, exist_ok=True)
        self.left_out = 0
        self._parts = 0  # finished parts that belong to this run
        self._writer: EventWriter | None = None
        self._polled: Events | None = None  # handed out, not written yet: the answers come in between
        self._answers: list[tuple[Tensor, Decision]] = []  # user [B], what was shown
        self._gathered: list[dict[str, Any]] = []  # columns for the writer
        self._rows = 0  # of them

    def __getattr__(self, name: str) -> Any:
        """What the world around which this is wrapped tells about the stream, it tells here too."""
        if name in ("lag", "dead_letters", "events_consumed"):
            return getattr(self.world, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def poll(self, timeout_s: float = 0.0) -> Events | None:
        """The events of the world.

        Raises:
            BadLog: the folder already holds the log of another run.
        """
        self._settle()
        if self._parts == 0 and self._writer is None and self._found():
            problem = f"expected an empty folder, got {len(self._found())} parts of a log of another run"
            raise BadLog(self.path, f"{problem}; name another folder, or resume that run")
        events = self.world.poll(timeout_s)
        self._polled = None if events is None else events.to("cpu")
        return events

    def send(self, wanted: Decision, asked: Events) -> Decision:
        shown = self.world.send(wanted, asked)
        self._answers.append((asked.user.cpu(), shown.to("cpu")))
        return shown

    def flush(self) -> None:
        self.world.flush()
        self._seal()

    def position(self) -> State:
        self._seal()
        return {"world": self.world.position(), "parts": self._parts, "left_out": self.left_out}

    def seek(self, position: State) -> None:
        """Continue at `position`; parts written after it are deleted.

        Raises:
            BadLog: a part written before it is missing.
        """
        self._drop_open()
        self._parts, self.left_out = position["parts"], position["left_out"]
        names = [self._part(number) for number in range(self._parts)]
        missing = [name for name in names if not name.exists()]
        if missing:
            raise BadLog(missing[0], f"expected the {self._parts} parts recorded so far, got fewer; put it back")
        for part in self._found():
            if part not in names:
                part.unlink()
        self.world.seek(position["world"])

    def commit(self, position: State) -> None:
        self.world.commit(position["world"])

    def close(self) -> None:
        """Finish the last part and close the world."""
        self._seal()
        self.world.close()

    def _part(self, number: int) -> Path:
        return self.path / f"part-{number:05d}.parquet"

    def _found(self) -> list[Path]:
        return sorted(self.path.glob("part-*.parquet"))

    def _drop_open(self) -> None:
        if self._writer is not None:
            self._writer.abandon()
        self._writer, self._polled, self._answers = None, None, []
        self._gathered, self._rows = [], 0
        for torn in self.path.glob("part-*.parquet.partial"):
            torn.unlink()

    def _seal(self) -> None:
        self._settle()
        self._write()
        if self._writer is None:
            return
        self._writer.close()
        folder = os.open(self.path, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        self._writer = None
        self._parts += 1

    def _settle(self) -> None:
        """Note the last poll and the answers to it. Before the next poll: rows may name other users after that."""
        events, answers = self._polled, self._answers
        self._polled, self._answers = None, []
        if events is None or len(events) == 0:
            return
        columns = self._noted(events, answers)
        self._gathered.append(columns)
        self._rows += len(columns["time"])
        if self._rows >= GATHERED:
            self._write()

    def _write(self) -> None:
        gathered, rows = self._gathered, self._rows
        self._gathered, self._rows = [], 0
        if rows == 0:
            return
        if self._writer is None:
            self._writer = EventWriter(self._part(self._parts))
        names = gathered[0]
        self._writer.append(pd.DataFrame({name: np.concatenate([one[name] for one in gathered]) for name in names}))

    def _noted(self, events: Events, answers: list[tuple[Tensor, Decision]]) -> dict[str, Any]:
        """One row per event, but one per filled slot for each request that was answered."""
        answer, shown = _answers_to(events, answers)
        slate = shown.slate[answer]
        per_event = (slate > 0).sum(1)
        rows = events[torch.repeat_interleave(torch.arange(len(events)), per_event.clamp(min=1))]
        at = torch.repeat_interleave(per_event > 0, per_event.clamp(min=1))
        row, slot = torch.nonzero(slate, as_tuple=True)
        known = (rows.kind != int(Kind.IMPRESSION)) | (rows.decision == 0)  # an IMPRESSION reaction says nothing new
        rows.decision[rows.kind == int(Kind.REQUEST)] = 0
        rows.decision[at] = torch.where(events.decision != 0, events.decision, shown.id[answer])[row]
        rows.kind[at], rows.item[at], rows.slot[at], rows.value[at] = int(Kind.IMPRESSION), slate[row, slot], slot, 1.0
        slot_logp = torch.full((len(rows),), torch.nan, dtype=torch.float64)
        slot_logp[at] = shown.slot_logp[answer][row, slot].double()
        writable = (rows.kind != int(Kind.NONE)) & ((rows.item > 0) | _needs_no_item(rows.kind))
        self.left_out += int((known & ~writable).sum())
        keep = known & writable
        return self._columns(rows[keep], slot_logp[keep])

    def _columns(self, rows: Events, slot_logp: Tensor) -> dict[str, Any]:
        texts = {
            "user": self.sessions.user_ids(rows.user),
            "item": list(map(self.catalog.ids.__getitem__, rows.item.tolist())),
            "kind": list(map(KINDS.__getitem__, rows.kind.tolist())),
            "session": _text(rows.session),
            "slate": _text(rows.decision),
        }
        return {
            **{name: np.array(text, dtype=object) for name, text in texts.items()},
            "time": rows.time.numpy(),
            "value": rows.value.double().numpy(),
            "slot": rows.slot.numpy(),
            "propensity": _propensity(slot_logp).numpy(),
        }


def _answers_to(events: Events, answers: list[tuple[Tensor, Decision]]) -> tuple[Tensor, Decision]:
    """Index of the answer to each event [B], and the answers; the last of them is the empty one of the unanswered.

    The n-th answer to a user belongs to the n-th request of that user: the loop answers a user in order.
    """
    requests = torch.nonzero(events.kind == int(Kind.REQUEST)).squeeze(1)
    width = answers[0][1].slate.shape[1] if answers else 0
    none = Decision.of(torch.zeros(1, dtype=torch.int64), torch.zeros(1, width, dtype=torch.int64))
    given = [replace(shown, shadow=none.shadow.new_zeros(len(shown), 0, width)) for _, shown in answers]
    users = torch.cat([user for user, _ in answers]) if answers else requests.new_zeros(0)
    asking = events.user[requests]
    order = torch.argsort(_nth(users))
    keys, wanted = _nth(users)[order], _nth(asking)
    place = torch.searchsorted(keys, wanted)
    found = torch.zeros_like(wanted, dtype=torch.bool)
    inside = place < len(keys)
    found[inside] = keys[place[inside]] == wanted[inside]
    answer = torch.full((len(events),), len(users))
    answer[requests[found]] = order[place[found]]
    return answer, Decision.cat([*given, none])


def _nth(users: Tensor) -> Tensor:
    """One number for "the n-th row of this user". [B] int64 -> [B] int64."""
    return users * (1 << 32) + rank_within(users)


def _needs_no_item(kind: Tensor) -> Tensor:
    return (kind == int(Kind.REQUEST)) | (kind == int(Kind.LEAVE)) | (kind == int(Kind.RETURN))


def _text(numbers: Tensor) -> list[str]:
    return [str(number) if number else "" for number in numbers.tolist()]


def _propensity(slot_logp: Tensor) -> Tensor:
    """In (0, 1], NaN where unknown: no rounding beyond 1 or to 0, which a log must not hold."""
    known = torch.where(torch.isfinite(slot_logp), slot_logp, torch.nan)
    return known.exp().clamp(torch.finfo(torch.float64).tiny, 1.0)
