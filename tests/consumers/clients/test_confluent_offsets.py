"""Offsets that confluent-kafka's messages have."""

from __future__ import annotations

import pytest

confluent_kafka = pytest.importorskip("confluent_kafka")

from consumers.clients.confluent import _offsets  # noqa: E402


@pytest.mark.parametrize("offsets", [[7], [7, 8, 9], [0, 1, 2, 5, 6], [3, 9]])
def test_offsets_are_what_the_messages_say_with_and_without_gaps(offsets: list[int]) -> None:
    messages = [confluent_kafka.Message(topic="t", partition=0, offset=offset, value=b"x") for offset in offsets]
    assert _offsets(messages) == offsets
