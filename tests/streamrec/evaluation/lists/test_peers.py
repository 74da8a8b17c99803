"""The same figures as pytrec_eval, RecTools, scikit-learn and scipy on random inputs, to 1e-9."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamrec.evaluation.lists import ListMetrics, Popularity
from streamrec.evaluation.significance import paired

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

N, K, ITEMS, KS = 400, 10, 60, (1, 3, 5, 10)


class Case:
    """Full lists, and one to five relevant items a row, gains 1 to 3."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.lists = np.argsort(draw.random((N, ITEMS)), axis=1)[:, :K] + 1
        sets = [draw.choice(ITEMS, draw.integers(1, 6), replace=False) + 1 for _ in range(N)]
        self.relevant = np.concatenate(sets).astype(np.int64)
        self.offsets = np.concatenate([[0], np.cumsum([len(s) for s in sets])])
        self.row = np.repeat(np.arange(N), np.diff(self.offsets))
        self.gains = draw.integers(1, 4, len(self.relevant))
        self.before = np.unique(np.stack([draw.integers(0, 90, 1500), draw.geometric(0.08, 1500) % 50 + 1]), axis=1)
        self.features = draw.normal(size=(ITEMS + 1, 4))

    def ours(self, names: list[str], gains: bool = False, popularity: Popularity | None = None) -> dict[str, float]:
        metrics = ListMetrics(KS, names, ITEMS, features=self.features)
        graded = self.gains.astype(float) if gains else None
        metrics.add(self.lists, self.relevant, offsets=self.offsets, gains=graded, popularity=popularity)
        return {name: figure.value for name, figure in metrics.result().items() if figure.value is not None}


@pytest.mark.parametrize("seed", range(3))
def test_pytrec_eval(seed: int) -> None:
    trec = pytest.importorskip("pytrec_eval")
    case = Case(seed)
    qrels: dict[str, dict[str, int]] = {str(row): {} for row in range(N)}
    for row, item, gain in zip(case.row, case.relevant, case.gains, strict=True):
        qrels[str(row)][str(item)] = int(gain)
    run = {str(row): {str(item): float(K - at) for at, item in enumerate(case.lists[row])} for row in range(N)}
    names = {"recall": "recall", "precision": "P", "map": "map_cut", "ndcg": "ndcg_cut", "hitrate": "success"}
    cuts = ",".join(str(k) for k in KS)
    found = trec.RelevanceEvaluator(qrels, {*(f"{name}.{cuts}" for name in names.values()), "recip_rank"}).evaluate(run)
    ours = case.ours([*names, "mrr"], gains=True)
    for mine, theirs in names.items():
        for k in KS:
            assert ours[f"{mine}@{k}"] == pytest.approx(np.mean([r[f"{theirs}_{k}"] for r in found.values()]), abs=1e-9)
    assert ours[f"mrr@{K}"] == pytest.approx(np.mean([r["recip_rank"] for r in found.values()]), abs=1e-9)


def test_scikit_learn_ndcg() -> None:
    scores = pytest.importorskip("sklearn.metrics")
    case = Case(3)
    truth, said = np.zeros((N, ITEMS)), np.zeros((N, ITEMS))
    truth[case.row, case.relevant - 1] = case.gains
    np.put_along_axis(said, case.lists - 1, np.arange(K, 0, -1.0)[None].repeat(N, 0), axis=1)
    ours = case.ours(["ndcg"], gains=True)
    for k in KS:
        assert ours[f"ndcg@{k}"] == pytest.approx(scores.ndcg_score(truth, said, k=k), abs=1e-9)


def rectools_tables(case: Case) -> tuple[Any, Any, Any]:
    """Recommendations, interactions and those before, as RecTools wants them."""
    pandas, columns = pytest.importorskip("pandas"), pytest.importorskip("rectools").Columns
    shown = {
        columns.User: np.repeat(np.arange(N), K),
        columns.Item: case.lists.ravel(),
        columns.Rank: np.tile(np.arange(1, K + 1), N),
    }
    truth = {columns.User: case.row, columns.Item: case.relevant}
    before = {columns.User: case.before[0], columns.Item: case.before[1]}
    return tuple(pandas.DataFrame(table) for table in (shown, truth, before))


