"""Paired tests against plain computations, their size under no difference, and Holm's correction."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from streamrec.evaluation.lists import ListMetrics, Popularity
from streamrec.evaluation.significance import against, holm, paired
from streamrec.ope.codes import Refused
from streamrec.ope.student import student


def system(hits: np.ndarray, session: np.ndarray, buckets: int = 4096) -> ListMetrics:
    """Lists of one item that is or is not the target."""
    metrics = ListMetrics([1], ["recall"], 2, buckets=buckets)
    metrics.add(np.where(hits, 1, 2)[:, None], np.ones(len(hits), dtype=np.int64), session.astype(np.uint64))
    return metrics


def hits(draw: np.random.Generator, sessions: int, rows: int, level: float, effect: float) -> tuple[np.ndarray, ...]:
    """Two systems whose hits go with the session; the second finds `effect` fewer."""
    likes = np.repeat(draw.beta(1, 2, sessions) * level / 0.33, rows)
    a, b = draw.random(len(likes)) < likes, draw.random(len(likes)) < likes * (1 - effect)
    return a, b, np.repeat(np.arange(sessions), rows)


def test_difference_and_its_error_are_those_of_session_sums() -> None:
    a, b, session = hits(np.random.default_rng(0), 40, 5, 0.3, 0.2)
    found = paired(system(a, session, 1 << 20), system(b, session, 1 << 20))["recall@1"]
    apart = (a.astype(float) - b).reshape(40, 5).sum(1)
    mean = apart.sum() / 200
    se = math.sqrt(((apart - 5 * mean) ** 2).sum()) / 200
    assert found.difference.value == pytest.approx(mean)
    assert found.difference.se == pytest.approx(se)
    assert found.difference.high == pytest.approx(mean + student(0.975, 39) * se)
    assert (found.a, found.b) == pytest.approx((a.mean(), b.mean()))
    assert student(1 - found.p_t / 2, 39) == pytest.approx(abs(mean) / se, rel=1e-6)


def test_few_buckets_are_flipped_in_every_way() -> None:
    a, b, session = hits(np.random.default_rng(1), 9, 7, 0.4, 0.5)
    found = paired(system(a, session, 1 << 20), system(b, session, 1 << 20))["recall@1"]
    apart = (a.astype(float) - b).reshape(9, 7).sum(1)
    sums = [abs((np.array(signs) * apart).sum()) for signs in itertools.product([1, -1], repeat=9)]
    assert found.p_flip == pytest.approx(np.mean(np.array(sums) >= abs(apart.sum()) - 1e-9))


def test_where_rows_differ_as_well_they_are_swapped_with_the_sums() -> None:
    """Novelty has no value for missing lists: a swap moves denominators too."""
    lists_a, lists_b = np.array([[1], [0], [2], [2], [1]]), np.array([[2], [2], [0], [1], [2]])
    made = []
    for lists in (lists_a, lists_b):
        metrics = ListMetrics([1], ["novelty"], 2, buckets=1 << 20)
        known = Popularity.of(lists, np.array([0, 3, 1]))
        metrics.add(lists, np.ones(5, dtype=np.int64), np.arange(5, dtype=np.uint64), popularity=known)
        made.append(metrics)
    found = paired(*made)["novelty@1"]
    bits = {1: math.log2(4 / 3), 2: 2.0}
    observed, as_far = None, []
    for swap in itertools.product([False, True], repeat=5):
        sides = [(b, a) if s else (a, b) for s, a, b in zip(swap, lists_a[:, 0], lists_b[:, 0], strict=True)]
        means = [np.mean([bits[pair[side]] for pair in sides if pair[side]]) for side in (0, 1)]
        observed = abs(means[0] - means[1]) if observed is None else observed
        as_far.append(abs(means[0] - means[1]) >= observed - 1e-9)
    assert found.p_flip == pytest.approx(np.mean(as_far))
    assert found.difference.value == pytest.approx((2 * bits[1] + 4.0) / 4 - (bits[1] + 6.0) / 4)


def test_without_a_difference_each_test_errs_as_often_as_it_says() -> None:
    """400 runs of 150 dependent sessions: a true level of 5 % is seen as 2.2 to 7.8 % (99 % of such runs)."""
    draw, wrong = np.random.default_rng(3), np.zeros(2)
    for run in range(400):
        a, b, session = hits(draw, 150, 4, 0.3, 0.0)
        found = paired(system(a, session, 512), system(b, session, 512), draws=400, seed=run)["recall@1"]
        wrong += [found.p_t < 0.05, found.p_flip < 0.05]
    assert all(0.022 <= share <= 0.078 for share in wrong / 400), wrong


def test_a_difference_is_found_and_the_tests_agree() -> None:
    a, b, session = hits(np.random.default_rng(4), 800, 4, 0.3, 0.15)
    found = paired(system(a, session), system(b, session))["recall@1"]
    assert found.p_t < 0.01
    assert found.p_flip == pytest.approx(found.p_t, abs=0.005)
    assert found.difference.low is not None
    assert found.difference.low > 0
    again = paired(system(a, session), system(b, session))["recall@1"]
    assert again == found
    other = paired(system(b, session), system(a, session))["recall@1"]
    assert (other.p_t, other.p_flip) == (found.p_t, found.p_flip)


def test_no_number_of_draws_proves_an_impossibility() -> None:
    hit = np.ones(200, dtype=np.bool_)
    found = paired(system(hit, np.arange(200)), system(~hit, np.arange(200)), draws=999)["recall@1"]
    assert found.p_flip == pytest.approx(1 / 1000)


def test_a_system_against_itself_is_no_different() -> None:
    a, _, session = hits(np.random.default_rng(5), 100, 4, 0.3, 0.0)
    found = paired(system(a, session), system(a, session))["recall@1"]
    assert (found.difference.value, found.p_t, found.p_flip) == (0.0, 1.0, 1.0)


def test_holm() -> None:
    """Worked by hand from the definition, as R's p.adjust(c(.01, .04, .03, .005), "holm") has it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_several_systems_are_corrected_together() -> None:
    draw = np.random.default_rng(6)
    a, b, session = hits(draw, 300, 4, 0.3, 0.2)
    c = hits(draw, 300, 4, 0.3, 0.0)[0]
    found = against(system(a, session), {"b": system(b, session), "c": system(c, session)})
    raw = [found[name]["recall@1"].p_t for name in ("b", "c")]
    assert [found[name]["recall@1"].holm_t for name in ("b", "c")] == pytest.approx(holm(raw))
    flips = [found[name]["recall@1"].p_flip for name in ("b", "c")]
    assert [found[name]["recall@1"].holm_flip for name in ("b", "c")] == pytest.approx(holm(flips))


def test_other_rows_are_refused() -> None:
    a, b, session = hits(np.random.default_rng(7), 50, 4, 0.3, 0.2)
    for other in (system(b[1:], session[1:]), system(b, session + 1), system(b, session, buckets=8)):
        with pytest.raises(Refused, match="different_rows") as caught:
            paired(system(a, session), other)
        assert caught.value.code == "different_rows"
    with pytest.raises(ValueError, match="ndcg@1"):
        paired(system(a, session), system(b, session), metrics=["ndcg@1"])
    with pytest.raises(ValueError, match="draws"):
        paired(system(a, session), system(b, session), draws=0)
