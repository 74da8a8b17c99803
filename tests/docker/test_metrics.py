"""Dashboard, alerts and scrape configuration speak of figures that the service has, in a form their readers accept."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from consumers.http.meters import Meters

DOCKER = Path(__file__).resolve().parents[2] / "docker"
BOARDS = sorted((DOCKER / "grafana" / "dashboards").glob("*.json"))
PROVISIONING = DOCKER / "grafana" / "provisioning"

LIVE: dict[str, Any] = {
    "t": 1.7e9,
    "uptime_s": 12.0,
    "ready": True,
    "model": {"version": "000042", "age_s": 0.8, "pinned": False},
    "policies": {"dqn": {"reward": 0.41, "low": 0.39, "high": 0.43, "decisions": 1234}},
    "lag": {"records": 3, "seconds": 0.01},
    "latency_ms": {
        name: {"p50": 1.0, "p95": 2.0} for name in ("event_to_state", "event_to_weights", "weights_to_served")
    },
    "counts": {"events": 9, "late": 1, "duplicate": 1, "unknown": 1, "repeated": 1, "dead_letters": 2},
    "users": 900,
    "items": 2000,
    "learner": {"alive": True, "restarts": 0, "updates": 77},
    "outcomes": {"served": 1, "rejected": 0, "rolled_back": 0},
}
"""Figures of the engine with everything it may tell."""


def exported() -> dict[str, set[str]]:
    """Labels by name of sample, as a scrape of the service finds them."""
    meters = Meters(lambda: LIVE)
    meters.answered("/v1/recommend", "POST", 200, 0.01)
    meters.recommend.observe(0.01)
    meters.fallbacks.labels("deadline").inc()
    meters.events.labels("accepted").inc()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(meters.page().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


EXPORTED = exported()
SCRAPED = {"job", "instance"}
"""Labels that Prometheus adds itself."""

_SELECTOR = re.compile(r"\b(?P<name>(?:streamrec|process)_\w+)(?:\{(?P<matchers>[^}]*)\})?")
_BY = re.compile(r"\b(?:by|on)\s*\((?P<labels>[^)]*)\)")


def panels() -> list[tuple[str, dict[str, Any]]]:
    return [(board.name, panel) for board in BOARDS for panel in json.loads(board.read_text())["panels"]]


def board_expressions() -> list[str]:
    found = [target["expr"] for _, panel in panels() for target in panel.get("targets", [])]
    for board in BOARDS:
        page = json.loads(board.read_text())
        found += [variable["query"]["query"] for variable in page["templating"]["list"]]
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DOCKER / "prometheus" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


EXPRESSIONS = board_expressions() + [rule["expr"] for rule in rules()]


def labels_of(expression: str) -> list[tuple[str, set[str]]]:
    """(metric, labels that its matchers name) for every metric of an expression."""
    return [
        (match["name"], set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", match["matchers"] or "")))
        for match in _SELECTOR.finditer(expression)
    ]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_metrics_and_labels_exist(expression: str) -> None:
    asked = labels_of(expression)
    for name, matched in asked:
        assert name in EXPORTED, f"the service has no {name}"
        assert matched <= EXPORTED[name] | SCRAPED, f"{name} has no label {matched - EXPORTED[name] - SCRAPED}"
    everywhere = set.union(SCRAPED, *(EXPORTED[name] for name, _ in asked))
    for grouped in _BY.finditer(expression):
        labels = {label.strip() for label in grouped["labels"].split(",")} - {""}
        assert labels <= everywhere, f"no metric of {expression} has {labels - everywhere}"


def test_legends_name_labels_that_are_left() -> None:
    for _, panel in panels():
        for target in panel.get("targets", []):
            kept = {label.strip() for by in _BY.finditer(target["expr"]) for label in by["labels"].split(",")} - {
                "le",
                "",
            }
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept, panel["title"]


def test_the_metrics_of_the_service_are_all_looked_at() -> None:
    used = {name for expression in EXPRESSIONS for name, _ in labels_of(expression)}
    ours = {name for name in EXPORTED if name.startswith("streamrec_") and not name.endswith(("_created", "_sum"))}
    ours = {name for name in ours if not (name.endswith("_count") and name.replace("_count", "_bucket") in used)}
    assert ours - used <= {"streamrec_uptime_seconds"}


def test_a_board_opens_without_surprises() -> None:
    assert BOARDS
    uids = [json.loads(board.read_text())["uid"] for board in BOARDS]
    assert len(set(uids)) == len(uids)
    for board in BOARDS:
        page = json.loads(board.read_text())
        ids = [panel["id"] for panel in page["panels"]]
        assert len(set(ids)) == len(ids)
        assert page["schemaVersion"] >= 39
        assert page["title"]
        for panel in page["panels"]:
            place = panel["gridPos"]
            assert place["w"] > 0
            assert place["x"] + place["w"] <= 24, panel["title"]
            refs = [target["refId"] for target in panel.get("targets", [])]
            assert len(set(refs)) == len(refs), panel["title"]


def test_panels_do_not_lie_on_each_other() -> None:
    taken: dict[tuple[str, int, int], str] = {}
    for board, panel in panels():
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((board, x, y), panel["title"]) == panel["title"]


def test_boards_ask_the_data_source_that_is_provisioned() -> None:
    sources = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text())["datasources"]
    known = {(source["type"], source["uid"]) for source in sources}
    asked = {
        (source["type"], source["uid"]) for board in BOARDS for source in sources_in(json.loads(board.read_text()))
    }
    assert asked == known


def sources_in(node: Any) -> list[dict[str, str]]:
    if isinstance(node, list):
        return [source for child in node for source in sources_in(child)]
    if not isinstance(node, dict):
        return []
    own = [node["datasource"]] if "datasource" in node else []
    return own + [source for child in node.values() for source in sources_in(child)]


def test_alerts_are_named_once_and_say_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "description"} <= rule["annotations"].keys()
    wanted = {"NotReady", "Lag", "Fallbacks", "DeadLetters", "LearnerDown", "ModelOld"}
    assert {f"Streamrec{name}" for name in wanted} <= set(names)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_alerts_fire_when_they_should() -> None:
    command = ["promtool", "test", "rules", str(Path(__file__).with_name("alerts_test.yaml"))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
