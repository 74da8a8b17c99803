"""Recall, NDCG and MRR of a million sessions: ours, the libraries that are installed, and the floor."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from streamrec.evaluation.lists import ListMetrics

K = 20

ITEMS = 50_000

NAMES = ("recall", "ndcg", "mrr")

Figures = dict[str, float]


@dataclass(frozen=True)
class Log:
    """One list of `K` items and one relevant item per session; about a third of the lists have it."""

    lists: NDArray[np.int64]  # [n, K] catalogue rows
    relevant: NDArray[np.int64]  # [n]
    session: NDArray[np.uint64]  # [n] hashes

    @classmethod
    def draw(cls, sessions: int, seed: int = 0) -> Log:
        """Distinct items by an odd stride through the catalogue from a random start."""
        draw = np.random.default_rng(seed)
        step = 2 * draw.integers(1, ITEMS // (2 * K), sessions) + 1
        lists = (draw.integers(0, ITEMS, sessions)[:, None] + step[:, None] * np.arange(K)) % ITEMS + 1
        place = draw.geometric(0.12, sessions) - 1
        hit = (draw.random(sessions) < 0.4) & (place < K)
        relevant = np.where(hit, lists[np.arange(sessions), np.minimum(place, K - 1)], ITEMS + 1)
        return cls(lists, relevant, draw.integers(0, 2**63, sessions).astype(np.uint64))

    def __len__(self) -> int:
        return len(self.lists)

    @cached_property
    def users(self) -> NDArray[np.int64]:
        """[n * K] row number of each slot."""
        return np.repeat(np.arange(len(self)), K)

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """[n * K] falling within each list."""
        return np.tile(np.arange(K, 0, -1.0), len(self))


def ours(log: Log) -> Figures:
    """With everything it does beside: refusing duplicates, session buckets, intervals, fingerprint."""
    metrics = ListMetrics([K], NAMES, ITEMS + 1)
    metrics.add(log.lists, log.relevant, log.session)
    found = metrics.result()
    return {name: found[f"{name}@{K}"].value or 0.0 for name in NAMES}


def floor(log: Log) -> Figures:
    """The three means and nothing else, by numpy on pieces that fit into a cache."""
    by_rank = np.zeros(K, dtype=np.int64)
    for start in range(0, len(log), 8192):
        rows = slice(start, start + 8192)
        by_rank += np.bincount(np.flatnonzero(log.lists[rows] == log.relevant[rows, None]) % K, minlength=K)
    rank = np.arange(1, K + 1)
    sums = (by_rank.sum(), (by_rank / np.log2(rank + 1)).sum(), (by_rank / rank).sum())
    return {name: float(total) / len(log) for name, total in zip(NAMES, sums, strict=True)}


# --- peers: what is returned calculates, all that comes before is preparation ------------------------------------


def rectools(log: Log) -> Callable[[], Figures]:
    """RecTools on pandas; the ideal DCG that can be achieved, which is not its default."""
    columns, metrics = import_module("rectools").Columns, import_module("rectools.metrics")
    rank = np.tile(np.arange(1, K + 1), len(log))
    shown = pd.DataFrame({columns.User: log.users, columns.Item: log.lists.ravel(), columns.Rank: rank})
    truth = pd.DataFrame({columns.User: np.arange(len(log)), columns.Item: log.relevant})
    wanted = {
        "recall": metrics.Recall(K),
        "ndcg": metrics.NDCG(K, divide_by_achievable=True),
        "mrr": metrics.MRR(K),
    }
    return lambda: dict(metrics.calc_metrics(wanted, shown, truth))


def replay(log: Log) -> Callable[[], Figures]:
    """RePlay on polars."""
    pl, metrics = import_module("polars"), import_module("replay.metrics")
    shown = pl.DataFrame({"query_id": log.users, "item_id": log.lists.ravel(), "rating": log.scores})
    truth = pl.DataFrame({"query_id": np.arange(len(log)), "item_id": log.relevant})
    judge = metrics.OfflineMetrics([metrics.Recall(K), metrics.NDCG(K), metrics.MRR(K)])
    return lambda: {name.split("@")[0].lower(): float(value) for name, value in judge(shown, truth).items()}


def recommenders(log: Log) -> Callable[[], Figures]:
    """Microsoft recommenders on pandas. It has no MRR; with one relevant item MAP is the same."""
    theirs = import_module("recommenders.evaluation.python_evaluation")
    shown = pd.DataFrame({"userID": log.users, "itemID": log.lists.ravel(), "prediction": log.scores})
    truth = pd.DataFrame({"userID": np.arange(len(log)), "itemID": log.relevant, "rating": 1.0})
    found = {"recall": theirs.recall_at_k, "ndcg": theirs.ndcg_at_k, "mrr": theirs.map_at_k}
    return lambda: {name: float(metric(truth, shown, k=K)) for name, metric in found.items()}


def ranx(log: Log) -> Callable[[], Figures]:
    """ranx on arrays, without ids; compiled before the clock starts."""
    evaluate = import_module("ranx").evaluate
    shown = np.stack([log.lists.astype(np.float64), log.scores.reshape(-1, K)], axis=2)
    truth = np.stack([log.relevant.astype(np.float64), np.ones(len(log))], axis=1)[:, None]
    names = [f"{name}@{K}" for name in NAMES]
    evaluate(truth[:2], shown[:2], names)
    return lambda: {name.split("@")[0]: float(value) for name, value in evaluate(truth, shown, names).items()}


def pytrec_eval(log: Log) -> Callable[[], Figures]:
    """trec_eval by dictionaries of text."""
    score = [float(K - at) for at in range(K)]
    shown = {str(row): dict(zip(map(str, items), score, strict=True)) for row, items in enumerate(log.lists.tolist())}
    measures = {"recall": f"recall_{K}", "ndcg": f"ndcg_cut_{K}", "mrr": "recip_rank"}
    truth = {str(row): {str(item): 1} for row, item in enumerate(log.relevant.tolist())}
    judge = import_module("pytrec_eval").RelevanceEvaluator(truth, {f"recall.{K}", f"ndcg_cut.{K}", "recip_rank"})

    def calculate() -> Figures:
        each = judge.evaluate(shown).values()
        return {name: float(np.mean([one[measure] for one in each])) for name, measure in measures.items()}

    return calculate


@dataclass(frozen=True)
class Peer:
    """A library: how it is imported and installed, how it is called, whether it works on data frames."""

    module: str
    package: str
    prepare: Callable[[Log], Callable[[], Figures]]
    frames: bool

    @property
    def installed(self) -> bool:
        return find_spec(self.module) is not None


PEERS = {
    "rectools": Peer("rectools", "rectools", rectools, True),
    "replay": Peer("replay", "replay-rec", replay, True),
    "recommenders": Peer("recommenders", "recommenders", recommenders, True),
    "ranx": Peer("ranx", "ranx", ranx, False),
    "pytrec_eval": Peer("pytrec_eval", "pytrec_eval-terrier", pytrec_eval, False),
}


def measure(seconds: float, sessions: int = 1_000_000, peers: Sequence[str] | None = None) -> dict[str, Any]:
    """Processor seconds of this process for Recall, NDCG and MRR at 20, one relevant item a session.

    Peers are timed once, without the time to bring the data into the form they take (`prepare_s`); ours and the floor
    take arrays and are the median of runs before and after the peers. All figures must agree to 1e-9.

    Args:
        seconds: about how long ours and the floor are measured, each.
        sessions: rows.
        peers: names out of `PEERS`; None = all that are installed. The slow ones take minutes and 9 GB.

    Returns:
        `ours_s`, `floor_s`, `peers` (seconds, ratio = theirs / ours), and `ratio`, that of the fastest library on data
        frames, `fastest`; both None where none was measured.

    Raises:
        AssertionError: a library says something else.
    """
    log = Log.draw(sessions)
    times: dict[str, list[float]] = {"ours": [], "floor": []}
    expected = floor(log)
    _rounds(log, expected, seconds / 2, times)
    found = {name: _once(PEERS[name], log, expected) for name in _chosen(peers)}
    _rounds(log, expected, seconds / 2, times)
    mine, least = (float(np.median(times[name])) for name in ("ours", "floor"))
    for row in found.values():
        row["ratio"] = row["seconds"] / mine
    frames = {name: row["ratio"] for name, row in found.items() if PEERS[name].frames}
    fastest = min(frames, key=lambda name: frames[name], default=None)
    ratio = None if fastest is None else frames[fastest]
    sizes = {"sessions": sessions, "k": K, "figures": expected}
    speed = {"ours_s": mine, "floor_s": least, "over_floor": mine / least}
    return sizes | speed | {"peers": found, "fastest": fastest, "ratio": ratio}


def _chosen(peers: Sequence[str] | None) -> list[str]:
    if peers is None:
        return [name for name, peer in PEERS.items() if peer.installed]
    unknown = [name for name in peers if name not in PEERS or not PEERS[name].installed]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: not installed, or none of {', '.join(PEERS)}")
    return list(peers)


def _rounds(log: Log, expected: Figures, seconds: float, times: dict[str, list[float]]) -> None:
    """Ours and the floor in turns, so that a slow moment of the machine hits both."""
    until = time.perf_counter() + 2 * seconds
    while not times["ours"] or time.perf_counter() < until:
        for name, work in (("ours", ours), ("floor", floor)):
            start = time.process_time()
            figures = work(log)
            times[name].append(time.process_time() - start)
            _agree(name, figures, expected)


def _once(peer: Peer, log: Log, expected: Figures) -> dict[str, Any]:
    start = time.process_time()
    calculate = peer.prepare(log)
    ready = time.process_time()
    figures = calculate()
    done = time.process_time()
    _agree(peer.module, figures, expected)
    return {"seconds": done - ready, "prepare_s": ready - start, "version": version(peer.package)}


def _agree(name: str, figures: Figures, expected: Figures) -> None:
    for metric, value in expected.items():
        assert abs(figures[metric] - value) < 1e-9, f"{name} says {metric} is {figures[metric]}, expected {value}"
