"""The same figures from libraries that others wrote: OBP, vw-estimators, SCOPE-RL, statsmodels, SciPy."""

from __future__ import annotations

import warnings
from statistics import NormalDist
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from streamrec.ope.accumulator import Accumulator
from streamrec.ope.sequences.accumulator import SequenceAccumulator
from streamrec.ope.slates.accumulator import SlateAccumulator
from streamrec.ope.student import student

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

N, ITEMS, LENGTH = 3000, 5, 4
GENERATOR = np.random.default_rng(0)
LOGGER, POLICY = (GENERATOR.dirichlet(np.ones(ITEMS), N) for _ in range(2))
ITEM = np.array([GENERATOR.choice(ITEMS, p=p) for p in LOGGER])
REWARD = GENERATOR.random(N)
MODEL = GENERATOR.random((N, ITEMS))
ROW = np.arange(N)
SESSION = (ROW // 6).astype(np.uint64)
PROPENSITY, TARGET = LOGGER[ROW, ITEM], POLICY[ROW, ITEM]
Q, V = MODEL[ROW, ITEM], (POLICY * MODEL).sum(1)
CLIP, LAM = 2.0, 3.0


def peer(name: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, exc_type=ImportError)


def ours(name: str, **settings: Any) -> Any:
    accumulator = Accumulator([name], buckets=2**20, clip=CLIP, lam=LAM, **settings)
    accumulator.add(REWARD, PROPENSITY, TARGET, SESSION, Q, V)
    return accumulator


@pytest.mark.parametrize(
    ("name", "theirs", "settings"),
    [
        ("dm", "DirectMethod", {}),
        ("ips", "InverseProbabilityWeighting", {}),
        ("clipped", "InverseProbabilityWeighting", {"lambda_": CLIP}),
        ("snips", "SelfNormalizedInverseProbabilityWeighting", {}),
        ("dr", "DoublyRobust", {}),
        ("sndr", "SelfNormalizedDoublyRobust", {}),
        ("switch", "SwitchDoublyRobust", {"lambda_": CLIP}),
        ("dros", "DoublyRobustWithShrinkage", {"lambda_": LAM}),
    ],
)
def test_values_are_obps(name: str, theirs: str, settings: dict[str, float]) -> None:
    estimator = getattr(peer("obp.ope"), theirs)(**settings)
    value = estimator.estimate_policy_value(
        reward=REWARD,
        action=ITEM,
        pscore=PROPENSITY,
        action_dist=POLICY[:, :, None],
        estimated_rewards_by_reg_model=MODEL[:, :, None],
        position=np.zeros(N, dtype=int),
    )
    assert ours(name).result()[name].value == pytest.approx(value, rel=1e-9)


def test_matching_is_obps_replay_for_a_deterministic_policy() -> None:
    chosen = POLICY.argmax(1)
    greedy = np.eye(ITEMS)[chosen]
    value = (
        peer("obp.ope")
        .ReplayMethod()
        .estimate_policy_value(
            reward=REWARD, action=ITEM, action_dist=greedy[:, :, None], position=np.zeros(N, dtype=int)
        )
    )
    accumulator = Accumulator(["matching"])
    accumulator.add(REWARD, np.full(N, 1 / ITEMS), greedy[ROW, ITEM], SESSION)
    assert accumulator.result()["matching"].value == pytest.approx(value, rel=1e-9)


def test_bernstein_is_obps_with_a_given_range() -> None:
    """OBP's lower bound at delta = alpha / 2, with (n - 1) under the variance of n: the same number."""
    most = float((POLICY / LOGGER).max())
    accumulator = Accumulator(["ips"], reward_range=(0.0, 1.0), max_weight=most)
    accumulator.add(REWARD, PROPENSITY, TARGET)
    found = accumulator.result(interval="bernstein")["ips"]
    figures = TARGET / PROPENSITY * REWARD
    helper = peer("obp.ope.helper")
    low = helper.estimate_bernstein_lower_bound(figures, x_max=most, delta=0.025)
    assert found.low == pytest.approx(max(0.0, low), rel=1e-9)
    assert found.high == pytest.approx(2 * figures.mean() - low, rel=1e-9)


def test_values_and_row_interval_are_vw_estimators() -> None:
    """Their normal interval: n - 1 where the sandwich has n, the normal's quantile where we take Student's."""
    ips, snips, normal = (peer(f"estimators.bandits.{name}") for name in ("ips", "snips", "gaussian"))
    objects, n = (ips.Estimator(), snips.Estimator(), normal.Interval()), 400
    accumulator = Accumulator(["ips", "snips"], buckets=2**20)
    accumulator.add(REWARD[:n], PROPENSITY[:n], TARGET[:n], ROW[:n].astype(np.uint64))
    assert int(accumulator.sums.occupied.sum()) == n  # no two rows share a bucket
    for one in objects:
        for p, r, t in zip(PROPENSITY[:n], REWARD[:n], TARGET[:n], strict=True):
            one.add_example(p, r, t)
    found, (low, high) = accumulator.result(), objects[2].get()
    assert found["ips"].value == pytest.approx(objects[0].get(), rel=1e-9)
    assert found["snips"].value == pytest.approx(objects[1].get(), rel=1e-9)
    assert found["ips"].se == pytest.approx(
        (high - low) / 2 / NormalDist().inv_cdf(0.975) * np.sqrt((n - 1) / n), rel=1e-9
    )


@pytest.mark.parametrize("name", ["ips", "snips"])
def test_session_errors_are_statsmodels_cluster_covariance(name: str) -> None:
    api = peer("statsmodels.api")
    weight = TARGET / PROPENSITY
    options = {"cov_type": "cluster", "cov_kwds": {"groups": SESSION.astype(int), "use_correction": False}}
    if name == "ips":
        fit = api.OLS(weight * REWARD, np.ones(N)).fit(**options)
    else:
        fit = api.WLS(REWARD, np.ones(N), weights=weight).fit(**options)
    found = ours(name).result()[name]
    assert int(ours(name).sums.occupied.sum()) == N // 6
    assert found.value == pytest.approx(fit.params[0], rel=1e-9)
    assert found.se == pytest.approx(fit.bse[0], rel=1e-9)


def test_quantiles_are_scipys() -> None:
    stats = peer("scipy.stats")
    for freedom in (1, 2, 3.5, 10, 99, 1000, 4095, 1e6):
        for p in (0.001, 0.1, 0.75, 0.975, 0.99999):
            assert student(p, freedom) == pytest.approx(stats.t.ppf(p, freedom), rel=1e-9)


def slates() -> dict[str, np.ndarray]:
    shape = (N // LENGTH, LENGTH)
    names = ("propensity_prefix", "target_prefix", "propensity_slot", "target_slot", "reward")
    return {name: GENERATOR.uniform(0.1, 1, shape) for name in names}


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("sips", "SlateStandardIPS"), ("iips", "SlateIndependentIPS"), ("rips", "SlateRewardInteractionIPS")],
)
def test_slates_are_obps(name: str, theirs: str) -> None:
    table = slates()
    n = len(table["reward"])
    accumulator = SlateAccumulator([name])
    accumulator.add(**table)
    running = {who: np.cumprod(table[f"{who}_prefix"], axis=1) for who in ("propensity", "target")}
    whole = {who: running[who][:, -1:].repeat(LENGTH, 1) for who in running}
    value = getattr(peer("obp.ope"), theirs)(len_list=LENGTH).estimate_policy_value(
        slate_id=np.arange(n).repeat(LENGTH),
        reward=table["reward"].ravel(),
        position=np.tile(np.arange(LENGTH), n),
        pscore=whole["propensity"].ravel(),
        evaluation_policy_pscore=whole["target"].ravel(),
        pscore_item_position=table["propensity_slot"].ravel(),
        evaluation_policy_pscore_item_position=table["target_slot"].ravel(),
        pscore_cascade=running["propensity"].ravel(),
        evaluation_policy_pscore_cascade=running["target"].ravel(),
    )
    assert accumulator.result()[name].value == pytest.approx(value, rel=1e-9)


