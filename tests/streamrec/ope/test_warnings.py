"""Each refusal and warning that values can raise, triggered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamrec.ope.accumulator import Accumulator
from streamrec.ope.codes import REFUSALS, WARNINGS, Refused
from streamrec.ope.estimate import Estimate

N = 20_000
NAN, INF = float("nan"), float("inf")


def log(**changes: Any) -> dict[str, Any]:
    """A log nobody can complain of: 20,000 sessions of one row, propensities drawn, the target is the logger."""
    generator = np.random.default_rng(0)
    propensity = generator.uniform(0.2, 0.9, N)
    plain = {
        "reward": (generator.random(N) < 0.3).astype(np.float64),
        "propensity": propensity,
        "target": propensity.copy(),
        "session": np.arange(N, dtype=np.uint64),
        "q": np.full(N, 0.3),
        "v": np.full(N, 0.3),
        "time": np.linspace(0, 10 * 86_400, N, endpoint=False),
    }
    return plain | changes


def judged(rows: dict[str, Any], name: str = "ips", **settings: Any) -> Estimate:
    accumulator = Accumulator([name], **settings)
    accumulator.add(**rows)
    return accumulator.result()[name]


def codes(estimate: Estimate) -> set[str]:
    for warned in estimate.warnings:
        assert warned.message.startswith(f"{warned.code}: ")
        assert warned.message.endswith(WARNINGS[warned.code])
    return {warned.code for warned in estimate.warnings}


@pytest.mark.parametrize("name", ["ips", "snips", "clipped", "switch", "dr", "sndr", "dros"])
def test_a_sound_log_raises_nothing(name: str) -> None:
    assert codes(judged(log(), name, reward_range=(0.0, 1.0))) == set()


def test_low_ess() -> None:
    target = np.zeros(N)
    target[:900] = 1.0
    assert "low_ess" in codes(judged(log(target=target)))


def test_low_ess_below_a_hundredth_of_the_rows_though_above_a_thousand() -> None:
    n = 200_000
    target = np.zeros(n)
    target[::150] = 1.0
    estimate = judged({"reward": np.ones(n), "propensity": np.full(n, 0.4), "target": target})
    assert estimate.ess is not None
    assert 1000 < estimate.ess < 2000
    assert "low_ess" in codes(estimate)


def test_extreme_weight() -> None:
    rows = log()
    rows["propensity"][7], rows["target"][7] = 1e-4, 1.0
    assert "extreme_weight" in codes(judged(rows))
    assert "extreme_weight" not in codes(judged(rows, "clipped"))


def test_mean_weight_not_one() -> None:
    assert "mean_weight_not_one" in codes(judged(log(target=log()["propensity"] * 0.9)))


def test_mean_weight_within_its_error_is_no_warning() -> None:
    generator = np.random.default_rng(1)
    propensity = generator.choice([0.25, 0.75], p=[0.25, 0.75], size=N)
    estimate = judged(log(propensity=propensity, target=1 - propensity))
    assert "mean_weight_not_one" not in codes(estimate)


def test_support_gap() -> None:
    assert "support_gap" in codes(judged(log(unsupported=np.full(N, 0.02))))
    assert "support_gap" not in codes(judged(log(unsupported=np.zeros(N))))


def test_out_of_range() -> None:
    rows = log(reward=np.ones(N))
    rows["propensity"] = rows["target"] * 0.5
    assert "out_of_range" in codes(judged(rows, reward_range=(0.0, 1.0)))
    assert "out_of_range" not in codes(judged(rows, "snips", reward_range=(0.0, 1.0)))


def test_few_sessions() -> None:
    assert "few_sessions" in codes(judged(log(session=np.arange(N, dtype=np.uint64) % 499)))
    assert "few_sessions" not in codes(judged(log(session=np.arange(N, dtype=np.uint64) % 500)))


def test_dependent_rows_without_sessions() -> None:
    assert "dependent_rows" in codes(judged(log(session=None)))


def test_dependent_rows_where_bernstein_takes_rows_as_independent() -> None:
    accumulator = Accumulator(["ips"], reward_range=(0.0, 1.0), max_weight=2.0)
    accumulator.add(**log(session=np.arange(N, dtype=np.uint64) // 4))
    assert "dependent_rows" in codes(accumulator.result(interval="bernstein")["ips"])
    assert "dependent_rows" not in codes(accumulator.result()["ips"])


def test_propensity_rounded() -> None:
    rows = log(propensity=np.round(np.random.default_rng(2).uniform(0.01, 0.9, N), 2))
    assert "propensity_rounded" in codes(judged(rows))


def test_propensity_rounded_but_for_a_rule_that_some_rows_fall_back_to() -> None:
    """As in logs of a bandit whose probabilities are counted in draws, and uniform before it has learnt."""
    drawn = np.maximum(np.round(np.random.default_rng(3).beta(0.3, 3, N), 6), 1e-6)
    drawn[::20] = 1 / 46
    assert "propensity_rounded" in codes(judged(log(propensity=drawn)))


@pytest.mark.parametrize("propensity", [0.01, 1 / 3])
def test_a_uniform_log_is_not_called_rounded(propensity: float) -> None:
    rows = log(propensity=np.full(N, propensity), target=np.full(N, propensity))
    assert "propensity_rounded" not in codes(judged(rows))


def test_epsilon_greedy_is_not_called_rounded_but_a_third_as_33_hundredths_is() -> None:
    greedy = np.where(np.arange(N) % 10 > 0, 0.91, 0.01)
    assert "propensity_rounded" not in codes(judged(log(propensity=greedy, target=greedy)))
    third = np.full(N, 0.33)
    assert "propensity_rounded" in codes(judged(log(propensity=third, target=third)))


def test_deterministic_logger() -> None:
    rows = log()
    rows["propensity"][: N // 50] = rows["target"][: N // 50] = 1.0
    assert "deterministic_logger" in codes(judged(rows))


def test_top_heavy() -> None:
    reward = np.zeros(N)
    reward[:10] = 5000.0
    assert "top_heavy" in codes(judged(log(reward=reward)))


def test_drift() -> None:
    rows = log()
    rows["reward"][N // 2 :] = 1.0
    assert "drift" in codes(judged(rows))
    assert "drift" not in codes(judged(log(time=None, reward=rows["reward"])))


def test_model_based_has_no_interval() -> None:
    estimate = judged(log(), "dm")
    assert {"model_based", "no_interval"} <= codes(estimate)
    assert (estimate.low, estimate.high, estimate.se) == (None, None, None)


def test_q_overestimation() -> None:
    assert "q_overestimation" in codes(judged(log(q=np.full(N, 0.35)), "dr"))
    assert "q_overestimation" not in codes(judged(log(q=np.full(N, 0.25)), "dr"))


def test_no_interval_where_the_confidence_sequence_is_not_that_estimators() -> None:
    accumulator = Accumulator(["ips", "snips"], reward_range=(0.0, 1.0))
    accumulator.add(**log())
    found = accumulator.result(interval="anytime")
    assert "no_interval" in codes(found["snips"])
    assert "no_interval" not in codes(found["ips"])


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("no_propensity", {"propensity": None}),
        ("bad_propensity", {"propensity": np.zeros(N)}),
        ("bad_propensity", {"propensity": np.full(N, 1.001)}),
        ("bad_propensity", {"propensity": np.full(N, NAN)}),
        ("bad_propensity", {"propensity": np.full(N, INF)}),
        ("bad_target", {"target": np.full(N, -0.1)}),
        ("bad_target", {"target": np.full(N, NAN)}),
        ("bad_reward", {"reward": np.full(N, NAN)}),
        ("bad_reward", {"reward": np.full(N, 2.0)}),
        ("bad_reward", {"q": np.full(N, -INF)}),
        ("no_model", {"q": None}),
        ("no_model", {"v": None}),
        ("no_range", {"propensity": np.full(N, 1e-3)}),
    ],
)
def test_refused_rows(code: str, changes: dict[str, Any]) -> None:
    accumulator = Accumulator(["dr"], reward_range=(0.0, 1.0), max_weight=50.0)
    with pytest.raises(Refused) as refused:
        accumulator.add(**log(**changes))
    assert refused.value.code == code
    assert str(refused.value).endswith(REFUSALS[code])


def test_empty_log() -> None:
    with pytest.raises(Refused) as refused:
        Accumulator(["ips"]).result()
    assert refused.value.code == "empty_log"


@pytest.mark.parametrize("name", ["ips", "snips", "clipped", "switch", "dr", "sndr", "dros", "matching"])
def test_no_support_gives_no_number(name: str) -> None:
    rows = log(target=np.zeros(N), propensity=np.full(N, 0.5))
    estimate = judged(rows, name)
    assert (estimate.value, estimate.low, estimate.high, estimate.se) == (None, None, None, None)
    assert estimate.refused is not None
    assert estimate.refused.code == "no_support"
    assert estimate.refused.message.endswith(REFUSALS["no_support"])


def test_no_support_of_one_estimator_leaves_the_others() -> None:
    accumulator = Accumulator(["ips", "dm"])
    accumulator.add(**log(target=np.zeros(N)))
    found = accumulator.result()
    assert found["ips"].value is None
    assert found["dm"].value == pytest.approx(0.3)


def test_replay_non_uniform() -> None:
    refused = judged(log(), "matching").refused
    assert refused is not None
    assert refused.code == "replay_non_uniform"
    assert judged(log(propensity=None), "matching").refused is not None


@pytest.mark.parametrize("interval", ["bernstein", "anytime"])
def test_no_range(interval: Any) -> None:
    accumulator = Accumulator(["ips"])
    accumulator.add(**log())
    with pytest.raises(Refused) as refused:
        accumulator.result(interval=interval)
    assert refused.value.code == "no_range"


def test_json_of_an_estimate_holds_null_not_nan() -> None:
    found = judged(log(target=np.zeros(N))).as_json()
    assert found["value"] is None
    assert list(found["refused"]) == ["no_support"]