def test_rectools_accuracy() -> None:
    theirs = pytest.importorskip("rectools.metrics")
    case = Case(4)
    shown, truth, _ = rectools_tables(case)
    ours = case.ours(["recall", "precision", "hitrate", "mrr", "map", "ndcg"])
    for k in KS:
        peers = {
            "recall": theirs.Recall(k),
            "precision": theirs.Precision(k),
            "hitrate": theirs.HitRate(k),
            "mrr": theirs.MRR(k),
            "map": theirs.MAP(k),
            "ndcg": theirs.NDCG(k, divide_by_achievable=True),
        }
        for name, metric in peers.items():
            assert ours[f"{name}@{k}"] == pytest.approx(metric.calc(shown, truth), abs=1e-9), name


def test_rectools_beyond_accuracy() -> None:
    theirs = pytest.importorskip("rectools.metrics")
    case = Case(5)
    shown, truth, before = rectools_tables(case)
    known = Popularity.of(case.lists, np.bincount(case.before[1], minlength=ITEMS + 1))
    users = Popularity(known.count, np.full(N, len(np.unique(case.before[0]))), known.rank, known.tail)
    names = ["arp", "arp_share", "serendipity", "ild", "coverage"]
    ours = case.ours(names, popularity=known) | case.ours(["novelty"], popularity=users)
    catalog = list(range(1, ITEMS + 1))
    for k in KS:
        peers = {
            "novelty": theirs.MeanInvUserFreq(k).calc(shown, before),
            "arp": theirs.AvgRecPopularity(k).calc(shown, before),
            "arp_share": theirs.AvgRecPopularity(k, normalize=True).calc(shown, before),
            "serendipity": theirs.Serendipity(k).calc(shown, truth, before, catalog),
            "coverage": theirs.CatalogCoverage(k, normalize=True).calc(shown, catalog),
        }
        if k > 1:
            peers["ild"] = theirs.IntraListDiversity(k, cosine(case.features)).calc(shown)
        for name, value in peers.items():
            assert ours[f"{name}@{k}"] == pytest.approx(value, abs=1e-9), name


def cosine(features: np.ndarray) -> Any:
    """Cosine distance as one of RecTools' distances."""
    distances = pytest.importorskip("rectools.metrics.distances")

    class Cosine(distances.PairwiseDistanceCalculator):
        def _get_distances_for_item_pairs(self, items_0: Any, items_1: Any) -> np.ndarray:
            one, two = features[np.asarray(items_0)], features[np.asarray(items_1)]
            lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
            return 1.0 - (one * two).sum(1) / lengths

    return Cosine()


def test_scipy_paired_tests() -> None:
    """One row per session: the t statistic is scipy's but for n - 1 in the variance, the flips are its permutations."""
    stats = pytest.importorskip("scipy.stats")
    draw = np.random.default_rng(6)
    relevant, made = draw.integers(1, 31, 300), []
    for _ in range(2):
        lists = np.argsort(draw.random((300, 30)), axis=1)[:, :K] + 1
        metrics = ListMetrics([K], ["ndcg"], 30, buckets=1 << 22)
        metrics.add(lists, relevant, np.arange(300, dtype=np.uint64))
        made.append(metrics)
    found = paired(*made, draws=20_000)[f"ndcg@{K}"]
    sums = [metrics.ratios()[f"ndcg@{K}"] for metrics in made]
    used = sums[0][1] > 0
    assert used.sum() == 300
    a, b = (values[used] for values, _ in sums)
    t = stats.ttest_rel(a, b).statistic * np.sqrt(300 / 299)
    assert found.p_t == pytest.approx(2 * stats.t.sf(abs(t), 299), abs=1e-9)
    flips = stats.permutation_test(
        (a, b), lambda x, y: x.mean() - y.mean(), permutation_type="samples", n_resamples=20_000, random_state=0
    )
    assert found.p_flip == pytest.approx(flips.pvalue, abs=0.02)
