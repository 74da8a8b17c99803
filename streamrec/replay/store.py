"""The directory of a finished replay: report.json, report.html, and the sums that comparisons are made of."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from streamrec import checkpoint
from streamrec.build import BadSpec
from streamrec.evaluation.lists import ListMetrics
from streamrec.ope.accumulator import Accumulator
from streamrec.replay.lists import list_metrics
from streamrec.replay.policies import LOGGED
from streamrec.replay.results import SCHEMA, results
from streamrec.replay.run import Replay
from streamrec.replay.settings import Settings, settings_of

REPORT, PAGE, SUMS = "report.json", "report.html", "sums"


def save(replay: Replay) -> dict[str, Any]:
    """Write the report of a replay that has run to the end into its folder; returns its figures.

    Raises:
        Refused: `empty_log`.
        ValueError: a baseline is missing.
    """
    from streamrec.replay.page import page

    figures = results(replay)
    check_baselines(figures)
    folder = replay.folder
    folder.mkdir(parents=True, exist_ok=True)
    measures = replay.measures
    parts = {f"values.{name}": acc.state_dict() for name, acc in measures.values.items()}
    parts |= {f"lists.{name}": part.state_dict() for name, part in measures.lists.items() if part is not None}
    shutil.rmtree(folder / SUMS, ignore_errors=True)
    names = {"values": list(measures.values), "lists": [n for n, part in measures.lists.items() if part is not None]}
    made_with = {"estimators": {n: acc.names for n, acc in measures.values.items()}, "items": replay.catalog.capacity}
    checkpoint.save(folder / SUMS, {"sums": parts, "about": {"names": names, **made_with}}, 0)
    _write(folder / REPORT, json.dumps(figures, indent=1, allow_nan=False))
    _write(folder / PAGE, page(figures))
    return figures


def check_baselines(figures: dict[str, Any]) -> None:
    """A report is made only with the logged policy first and every baseline, or with the reason why one is not there.

    Raises:
        ValueError: one is missing, or the ips of the logged policy is not its mean.
    """
    policies, about = list(figures["policies"]), figures["about"]
    if not policies or policies[0] != LOGGED:
        raise ValueError(f"a report begins with the policy {LOGGED!r}, this one has {', '.join(policies) or 'none'}")
    logged = figures["policies"][LOGGED]
    mean, ips = (logged.get(name, {}).get("value") for name in ("logged", "ips"))
    if mean is not None and ips is not None and abs(mean - ips) > 1e-9 * max(1.0, abs(mean)):
        raise ValueError(f"the ips of the logged policy is {ips}, its mean {mean}: they must be equal")
    missing = [name for name in about["baselines"] if name not in policies and name not in about["left_out"]]
    if missing:
        raise ValueError(
            f"a report needs the baselines {', '.join(missing)}, which are not among {', '.join(policies)}"
        )


def load(folder: Path) -> tuple[dict[str, Any], Settings, dict[str, Accumulator], dict[str, ListMetrics]]:
    """A report read again: its figures, settings, and the sums of values and of lists by policy.

    Raises:
        BadSpec: this is no directory of a report, or one of another version.
    """
    try:
        figures = json.loads((folder / REPORT).read_text())
        found = checkpoint.load_newest(folder / SUMS)
    except (OSError, json.JSONDecodeError) as error:
        raise BadSpec(f"{folder} is no report: expected {REPORT} and {SUMS}/ as replay leaves them") from error
    if found is None or figures.get("schema") != SCHEMA:
        raise BadSpec(f"{folder} has no usable sums of version {SCHEMA}: run the replay again")
    state, settings = found[0], settings_of(figures["settings"])
    about, sums = state["about"], state["sums"]
    values = {name: _values(about["estimators"][name], settings) for name in about["names"]["values"]}
    lists = {name: _lists(about["items"], settings) for name in about["names"]["lists"]}
    for name, acc in values.items():
        acc.load_state_dict(sums[f"values.{name}"])
    for name, metrics in lists.items():
        metrics.load_state_dict(sums[f"lists.{name}"])
    return figures, settings, values, lists


def _values(names: list[str], settings: Settings) -> Accumulator:
    return Accumulator(names, 4096, settings.reward_range, settings.max_weight, settings.clip, settings.lam)


def _lists(items: int, settings: Settings) -> ListMetrics:
    return list_metrics(settings.ks, settings.metrics, np.zeros(items + 1, dtype=np.int64))


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".tmp")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)
