"""Timing of the ingestion: what counts, and from when."""

from __future__ import annotations

import time

import pytest

from streamrec.bench.live_ingest import Watch


def test_finding_the_broker_and_the_first_batch_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch()
    for second, events in ((1.0, 0), (3.0, 1_000_000), (4.0, 50), (5.0, 50), (9.0, 0)):
        monkeypatch.setattr(time, "perf_counter", lambda now=second: now)
        watch.done(events)
    assert watch.events == 1_000_100
    assert watch.rate == 50.0, "100 events from second 3 to second 5"


def test_one_batch_is_no_rate() -> None:
    watch = Watch()
    watch.done(10)
    with pytest.raises(RuntimeError, match="at least two batches of events, got 10"):
        _ = watch.rate
