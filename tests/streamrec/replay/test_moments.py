"""Durations and times as people write them."""

from __future__ import annotations

import pytest

from streamrec.replay.moments import moment, seconds, written


@pytest.mark.parametrize(
    ("text", "wanted"), [("90", 90.0), ("10m", 600.0), ("1.5h", 5400.0), ("2d", 172_800.0), ("250ms", 0.25)]
)
def test_durations(text: str, wanted: float) -> None:
    assert seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "m", "10 minutes", "-5s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        seconds(text)


def test_times_are_utc_unless_they_say_otherwise() -> None:
    assert moment("1970-01-02") == 86_400.0
    assert moment("1970-01-01T01:00:00+01:00") == 0.0
    assert moment("12.5") == 12.5
    assert written(86_400.0) == "1970-01-02 00:00:00"
    with pytest.raises(ValueError, match="expected a time"):
        moment("yesterday")
