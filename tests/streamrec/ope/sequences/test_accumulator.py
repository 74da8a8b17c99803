from __future__ import annotations

from collections import defaultdict
from decimal import Decimal, getcontext
from fractions import Fraction
from itertools import pairwise, product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec import checkpoint
from streamrec.ope.codes import Refused
from streamrec.ope.sequences.accumulator import NAMES, SequenceAccumulator

ESTIMATORS = list(NAMES[1:])
GAMMA = 0.9


def drawn(sessions: int = 40, longest: int = 9, seed: int = 0, low: float = 0.3) -> dict[str, Any]:
    """Sessions of different lengths, their steps mixed in time."""
    generator = np.random.default_rng(seed)
    session = np.arange(sessions, dtype=np.uint64).repeat(generator.integers(1, longest + 1, sessions))
    n = len(session)
    time = generator.uniform(0, 600, sessions)[session.astype(int)] + generator.uniform(0, 900, n)
    order = np.argsort(time, kind="stable")
    return {
        "reward": generator.normal(1, 1, n),
        "propensity": generator.uniform(low, 1, n),
        "target": generator.uniform(low, 1, n),
        "session": session[order],
        "time": time[order],
        "q": generator.normal(size=n),
        "v": generator.normal(size=n),
    }


def cut(table: dict[str, Any], *at: int) -> list[dict[str, Any]]:
    bounds = [0, *at, len(table["time"])]
    return [{name: column[start:stop] for name, column in table.items()} for start, stop in pairwise(bounds)]


def trajectories(table: dict[str, Any]) -> dict[int, list[dict[str, Decimal]]]:
    rows: dict[int, list[dict[str, Decimal]]] = defaultdict(list)
    for row, session in enumerate(table["session"].tolist()):
        names = ("reward", "propensity", "target", "q", "v")
        rows[session].append({name: Decimal(float(table[name][row])) for name in names})
    return rows


