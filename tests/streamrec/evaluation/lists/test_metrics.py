"""Metrics of lists against plain loops, golden values, and the rules for ties, missing lists and duplicates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec import checkpoint
from streamrec.evaluation.lists import ListMetrics, Popularity
from streamrec.evaluation.lists.names import ACCURACY, BEYOND, EXPOSURE
from streamrec.ope.codes import Refused
from streamrec.ope.student import student

ITEMS, KS = 40, (1, 3, 5, 10)
SEGMENTS = {"position": ("first", "later"), "item": ("new", "known", "old")}


class Case:
    """Random lists with holes, short and missing ones, and sets of relevant items of any size, empty included."""

    def __init__(self, seed: int, n: int = 300, width: int = 8, many: int = 4) -> None:
        draw = np.random.default_rng(seed)
        self.lists = np.argsort(draw.random((n, ITEMS)), axis=1)[:, :width] + 1
        self.lists[draw.random((n, width)) < 0.15] = 0
        self.lists[draw.random(n) < 0.1] = 0
        sets = [draw.choice(ITEMS, draw.integers(0, many + 1), replace=False) + 1 for _ in range(n)]
        self.relevant = np.concatenate(sets).astype(np.int64)
        self.offsets = np.concatenate([[0], np.cumsum([len(s) for s in sets])])
        self.gains = draw.choice([1.0, 2.0, 3.5], len(self.relevant))
        self.session = draw.integers(0, n // 4, n).astype(np.uint64)
        self.counts = draw.integers(0, 50, ITEMS + 1) * (draw.random(ITEMS + 1) < 0.9)
        self.categories = np.stack([draw.integers(0, 4, ITEMS + 1), draw.integers(4, 7, ITEMS + 1)], axis=1)
        self.categories[draw.random((ITEMS + 1, 2)) < 0.2] = 0
        self.features = draw.normal(size=(ITEMS + 1, 3)) * (draw.random(ITEMS + 1) < 0.9)[:, None]
        self.history = draw.integers(0, ITEMS + 1, (n, 5))
        self.labels = {"position": draw.integers(-1, 2, n), "item": draw.integers(-1, 2, n)}

    def metrics(self, names: Sequence[str], features: bool = False) -> ListMetrics:
        table = self.features if features else None
        return ListMetrics(KS, names, ITEMS, SEGMENTS, features=table, categories=self.categories, buckets=64)

    def add(self, into: ListMetrics, rows: slice = slice(None), graded: bool = True) -> ListMetrics:
        low, high, _ = rows.indices(len(self.lists))
        items = slice(self.offsets[low], self.offsets[high])
        into.add(
            self.lists[rows],
            self.relevant[items],
            self.session[rows],
            offsets=self.offsets[low : high + 1] - self.offsets[low],
            gains=self.gains[items] if graded else None,
            popularity=Popularity.of(self.lists[rows], self.counts),
            history=self.history[rows],
            segments={name: label[rows] for name, label in self.labels.items()},
        )
        return into

    def rows(self) -> list[tuple[list[int], dict[int, float]]]:
        """Each list and its relevant items with their gains."""
        out = []
        for at, ranked in enumerate(self.lists.tolist()):
            part = slice(self.offsets[at], self.offsets[at + 1])
            out.append((ranked, dict(zip(self.relevant[part].tolist(), self.gains[part].tolist(), strict=True))))
        return out


def one(name: str, ranked: list[int], gains: dict[int, float], k: int) -> float | None:
    """An accuracy metric of one row by its definition; None where the row has no value."""
    if not gains:
        return None
    ranks = [at + 1 for at, item in enumerate(ranked[:k]) if item in gains]
    if name == "recall":
        return len(ranks) / len(gains)
    if name == "precision":
        return len(ranks) / k
    if name == "hitrate":
        return float(bool(ranks))
    if name == "mrr":
        return 1 / ranks[0] if ranks else 0.0
    if name == "map":
        return sum((at + 1) / rank for at, rank in enumerate(ranks)) / len(gains)
    best = sorted(gains.values(), reverse=True)[:k]
    ideal = sum(gain / math.log2(at + 2) for at, gain in enumerate(best))
    return sum(gains[ranked[rank - 1]] / math.log2(rank + 1) for rank in ranks) / ideal


def further(case: Case, name: str, at: int, k: int) -> float | None:
    """A metric beyond accuracy of row `at` by its definition."""
    ranked, gains = case.rows()[at]
    items = [item for item in ranked[:k] if item]
    counts = case.counts.copy()
    counts[0] = 0
    if name == "serendipity":
        return serendipity(ranked[:k], gains, counts, k)
    if name == "ild":
        return diversity(case, items)
    if name == "calibration":
        return divergence(case, items, [item for item in case.history[at].tolist() if item])
    if not items:
        return None
    total = counts.sum()
    by_item = {
        "novelty": [-math.log2(max(counts[item], 1) / total) for item in items],
        "arp": [float(counts[item]) for item in items],
        "arp_share": [counts[item] / total for item in items],
        "tail_share": [float(item not in head(counts)) for item in items],
    }
    return float(np.mean(by_item[name]))


def head(counts: np.ndarray) -> set[int]:
    held, chosen = 0, set()
    for item in sorted(range(len(counts)), key=lambda i: (-counts[i], i)):
        if held >= 0.8 * counts.sum():
            break
        chosen.add(item)
        held += counts[item]
    return chosen


def serendipity(ranked: list[int], gains: dict[int, float], counts: np.ndarray, k: int) -> float | None:
    levels = sorted(set(counts[counts > 0].tolist()), reverse=True)
    total = 0.0
    for at, item in enumerate(ranked):
        everybody = (ITEMS + 1 - (levels.index(counts[item]) + 1)) / ITEMS if item and counts[item] else 0.0
        total += max((ITEMS - at) / ITEMS - everybody, 0.0) * (item in gains)
    return total / k if gains else None


def diversity(case: Case, items: list[int], features: bool = False) -> float | None:
    if len(items) < 2:
        return None
    table = case.features if features else np.zeros((ITEMS + 1, 8))
    if not features:
        for item in range(ITEMS + 1):
            table[item, case.categories[item][case.categories[item] > 0]] = 1.0
    apart = []
    for i in items:
        for j in items:
            size = np.linalg.norm(table[i]) * np.linalg.norm(table[j])
            apart += [1 - float(table[i] @ table[j] / size) if size else 1.0] if i != j else []
    return float(np.mean(apart))


def divergence(case: Case, items: list[int], had: list[int]) -> float | None:
    def shares(of: list[int]) -> np.ndarray:
        mass = np.zeros(8)
        for item in of:
            theirs = [g for g in case.categories[item].tolist() if g]
            for g in theirs:
                mass[g] += 1 / len(theirs)
        return mass

    p, q = shares(had), shares(items)
    if not p.sum() or not q.sum():
        return None
    p, q = p / p.sum(), q / q.sum()
    mixed = 0.99 * q + 0.01 * p
    return float(sum(a * math.log(a / b) for a, b in zip(p, mixed, strict=True) if a))


def mean(values: list[float | None]) -> float:
    there = [value for value in values if value is not None]
    return sum(there) / len(there)


@pytest.mark.parametrize("graded", [True, False])
def test_accuracy_is_what_a_loop_over_rows_gives(graded: bool) -> None:
    case = Case(0)
    if not graded:
        case.gains[:] = 1.0
    metrics = case.metrics(list(ACCURACY))
    case.add(metrics, graded=graded)
    found = metrics.result()
    for name in ACCURACY:
        for k in KS:
            expected = mean([one(name, ranked, gains, k) for ranked, gains in case.rows()])
            assert found[f"{name}@{k}"].value == pytest.approx(expected, abs=1e-12), (name, k)


def test_one_relevant_item_per_row_is_no_special_case() -> None:
    case = Case(2)
    target = case.lists.max(1).clip(1)
    fast, slow = ListMetrics(KS, list(ACCURACY), ITEMS), ListMetrics(KS, list(ACCURACY), ITEMS)
    fast.add(case.lists, target, case.session)
    slow.add(case.lists, target, case.session, gains=np.ones(len(target)))
    for name, figure in fast.result().items():
        other = slow.result()[name]
        assert figure.value == pytest.approx(other.value, abs=1e-14)
        assert figure.se == pytest.approx(other.se, abs=1e-14)
        expected = [
            one(name.split("@")[0], r, {t: 1.0}, int(name.split("@")[1]))
            for r, t in zip(case.lists.tolist(), target.tolist(), strict=True)
        ]
        assert figure.value == pytest.approx(mean(expected), abs=1e-12)
    assert fast.fingerprint == slow.fingerprint


def test_beyond_accuracy_is_what_a_loop_over_rows_gives() -> None:
    case = Case(3, n=120)
    found = case.add(case.metrics(list(BEYOND))).result()
    for name in BEYOND:
        for k in KS:
            values = [further(case, name, at, k) for at in range(len(case.lists))]
            figure = found[f"{name}@{k}"]
            assert figure.n == sum(value is not None for value in values)
            if figure.n:
                assert figure.value == pytest.approx(mean(values), abs=1e-12), (name, k)
            else:
                assert figure.refused is not None
                assert (figure.value, figure.refused.code) == (None, "empty_log")


def test_diversity_by_features_is_the_mean_cosine_distance_of_pairs() -> None:
    case = Case(4, n=120)
    found = case.add(case.metrics(["ild"], features=True)).result()
    for k in KS[1:]:
        values = [diversity(case, [i for i in ranked[:k] if i], features=True) for ranked, _ in case.rows()]
        assert found[f"ild@{k}"].value == pytest.approx(mean(values), abs=1e-12)


def test_coverage_and_gini_count_items_never_listed() -> None:
    case = Case(5)
    found = case.add(case.metrics(list(EXPOSURE))).result()
    for k in KS:
        times = np.bincount(case.lists[:, :k].ravel(), minlength=ITEMS + 1)[1:]
        apart = np.abs(times[:, None] - times[None, :]).sum() / (2 * ITEMS * times.sum())  # mean absolute difference
        assert found[f"coverage@{k}"].value == pytest.approx((times > 0).mean(), abs=1e-12)
        assert found[f"gini@{k}"].value == pytest.approx(apart, abs=1e-12)
        assert found[f"gini@{k}"].low is None
    half = case.metrics(["coverage"])
    half.add(
        np.array([[1, 2]]),
        np.array([1]),
        np.array([7], dtype=np.uint64),
        segments={"position": np.array([0]), "item": np.array([0])},
    )
    assert half.result(available=4)["coverage@3"].value == 0.5
    with pytest.raises(ValueError, match="2 items were listed"):
        half.result(available=1)


def test_golden_values() -> None:
    """Worked by hand: hits at ranks 1, 3 and 4 out of 4 relevant; MAP of the same list in Manning et al. (2008, 8.4)
    style: (1/1 + 2/3 + 3/4) / 4."""
    metrics = ListMetrics([5], list(ACCURACY), 20)
    metrics.add(
        np.array([[7, 9, 3, 4, 8]]), np.array([3, 4, 7, 11]), np.array([1], dtype=np.uint64), offsets=np.array([0, 4])
    )
    found = {name: figure.value for name, figure in metrics.result().items()}
    dcg = 1 + 1 / 2 + 1 / math.log2(5)
    ideal = 1 + 1 / math.log2(3) + 1 / 2 + 1 / math.log2(5)
    expected = {"recall@5": 0.75, "hitrate@5": 1.0, "mrr@5": 1.0, "map@5": (1 + 2 / 3 + 3 / 4) / 4, "precision@5": 0.6}
    assert found == pytest.approx(expected | {"ndcg@5": dcg / ideal}, abs=1e-15)


# --- rules -----------------------------------------------------------------------------------------------------


def single(lists: Any, relevant: Any, **more: Any) -> ListMetrics:
    metrics = ListMetrics([3], ["recall", "mrr", "ndcg", "hitrate"], 50)
    metrics.add(np.array(lists), np.array(relevant), np.arange(len(lists), dtype=np.uint64), **more)
    return metrics


def test_a_missing_list_counts_as_nothing_found_and_is_reported() -> None:
    metrics = single([[1, 2, 3], [0, 0, 0]], [1, 1])
    assert metrics.missing == 1
    assert metrics.result()["recall@3"].value == 0.5
    assert metrics.result()["recall@3"].n == 2


def test_a_row_without_anything_relevant_is_left_out_and_reported() -> None:
    metrics = single([[1, 2, 3], [4, 5, 6]], [1], offsets=np.array([0, 1, 1]))
    assert metrics.unjudged == 1
    assert metrics.result()["recall@3"].value == 1.0
    assert metrics.result()["recall@3"].n == 1


def test_an_item_twice_is_refused_and_nothing_is_added() -> None:
    metrics = single([[1, 2, 3]], [1])
    before = metrics.result()
    with pytest.raises(Refused, match="duplicate_item") as caught:
        metrics.add(np.array([[4, 5, 6], [1, 2, 1]]), np.array([1, 1]), np.array([5, 6], dtype=np.uint64))
    assert caught.value.code == "duplicate_item"
    assert metrics.result() == before
    assert metrics.rows == 1


def test_empty_slots_may_repeat_and_keep_their_place() -> None:
    assert single([[0, 0, 3]], [3]).result()["mrr@3"].value == pytest.approx(1 / 3)


def test_relevant_items_are_a_set() -> None:
    metrics = single([[1, 2, 3]], [2, 2, 9, 2], offsets=np.array([0, 4]))
    assert metrics.result()["recall@3"].value == 0.5
    gains, offsets = np.array([1.0, 3.0, 2.0]), np.array([0, 3])
    best = single([[1, 2, 3]], [2, 2, 1], offsets=offsets, gains=gains).result()["ndcg@3"].value
    assert best == pytest.approx((2 + 3 / math.log2(3)) / (3 + 2 / math.log2(3)))


def test_equal_scores_count_against_the_model() -> None:
    tied = single([[1, 2, 3]], [1], scores=np.array([[0.5, 0.5, 0.5]]))
    assert tied.result()["mrr@3"].value == pytest.approx(1 / 3)
    apart = single([[1, 2, 3]], [1], scores=np.array([[0.7, 0.5, 0.5]]))
    assert apart.result()["mrr@3"].value == 1.0
    assert tied.fingerprint == apart.fingerprint


def test_the_worst_order_of_graded_ties_has_the_smallest_gain_first() -> None:
    metrics = ListMetrics([1], ["ndcg"], 9)
    scores, gains = np.array([[1.0, 1.0]]), np.array([3.0, 1.0])
    metrics.add(
        np.array([[4, 5]]),
        np.array([4, 5]),
        np.array([1], dtype=np.uint64),
        offsets=np.array([0, 2]),
        gains=gains,
        scores=scores,
    )
    assert metrics.result()["ndcg@1"].value == pytest.approx(1 / 3)


@pytest.mark.parametrize("scores", [[[0.1, 0.2, 0.3]], [[0.3, float("nan"), 0.1]]])
def test_scores_that_contradict_the_order_are_refused(scores: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="scores rise"):
        single([[1, 2, 3]], [1], scores=np.array(scores))


def test_the_ideal_has_no_more_hits_than_there_are_relevant_items() -> None:
    assert single([[4, 1, 2]], [4]).result()["ndcg@3"].value == 1.0
    both = single([[4, 5, 2]], [4, 5], offsets=np.array([0, 2]))
    assert both.result()["ndcg@3"].value == 1.0


@pytest.mark.parametrize(
    ("lists", "relevant", "more", "text"),
    [
        ([[1, 51]], [1], {}, "catalogue rows 0 to 50"),
        ([[1, 2]], [0], {}, "catalogue rows 1 to 50"),
        ([[1, 2]], [1, 2], {}, "offsets"),
        ([[1, 2]], [1], {"gains": np.array([0.0])}, "gains"),
        ([[1, 2]], [1], {"scores": np.array([[1.0]])}, "scores must be those"),
        ([[1, 2]], [1], {"segments": {"x": np.array([0])}}, "segments"),
        ([1, 2], [1, 1], {}, r"\[n, K\]"),
    ],
)
def test_what_does_not_fit_is_refused(lists: Any, relevant: Any, more: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        single(lists, relevant, **more)


@pytest.mark.parametrize(
    ("metrics", "ks", "text"),
    [(["recal"], [1], "recal"), (["recall"], [0], "ks"), (["ild"], [2], "features"), (["calibration"], [2], "categor")],
)
def test_settings_are_checked(metrics: list[str], ks: list[int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ListMetrics(ks, metrics, 5)


def test_what_a_metric_needs_is_asked_for() -> None:
    with pytest.raises(ValueError, match="popularity"):
        ListMetrics([2], ["novelty"], 5).add(np.array([[1]]), np.array([1]))


# --- intervals, segments ---------------------------------------------------------------------------------------


def test_the_interval_clusters_rows_by_session() -> None:
    """Against the sandwich formula over exact sessions, which fall into buckets of their own here."""
    draw = np.random.default_rng(0)
    session = np.repeat(np.arange(60, dtype=np.uint64), 5)
    hit = np.repeat(draw.random(60) < 0.5, 5) ^ (draw.random(300) < 0.1)
    metrics = ListMetrics([1], ["recall"], 3, buckets=1 << 20)
    metrics.add(np.where(hit, 1, 2)[:, None], np.ones(300, dtype=np.int64), session)
    figure = metrics.result()["recall@1"]
    residual = (hit - hit.mean()).reshape(60, 5).sum(1)
    assert figure.value == pytest.approx(hit.mean())
    assert figure.se == pytest.approx(math.sqrt((residual**2).sum()) / 300)
    assert figure.high == pytest.approx(hit.mean() + student(0.975, 59) * math.sqrt((residual**2).sum()) / 300)
    assert (figure.sessions, figure.n, figure.kind) == (60, 300, "ranking")
    assert [warned.code for warned in figure.warnings] == ["few_sessions"]
    rows = ListMetrics([1], ["recall"], 3, buckets=1 << 20)
    rows.add(np.where(hit, 1, 2)[:, None], np.ones(300, dtype=np.int64))
    alone = rows.result()["recall@1"]
    assert alone.se is not None
    assert figure.se is not None
    assert alone.se < 0.6 * figure.se
    assert [warned.code for warned in alone.warnings] == ["dependent_rows"]


def test_segments_have_sums_of_their_own() -> None:
    case = Case(6)
    metrics = case.add(case.metrics(["recall", "novelty", "ndcg"]))
    for name, names in SEGMENTS.items():
        assert list(metrics.by(name)) == [label for at, label in enumerate(names) if (case.labels[name] == at).any()]
        for at, label in enumerate(names):
            rows = np.flatnonzero(case.labels[name] == at)
            if not len(rows):
                continue
            found = metrics.by(name)[label]
            expected = mean([one("ndcg", *case.rows()[row], 5) for row in rows])
            assert found["ndcg@5"].value == pytest.approx(expected, abs=1e-12)
            assert found["ndcg@5"].sessions == len(set(case.session[rows].tolist()))
    with pytest.raises(ValueError, match="no segment"):
        metrics.by("colour")


def test_no_rows_is_refused() -> None:
    with pytest.raises(Refused, match="empty_log"):
        ListMetrics([1], ["recall"], 3).result()


# --- one pass --------------------------------------------------------------------------------------------------

EVERYTHING = [*ACCURACY, *BEYOND, *EXPOSURE]


def flat(state: Any) -> list[Any]:
    if isinstance(state, dict):
        return [leaf for key in sorted(state) for leaf in flat(state[key])]
    if isinstance(state, list):
        return [leaf for value in state for leaf in flat(value)]
    return [state.tolist() if hasattr(state, "tolist") else state]


def test_how_rows_are_cut_into_batches_changes_no_bit() -> None:
    case = Case(7)
    whole = case.add(case.metrics(EVERYTHING))
    parts = case.metrics(EVERYTHING)
    for start, stop in ((0, 1), (1, 1), (1, 130), (130, 131), (131, 300)):
        case.add(parts, slice(start, stop))
    assert flat(parts.state_dict()) == flat(whole.state_dict())


def test_added_up_parts_are_the_whole() -> None:
    case = Case(8)
    whole = case.add(case.metrics(EVERYTHING)).result()
    both = case.add(case.metrics(EVERYTHING), slice(0, 100)) + case.add(case.metrics(EVERYTHING), slice(100, 300))
    for name, figure in both.result().items():
        assert figure.value == pytest.approx(whole[name].value, abs=1e-12)
        assert figure.se == pytest.approx(whole[name].se, abs=1e-12)
        assert (figure.n, figure.sessions) == (whole[name].n, whole[name].sessions)
    assert both.fingerprint == case.add(case.metrics(EVERYTHING)).fingerprint
    with pytest.raises(ValueError, match="can be added"):
        both + ListMetrics([2], ["recall"], ITEMS)


def test_killed_and_resumed_is_never_killed(tmp_path: Path) -> None:
    case = Case(9)
    whole = case.add(case.metrics(EVERYTHING))
    checkpoint.save(tmp_path, {"metrics": case.add(case.metrics(EVERYTHING), slice(0, 150)).state_dict()}, 1)
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    resumed = case.metrics(EVERYTHING)
    resumed.load_state_dict(loaded[0]["metrics"])
    case.add(resumed, slice(150, 300))
    assert flat(resumed.state_dict()) == flat(whole.state_dict())
    with pytest.raises(ValueError, match="must be the same"):
        ListMetrics([2], ["recall"], ITEMS).load_state_dict(resumed.state_dict())
