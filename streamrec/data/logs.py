"""The past as a world: a recorded log hands out what happened and answers every decision with what was shown then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamrec.catalog import Catalog
from streamrec.data.clicks import ask_before_clicks
from streamrec.data.events import COLUMNS, MAX_SLOTS, read
from streamrec.mixing import keys_of
from streamrec.ports import State
from streamrec.records import Decision, Events, Kind
from streamrec.sessions import SessionStore

_Columns = dict[str, NDArray[Any]]  # the columns of an event by name, each [rows]

_TICKET = 1 << 52
"""Tickets of slates are from here up, those of organic clicks below: they never meet."""


class LogWorld:
    """A log in the format of `streamrec.data.events`, replayed in the order of its rows.

    The impressions of one slate become one REQUEST with `shown` and `slot_logp`, later rows with that slate are its
    reactions: both carry the same negative ticket in `decision`. Organic clicks get a question before them
    (`ask_before_clicks`). Rows of kind `request` that name a slate repeat what its impressions say and are left out.

    The position is a row number, so a seek is exact whatever the size of the batches before it.

    Args:
        path: see `streamrec.data.events.read`, like `columns`.
        catalog: gets the items as they turn up.
        sessions: gets the users.
        slate: K, width of `shown`. Of longer slates the first K slots are kept; reactions to the others become
            organic events nobody is asked about, counted in `cut`.
        columns: event column -> expression over the columns of the file.
        batch: rows of the log per poll. Order between users is not kept within one poll.
        ask: put a question before every organic click.
        until: event time, seconds since the epoch; the log ends before the first row at or after it.

    Raises:
        BadLog: on construction or while polling, see `read`.
    """

    def __init__(
        self,
        path: Path | str,
        catalog: Catalog,
        sessions: SessionStore,
        slate: int,
        columns: Mapping[str, str] | None = None,
        batch: int = 1024,
        ask: bool = True,
        until: float | None = None,
    ) -> None:
        if slate < 1 or batch < 1:
            raise ValueError(f"world.slate and world.batch must be at least 1, got slate={slate} and batch={batch}")
        self.path, self.catalog, self.sessions = path, catalog, sessions
        self.slate, self.columns, self.batch = slate, dict(columns or {}), batch
        self.ask, self.until = ask, until
        self.row = 0  # rows handed out so far
        self.skipped = 0  # rows left out because the catalogue is full
        self.cut = 0  # reactions to slots beyond K
        self._rows = _Rows(read(path, self.columns))

    def poll(self, timeout_s: float = 0.0) -> Events | None:
        """What the next `batch` rows say; the slate that begins in them is there as a whole. Never waits."""
        rows = self._rows.take(self.batch)
        if self.until is not None:
            rows = self._before(rows, self.until)
        size = len(rows["time"])
        if size == 0:
            return None
        events = self._events(rows, first_ticket=self.row + 1)
        self.row += size
        return events

    def _before(self, rows: _Columns, until: float) -> _Columns:
        ends = (rows["time"] >= until) & ~_continues(rows)
        if not ends.any():
            return rows
        self.close()
        return {name: column[: int(ends.argmax())] for name, column in rows.items()}

    def _events(self, rows: _Columns, first_ticket: int) -> Events:
        item = self.catalog.rows(rows["item"].tolist()).numpy()
        full = (item == 0) & (rows["item"] != "")
        self.skipped += int(full.sum())
        rows = {**{name: column[~full] for name, column in rows.items()}, "row": item[~full]}
        shown, slot_logp, begins = self._slates(rows)
        asked_twice = (rows["kind"] == int(Kind.REQUEST)) & (rows["slate"] != "")
        keep = np.where(_impressions(rows), begins, ~asked_twice)
        events = self._plain({name: column[keep] for name, column in rows.items()})
        at = torch.from_numpy(np.flatnonzero(begins[keep]))
        events.shown[at], events.slot_logp[at] = shown, slot_logp
        events.kind[at], events.item[at], events.slot[at], events.value[at] = int(Kind.REQUEST), 0, -1, 1.0
        return self._organic(events, first_ticket)

    def _slates(self, rows: _Columns) -> tuple[Tensor, Tensor, NDArray[np.bool_]]:
        """[slates, K] items, [slates, K] log-propensities, [rows] bool: a slate begins here."""
        part = _impressions(rows)
        begins = part & ~_continues(rows)
        number = np.cumsum(begins) - 1
        shown = np.zeros((int(begins.sum()), self.slate), dtype=np.int64)
        slot_logp = np.full(shown.shape, np.nan, dtype=np.float32)
        inside = part & (rows["slot"] < self.slate)
        at = number[inside], rows["slot"][inside]
        shown[at] = rows["row"][inside]
        slot_logp[at] = np.log(rows["propensity"][inside])
        return torch.from_numpy(shown), torch.from_numpy(slot_logp), begins

    def _plain(self, rows: _Columns) -> Events:
        """One event per row, slates as tickets."""
        size = len(rows["time"])
        return Events.of(
            self.sessions.rows(rows["user"].tolist()),
            torch.from_numpy(rows["kind"]),
            torch.from_numpy(rows["time"]),
            item=torch.from_numpy(rows["row"]),
            value=torch.from_numpy(rows["value"]),
            decision=slate_tickets(rows["slate"]),
            slot=torch.from_numpy(rows["slot"]),
            session=keys_of(rows["session"]),
            shown=torch.zeros(size, self.slate, dtype=torch.int64),
        )

    def _organic(self, events: Events, first_ticket: int) -> Events:
        """Questions before organic clicks; reactions to slots that were cut off become organic, without a question."""
        if self.ask:
            events = ask_before_clicks(events, first_ticket)
        beyond = (events.slot >= self.slate) & (events.decision != 0)
        self.cut += int(beyond.sum())
        events.decision[beyond], events.slot[beyond] = 0, -1
        return events

    def send(self, wanted: Decision, asked: Events) -> Decision:
        """The past does not listen: what it showed."""
        return answer_from_past(wanted, asked)

    def position(self) -> State:
        return {"row": self.row, "skipped": self.skipped, "cut": self.cut}

    def seek(self, position: State) -> None:
        self.close()
        self.row, self.skipped, self.cut = position["row"], position["skipped"], position["cut"]
        self._rows = _Rows(read(self.path, self.columns, start=self.row))

    def flush(self) -> None:
        """Nothing is ever on its way."""

    def commit(self, position: State) -> None:
        """A file keeps no record of who read how far."""

    def close(self) -> None:
        self._rows.close()


def answer_from_past(wanted: Decision, asked: Events) -> Decision:
    """What a log says was shown, as the decision numbered `wanted.id`. Both records have B rows.

    The slate is as wide as `asked.shown`, whatever the agent wanted. `logp` is the sum over the slots that show
    something: NaN when the propensity of one is unknown, or when the log does not say what was shown.
    """
    filled = asked.shown > 0
    logp = torch.where(filled, asked.slot_logp, 0.0).sum(1)
    past = Decision.of(wanted.user, asked.shown, asked.slot_logp)
    past.id, past.logp = wanted.id, torch.where(filled.any(1), logp, torch.nan)
    return past


class _Rows:
    """Takes a given number of rows from frames of any size, slates as a whole."""

    def __init__(self, frames: Iterator[pd.DataFrame]) -> None:
        self._frames = frames
        self._left: _Columns = _columns(pd.DataFrame({name: [] for name in COLUMNS}))

    def take(self, count: int) -> _Columns:
        """The next `count` rows, and the rest of the slate that would be cut there; fewer at the end."""
        while len(self._left["time"]) < count:
            frame = next(self._frames, None)
            if frame is None:
                break
            more = _columns(frame)
            self._left = {name: np.concatenate([column, more[name]]) for name, column in self._left.items()}
        after = {name: column[max(0, count - 1) : count + MAX_SLOTS] for name, column in self._left.items()}
        goes_on = _continues(after)[1:]
        end = count + (len(goes_on) if goes_on.all() else int(goes_on.argmin()))
        taken = {name: column[:end] for name, column in self._left.items()}
        self._left = {name: column[end:] for name, column in self._left.items()}
        return taken

    def close(self) -> None:
        """Let go of the file and of the rows not taken."""
        self._frames = iter(())
        self._left = {name: column[:0] for name, column in self._left.items()}


def _columns(frame: pd.DataFrame) -> _Columns:
    columns: _Columns = {name: frame[name].to_numpy(object) for name in ("user", "item", "session", "slate")}
    columns |= {name: frame[name].to_numpy(np.float64) for name in ("time", "value", "propensity")}
    columns["slot"] = frame["slot"].to_numpy(np.int64)
    columns["kind"] = frame["kind"].astype("category").cat.codes.to_numpy()
    return columns


def _impressions(rows: _Columns) -> NDArray[np.bool_]:
    """[rows] bool: says what a slate showed."""
    return np.asarray((rows["kind"] == int(Kind.IMPRESSION)) & (rows["slate"] != ""), dtype=bool)


def _continues(rows: _Columns) -> NDArray[np.bool_]:
    """[rows] bool: an impression of the same slate as the row before."""
    part, slate = _impressions(rows), rows["slate"]
    out = np.zeros(len(part), dtype=bool)
    out[1:] = part[1:] & part[:-1] & (slate[1:] == slate[:-1])
    return out


def slate_tickets(slates: NDArray[np.object_]) -> Tensor:
    """[rows] int64: a negative number per id of a slate, the same in every process; 0 for ""."""
    keys = keys_of(slates, 52)
    return torch.where(keys == 0, 0, -(keys + _TICKET))
