from __future__ import annotations

import pytest
import torch

from streamrec.bench import serving


def test_a_step_after_500_clicks_costs_what_it_costs_after_5(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 1.03 on a quiet core where encoding again is 60 times dearer and more; the bounds leave room for noise."""
    monkeypatch.setattr(serving, "USERS", 32)
    monkeypatch.setattr(serving, "BATCH", 16)
    monkeypatch.setattr(serving, "ITEMS", 100)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        figures = serving.measure(0.1)
    finally:
        torch.set_num_threads(threads)
    assert figures["ratio"] == pytest.approx(figures["carried_us"]["500"] / figures["carried_us"]["5"])
    assert figures["ratio"] < 2.0
    assert figures["encoded_ratio"] > 10.0
    assert figures["gain"] > 10.0
