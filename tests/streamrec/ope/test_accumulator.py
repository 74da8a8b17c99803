from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec import checkpoint
from streamrec.ope.accumulator import NAMES, Accumulator
from streamrec.ope.codes import Refused
from streamrec.ope.student import student
from tests.streamrec.ope.worlds import CONTEXT, MODEL, POLICY, VALUE, Log, draw, enumerated

ALL = [name for name in NAMES if name not in ("matching", "logged")]
CLIP, LAM = 2.0, 3.0
BUCKETS = 2**16  # so many that no two sessions of a small log share one


def accumulated(log: Log, names: list[str] = ALL, cuts: int = 1, **settings: Any) -> Accumulator:
    settings = {"clip": CLIP, "lam": LAM} | settings
    accumulator = Accumulator(names, **settings)
    for part in np.array_split(np.arange(len(log.reward)), cuts):
        accumulator.add(**log[slice(part[0], part[-1] + 1)])
    return accumulator


def exact(log: Log) -> tuple[dict[str, Fraction], dict[str, float]]:
    """Values and session-robust standard errors by the textbook, row after row in exact fractions."""
    numbers: list[tuple[int, dict[str, Fraction]]] = []
    for row in range(len(log.reward)):
        named = {name: Fraction(float(column[row])) for name, column in log.columns.items() if name != "session"}
        named["w"] = named["target"] / named["propensity"]
        numbers.append((int(log.session[row]), named))
    clip, lam, n = Fraction(CLIP), Fraction(LAM), len(numbers)
    weights: dict[str, Callable[[Fraction], Fraction]] = {
        "dr": lambda w: w,
        "switch": lambda w: w if w <= clip else Fraction(0),
        "dros": lambda w: lam * w / (w * w + lam),
    }
    figures: dict[str, list[Fraction]] = {"dm": [row["v"] for _, row in numbers]}
    figures["ips"] = [row["w"] * row["reward"] for _, row in numbers]
    figures["clipped"] = [min(row["w"], clip) * row["reward"] for _, row in numbers]
    for name, weigh in weights.items():
        figures[name] = [row["v"] + weigh(row["w"]) * (row["reward"] - row["q"]) for _, row in numbers]
    values = {name: sum(rows) / n for name, rows in figures.items()}
    residuals = {name: [(x - values[name]) / n for x in rows] for name, rows in figures.items()}
    whole = sum(row["w"] for _, row in numbers)
    values["snips"] = sum(figures["ips"]) / whole
    residuals["snips"] = [row["w"] * (row["reward"] - values["snips"]) / whole for _, row in numbers]
    error = sum(row["w"] * (row["reward"] - row["q"]) for _, row in numbers) / whole
    values["sndr"] = values["dm"] + error
    residuals["sndr"] = [
        (row["v"] - values["dm"]) / n + row["w"] * (row["reward"] - row["q"] - error) / whole for _, row in numbers
    ]
    return values, {name: robust([key for key, _ in numbers], rows) for name, rows in residuals.items()}


def robust(session: list[int], residuals: list[Fraction]) -> float:
    by_session: dict[int, Fraction] = defaultdict(Fraction)
    for key, residual in zip(session, residuals, strict=True):
        by_session[key] += residual
    return sqrt(sum(part * part for part in by_session.values()))


def test_values_and_session_intervals_are_those_of_the_textbook() -> None:
    log = draw(sessions=60, rows=4, seed=1)
    values, errors = exact(log)
    found = accumulated(log, buckets=BUCKETS).result()
    assert list(found) == ["logged", *ALL]
    for name in ALL:
        estimate = found[name]
        assert estimate.value == pytest.approx(float(values[name]), rel=1e-12)
        if name == "dm":
            assert estimate.low is estimate.high is estimate.se is None
            continue
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.se == pytest.approx(errors[name], rel=1e-9)
        half = student(0.975, 59) * errors[name]
        assert (estimate.low, estimate.high) == pytest.approx((values[name] - half, values[name] + half), rel=1e-9)
        assert (estimate.n, estimate.sessions) == (240, 60)


@pytest.mark.parametrize("name", ["ips", "dr", "snips", "sndr"])
def test_estimators_give_the_expectation_when_every_outcome_comes_as_often_as_expected(name: str) -> None:
    """dr with a wrong model too. snips and sndr: the mean weight is 1 here, so they have no ratio bias."""
    estimate = accumulated(enumerated(), [name]).result()[name]
    assert estimate.value == pytest.approx(VALUE, rel=1e-12)


