"""The simulated studies of offline values, at a length at which they still say what they are there to say."""

from __future__ import annotations

from streamrec.bench import coverage, own_world


def test_coverage_puts_dependent_rows_below_sessions() -> None:
    told = coverage.measure(0.0, runs=20)
    covered = {(x["sessions"], x["estimator"], x["interval"], x["unit"]): x["covered"] for x in told["lines"]}
    for sessions, _ in coverage.SETTINGS:
        assert covered[sessions, "snips", "delta method", "session"] >= 0.8
        assert covered[sessions, "snips", "delta method", "row"] < covered[sessions, "snips", "delta method", "session"]
    assert told["table"].count("| snips |") == 4


def test_values_per_decision_are_wrong_only_where_choices_have_consequences() -> None:
    told = own_world.measure(0.0, runs=2)
    decisions = [line for line in told["lines"] if line["unit"] == "decision"]
    assert len(decisions) == 32
    for line in decisions:
        assert (abs(line["error"]) > 0.1) if line["tiring"] else (abs(line["error"]) < 0.03)
