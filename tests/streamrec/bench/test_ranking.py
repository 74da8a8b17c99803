"""The ranking benchmark: it measures what it says, and refuses libraries that say something else."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest

from streamrec.bench import ranking
from streamrec.bench.ranking import PEERS, Figures, Log, Peer, floor, measure, ours


def test_the_log_is_what_it_claims() -> None:
    log = Log.draw(2000)
    assert all(len(set(row)) == ranking.K for row in log.lists.tolist())
    assert log.lists.min() >= 1
    assert log.lists.max() <= ranking.ITEMS
    assert 0.3 < floor(log)["recall"] < 0.4


def test_ours_and_the_floor_are_the_definition() -> None:
    log = Log.draw(500)
    rank = [list(row).index(r) + 1 if r in row else np.inf for row, r in zip(log.lists, log.relevant, strict=True)]
    gains = {"recall": np.isfinite(rank), "ndcg": 1 / np.log2(np.array(rank) + 1), "mrr": 1 / np.array(rank)}
    for work in (ours, floor):
        assert work(log) == pytest.approx({name: values.mean() for name, values in gains.items()}, abs=1e-12)


def one_more(log: Log) -> Callable[[], Figures]:
    return lambda: {name: value + 1e-8 for name, value in floor(log).items()}


def test_figures_without_any_library() -> None:
    found = measure(0.05, 500, peers=[])
    assert (found["ratio"], found["fastest"], found["peers"]) == (None, None, {})
    assert found["ours_s"] > 0
    assert found["over_floor"] == pytest.approx(found["ours_s"] / found["floor_s"])


def test_the_fastest_library_on_frames_makes_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, frames in (("slow", True), ("quick", False)):
        monkeypatch.setitem(PEERS, name, Peer("numpy", "numpy", lambda log: lambda: floor(log), frames))
    found = measure(0.05, 500, peers=["slow", "quick"])
    assert found["fastest"] == "slow"
    assert found["ratio"] == found["peers"]["slow"]["seconds"] / found["ours_s"]


def test_a_library_that_says_something_else_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "wrong", Peer("numpy", "numpy", one_more, True))
    with pytest.raises(AssertionError, match="numpy says recall"):
        measure(0.05, 500, peers=["wrong"])
    with pytest.raises(ValueError, match="nonsense"):
        measure(0.05, 500, peers=["nonsense"])


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(PEERS))
def test_a_library_is_called_so_that_it_says_the_same(name: str) -> None:
    if find_spec(PEERS[name].module) is None:
        pytest.skip(f"{name} is not installed")
    found = measure(0.05, 500, peers=[name])
    assert found["peers"][name]["ratio"] > 0
