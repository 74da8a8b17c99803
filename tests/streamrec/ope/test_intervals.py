from __future__ import annotations

import numpy as np
import pytest

from streamrec.ope.anytime import ConfidenceSequence
from streamrec.ope.intervals import bootstrap, by_session, empirical_bernstein
from streamrec.ope.student import student


@pytest.mark.parametrize(
    ("p", "freedom", "quantile"),
    [
        # mpmath at 40 digits: root of betainc(n/2, 1/2, 0, n/(n+t^2), regularized=True) / 2 = 1 - p
        (0.975, 1, 12.706204736174704646),
        (0.975, 2, 4.3026527297494638988),
        (0.975, 10, 2.2281388519862747485),
        (0.995, 4, 4.6040948713499894764),
        (0.975, 100, 1.9839715185235518227),
        (0.975, 4095, 1.9605434621072307572),
        (0.975, 1e5, 1.9599877075346096386),
    ],
)
def test_quantiles_of_students_t(p: float, freedom: float, quantile: float) -> None:
    assert student(p, freedom) == pytest.approx(quantile, rel=1e-11)
    assert student(1 - p, freedom) == pytest.approx(-quantile, rel=1e-11)


def test_quantiles_have_bounds() -> None:
    assert student(0.5, 3) == 0.0
    with pytest.raises(ValueError, match="expected 0 < p < 1"):
        student(1.0, 3)


def test_one_session_has_no_interval() -> None:
    assert by_session(0.5, np.zeros(1), 0.05).low is None
    assert bootstrap(lambda sums: sums["a"], {"a": np.ones(1)}, 0.05).low is None
    assert empirical_bernstein(1, 1.0, 1.0, 0.0, 1.0, 0.05).low is None


def test_the_bootstrap_of_a_mean_has_the_standard_error_of_the_mean() -> None:
    x = np.random.default_rng(0).exponential(size=1000)
    found = bootstrap(lambda sums: sums["x"] / sums["n"], {"x": x, "n": np.ones(1000)}, 0.05, draws=4000)
    assert found.se == pytest.approx(x.std() / np.sqrt(1000), rel=0.05)
    assert found.low is not None
    assert found.low < x.mean() < found.high


def test_the_bootstrap_is_drawn_from_a_seed() -> None:
    table = {"x": np.arange(50.0), "n": np.ones(50)}

    def mean(sums: dict[str, np.ndarray]) -> np.ndarray:
        return sums["x"] / sums["n"]

    assert bootstrap(mean, table, 0.05) == bootstrap(mean, table, 0.05)
    assert bootstrap(mean, table, 0.05) != bootstrap(mean, table, 0.05, seed=1)


def by_hand(x: np.ndarray) -> tuple[float, float]:
    """Sum, and sum of squared distances from the running mean before each row, at most 1."""
    total = squares = 0.0
    for row, value in enumerate(x.tolist()):
        guess = min(1.0, total / row) if row else 0.0
        squares += (value - guess) ** 2
        total += value
    return total, squares


def test_a_confidence_sequence_inverts_its_mixture_of_bets() -> None:
    generator = np.random.default_rng(0)
    weight, reward = generator.exponential(size=400), generator.uniform(-1, 3, size=400)
    sequence = ConfidenceSequence(-1.0, 3.0)
    for part in np.array_split(np.arange(400), 7):
        sequence.add(weight[part], reward[part])
    interval = sequence.interval(0.1)
    assert interval.low is not None
    assert interval.high is not None
    bets = 0.75 * 2.0 ** (-np.arange(48) / 2)
    unit = (reward + 1) / 4
    for x, mean in ((weight * unit, (interval.low + 1) / 4), (weight * (1 - unit), (3 - interval.high) / 4)):
        total, squares = by_hand(x)
        excess = total - 400 * mean
        wealth = np.mean(np.exp(bets * excess + (np.log(1 - bets) + bets) * squares))
        assert wealth == pytest.approx(1 / 0.05, rel=1e-9)


def test_a_confidence_sequence_covers_at_all_times_together() -> None:
    """100 runs of 2,000 rows looked at 20 times each, at 90 %."""
    misses = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        chosen = generator.random(2000) < 0.2
        weight = np.where(chosen, 0.6 / 0.2, 0.4 / 0.8)
        reward = (generator.random(2000) < np.where(chosen, 0.3, 0.6)).astype(np.float64)
        sequence, missed = ConfidenceSequence(0.0, 1.0), False
        for part in np.array_split(np.arange(2000), 20):
            sequence.add(weight[part], reward[part])
            ends = sequence.interval(0.1)
            missed |= not (ends.low <= 0.6 * 0.3 + 0.4 * 0.6 <= ends.high)
        misses += missed
    assert misses <= 10
    assert ends.high - ends.low < 0.25


def test_states_of_shards_add_up() -> None:
    weight, reward = np.full(100, 1.0), np.tile([0.0, 1.0], 50)
    a, b = ConfidenceSequence(0.0, 1.0), ConfidenceSequence(0.0, 1.0)
    a.add(weight, reward)
    b.add(weight, reward)
    assert (a + b).n == 200
    assert np.array_equal((a + b).sums, a.sums + b.sums)


def test_nothing_seen_has_no_bounds() -> None:
    assert ConfidenceSequence(0.0, 1.0).interval(0.05).low is None