def exact(table: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Values and session-robust errors in 60 digits, session after session."""
    gamma, found = Decimal(GAMMA), {}
    getcontext().prec = 60
    paths = list(trajectories(table).values())
    rho = [
        [prod(step["target"] / step["propensity"] for step in path[: t + 1]) for t in range(len(path))]
        for path in paths
    ]
    sums: dict[str, list[Decimal]] = {"pdis": [], "sequential_dr": []}
    for path, weights in zip(paths, rho, strict=True):
        before = [Decimal(1), *weights]
        sums["pdis"].append(sum(gamma**t * weights[t] * step["reward"] for t, step in enumerate(path)))
        sums["sequential_dr"].append(
            sum(
                gamma**t * (weights[t] * (step["reward"] - step["q"]) + before[t] * step["v"])
                for t, step in enumerate(path)
            )
        )
    for name, rows in sums.items():
        mean = sum(rows) / len(rows)
        found[name] = (float(mean), float(sum((x - mean) ** 2 for x in rows)) ** 0.5 / len(rows))
    value, residuals = Decimal(0), [Decimal(0)] * len(paths)
    for t in range(max(map(len, paths))):
        weights = [w[min(t, len(w) - 1)] for w in rho]
        rewards = [path[t]["reward"] if t < len(path) else Decimal(0) for path in paths]
        whole = sum(weights)
        ratio = sum(w * r for w, r in zip(weights, rewards, strict=True)) / whole
        value += gamma**t * ratio
        residuals = [
            e + gamma**t * w * (r - ratio) / whole for e, w, r in zip(residuals, weights, rewards, strict=True)
        ]
    found["weighted_pdis"] = (float(value), float(sum(e * e for e in residuals)) ** 0.5)
    return found


def accumulated(*parts: dict[str, Any], **settings: Any) -> SequenceAccumulator:
    plain = {"gamma": GAMMA, "buckets": 2**16, "step_buckets": 2**14}
    accumulator = SequenceAccumulator(ESTIMATORS, **plain | settings)
    for part in parts:
        accumulator.add(**part)
    return accumulator


@pytest.mark.parametrize("cuts", [(), (1, 2, 50, 51, 120)])
def test_values_and_errors_are_those_of_sixty_digits(cuts: tuple[int, ...]) -> None:
    table = drawn()
    found = accumulated(*cut(table, *cuts)).result()
    for name, (value, error) in exact(table).items():
        assert found[name].value == pytest.approx(value, rel=1e-11)
        assert found[name].se == pytest.approx(error, rel=1e-9)
        assert (found[name].n, found[name].sessions) == (40, 40)


def test_four_hundred_steps_whose_plain_products_vanish() -> None:
    """Propensities and targets multiplied one by one underflow; their ratio is ordinary."""
    table = drawn(sessions=3, longest=1, seed=3)
    n = 1200
    generator = np.random.default_rng(3)
    table = {
        "session": np.arange(n, dtype=np.uint64) % 3,
        "time": np.arange(n) * 1.0,
        "propensity": generator.uniform(0.01, 0.2, n),
        "reward": generator.random(n),
        "q": generator.random(n),
        "v": generator.random(n),
    }
    table["target"] = table["propensity"] * generator.uniform(0.9, 1.1, n)
    for t in range(3):
        assert np.prod(table["propensity"][t::3]) == 0.0
    found = accumulated(table).result()
    for name, (value, error) in exact(table).items():
        assert found[name].value == pytest.approx(value, rel=1e-11)
        assert found[name].se == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_weights_beyond_float64_still_have_a_ratio(ratio: float) -> None:
    """3,000 steps at one ratio: rho is 2**-3000 or 2**3000, and the same in both sessions."""
    steps = 3000
    accumulator = SequenceAccumulator(["weighted_pdis"], timeout_s=10.0)
    for start in range(0, steps, 700):
        t = np.arange(start, min(steps, start + 700)).repeat(2)
        reward = np.where(np.arange(len(t)) % 2 == 0, 1.0, 3.0)
        propensity = np.full(len(t), 0.4)
        session = (np.arange(len(t)) % 2).astype(np.uint64)
        accumulator.add(reward, propensity, propensity * ratio, session, t * 1.0)
    assert accumulator.result()["weighted_pdis"].value == pytest.approx(2.0 * steps, rel=1e-9)


def test_normalisers_count_sequences_that_ended() -> None:
    """Two sessions, weights 1 and 3 at their first step; only the first goes on, so its second step weighs 1 / 4."""
    accumulator = SequenceAccumulator(["weighted_pdis"], timeout_s=5.0)
    accumulator.add([0.0, 0.0], [0.5, 0.25], [0.5, 0.75], np.array([1, 2], dtype=np.uint64), [0.0, 0.0])
    accumulator.add([8.0], [0.5], [0.5], np.array([1], dtype=np.uint64), [4.0])
    accumulator.add([0.0], [0.5], [0.5], np.array([1], dtype=np.uint64), [8.0])
    assert len(accumulator.live) == 1
    assert accumulator.result()["weighted_pdis"].value == pytest.approx(2.0)


PATHS = list(product((0, 1), repeat=3))
LOGGER, POLICY = (Fraction(1, 4), Fraction(3, 4)), (Fraction(3, 5), Fraction(2, 5))


def chance(who: tuple[Fraction, Fraction], past: tuple[int, ...], action: int) -> Fraction:
    """The probability of an action depends on what was done before."""
    return who[(action + sum(past)) % 2]


def earned(past: tuple[int, ...], action: int) -> Fraction:
    """So does what it earns: the state is all that was done."""
    return Fraction(2 * sum(past) + 3 * action + 1, 4)


def following(who: tuple[Fraction, Fraction], past: tuple[int, ...]) -> Fraction:
    """What `who` earns from here on, by enumeration."""
    if len(past) == 3:
        return Fraction(0)
    gamma = Fraction(GAMMA)
    return sum(
        (chance(who, past, a) * (earned(past, a) + gamma * following(who, (*past, a))) for a in (0, 1)), Fraction(0)
    )


def every_path() -> dict[str, Any]:
    """Every session as often as the logger makes it in 64; q and v of a wrong model."""
    generator = np.random.default_rng(0)
    guess = {path[:length]: Fraction(float(generator.normal())) for path in PATHS for length in (1, 2, 3)}
    rows: list[tuple[Any, ...]] = []
    session = 0
    for path in PATHS:
        p = [chance(LOGGER, path[:t], path[t]) for t in range(3)]
        t = [chance(POLICY, path[:t], path[t]) for t in range(3)]
        for _ in range(int(prod(p) * 64)):
            for at in range(3):
                past = path[:at]
                v = sum(chance(POLICY, past, a) * guess[(*past, a)] for a in (0, 1))
                rows.append((earned(past, path[at]), p[at], t[at], session, at, guess[(*past, path[at])], v))
            session += 1
    names = ("reward", "propensity", "target", "session", "time", "q", "v")
    table = {name: np.array([float(row[at]) for row in rows]) for at, name in enumerate(names)}
    return table | {"session": table["session"].astype(np.uint64)}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_give_the_policys_value_where_state_depends_on_what_was_done(name: str) -> None:
    """Every path as often as expected. Weights average 1 at every step here, so `weighted_pdis` has no ratio bias."""
    found = accumulated(every_path()).result()[name]
    assert found.value == pytest.approx(float(following(POLICY, ())), rel=1e-11)


def test_the_logged_policy_against_itself_is_its_own_mean_to_the_bit() -> None:
    table = drawn()
    found = accumulated(table | {"target": table["propensity"]}).result()
    assert found["pdis"].value == found["logged"].value
    returns = [
        sum(GAMMA**t * float(step["reward"]) for t, step in enumerate(path)) for path in trajectories(table).values()
    ]
    assert found["logged"].value == pytest.approx(np.mean(returns), rel=1e-12)


def test_one_step_is_a_plain_decision() -> None:
    from streamrec.ope.accumulator import Accumulator

    table = drawn(longest=1)
    plain = Accumulator(["ips", "snips", "dr"], buckets=2**16)
    plain.add(**table)
    found = accumulated(table).result()
    for name, other in (("pdis", "ips"), ("weighted_pdis", "snips"), ("sequential_dr", "dr")):
        expected = plain.result()[other]
        assert found[name].value == pytest.approx(expected.value, rel=1e-12)
        assert (found[name].low, found[name].high) == pytest.approx((expected.low, expected.high), rel=1e-9)
        assert found[name].ess == pytest.approx(expected.ess, rel=1e-12)


def test_a_long_silence_begins_a_new_sequence() -> None:
    session = np.array([7, 7, 7], dtype=np.uint64)
    together, apart = (SequenceAccumulator(["pdis"], timeout_s=timeout) for timeout in (100.0, 10.0))
    for accumulator in (together, apart):
        accumulator.add([1.0, 1.0, 1.0], [0.5] * 3, [0.25, 0.5, 0.5], session, [0.0, 5.0, 100.0])
    assert (together.sequences, apart.sequences) == (1, 2)
    assert together.result()["pdis"].value == pytest.approx(1.5)
    assert apart.result()["pdis"].value == pytest.approx((0.5 + 0.5 + 1) / 2)


def test_memory_is_that_of_the_sessions_going_on() -> None:
    accumulator = SequenceAccumulator(["pdis"], timeout_s=60.0)
    for start in range(0, 100_000, 10_000):
        rows = np.arange(start, start + 10_000)
        accumulator.add(np.ones(10_000), np.full(10_000, 0.5), np.full(10_000, 0.5), rows.astype(np.uint64), rows * 1.0)
        assert len(accumulator.live) <= 61
    assert accumulator.sequences == 100_000


def test_a_late_step_is_left_out_and_told() -> None:
    accumulator = SequenceAccumulator(["pdis"])
    accumulator.add([1.0, 1.0, 1.0], [0.5] * 3, [0.5] * 3, np.ones(3, dtype=np.uint64), [10.0, 5.0, 20.0])
    accumulator.add([1.0], [0.5], [0.5], np.ones(1, dtype=np.uint64), [19.0])
    estimate = accumulator.result()["pdis"]
    assert estimate.value == pytest.approx(2.0)
    assert next(w.message for w in estimate.warnings if w.code == "dropped_rows").startswith("dropped_rows: 2 steps")


def test_killed_and_resumed_is_the_same_to_the_bit(tmp_path: Path) -> None:
    first, second, third = cut(drawn(sessions=200), 333, 700)
    whole = accumulated(first, second, third, timeout_s=400.0)
    checkpoint.save(tmp_path, {"sequences": accumulated(first, timeout_s=400.0).state_dict()}, 1)
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    resumed = accumulated(timeout_s=400.0)
    resumed.load_state_dict(loaded[0]["sequences"])
    resumed.add(**second)
    resumed.add(**third)
    assert resumed.result() == whole.result()
    assert resumed.result(interval="bootstrap") == whole.result(interval="bootstrap")


def test_shards_by_session_add_up() -> None:
    table = drawn(sessions=200)
    even = table["session"] % 2 == 0
    whole = accumulated(table).result()
    parts = [accumulated({name: column[mask] for name, column in table.items()}) for mask in (even, ~even)]
    for name, estimate in (parts[0] + parts[1]).result().items():
        assert estimate.value == pytest.approx(whole[name].value, rel=1e-12)
        assert estimate.se == pytest.approx(whole[name].se, rel=1e-9)
    with pytest.raises(ValueError, match="shard the log by session"):
        parts[0] + parts[0]


def test_the_bootstrap_has_the_spread_of_the_delta_method() -> None:
    accumulator = accumulated(drawn(sessions=3000, longest=4, low=0.7), buckets=4096, step_buckets=1024)
    delta, bootstrap = accumulator.result(), accumulator.result(interval="bootstrap")
    for name in ESTIMATORS:
        assert bootstrap[name].se == pytest.approx(delta[name].se, rel=0.15)


def test_impossible_choices_end_a_sequences_weight() -> None:
    table = {
        "propensity": [0.5] * 3,
        "target": [0.5, 0.0, 0.5],
        "session": np.ones(3, dtype=np.uint64),
        "time": [0.0, 1, 2],
    }
    accumulator = SequenceAccumulator(["pdis", "weighted_pdis"])
    accumulator.add([1.0, 1.0, 1.0], **table)
    found = accumulator.result()
    assert found["pdis"].refused is not None
    assert found["weighted_pdis"].refused is not None
    assert found["pdis"].refused.code == found["weighted_pdis"].refused.code == "no_support"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"propensity": None}, "no_propensity"),
        ({"propensity": np.zeros(3)}, "bad_propensity"),
        ({"target": np.full(3, np.nan)}, "bad_target"),
        ({"reward": np.full(3, np.inf)}, "bad_reward"),
        ({"q": None}, "no_model"),
    ],
)
def test_refused_steps(changes: dict[str, Any], code: str) -> None:
    table = {name: column[:3] for name, column in drawn().items()} | changes
    accumulator = SequenceAccumulator(["sequential_dr"])
    with pytest.raises(Refused) as refused:
        accumulator.add(**table)
    assert refused.value.code == code
    with pytest.raises(Refused) as refused:
        accumulator.result()
    assert refused.value.code == "empty_log"


def test_warnings_stand_beside_the_value() -> None:
    found = accumulated(drawn(low=0.05), reward_range=(-0.1, 0.1)).result()
    for name in ESTIMATORS:
        assert {"low_ess", "few_sessions", "out_of_range"} <= {warned.code for warned in found[name].warnings}


def test_settings_out_of_range() -> None:
    for settings, message in (({"gamma": 0.0}, "gamma"), ({"timeout_s": 0.0}, "timeout_s"), ({"gamma": 1.1}, "gamma")):
        with pytest.raises(ValueError, match=message):
            SequenceAccumulator(["pdis"], **settings)
    with pytest.raises(ValueError, match="unknown estimators"):
        SequenceAccumulator(["ips"])
    with pytest.raises(ValueError, match="finite"):
        accumulated(drawn() | {"time": np.full(len(drawn()["time"]), np.nan)})
