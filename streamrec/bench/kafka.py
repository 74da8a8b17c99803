"""How fast events come in from Kafka, against a bare poll."""

from __future__ import annotations

EVENTS = 100_000  # in the topic
SLATE = 5
