"""Claims about agents, judged over seeds: "a > b" with its interval, and its null control.

A claim is about the score, or about what it names after "in": "a < b in swing.value" (see `streamrec.bench.arena.Run`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.build import BadSpec
from streamrec.ope.student import student

Scores = Mapping[str, Sequence[float]]
"""Score of each agent per seed, the seeds in the same order for all."""


@dataclass(frozen=True)
class Claim:
    """`left` `sign` `right`, two agents, in the `quantity`."""

    left: str
    sign: str
    right: str
    quantity: str = "score"

    def holds(self, low: float, high: float) -> bool:
        """Whether the interval low..high of left - right agrees: for > and < it must leave 0 out."""
        agrees = {">": low > 0.0, ">=": high >= 0.0, "<": high < 0.0, "<=": low <= 0.0}
        return agrees[self.sign]


@dataclass
class Verdict:
    """What the seeds say of one claim.

    Attributes:
        claim: as it stands in the arena.
        gap: mean difference of the scores, in the unit of the world.
        low: lower end of its 95 % interval.
        high: upper end.
        holds: ">" the interval lies above 0; ">=" it does not lie below 0; of a null control, that it holds 0.
        seeds: n.
    """

    claim: str
    gap: float
    low: float
    high: float
    holds: bool
    seeds: int

    def as_json(self) -> dict[str, Any]:
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}


def judge(claim: str, scores: Scores, control: bool = False) -> Verdict:
    """Whether `claim` holds; `control`: whether it is a tie.

    The interval is Student's, of the differences seed by seed: agents share the people and the luck of a seed.

    Args:
        claim: see the module.
        scores: of the quantity that the claim is about.
        control: the effect is off that the claim needs.

    Raises:
        BadSpec: not a claim, or about an agent that is not there.
    """
    said = parse(claim, scores)
    gaps = np.asarray(scores[said.left]) - np.asarray(scores[said.right])
    mean, half = float(gaps.mean()), half_width(gaps)
    low, high = mean - half, mean + half
    holds = low <= 0.0 <= high if control else said.holds(low, high)
    return Verdict(claim, mean, low, high, bool(holds), len(gaps))


def parse(claim: str, names: Mapping[str, Any]) -> Claim:
    """What a claim says.

    Raises:
        BadSpec: not a claim, or about an agent that is not there.
    """
    found = re.fullmatch(r"\s*(\w+)\s*(>=|>|<=|<)\s*(\w+)(?:\s+in\s+([\w.]+))?\s*", claim)
    if found is None:
        raise BadSpec(f'a claim reads "a > b" (or >=, <, <=), perhaps with "in swing.value" behind it, got {claim!r}')
    left, sign, right, quantity = found.groups()
    for name in (left, right):
        if name not in names:
            raise BadSpec(f"the claim {claim!r} is about {name!r}; there is {', '.join(names)}")
    return Claim(left, sign, right, quantity or "score")


def half_width(values: NDArray[np.float64]) -> float:
    """Half of the 95 % interval of the mean by Student's t; NaN with fewer than two values."""
    n = len(values)
    if n < 2:
        return math.nan
    return student(0.975, n - 1) * float(values.std(ddof=1)) / math.sqrt(n)


def interquartile_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the middle half along the last axis, edges by their share (Agarwal et al., NeurIPS 2021)."""
    ordered = np.sort(values, axis=-1)
    n = ordered.shape[-1]
    edges = np.clip(np.arange(n + 1), n / 4, n - n / 4)
    weights = np.diff(edges)
    middle: NDArray[np.float64] = (ordered * weights).sum(-1) / weights.sum()
    return middle


def bootstrap(values: NDArray[np.float64], draws: int = 5000) -> tuple[float, float]:
    """95 % percentile interval of the interquartile mean over seeds; the same values give the same interval."""
    if len(values) < 2:
        return math.nan, math.nan
    picks = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    low, high = np.quantile(interquartile_mean(values[picks]), [0.025, 0.975])
    return float(low), float(high)
