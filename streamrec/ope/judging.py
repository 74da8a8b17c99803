"""Which warnings stand beside a value, read from the sums it is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from streamrec.ope.codes import (
    DEPENDENT_ROWS,
    DETERMINISTIC_LOGGER,
    DRIFT,
    EXTREME_WEIGHT,
    FEW_SESSIONS,
    LOW_ESS,
    MEAN_WEIGHT_NOT_ONE,
    MODEL_BASED,
    OUT_OF_RANGE,
    PROPENSITY_ROUNDED,
    Q_OVERESTIMATION,
    SUPPORT_GAP,
    TOP_HEAVY,
    Warned,
)
from streamrec.ope.estimate import WindowEstimate
from streamrec.ope.estimator import Estimator
from streamrec.ope.propensities import Propensities
from streamrec.ope.rows import Floats
from streamrec.ope.sums import Sums
from streamrec.ope.windows import GROUPS

LEAST_ESS, LEAST_ESS_SHARE = 1000, 0.01
LARGEST_WEIGHT_SHARE = 0.05
WEIGHT_ERRORS = 4.0
LEAST_SESSIONS = 500
HEAVY_UNITS, HEAVY_SHARE = 10, 0.3
DRIFT_ERRORS = 3.0
LEAST_GROUPS = 30
Q_ERRORS = 3.0
LARGEST_GAP = 0.001
LARGEST_CERTAIN_SHARE = 0.01


def weights(ess: float, max_w: float, total: float, n: int) -> list[Warned]:
    """`low_ess` and `extreme_weight`."""
    found = []
    if ess < max(LEAST_ESS, LEAST_ESS_SHARE * n):
        text = f"{n} rows weigh as much as {ess:.0f}; the bar is {LEAST_ESS} and {LEAST_ESS_SHARE:.0%} of the rows"
        found.append(Warned.of(LOW_ESS, text))
    if max_w > LARGEST_WEIGHT_SHARE * total:
        text = f"one row has {max_w / total:.0%} of all weight; the bar is {LARGEST_WEIGHT_SHARE:.0%}"
        found.append(Warned.of(EXTREME_WEIGHT, text))
    return found


def mean_weight(by_bucket: Mapping[str, Floats], total: Mapping[str, Floats], column: str = "w") -> list[Warned]:
    """`mean_weight_not_one`: weights average 1 if propensities are true and the policy stays where the logger goes."""
    mean, se = _mean(by_bucket[column], by_bucket["n"], total[column], total["n"])
    if abs(mean - 1) <= max(WEIGHT_ERRORS * se, 1e-9):
        return []
    text = f"weights average {mean:.4g}, {abs(mean - 1) / se if se else math.inf:.1f} standard errors from 1"
    return [Warned.of(MEAN_WEIGHT_NOT_ONE, text)]


def overestimation(by_bucket: Mapping[str, Floats], total: Mapping[str, Floats]) -> list[Warned]:
    """`q_overestimation`: the model says more of the logged items than they earned."""
    mean, se = _mean(by_bucket["q-r"], by_bucket["n"], total["q-r"], total["n"])
    if mean <= Q_ERRORS * se or mean <= 1e-12:
        return []
    return [Warned.of(Q_OVERESTIMATION, f"q of the logged items exceeds their rewards by {mean:.4g} on average")]


def sessions(number: int, known: bool) -> list[Warned]:
    """`dependent_rows` and `few_sessions`."""
    if not known:
        return [Warned.of(DEPENDENT_ROWS, "no session was given, so every row counts as independent")]
    if number < LEAST_SESSIONS:
        return [Warned.of(FEW_SESSIONS, f"{number} sessions; the bar is {LEAST_SESSIONS}")]
    return []


def logger(seen: Propensities) -> list[Warned]:
    """`propensity_rounded` and `deterministic_logger`."""
    found = []
    if seen.rounded:
        text = f"propensities have at most {seen.decimals} decimals and the smallest is {seen.smallest:g}"
        found.append(Warned.of(PROPENSITY_ROUNDED, text))
    if seen.certain > LARGEST_CERTAIN_SHARE * seen.rows:
        text = f"{seen.certain / seen.rows:.1%} of the rows were shown with propensity 1"
        found.append(Warned.of(DETERMINISTIC_LOGGER, text))
    return found


def support(gap: float) -> list[Warned]:
    """`support_gap`."""
    if gap <= LARGEST_GAP:
        return []
    text = f"the policy puts {gap:.2%} of its choices on items the logger could not show"
    return [Warned.of(SUPPORT_GAP, text)]


def reach(value: float, reward_range: tuple[float, float] | None) -> list[Warned]:
    """`out_of_range`."""
    if reward_range is None or reward_range[0] <= value <= reward_range[1]:
        return []
    return [Warned.of(OUT_OF_RANGE, f"{value:.4g} lies outside the rewards' range {list(reward_range)}")]


def heaviness(value: float, residuals: Floats, share: Floats) -> list[Warned]:
    """`top_heavy`, from each bucket's influence plus its share of the rows times the value.

    With more sessions than buckets the ten heaviest buckets stand for the ten heaviest sessions: they hold them.
    """
    figures = np.abs(residuals + value * share)
    whole = float(figures.sum())
    if whole == 0:
        return []
    top = float(np.sort(figures)[-HEAVY_UNITS:].sum()) / whole
    if top <= HEAVY_SHARE:
        return []
    return [Warned.of(TOP_HEAVY, f"the {HEAVY_UNITS} heaviest groups of sessions carry {top:.0%} of the estimate")]


def by_window(estimator: Estimator[Any], sums: Sums) -> list[WindowEstimate]:
    """The value in each window of time that has rows."""
    found, windows = [], sums.windows
    for at, start in enumerate(windows.starts().tolist()):
        groups = windows.by_group(at)
        used = groups["n"] > 0
        if used.any():
            found.append(_window(estimator, {name: part[used] for name, part in groups.items()}, start, windows.width))
    return found


def _window(estimator: Estimator[Any], groups: Mapping[str, Floats], start: float, width: float) -> WindowEstimate:
    total = {name: np.asarray(part.sum()) for name, part in groups.items()}
    value, n, used = float(estimator.value(total)), int(total["n"]), len(groups["n"])
    if math.isnan(value):
        return WindowEstimate(start, width, None, None, n)
    if used < 2:
        return WindowEstimate(start, width, value, None, n)
    se = math.sqrt(float((estimator.residuals(groups, total) ** 2).sum()) * used / (used - 1))
    # Few groups give no trustworthy spread, and the drift flag passes such windows over.
    return WindowEstimate(start, width, value, se if used >= min(LEAST_GROUPS, GROUPS) else None, n)


def drift(value: float, windows: Sequence[WindowEstimate]) -> list[Warned]:
    """`drift`: a window is further from the whole than 3 standard errors are in one look, Bonferroni-corrected."""
    judged = [(window, window.value, window.se) for window in windows if window.value is not None and window.se]
    if len(judged) < 2:
        return []
    bar = NormalDist().inv_cdf(1 - (1 - NormalDist().cdf(DRIFT_ERRORS)) / len(judged))
    window, far, se = max(judged, key=lambda one: abs(one[1] - value) / (one[2] or math.inf))
    errors = abs(far - value) / (se or math.inf)
    if errors <= bar:
        return []
    text = (
        f"the window from {window.start:.0f} s has {far:.4g} where the whole has {value:.4g}, {errors:.1f} errors off"
    )
    return [Warned.of(DRIFT, text)]


def model_based(kind: str) -> list[Warned]:
    """`model_based`."""
    return [Warned.of(MODEL_BASED, "this is what the model says")] if kind == "model-based" else []


def _mean(part: Floats, counts: Floats, total: Floats, n: Floats) -> tuple[float, float]:
    mean = float(total) / float(n)
    return mean, math.sqrt(float(((part - mean * counts) ** 2).sum())) / float(n)