def test_the_direct_method_is_what_the_model_says() -> None:
    estimate = accumulated(enumerated(), ["dm"]).result()["dm"]
    assert estimate.value == pytest.approx(float(CONTEXT @ (POLICY * MODEL).sum(1)), rel=1e-12)
    assert estimate.kind == "model-based"


def test_matching_on_a_uniform_log_is_the_mean_of_the_rows_a_deterministic_policy_chooses_too() -> None:
    reward = np.array([1.0, 0.0, 4.0, 2.0, 7.0])
    same = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    accumulator = Accumulator(["matching"])
    accumulator.add(reward, np.full(5, 0.25), same, np.arange(5, dtype=np.uint64))
    estimate = accumulator.result()["matching"]
    assert estimate.value == pytest.approx(7 / 3)
    assert estimate.ess == 3


def test_the_logged_policy_against_itself_is_its_own_mean_to_the_bit() -> None:
    log = draw(sessions=1000, rows=3, seed=2)
    accumulator = Accumulator(["ips", "snips", "clipped"])
    accumulator.add(log.reward * 0.1, log.propensity, log.propensity, log.session)
    found = accumulator.result()
    assert found["ips"].value == found["snips"].value == found["clipped"].value == found["logged"].value
    assert found["logged"].value == pytest.approx(float(np.mean(log.reward)) * 0.1, rel=1e-12)
    assert (found["ips"].low, found["ips"].high) == (found["logged"].low, found["logged"].high)


@pytest.mark.parametrize("interval", ["session", "bootstrap", "bernstein", "anytime"])
def test_batches_may_be_cut_anywhere_to_the_bit(interval: str) -> None:
    log = draw(sessions=700, rows=7, seed=3)
    settings = {"reward_range": (0.0, 1.0), "max_weight": 6.1}
    whole, cut = (accumulated(log, cuts=cuts, **settings) for cuts in (1, 13))
    assert whole.result(interval=interval) == cut.result(interval=interval)
    assert whole.windows("dr") == cut.windows("dr")


def test_killed_and_resumed_is_the_same_to_the_bit(tmp_path: Path) -> None:
    log, settings = draw(sessions=300, seed=4), {"reward_range": (0.0, 1.0), "max_weight": 6.1}
    whole = accumulated(log, cuts=2, **settings)
    first = accumulated(Log(**log[:750]), **settings)
    checkpoint.save(tmp_path, {"accumulator": first.state_dict()}, 1)
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    second = Accumulator(ALL, clip=CLIP, lam=LAM, **settings)
    second.load_state_dict(loaded[0]["accumulator"])
    second.add(**log[750:])
    for interval in ("session", "anytime", "bernstein"):
        assert second.result(interval=interval) == whole.result(interval=interval)
    assert second.windows("ips") == whole.windows("ips")
    assert second.tails.state_dict().keys() == whole.tails.state_dict().keys()
    assert np.array_equal(second.tails.heavy.row, whole.tails.heavy.row)


def test_a_state_does_not_change_under_its_holder() -> None:
    log = draw(sessions=20)
    accumulator = accumulated(log)
    state = accumulator.state_dict()
    before = state["sums"]["table"].clone()
    accumulator.add(**log.columns)
    assert bool((state["sums"]["table"] == before).all())


def test_shards_add_up() -> None:
    log, settings = draw(sessions=900, seed=5), {"reward_range": (0.0, 1.0), "max_weight": 6.1}
    whole = accumulated(log, **settings)
    both = accumulated(Log(**log[:2000]), **settings) + accumulated(Log(**log[2000:]), **settings)
    for interval in ("session", "bernstein", "bootstrap"):
        others = both.result(interval=interval)
        for name, estimate in whole.result(interval=interval).items():
            other = others[name]
            assert other.value == pytest.approx(estimate.value, rel=1e-12)
            assert (other.low is None) == (estimate.low is None)
            if other.low is not None:
                assert (other.low, other.high) == pytest.approx((estimate.low, estimate.high), rel=1e-9)
            assert (other.n, other.sessions, other.max_w) == (estimate.n, estimate.sessions, estimate.max_w)
    assert np.array_equal(both.tails.heavy.row, whole.tails.heavy.row)
    assert [one.n for one in both.windows("ips")] == [one.n for one in whole.windows("ips")]


