from __future__ import annotations

from collections import defaultdict
from math import sqrt

import numpy as np
import pytest

from streamrec.ope.accumulator import Accumulator
from streamrec.ope.codes import Refused
from streamrec.ope.paired import paired
from streamrec.ope.student import student
from tests.streamrec.ope.worlds import Log, draw

NAMES = ["ips", "snips", "dr", "dm"]


def two(log: Log) -> tuple[Accumulator, Accumulator]:
    """The policy of the log, and one half way between it and the logger."""
    found = []
    for target in (log.target, (log.target + log.propensity) / 2):
        accumulator = Accumulator(NAMES, buckets=2**16)
        accumulator.add(**log.columns | {"target": target})
        found.append(accumulator)
    return found[0], found[1]


def test_the_difference_is_judged_session_by_session() -> None:
    log = draw(sessions=80, rows=3, seed=1)
    a, b = two(log)
    w, u = log.target / log.propensity, (log.target + log.propensity) / 2 / log.propensity
    for name, x, y in (
        ("ips", (w * log.reward - np.mean(w * log.reward)) / 240, (u * log.reward - np.mean(u * log.reward)) / 240),
        (
            "snips",
            w * (log.reward - w @ log.reward / w.sum()) / w.sum(),
            u * (log.reward - u @ log.reward / u.sum()) / u.sum(),
        ),
    ):
        sums: dict[int, float] = defaultdict(float)
        for key, residual in zip(log.session.tolist(), (x - y).tolist(), strict=True):
            sums[key] += residual
        error = sqrt(sum(part**2 for part in sums.values()))
        found = paired(a, b, name)
        value = a.result()[name].value - b.result()[name].value
        assert found.value == pytest.approx(value, rel=1e-12)
        assert found.se == pytest.approx(error, rel=1e-9)
        assert found.high - found.value == pytest.approx(student(0.975, 79) * error, rel=1e-9)


def test_a_policy_does_not_differ_from_itself() -> None:
    a, _ = two(draw(sessions=50))
    found = paired(a, a, "snips")
    assert (found.value, found.low, found.high, found.se) == (0.0, 0.0, 0.0, 0.0)


def test_two_estimators_of_one_policy() -> None:
    a, _ = two(draw(sessions=500))
    found = paired(a, a, "ips", "logged")
    assert found.value == pytest.approx(a.result()["ips"].value - a.result()["logged"].value)
    assert found.low < found.value < found.high


def test_the_bootstrap_resamples_both_alike() -> None:
    a, b = two(draw(sessions=2000, seed=3))
    delta, drawn = paired(a, b, "snips"), paired(a, b, "snips", interval="bootstrap")
    assert drawn.se == pytest.approx(delta.se, rel=0.1)
    assert paired(a, a, "snips", interval="bootstrap").se == 0.0


def test_a_difference_to_a_model_has_no_interval() -> None:
    a, _ = two(draw(sessions=50))
    found = paired(a, a, "ips", "dm")
    assert found.kind == "model-based"
    assert found.low is None


def test_other_rows_are_refused() -> None:
    a, _ = two(draw(sessions=50, seed=1))
    b, _ = two(draw(sessions=50, seed=2))
    with pytest.raises(Refused) as refused:
        paired(a, b, "ips")
    assert refused.value.code == "different_rows"


def test_no_support_on_either_side_is_refused() -> None:
    log = draw(sessions=50)
    a, _ = two(log)
    b = Accumulator(NAMES, buckets=2**16)
    b.add(**log.columns | {"target": np.zeros(len(log.target))})
    with pytest.raises(Refused) as refused:
        paired(a, b, "ips")
    assert refused.value.code == "no_support"
