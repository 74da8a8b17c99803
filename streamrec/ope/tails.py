"""The large weights: a histogram over their logarithm and the heaviest rows themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.ope.arrays import floats, keys, packed
from streamrec.ope.rows import Floats, Keys

KEPT = 1000
"""Heaviest rows kept."""

OCTAVES = 64
"""The histogram reaches from 2**-64 to 2**64, two bins an octave; weights beyond fall into the outer bins."""


@dataclass(frozen=True)
class Heavy:
    """The heaviest rows, heaviest first, the earlier row first where weights are equal; [m <= 1000] each."""

    weight: Floats
    reward: Floats
    session: Keys  # mixed keys, not ids
    row: NDArray[np.int64]  # number of the row in its accumulator, from 0


class Tails:
    """Histogram and heaviest rows of weights, in one pass and bounded memory. Independent of how batches are cut."""

    def __init__(self) -> None:
        self.zeros, self.rows = 0, 0
        self.bins: NDArray[np.int64] = np.zeros(4 * OCTAVES, dtype=np.int64)
        self.heavy = Heavy(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64))

    def add(self, weight: Floats, reward: Floats, mixed: Keys) -> None:
        """Take in [n] weights with the reward and the mixed session key of their rows."""
        self._count(weight)
        full = len(self.heavy.weight) == KEPT
        # A row that ties with the lightest kept one came later and stays out.
        (at,) = np.nonzero(weight > self.heavy.weight[-1]) if full else np.nonzero(weight > 0)
        if len(at) > 8 * KEPT:
            at = np.sort(at[np.argsort(-weight[at], kind="stable")[:KEPT]])
        if len(at):
            self._keep(Heavy(weight[at], reward[at], mixed[at], at + self.rows))
        self.rows += len(weight)

    def _count(self, weight: Floats) -> None:
        mantissa, exponent = np.frexp(weight)
        place = np.clip(2 * (exponent + OCTAVES) + (mantissa >= np.sqrt(0.5)), 0, len(self.bins) - 1)
        self.bins += np.bincount(place[weight > 0], minlength=len(self.bins))
        self.zeros += int((weight == 0).sum())

    def _keep(self, more: Heavy) -> None:
        parts = zip(
            (self.heavy.weight, self.heavy.reward, self.heavy.session, self.heavy.row),
            (more.weight, more.reward, more.session, more.row),
            strict=True,
        )
        weight, reward, session, row = (np.concatenate(pair) for pair in parts)
        first = np.lexsort((row, -weight))[:KEPT]
        self.heavy = Heavy(weight[first], reward[first], session[first], row[first])

    def edges(self) -> Floats:
        """[bins + 1] weights between which the bins lie."""
        at = np.arange(len(self.bins) + 1)
        edges: Floats = np.where(at % 2 == 0, 0.5, np.sqrt(0.5)) * 2.0 ** (at // 2 - OCTAVES)
        return edges

    def __add__(self, other: Tails) -> Tails:
        """Rows of `other` are numbered on from those of `self`."""
        both = Tails()
        both.zeros, both.bins, both.heavy = self.zeros + other.zeros, self.bins + other.bins, self.heavy
        theirs = other.heavy
        both._keep(Heavy(theirs.weight, theirs.reward, theirs.session, theirs.row + self.rows))
        both.rows = self.rows + other.rows
        return both

    def state_dict(self) -> dict[str, Any]:
        heavy = {name: getattr(self.heavy, name) for name in ("weight", "reward", "session", "row")}
        state: dict[str, Any] = packed({"zeros": self.zeros, "rows": self.rows, "bins": self.bins, "heavy": heavy})
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.zeros, self.rows, self.bins = int(state["zeros"]), int(state["rows"]), floats(state["bins"])
        heavy = state["heavy"]
        self.heavy = Heavy(
            floats(heavy["weight"]), floats(heavy["reward"]), keys(heavy["session"]), floats(heavy["row"])
        )
