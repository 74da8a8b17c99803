"""Weighted per-decision importance sampling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from streamrec.ope.arrays import floats, packed
from streamrec.ope.intervals import resamples
from streamrec.ope.rows import Floats, Keys
from streamrec.ope.sequences.live import Ended, Ints
from streamrec.ope.sequences.steps import Steps

_REACH = 200.0
"""Logarithms within this of a step's scale need no new scale: e**200 is far from the ends of float64."""


class WeightedPdis:
    """sum over t of gamma**t (sum_i rho_it r_it) / (sum_i rho_it): every step has its own normaliser.

    Thomas 2015 (Safe reinforcement learning, PhD thesis, section 3.9, consistent weighted per-decision importance
    sampling). A sequence that ended keeps its weight in the normaliser of later steps, as if it went on without reward
    and without decisions; dividing by the sequences still going on would be biased towards long ones.

    Sums are kept by step and bucket of sessions, each step with a scale of its own, so a ratio is right even where all
    its weights are too small or too large for float64. Memory is 24 bytes a bucket and step of the longest sequence.

    Args:
        gamma: discount factor of a step.
        buckets: hash buckets of sessions.
    """

    def __init__(self, gamma: float, buckets: int = 1024) -> None:
        self.gamma, self.buckets, self.longest = gamma, buckets, 0
        # Logarithm of the unit in which a step's sums are kept, -inf as long as all its weights are 0. [room]
        self.scale: Floats = np.zeros(0)
        self.sums: Floats = np.zeros((3, 0, buckets))  # (rho r, rho, rho of those that ended here) x step x bucket
        self.begun: Floats = np.zeros(buckets)

    def add(self, steps: Steps, mixed: Keys) -> None:
        """Add steps, with the mixed keys of their sessions, [n]."""
        self._reach(steps.step, steps.log)
        unit = self._unit(steps.step, steps.log)
        cell = steps.step * self.buckets + self._bucket(mixed)
        np.add.at(self.sums[0].reshape(-1), cell, unit * steps.reward)
        np.add.at(self.sums[1].reshape(-1), cell, unit)
        np.add.at(self.begun, self._bucket(mixed), (steps.step == 0).astype(np.float64))

    def end(self, ended: Ended) -> None:
        """Take note of sequences that are over."""
        if len(ended.key):
            unit = self._unit(ended.step, ended.log)
            np.add.at(self.sums[2].reshape(-1), ended.step * self.buckets + self._bucket(ended.key), unit)

    def _bucket(self, mixed: Keys) -> Ints:
        return (mixed % np.uint64(self.buckets)).astype(np.int64)

    def _unit(self, step: Ints, log: Floats) -> Floats:
        scale = self.scale[step]
        return np.exp(np.where(np.isneginf(scale), -np.inf, log - np.where(np.isneginf(scale), 0.0, scale)))

    def _reach(self, step: Ints, log: Floats) -> None:
        """Make room for the steps, and give new scales to those whose weights left the reach of theirs."""
        self.longest = max(self.longest, int(step.max(initial=-1)) + 1)
        if self.longest > len(self.scale):
            more = max(self.longest, len(self.scale) + len(self.scale) // 4) - len(self.scale)
            self.scale = np.pad(self.scale, (0, more), constant_values=-np.inf)
            self.sums = np.pad(self.sums, ((0, 0), (0, more), (0, 0)))
        largest = np.full(len(self.scale), -np.inf)
        np.maximum.at(largest, step, log)
        new = np.isneginf(self.scale) & ~np.isneginf(largest)
        self.scale[new] = np.where(np.abs(largest[new]) <= _REACH, 0.0, largest[new])
        far = largest > self.scale + _REACH
        self.sums[:, far] *= np.exp(self.scale[far] - largest[far])[None, :, None]
        self.scale[far] = largest[far]

    def by_step(self, live: Ended) -> tuple[Floats, Floats]:
        """Numerators and normalisers by step and bucket, [steps, buckets] each, both in the step's own unit.

        Args:
            live: sequences going on, counted as ended now.
        """
        used = self.longest
        ended = self.sums[2, :used].copy()
        cell = live.step * self.buckets + self._bucket(live.key)
        np.add.at(ended.reshape(-1), cell, self._unit(live.step, live.log))
        tops, wholes = np.zeros((used, self.buckets)), np.zeros((used, self.buckets))
        past, past_scale = np.zeros(self.buckets), -math.inf
        for t in range(used):
            scale = float(self.scale[t])
            common = max(scale, past_scale)
            if common == -math.inf:
                continue
            own, kept = math.exp(scale - common), math.exp(past_scale - common)
            tops[t], wholes[t] = own * self.sums[0, t], own * self.sums[1, t] + kept * past
            past = kept * past + own * ended[t]
            past_scale = common if past.any() else -math.inf
        return tops, wholes

    def value(self, live: Ended) -> tuple[float, Floats] | None:
        """The estimate and its [buckets] residuals; None where at some step all weights are 0."""
        tops, wholes = self.by_step(live)
        whole = wholes.sum(1)
        if len(whole) == 0 or (whole == 0).any():
            return None
        ratio, discount = tops.sum(1) / whole, self.gamma ** np.arange(len(whole))
        residuals = ((discount / whole)[:, None] * (tops - ratio[:, None] * wholes)).sum(0)
        return float((discount * ratio).sum()), residuals

    def drawn(self, live: Ended, draws: int, seed: int) -> Floats:
        """[draws] values over resampled buckets."""
        tops, wholes = self.by_step(live)
        used = self.begun > 0
        discount, values = self.gamma ** np.arange(len(tops)), []
        for times in resamples(int(used.sum()), draws, seed):
            with np.errstate(invalid="ignore", divide="ignore"):
                ratio = (times @ tops[:, used].T) / (times @ wholes[:, used].T)
            values.append(ratio @ discount)
        return np.concatenate(values)

    def __add__(self, other: WeightedPdis) -> WeightedPdis:
        both = WeightedPdis(self.gamma, self.buckets)
        steps = max(len(self.scale), len(other.scale))
        parts = []
        for part in (self, other):
            more = steps - len(part.scale)
            scale = np.pad(part.scale, (0, more), constant_values=-np.inf)
            parts.append((scale, np.pad(part.sums, ((0, 0), (0, more), (0, 0)))))
        both.longest = max(self.longest, other.longest)
        both.scale = np.maximum(parts[0][0], parts[1][0])
        known = np.where(np.isneginf(both.scale), 0.0, both.scale)
        mine, theirs = (sums * np.exp(scale - known)[None, :, None] for scale, sums in parts)
        both.sums = mine + theirs
        both.begun = self.begun + other.begun
        return both

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = packed(
            {"longest": self.longest, "scale": self.scale, "sums": self.sums, "begun": self.begun}
        )
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.longest = int(state["longest"])
        self.scale, self.sums, self.begun = (floats(state[name]) for name in ("scale", "sums", "begun"))
