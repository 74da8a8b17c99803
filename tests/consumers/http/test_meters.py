"""Figures in the format of Prometheus, under the names that dashboards and alerts use."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from consumers.http.meters import Meters

NAMES = [
    "streamrec_http_requests_total",
    "streamrec_http_request_seconds",
    "streamrec_recommend_seconds",
    "streamrec_fallbacks_total",
    "streamrec_events_total",
    "streamrec_ingested_events_total",
    "streamrec_lag_records",
    "streamrec_lag_seconds",
    "streamrec_event_to_state_seconds",
    "streamrec_event_to_weights_seconds",
    "streamrec_model_age_seconds",
    "streamrec_swaps_total",
    "streamrec_reward",
    "streamrec_decisions",
    "streamrec_feedback_refused_total",
    "streamrec_dead_letters_total",
    "streamrec_users",
    "streamrec_items",
    "streamrec_learner_up",
    "streamrec_learner_updates_total",
    "streamrec_learner_restarts_total",
    "streamrec_ready",
]

LIVE: dict[str, Any] = {
    "uptime_s": 12.0,
    "ready": True,
    "model": {"version": "000042", "age_s": 0.8, "pinned": False},
    "policies": {
        "dqn": {"reward": 0.41, "low": 0.39, "high": 0.43, "decisions": 1234},
        'odd "name"\n': {"reward": None, "low": None, "high": None, "decisions": 0},
    },
    "lag": {"records": 3, "seconds": 0.01},
    "latency_ms": {"event_to_state": {"p50": 10.0, "p95": 30.0}, "event_to_weights": {"p50": None, "p95": None}},
    "counts": {"events": 5, "late": 1, "duplicate": 2, "unknown": 3, "repeated": 4, "dead_letters": 6},
    "users": 900,
    "items": 2000,
    "learner": {"alive": True, "restarts": 1, "updates": 77},
    "outcomes": {"served": 2, "rejected": 1},
}


def read(page: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_live_figures_come_out_as_they_went_in() -> None:
    found = read(Meters(lambda: LIVE).page().decode())
    assert found["streamrec_lag_records", ()] == 3
    assert found["streamrec_reward", (("policy", "dqn"),)] == 0.41
    assert found["streamrec_reward_bound", (("end", "low"), ("policy", "dqn"))] == 0.39
    assert found["streamrec_decisions", (("policy", 'odd "name"\n'),)] == 0
    assert ("streamrec_reward", (("policy", 'odd "name"\n'),)) not in found
    assert found["streamrec_event_to_state_seconds", (("quantile", "0.95"),)] == 0.03
    assert found["streamrec_event_to_state_seconds", (("quantile", "0.5"),)] == 0.01
    assert found["streamrec_feedback_refused_total", (("reason", "unknown"),)] == 3
    assert found["streamrec_swaps_total", (("outcome", "rejected"),)] == 1
    assert found["streamrec_learner_up", ()] == 1
    assert found["streamrec_dead_letters_total", ()] == 6
    assert found["process_resident_memory_bytes", ()] > 1e6
    assert not any(name.endswith("_created") for name, _ in found)


def test_what_is_not_known_is_left_out() -> None:
    found = {name for name, _ in read(Meters(lambda: {"ready": False}).page().decode())}
    assert "streamrec_ready" in found
    assert "streamrec_lag_records" not in found
    assert "streamrec_learner_up" not in found
    assert read(Meters(lambda: None).page().decode())["streamrec_ready", ()] == 0


def test_a_caller_cannot_invent_series() -> None:
    meters = Meters(lambda: None)
    before = len(read(meters.page().decode()))
    for number in range(50):
        meters.answered("unmatched", f"METHOD{number}", 404, 0.001)
    after = read(meters.page().decode())
    assert after["streamrec_http_requests_total", (("code", "404"), ("method", "other"), ("route", "unmatched"))] == 50
    assert len(after) - before < 25


def test_meters_do_not_share_their_registry() -> None:
    one, two = Meters(lambda: None), Meters(lambda: None)
    one.events.labels("accepted").inc()
    assert read(two.page().decode())["streamrec_events_total", (("verdict", "accepted"),)] == 0


@pytest.mark.kafka
def test_the_real_engine_has_every_figure(http: httpx.Client) -> None:
    http.post("/v1/recommend", json={"user": "u"})
    deadline = time.monotonic() + 10
    while "streamrec_lag_records" not in (answer := http.get("/metrics")).text:
        assert time.monotonic() < deadline, "how far behind it is was never known"
        time.sleep(0.02)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name for family in text_string_to_metric_families(answer.text)}
    # Nobody learns here and no model serves: their figures would be inventions.
    absent = {"streamrec_model_age_seconds", "streamrec_learner_up", "streamrec_learner_restarts"}
    absent |= {"streamrec_learner_updates"}
    assert {name.removesuffix("_total") for name in NAMES} - families <= absent