def test_cascade_dr_is_obps() -> None:
    n = 200
    policy = GENERATOR.dirichlet(np.ones(ITEMS), (n, LENGTH))
    item = GENERATOR.integers(ITEMS, size=(n, LENGTH))
    model = GENERATOR.random((n, LENGTH, ITEMS))
    target = np.take_along_axis(policy, item[:, :, None], 2)[:, :, 0]
    propensity, reward = GENERATOR.uniform(0.1, 1, (n, LENGTH)), GENERATOR.random((n, LENGTH))
    value = (
        peer("obp.ope")
        .SlateCascadeDoublyRobust(len_list=LENGTH, n_unique_action=ITEMS)
        .estimate_policy_value(
            slate_id=np.arange(n).repeat(LENGTH),
            action=item.ravel(),
            reward=reward.ravel(),
            position=np.tile(np.arange(LENGTH), n),
            pscore_cascade=np.cumprod(propensity, axis=1).ravel(),
            evaluation_policy_pscore_cascade=np.cumprod(target, axis=1).ravel(),
            q_hat=model.ravel(),
            evaluation_policy_action_dist=policy.ravel(),
        )
    )
    accumulator = SlateAccumulator(["cascade_dr"])
    accumulator.add(
        reward,
        propensity_prefix=propensity,
        target_prefix=target,
        q=np.take_along_axis(model, item[:, :, None], 2)[:, :, 0],
        v=(policy * model).sum(2),
    )
    assert accumulator.result()["cascade_dr"].value == pytest.approx(value, rel=1e-9)


def test_the_pseudo_inverse_is_vw_estimators() -> None:
    table, theirs = slates(), peer("estimators.slates.pseudo_inverse").Estimator()
    for p, t, r in zip(table["propensity_slot"], table["target_slot"], table["reward"].sum(1), strict=True):
        theirs.add_example(p.tolist(), r, t.tolist())
    accumulator = SlateAccumulator(["pi"])
    accumulator.add(**table)
    assert accumulator.result()["pi"].value == pytest.approx(theirs.get(), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("pdis", "PerDecisionImportanceSampling"),
        ("weighted_pdis", "SelfNormalizedPDIS"),
        ("sequential_dr", "DoublyRobust"),
    ],
)
def test_sequences_are_scope_rls(name: str, theirs: str) -> None:
    """Sessions of six steps each; SCOPE-RL adds 1e-10 to its denominators, which are near 1."""
    estimator = getattr(peer("scope_rl.ope.discrete.basic_estimators"), theirs)()
    value = estimator.estimate_policy_value(
        step_per_trajectory=6,
        action=ITEM,
        reward=REWARD,
        pscore=PROPENSITY,
        evaluation_policy_action_dist=POLICY,
        state_action_value_prediction=MODEL,
        gamma=0.9,
    )
    accumulator = SequenceAccumulator([name], gamma=0.9)
    accumulator.add(REWARD, PROPENSITY, TARGET, SESSION, ROW % 6 * 1.0, Q, V)
    assert accumulator.result()[name].value == pytest.approx(value, rel=2e-9 if name == "weighted_pdis" else 1e-9)
