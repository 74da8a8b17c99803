from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec import checkpoint
from streamrec.ope.codes import Refused
from streamrec.ope.slates.accumulator import NAMES, SlateAccumulator

ESTIMATORS = list(NAMES[1:])
ITEMS = range(3)

# P(first), P(second | first), P(third | second), in tenths; items may repeat, so marginals differ from prefixes.
FIRST = {"logger": (5, 3, 2), "policy": (1, 3, 6)}
NEXT = {
    "logger": ((2, 4, 4), (6, 2, 2), (5, 4, 1)),
    "policy": ((5, 4, 1), (1, 7, 2), (3, 3, 4)),
}
FREE = {"logger": ((5, 3, 2), (2, 2, 6), (4, 3, 3)), "policy": ((1, 3, 6), (7, 1, 2), (2, 5, 3))}
"""Of each slot, drawn without looking at the others."""


def prefix(who: str, slate: tuple[int, ...], independent: bool) -> list[Fraction]:
    tenths = [FIRST[who][slate[0]]] + [NEXT[who][above][item] for above, item in pairwise(slate)]
    if independent:
        tenths = [FREE[who][slot][item] for slot, item in enumerate(slate)]
    return [Fraction(p, 10) for p in tenths]


def marginal(who: str, slot: int, item: int, independent: bool) -> Fraction:
    slates = (one for one in product(ITEMS, repeat=3) if one[slot] == item)
    return sum((prod(prefix(who, one, independent)) for one in slates), Fraction(0))


def rewards(slate: tuple[int, ...], kind: str) -> list[Fraction]:
    """What each slot earns: by its item alone, by the items down to it, or by the whole slate."""
    own = [Fraction((7 * slot + 3 * item) % 11, 10) for slot, item in enumerate(slate)]
    if kind == "own":
        return own
    if kind == "above":
        return [own[slot] * (1 + sum(slate[:slot])) for slot in range(3)]
    return [own[slot] * (1 + (sum(slate) - item) ** 2) for slot, item in enumerate(slate)]


def world(kind: str, independent: bool) -> tuple[dict[str, np.ndarray], Fraction]:
    """Every slate as often as the logger shows it in 1,000, and what the policy earns with a slate."""
    rows: list[tuple[list[Fraction], ...]] = []
    for slate in product(ITEMS, repeat=3):
        logged, wanted = (prefix(who, slate, independent) for who in ("logger", "policy"))
        slots = [
            [marginal(who, at, item, independent) for at, item in enumerate(slate)] for who in ("logger", "policy")
        ]
        rows += [(rewards(slate, kind), logged, wanted, *slots)] * int(prod(logged) * 1000)
    names = ("reward", "propensity_prefix", "target_prefix", "propensity_slot", "target_slot")
    table = {name: np.array([row[at] for row in rows], dtype=np.float64) for at, name in enumerate(names)}
    slates = product(ITEMS, repeat=3)
    return table, sum(prod(prefix("policy", one, independent)) * sum(rewards(one, kind)) for one in slates)


def model(rows: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {"q": generator.normal(size=(rows, 3)), "v": generator.normal(size=(rows, 3))}


@pytest.mark.parametrize(
    ("name", "kind", "independent"),
    [
        *[("sips", kind, independent) for kind in ("own", "above", "whole") for independent in (False, True)],
        *[("rips", kind, independent) for kind in ("own", "above") for independent in (False, True)],
        *[("iips", "own", independent) for independent in (False, True)],
        ("pi", "own", True),
    ],
)
def test_an_estimator_gives_the_expectation_where_it_claims_to(name: str, kind: str, independent: bool) -> None:
    table, value = world(kind, independent)
    accumulator = SlateAccumulator([name])
    accumulator.add(**table)
    assert accumulator.result()[name].value == pytest.approx(float(value), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "kind", "independent"), [("rips", "whole", False), ("iips", "above", False), ("pi", "own", False)]
)
def test_and_not_where_it_does_not(name: str, kind: str, independent: bool) -> None:
    table, value = world(kind, independent)
    accumulator = SlateAccumulator([name])
    accumulator.add(**table)
    assert accumulator.result()[name].value != pytest.approx(float(value), rel=1e-3)


