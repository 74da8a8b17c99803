"""The benchmark of worlds measures every registered one, and Feed is far above the slowest acceptable speed."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from simulators.feed import Feed
from streamrec.bench import simulators
from tests.simulators.worlds import worlds


def test_every_world_is_measured_bare_and_through_its_face(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulators, "USERS", 32)
    figures = simulators.measure(0.01)
    assert list(figures["worlds"]) == worlds()
    for world in figures["worlds"].values():
        for name in ("", "face_"):
            assert world[f"{name}interactions_per_s"] == world[f"{name}steps_per_s"] * world["slate"] > 0
    assert figures["ratio"] == pytest.approx(figures["interactions_per_s"] / figures["bare_clicks_per_s"])
    assert ("over_recsim" in figures) == (importlib.util.find_spec("recsim") is not None)


def test_feed_is_fast_enough() -> None:
    """2 million items shown per second are asked for on a quiet core; a tenth of it fails on no machine by chance."""
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        core = Feed(users=4096)
        assert core.skip
        assert core.drift
        assert simulators._core(core, 0.3) * core.slate > 200_000
    finally:
        torch.set_num_threads(torch_threads)
