"""What commands print is JSON, whatever was measured."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from streamrec import bench
from streamrec.cli import app
from streamrec.printed import json_line

NAN = float("nan")


def strict(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_are_not_finite_are_null_wherever_they_stand() -> None:
    value = {"a": NAN, "b": [1.5, float("inf"), {"c": (np.float64("nan"), -0.25)}], "d": "NaN", "e": True, "f": 2**60}
    expected = {"a": None, "b": [1.5, None, {"c": [None, -0.25]}], "d": "NaN", "e": True, "f": 2**60}
    assert strict(json_line(value)) == expected


@pytest.mark.parametrize("name", ["live", "loop"])
def test_a_benchmark_that_saw_nothing_prints_null(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "measure", lambda name, seconds, **options: {"bench": name, "event_to_state_ms": [NAN]})
    result = CliRunner().invoke(app, ["bench", name, "--json"])
    assert result.exit_code == 0, result.output
    assert strict(result.stdout) == {"bench": name, "event_to_state_ms": [None]}