@pytest.mark.parametrize("kind", ["own", "above"])
def test_cascade_dr_gives_the_expectation_with_any_model(kind: str) -> None:
    """Model values by the slate's items down to the slot; v is their mean under the policy given the items above."""
    generator = np.random.default_rng(0)
    guess = {one: float(generator.normal()) for length in (1, 2, 3) for one in product(ITEMS, repeat=length)}
    table, value = world(kind, False)
    q, v = [], []
    for slate in product(ITEMS, repeat=3):
        times = int(prod(prefix("logger", slate, False)) * 1000)
        q += [[guess[slate[: at + 1]] for at in range(3)]] * times
        chances = [FIRST["policy"], *(NEXT["policy"][item] for item in slate[:2])]
        mean = [sum(p * guess[(*slate[:at], item)] for item, p in enumerate(chances[at])) / 10 for at in range(3)]
        v += [mean] * times
    accumulator = SlateAccumulator(["cascade_dr"])
    accumulator.add(**table, q=np.array(q), v=np.array(v))
    assert accumulator.result()["cascade_dr"].value == pytest.approx(float(value), rel=1e-12)


def drawn(n: int = 300) -> dict[str, Any]:
    generator = np.random.default_rng(1)
    shape, length = (n, 4), generator.integers(1, 5, n)
    names = ("propensity_prefix", "target_prefix", "propensity_slot", "target_slot")
    return {name: generator.uniform(0.1, 1, shape) for name in names} | {
        "reward": generator.normal(size=shape),
        "filled": np.arange(4) < length[:, None],
        "session": (np.arange(n) // 3).astype(np.uint64),
        "time": np.arange(n) * 600.0,
        "q": generator.normal(size=shape),
        "v": generator.normal(size=shape),
    }


def test_shorter_slates_are_those_without_the_empty_slots() -> None:
    """One slate after the other in fractions, each cut to its filled slots."""
    table = drawn(60)
    figures: dict[str, list[Fraction]] = {name: [] for name in ESTIMATORS}
    for row in range(60):
        length = int(table["filled"][row].sum())
        cut = {
            name: [Fraction(float(x)) for x in table[name][row, :length]]
            for name in table
            if table[name].ndim == 2 and name != "filled"
        }
        u = [p / b for p, b in zip(cut["target_prefix"], cut["propensity_prefix"], strict=True)]
        w = [p / b for p, b in zip(cut["target_slot"], cut["propensity_slot"], strict=True)]
        r = cut["reward"]
        figures["sips"].append(prod(u) * sum(r))
        figures["iips"].append(sum(a * b for a, b in zip(w, r, strict=True)))
        figures["rips"].append(sum(prod(u[: at + 1]) * r[at] for at in range(length)))
        figures["pi"].append((1 - length + sum(w)) * sum(r))
        figures["cascade_dr"].append(
            sum(prod(u[: at + 1]) * (r[at] - cut["q"][at]) + prod(u[:at]) * cut["v"][at] for at in range(length))
        )
    accumulator = SlateAccumulator(ESTIMATORS, buckets=2**16)
    accumulator.add(**table)
    found = accumulator.result()
    for name, rows in figures.items():
        mean = sum(rows) / 60
        sums = [sum((x - mean for x in rows[at : at + 3]), Fraction(0)) for at in range(0, 60, 3)]
        error = float(sum(part * part for part in sums)) ** 0.5 / 60
        assert found[name].value == pytest.approx(float(mean), rel=1e-11)
        assert found[name].se == pytest.approx(error, rel=1e-9)


def test_one_slot_is_a_plain_decision() -> None:
    table = {name: column[:, :1] for name, column in drawn().items() if column.ndim == 2}
    table |= {"target_slot": table["target_prefix"], "propensity_slot": table["propensity_prefix"]}
    accumulator = SlateAccumulator(["sips", "iips", "rips", "pi"])
    accumulator.add(**table)
    found = accumulator.result()
    assert found["iips"].value == found["rips"].value == found["sips"].value
    assert found["pi"].value == pytest.approx(found["sips"].value, rel=1e-12)


def test_the_logged_policy_against_itself_is_its_own_mean_to_the_bit() -> None:
    table = drawn()
    table |= {"target_slot": table["propensity_slot"], "target_prefix": table["propensity_prefix"]}
    accumulator = SlateAccumulator(["sips", "pi"])
    accumulator.add(**table)
    found = accumulator.result()
    assert found["sips"].value == found["pi"].value == found["logged"].value


def test_cut_resumed_and_added_up(tmp_path: Path) -> None:
    table = drawn()
    whole = SlateAccumulator(ESTIMATORS)
    whole.add(**table)
    parts = [{name: column[at] for name, column in table.items()} for at in (slice(0, 101), slice(101, 300))]
    first, other = SlateAccumulator(ESTIMATORS), SlateAccumulator(ESTIMATORS)
    first.add(**parts[0])
    checkpoint.save(tmp_path, {"slates": first.state_dict()}, 1)
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    resumed = SlateAccumulator(ESTIMATORS)
    resumed.load_state_dict(loaded[0]["slates"])
    resumed.add(**parts[1])
    assert resumed.result() == whole.result()
    other.add(**parts[1])
    for name, estimate in (first + other).result().items():
        assert estimate.value == pytest.approx(whole.result()[name].value, rel=1e-12)
        assert estimate.se == pytest.approx(whole.result()[name].se, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "changes", "code"),
    [
        ("sips", {"propensity_prefix": None}, "no_propensity"),
        ("iips", {"propensity_slot": None}, "no_propensity"),
        ("rips", {"propensity_prefix": np.zeros((300, 4))}, "bad_propensity"),
        ("rips", {"target_prefix": np.full((300, 4), 1.5)}, "bad_target"),
        ("rips", {"reward": np.full((300, 4), np.nan)}, "bad_reward"),
        ("cascade_dr", {"q": None}, "no_model"),
    ],
)
def test_refused_slates(name: str, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(Refused) as refused:
        SlateAccumulator([name]).add(**drawn() | changes)
    assert refused.value.code == code


def test_no_support_and_empty_log() -> None:
    accumulator = SlateAccumulator(["sips"])
    with pytest.raises(Refused) as refused:
        accumulator.result()
    assert refused.value.code == "empty_log"
    accumulator.add(**drawn() | {"target_prefix": np.zeros((300, 4))})
    estimate = accumulator.result()["sips"]
    assert estimate.value is None
    assert estimate.refused is not None
    assert estimate.refused.code == "no_support"


def test_warnings_stand_beside_the_value() -> None:
    accumulator = SlateAccumulator(["sips"], reward_range=(0.0, 0.1))
    accumulator.add(**drawn() | {"reward": np.ones((300, 4)), "target_prefix": drawn()["propensity_prefix"] * 0.5})
    codes = {warned.code for warned in accumulator.result()["sips"].warnings}
    assert {"low_ess", "few_sessions", "mean_weight_not_one", "out_of_range"} <= codes


def test_what_cannot_be_a_slate() -> None:
    filled = np.array([[False, True]])
    with pytest.raises(ValueError, match="below an empty one"):
        SlateAccumulator(["sips"]).add(np.zeros((1, 2)), filled=filled)
    with pytest.raises(ValueError, match="expected \\[n, L\\]"):
        SlateAccumulator(["sips"]).add(np.zeros(2))
    with pytest.raises(ValueError, match="unknown estimators"):
        SlateAccumulator(["ips"])
    with pytest.raises(ValueError, match="unknown interval"):
        SlateAccumulator(["sips"]).result(interval="anytime")
