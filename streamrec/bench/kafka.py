"""How fast events come in from Kafka, against a bare poll."""

from __future__ import annotations

from typing import Any

from streamrec.bench import live_ingest

EVENTS = 100_000  # in the topic


def measure(seconds: float, peer_python: str | None = None) -> dict[str, Any]:
    """Ingestion into session state, against the client alone and Quix Streams; see `streamrec.bench.live_ingest`.

    Returns:
        events per second of `streamrec` and `bare`, and `ratio` = streamrec / bare; more where peers are installed.
    """
    return live_ingest.measure(seconds, peer_python, events=EVENTS)