def test_shards_with_other_settings_do_not() -> None:
    with pytest.raises(ValueError, match="settings"):
        Accumulator(["ips"]) + Accumulator(["ips"], buckets=8)


def test_effective_sample_size_and_largest_weight() -> None:
    accumulator = Accumulator(["ips", "clipped"], clip=2.0)
    accumulator.add([1, 1, 1], [0.5, 0.25, 1.0], [0.5, 1.0, 0.0], np.arange(3, dtype=np.uint64))
    found = accumulator.result()
    assert (found["ips"].ess, found["ips"].max_w) == (pytest.approx(25 / 17), 4.0)
    assert (found["clipped"].ess, found["clipped"].max_w) == (pytest.approx(9 / 5), 2.0)
    assert found["logged"].ess is found["logged"].max_w is None


def test_bernstein_is_maurer_and_pontils() -> None:
    """Theorem 4 by hand, with the range of w r for rewards in [-1, 2] and weights up to 7."""
    log = draw(sessions=200, rows=1, seed=6)
    accumulator = Accumulator(["ips", "dr", "snips"], reward_range=(-1.0, 2.0), max_weight=7.0)
    accumulator.add(log.reward, log.propensity, log.target, log.session, log.q, log.v)
    found = accumulator.result(alpha=0.1, interval="bernstein")
    x = log.target / log.propensity * log.reward
    y = log.v + log.target / log.propensity * (log.reward - log.q)
    for name, rows, low, high in (("ips", x, -7, 14), ("dr", y, -1 - 21, 2 + 21)):
        log_term = np.log(2 / 0.05)
        half = np.sqrt(2 * rows.var(ddof=1) * log_term / 200) + 7 * (high - low) * log_term / (3 * 199)
        ends = max(low, rows.mean() - half), min(high, rows.mean() + half)
        assert (found[name].low, found[name].high) == pytest.approx(ends, rel=1e-9)
    assert found["snips"].low is None
    assert [one.code for one in found["snips"].warnings if one.code == "no_interval"]


def test_dm_needs_neither_propensities_nor_a_target() -> None:
    accumulator = Accumulator(["dm"])
    accumulator.add([0.0, 1.0], v=[0.25, 0.75])
    found = accumulator.result()
    assert (found["dm"].value, found["logged"].value) == (0.5, 0.5)


def test_an_empty_batch_changes_nothing() -> None:
    log = draw(sessions=10)
    accumulator = accumulated(log)
    before = accumulator.result()
    accumulator.add(**log[:0])
    assert accumulator.result() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimators": ["ipz"]}, "unknown estimators ipz"),
        ({"reward_range": (1.0, 1.0)}, "reward_range"),
        ({"max_weight": 0.0}, "max_weight"),
        ({"clip": 0.0}, "clip"),
        ({"buckets": 1}, "buckets"),
        ({"window_s": 0.0}, "window_s"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Accumulator(**({"estimators": ["ips"]} | settings))


def test_shapes_that_do_not_fit_are_refused() -> None:
    accumulator = Accumulator(["ips"])
    with pytest.raises(ValueError, match="shape"):
        accumulator.add([1.0, 2.0], [0.5], [0.5, 0.5])
    with pytest.raises(ValueError, match="session"):
        accumulator.add([1.0, 2.0], [0.5, 1], [0.5, 0.5], np.zeros(1, dtype=np.uint64))
    with pytest.raises(ValueError, match="64-bit"):
        accumulator.add([1.0], [0.5], [0.5], np.zeros(1, dtype=np.int32))
    with pytest.raises(ValueError, match="target is None"):
        accumulator.add([1.0], [0.5])
    accumulator.add([1.0], [0.5], [0.5], np.zeros(1, dtype=np.uint64))
    with pytest.raises(ValueError, match="always or never"):
        accumulator.add([1.0], [0.5], [0.5])


def test_a_refused_batch_leaves_no_trace() -> None:
    log = draw(sessions=10)
    accumulator = accumulated(log)
    before = accumulator.result()
    with pytest.raises(Refused):
        accumulator.add([1.0, 1.0], [0.5, 0.0], [0.5, 0.5], np.zeros(2, dtype=np.uint64), [0, 0], [0, 0], [0, 0])
    assert accumulator.result() == before
