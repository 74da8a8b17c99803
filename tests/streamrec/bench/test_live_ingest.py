"""Timing of the ingestion: what counts, and from when."""

from __future__ import annotations

import time

import pytest

from streamrec.bench.live_ingest import Watch


def test_finding_the_broker_and_the_first_batch_do_not_count() -> None:
    watch = Watch()
    watch.done(0)
    time.sleep(0.3)
    watch.done(1_000_000)
    time.sleep(0.1)
    watch.done(50)
    watch.done(50)
    time.sleep(0.2)  # nothing came any more
    watch.done(0)
    assert watch.events == 1_000_100
    assert 50 < watch.rate <= 1000, "100 events in a tenth of a second, or later on a busy machine"


def test_one_batch_is_no_rate() -> None:
    watch = Watch()
    watch.done(10)
    with pytest.raises(RuntimeError, match="at least two batches of events, got 10"):
        _ = watch.rate
