"""The sessions that are going on: where each is, in one float of weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.ope.arrays import floats, keys, packed
from streamrec.ope.rows import Floats, Keys

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Ended:
    """Sequences that are over: [m] keys, logarithms of their whole weight, numbers of their last step."""

    key: Keys
    log: Floats
    step: Ints


@dataclass(frozen=True)
class Walked:
    """Where each row of a batch stands in its sequence; [n], in the order of the rows that were kept.

    Args:
        kept: numbers of the rows that were taken; late ones were not.
        before: logarithm of the weights' product up to the step before.
        log: the same with this step.
        step: number of the step, from 0.
    """

    kept: NDArray[np.intp]
    before: Floats
    log: Floats
    step: Ints


class LiveSessions:
    """Session -> (logarithm of the product of weights, number of the last step, time of the last step).

    A session that is silent for more than `timeout_s` is over; what comes later under its key is a new sequence. A
    row older than its session's last is late: it is counted and left out, for its place in the product is gone.

    Args:
        timeout_s: seconds of silence, in the time of the events.
    """

    def __init__(self, timeout_s: float) -> None:
        if not timeout_s > 0:
            raise ValueError(f"timeout_s is {timeout_s:g}: expected seconds above 0")
        self.timeout_s, self.clock, self.late = timeout_s, -np.inf, 0
        self.keys: Keys = np.zeros(0, dtype=np.uint64)
        self.log: Floats = np.zeros(0)
        self.step: Ints = np.zeros(0, dtype=np.int64)
        self.last: Floats = np.zeros(0)

    def __len__(self) -> int:
        return len(self.keys)

    def walk(self, key: Keys, ratio: Floats, time: Floats) -> tuple[Walked, Ended]:
        """Take the steps of a batch, [n] each, `ratio` the logarithm of each step's weight.

        Rows of one session are taken in their order, one of each session at a time.
        """
        runs, order, start, size = _runs(key)
        log, step, last = self._carried(runs)
        before, after, number = np.zeros(len(key)), np.zeros(len(key)), np.full(len(key), -1)
        over: list[Ended] = []
        by_size = np.argsort(-size, kind="stable")
        for turn, longer in enumerate(_longer(size)):
            run = by_size[:longer]
            row = order[start[run] + turn]
            gap = time[row] - last[run]
            on_time, fresh = gap >= 0, gap > self.timeout_s
            done = run[fresh & (step[run] >= 0)]
            over.append(Ended(runs[done], log[done], step[done]))
            log[run[fresh]], step[run[fresh]] = 0.0, -1
            run, row = run[on_time], row[on_time]
            before[row], log[run], step[run] = log[run], log[run] + ratio[row], step[run] + 1
            after[row], number[row], last[run] = log[run], step[run], time[row]
        (kept,) = np.nonzero(number >= 0)
        self.late += len(key) - len(kept)
        self._store(runs, log, step, last)
        over.append(self._silent(float(time.max(initial=-np.inf))))
        return Walked(kept, before[kept], after[kept], number[kept]), _joined(over)

    def _carried(self, runs: Keys) -> tuple[Floats, Ints, Floats]:
        at = np.minimum(np.searchsorted(self.keys, runs), max(0, len(self.keys) - 1))
        found = self.keys[at] == runs if len(self.keys) else np.zeros(len(runs), dtype=bool)
        log, step, last = np.zeros(len(runs)), np.full(len(runs), -1), np.full(len(runs), -np.inf)
        log[found], step[found], last[found] = self.log[at[found]], self.step[at[found]], self.last[at[found]]
        return log, step, last

    def _store(self, runs: Keys, log: Floats, step: Ints, last: Floats) -> None:
        stay = np.isin(self.keys, runs, invert=True)
        merged = np.concatenate([self.keys[stay], runs])
        order = np.argsort(merged)
        self.keys = merged[order]
        self.log = np.concatenate([self.log[stay], log])[order]
        self.step = np.concatenate([self.step[stay], step])[order]
        self.last = np.concatenate([self.last[stay], last])[order]

    def _silent(self, now: float) -> Ended:
        """Let go of sessions whose silence is too long."""
        self.clock = max(self.clock, now)
        return self._end(self.clock - self.last > self.timeout_s)

    def _end(self, over: NDArray[np.bool_]) -> Ended:
        ended = Ended(self.keys[over], self.log[over], self.step[over])
        self.keys, self.log = self.keys[~over], self.log[~over]
        self.step, self.last = self.step[~over], self.last[~over]
        return ended

    def so_far(self) -> Ended:
        """The sessions that are going on, as if they ended now; they go on."""
        return Ended(self.keys, self.log, self.step)

    def __add__(self, other: LiveSessions) -> LiveSessions:
        """The sessions of both; one that goes on in both is a mistake, since its weights would not be multiplied.

        Raises:
            ValueError: there is such a session.
        """
        shared = int(np.isin(self.keys, other.keys).sum())
        if shared:
            raise ValueError(f"{shared} sessions go on in both parts: shard the log by session, not by time")
        both = LiveSessions(self.timeout_s)
        both.keys, both.log = self.keys.copy(), self.log.copy()
        both.step, both.last = self.step.copy(), self.last.copy()
        both._store(other.keys, other.log, other.step, other.last)
        both.clock, both.late = max(self.clock, other.clock), self.late + other.late
        return both

    def state_dict(self) -> dict[str, Any]:
        columns = {name: getattr(self, name) for name in ("keys", "log", "step", "last")}
        state: dict[str, Any] = packed(columns | {"clock": self.clock, "late": self.late})
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.keys, self.log = keys(state["keys"]), floats(state["log"])
        self.step, self.last = floats(state["step"]), floats(state["last"])
        self.clock, self.late = float(state["clock"]), int(state["late"])


def _runs(key: Keys) -> tuple[Keys, NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Different keys; rows sorted by key, each key's in their order; where its rows begin there, and how many."""
    order = np.argsort(key, kind="stable")
    runs, start, size = np.unique(key[order], return_index=True, return_counts=True)
    return runs, order, start, size


def _longer(size: NDArray[np.intp]) -> list[int]:
    """How many sizes exceed 0, 1, 2, ... up to the largest."""
    counts: list[int] = (len(size) - np.cumsum(np.bincount(size)))[: int(size.max(initial=0))].tolist()
    return counts


def _joined(parts: list[Ended]) -> Ended:
    return Ended(
        np.concatenate([part.key for part in parts]),
        np.concatenate([part.log for part in parts]),
        np.concatenate([part.step for part in parts]),
    )
