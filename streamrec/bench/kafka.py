"""How fast events come in from Kafka, against a bare poll."""

from __future__ import annotations

from typing import Any

from streamrec.bench import live_ingest

EVENTS = 100_000  # in the topic


def measure(seconds: float) -> dict[str, Any]:
    """Ingestion into session state, against the client alone; see `streamrec.bench.live_ingest`.

    Returns:
        events per second of `streamrec` and `bare`, and `ratio` = streamrec / bare.
    """
    return live_ingest.measure(seconds, events=EVENTS)
