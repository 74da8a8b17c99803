"""Two reports over the same rows, paired by session."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamrec.build import BadSpec
from streamrec.evaluation.lists import ListMetrics
from streamrec.evaluation.significance import Comparison, against
from streamrec.ope.accumulator import Accumulator
from streamrec.ope.codes import DIFFERENT_ROWS, Refused
from streamrec.ope.paired import paired
from streamrec.replay.policies import LOGGED
from streamrec.replay.store import load


def compare(
    a: Path, b: Path, policy_a: str = "", policy_b: str = "", alpha: float = 0.05, metrics: list[str] | None = None
) -> dict[str, Any]:
    """What a policy of report `a` is above one of report `b`.

    Values are paired by bucket of sessions; metrics of lists with the tests of `streamrec.evaluation.significance`,
    whose p values are corrected for all metrics and policies compared here.

    Args:
        a, b: directories of reports.
        policy_a, policy_b: names; "" = every policy that both have, or, where one name is given, that one in both.
        alpha: 1 - level of the intervals.
        metrics: quantities to compare; None = all that both have.

    Returns:
        `fingerprint`, and `differences`: rows of policy_a, policy_b, quantity, a, b, difference, p.

    Raises:
        Refused: `different_rows`, the reports were made from other rows, or with other settings that decide what a
            row is.
        BadSpec: no such report or policy.
    """
    (first, _, values_a, lists_a), (second, _, values_b, lists_b) = load(a), load(b)
    _check_same(first, second)
    pairs = _pairs(list(first["policies"]), list(second["policies"]), policy_a, policy_b)
    rows: list[dict[str, Any]] = []
    for mine, theirs in pairs:
        if mine in values_a and theirs in values_b:
            rows += _values(mine, theirs, values_a[mine], values_b[theirs], alpha, metrics)
    rows += _lists(pairs, lists_a, lists_b, alpha, metrics)
    return {"fingerprint": first["log"]["fingerprint"], "a": str(a), "b": str(b), "differences": rows}


def _check_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    mine, theirs = (figures["log"]["fingerprint"] for figures in (first, second))
    if mine != theirs:
        rows = [figures["log"]["rows"] for figures in (first, second)]
        raise Refused(DIFFERENT_ROWS, f"fingerprint {mine} of {rows[0]} rows and {theirs} of {rows[1]}")
    for name in ("clip", "lam", "cluster"):
        if first["settings"][name] != second["settings"][name]:
            raise Refused(DIFFERENT_ROWS, f"{name} is {first['settings'][name]} and {second['settings'][name]}")


def _pairs(first: list[str], second: list[str], a: str, b: str) -> list[tuple[str, str]]:
    if not a and not b:
        return [(name, name) for name in first if name in second and name != LOGGED]
    a, b = a or b, b or a
    for name, there in ((a, first), (b, second)):
        if name not in there:
            raise BadSpec(f"there is no policy {name!r} in the report, there is {', '.join(there)}")
    return [(a, b)]


def _values(
    mine: str, theirs: str, one: Accumulator, other: Accumulator, alpha: float, wanted: list[str] | None
) -> list[dict[str, Any]]:
    rows = []
    for quantity in one.estimators:
        if quantity == "logged" or quantity not in other.estimators or (wanted and quantity not in wanted):
            continue
        try:
            difference = paired(one, other, quantity, alpha=alpha)
        except Refused as refusal:
            if refusal.code == DIFFERENT_ROWS:
                raise
            continue  # one of them has no value: the reports say why
        a, b = (acc.estimate(acc.estimators[quantity], alpha, "session").value for acc in (one, other))
        rows.append(_row(mine, theirs, quantity, a, b, difference.as_json(), None))
    return rows


def _lists(
    pairs: list[tuple[str, str]],
    first: Mapping[str, ListMetrics],
    second: Mapping[str, ListMetrics],
    alpha: float,
    wanted: list[str] | None,
) -> list[dict[str, Any]]:
    rows = []
    for mine, theirs in pairs:
        if mine not in first or theirs not in second or not first[mine].rows:
            continue
        one, other = first[mine], second[theirs]
        # Both were made from rows with one fingerprint by ids; that of the lists is by rows of their catalogues.
        other.fingerprint = one.fingerprint
        names = [name for name in one.ratios() if name in other.ratios() and (not wanted or name in wanted)]
        found = against(other, {mine: one}, names, alpha)[mine] if names else {}
        rows += [_compared(mine, theirs, name, comparison) for name, comparison in found.items()]
    return rows


def _compared(mine: str, theirs: str, name: str, found: Comparison) -> dict[str, Any]:
    return _row(mine, theirs, name, found.a, found.b, found.difference.as_json(), found.holm_t)


def _row(
    mine: str, theirs: str, quantity: str, a: float | None, b: float | None, difference: dict[str, Any], p: float | None
) -> dict[str, Any]:
    return {
        "policy_a": mine,
        "policy_b": theirs,
        "quantity": quantity,
        "a": a,
        "b": b,
        "difference": difference,
        "p": p,
    }
