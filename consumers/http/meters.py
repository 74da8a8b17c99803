"""Figures for Prometheus, in a registry of their own; what the service knows by itself is read when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from consumers.serving.types import Fallback

MEDIA = "text/plain; version=0.0.4; charset=utf-8"

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Methods that get a label of their own; a caller can invent any number of others."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_REFUSED = ("late", "duplicate", "unknown", "repeated")
_WAITS = ("event_to_state", "event_to_weights", "weights_to_served")

# The library gives no types for this one.
_without_created = cast("Callable[[], None]", disable_created_metrics)

Live = dict[str, Any]


class Meters:
    """What HTTP counts itself, and a window on `live`.

    Args:
        live: figures of the moment, or None while there are none yet.
    """

    def __init__(self, live: Callable[[], Live | None]) -> None:
        _without_created()  # a second series per counter that says when it began, which the process figures say
        self.registry = CollectorRegistry(auto_describe=False)
        self._requests = Counter(
            "streamrec_http_requests_total",
            "Requests answered, by route, method and status.",
            ["route", "method", "code"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "streamrec_http_request_seconds",
            "Time from a request to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.recommend = Histogram(
            "streamrec_recommend_seconds",
            "Time the engine took for an answer.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.fallbacks = Counter(
            "streamrec_fallbacks_total", "Answers not made by the model.", ["reason"], registry=self.registry
        )
        self.events = Counter(
            "streamrec_events_total", "Events sent over HTTP, by verdict.", ["verdict"], registry=self.registry
        )
        for reason in get_args(Fallback):  # a rate needs the 0 before the first one
            self.fallbacks.labels(reason)
        for verdict in ("accepted", "duplicate", "rejected"):
            self.events.labels(verdict)
        self.registry.register(LiveFigures(live))
        ProcessCollector(registry=self.registry)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request, whatever became of it. `route` is a template, never a path."""
        self._requests.labels(route, method if method in METHODS else "other", str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def page(self) -> bytes:
        """Everything in the text format of Prometheus."""
        return generate_latest(self.registry)


class LiveFigures(Collector):
    """The engine's figures. Those it does not have (yet) are left out: 0 would be a statement."""

    def __init__(self, live: Callable[[], Live | None]) -> None:
        self._live = live

    def describe(self) -> list[Metric]:
        """Nothing: what there is depends on the moment."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Figures of this moment."""
        live = self._live()
        if live is None:
            yield GaugeMetricFamily("streamrec_ready", "1 if the service is ready.", value=0.0)
            return
        yield from _gauges(live)
        yield from _policies(live.get("policies") or {})
        yield from _counts(live.get("counts") or {})
        yield from _waits(live.get("latency_ms") or {})
        yield from _learner(live.get("learner") or {})
        yield _swaps(live.get("outcomes") or {})


def _gauges(live: Live) -> Iterator[Metric]:
    lag, model = live.get("lag") or {}, live.get("model") or {}
    figures = (
        ("streamrec_ready", "1 if the service is ready.", live.get("ready")),
        ("streamrec_lag_records", "Records of the topic that are not in the state yet.", lag.get("records")),
        ("streamrec_lag_seconds", "Age of the oldest of them.", lag.get("seconds")),
        ("streamrec_model_age_seconds", "Age of the model that serves.", model.get("age_s")),
        ("streamrec_model_pinned", "1 if newer versions do not take over, see /readyz.", model.get("pinned")),
        ("streamrec_users", "Users held.", live.get("users")),
        ("streamrec_items", "Items of the catalogue.", live.get("items")),
        ("streamrec_uptime_seconds", "Time since the service started.", live.get("uptime_s")),
    )
    for name, about, value in figures:
        if value is not None:
            yield GaugeMetricFamily(name, about, value=float(value))


def _policies(policies: dict[str, dict[str, Any]]) -> Iterator[Metric]:
    reward = GaugeMetricFamily("streamrec_reward", "Mean reward of a decision.", labels=["policy"])
    bounds = GaugeMetricFamily("streamrec_reward_bound", "Ends of its interval.", labels=["policy", "end"])
    decisions = GaugeMetricFamily("streamrec_decisions", "Decisions that closed.", labels=["policy"])
    for name, figures in policies.items():
        decisions.add_metric([name], float(figures.get("decisions") or 0))
        if figures.get("reward") is not None:
            reward.add_metric([name], float(figures["reward"]))
        for end in ("low", "high"):
            if figures.get(end) is not None:
                bounds.add_metric([name, end], float(figures[end]))
    yield from (reward, bounds, decisions)


def _counts(counts: dict[str, Any]) -> Iterator[Metric]:
    ingested = counts.get("events")
    if ingested is not None:
        yield CounterMetricFamily("streamrec_ingested_events", "Events taken into the state.", value=float(ingested))
    if counts.get("dead_letters") is not None:
        yield CounterMetricFamily(
            "streamrec_dead_letters", "Records that could not be used.", value=float(counts["dead_letters"])
        )
    refused = CounterMetricFamily("streamrec_feedback_refused", "Feedback not joined, by reason.", labels=["reason"])
    for reason in _REFUSED:
        if counts.get(reason) is not None:
            refused.add_metric([reason], float(counts[reason]))
    yield refused


def _waits(latency: dict[str, dict[str, Any]]) -> Iterator[Metric]:
    for name in _WAITS:
        family = GaugeMetricFamily(f"streamrec_{name}_seconds", "How long that took, lately.", labels=["quantile"])
        for key, value in (latency.get(name) or {}).items():
            if key.startswith("p") and key[1:].isdigit() and value is not None:
                family.add_metric([f"0.{key[1:]}".rstrip("0")], float(value) / 1000)
        yield family


def _learner(learner: dict[str, Any]) -> Iterator[Metric]:
    if learner.get("alive") is not None:
        yield GaugeMetricFamily("streamrec_learner_up", "1 if the learner runs.", value=float(learner["alive"]))
    for key, about in (("updates", "Updates the learner made."), ("restarts", "Times it was started again.")):
        if learner.get(key) is not None:
            yield CounterMetricFamily(f"streamrec_learner_{key}", about, value=float(learner[key]))


def _swaps(outcomes: dict[str, int]) -> Metric:
    family = CounterMetricFamily(
        "streamrec_swaps", "Versions of the model, by what became of them.", labels=["outcome"]
    )
    for outcome, count in outcomes.items():
        family.add_metric([outcome], float(count))
    return family
