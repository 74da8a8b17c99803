"""What the service says of itself: health, and the figures of the moment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from consumers.serving.learner import Traces
from consumers.serving.timings import Rate
from consumers.serving.types import Health, Part

if TYPE_CHECKING:
    from consumers.serving.engine import Engine

NEEDED = ("model", "state", "consumer", "lag", "producer")
"""Parts without which requests should go elsewhere. Without a learner the model ages, but answers."""

STUCK_S = 10.0
"""A client that takes this long to say what there is does not read any more."""

AHEAD_S = 300.0
"""An event this far in the future is told of: somebody's clock is wrong."""


class Figures:
    """Reads an engine; holds nothing but what rates need.

    Args:
        engine: that has been built.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._traces = Traces(engine.run_dir)
        self._started = time.monotonic()
        self._rates = {"events": Rate(), "requests": Rate()}

    # --- health --------------------------------------------------------------------------------------------------

    def health(self) -> Health:
        parts = {name: getattr(self, f"_{name}")() for name in (*NEEDED, "learner", "clock")}
        return Health(all(parts[name].ok for name in NEEDED), parts)

    def _model(self) -> Part:
        registry = self._engine.registry
        if registry.serving is None:
            return Part(False, "no version has passed its checks yet: the popular list answers")
        pinned = f", pinned: {registry.because}" if registry.pinned else ""
        return Part(True, f"version {registry.serving.version} answers{pinned}")

    def _state(self) -> Part:
        follower = self._engine.follower
        held = len(follower.sessions.users)
        return Part(True, f"{held} users, {len(follower.catalog)} items")

    def _consumer(self) -> Part:
        says, waits = self._engine.consumer_says, time.monotonic() - self._engine.reading_since
        if waits > STUCK_S:
            return Part(False, f"the Kafka client was asked for records {waits:.0f} s ago and has not come back")
        return Part(says == "reads", says)

    def _lag(self) -> Part:
        follower, settings = self._engine.follower, self._engine.settings
        lag = follower.lag
        if lag is None:
            return Part(False, "not known yet")
        ok = lag <= settings.lag_records and follower.lag_s <= settings.lag_s
        return Part(ok, f"{lag} records, {follower.lag_s:.1f} s")

    def _producer(self) -> Part:
        journal = self._engine.journal
        return Part(journal.failing_since is None, journal.says)

    def _learner(self) -> Part:
        refused, reason = self._traces.refused()
        if refused and self._engine.registry.about.get("updates", 0) < self._traces.figures().get("updates", 0):
            return Part(False, f"{refused} versions were not finite, the newest among them: {reason}")
        learner = self._engine.learner
        if learner is not None:
            return Part(learner.alive, learner.says)
        there = self._traces.fresh()
        return Part(there, "another process learns" if there else "nobody learns: the model stays as it is")

    def _clock(self) -> Part:
        ahead = self._engine.follower.sessions.watermark - time.time()
        if ahead > AHEAD_S:
            return Part(False, f"the newest event is {ahead:.0f} s in the future: somebody's clock is wrong")
        return Part(True, "no event is from the future")

    # --- the moment ----------------------------------------------------------------------------------------------

    def live(self) -> dict[str, Any]:
        engine = self._engine
        follower = engine.follower
        figures = self._traces.figures()
        counts = self._counts()
        return {
            "t": time.time(),
            "uptime_s": time.monotonic() - self._started,
            "ready": self.health().ready,
            "model": self._model_now(),
            "shadow": self._shadow_now(),
            "policies": follower.meter.read()["policies"],
            "events_per_s": self._rates["events"].read(counts["events"]),
            "requests_per_s": self._rates["requests"].read(counts["requests"]),
            "lag": {"records": follower.lag, "seconds": follower.lag_s},
            "latency_ms": {
                "event_to_state": follower.to_state.read(50, 95),
                "event_to_weights": figures.get("event_to_weights_ms") or {"p50": None, "p95": None},
                "weights_to_served": engine.registry.to_served.read(50, 95),
                "event_to_served": engine.registry.events_to_served.read(50, 95),
                "recommend": engine.answers.took.read(50, 99),
            },
            "counts": counts,
            "fallbacks": dict(engine.answers.fallbacks),
            "slots": engine.slots,
            "users": len(follower.sessions.users),
            "items": len(follower.catalog),
            "learner": self._learner_now(figures),
            "swaps": list(engine.registry.swaps),
            "outcomes": dict(engine.registry.outcomes),
        }

    def _counts(self) -> dict[str, int]:
        follower, answers = self._engine.follower, self._engine.answers
        world, sessions = follower.world, follower.sessions.counts
        return {
            "events": follower.counts["events"],
            "requests": answers.counts["requests"],
            "decisions": follower.counts["decisions"],
            **{name: sessions[name] for name in ("late", "duplicate", "unknown")},
            "repeated": getattr(world, "repeated", 0),
            "dead_letters": world.dead_letters,
            "fallbacks": sum(answers.fallbacks.values()),
        }

    def _model_now(self) -> dict[str, Any]:
        registry = self._engine.registry
        version = registry.serving.version if registry.serving is not None else None
        made = registry.about.get("made")
        age = None if made is None or version is None else time.time() - made
        return {"version": version, "age_s": age, "pinned": registry.pinned, "because": registry.because}

    def _shadow_now(self) -> dict[str, Any] | None:
        shadow = self._engine.registry.shadowing
        if shadow is None:
            return None
        return {"version": shadow.version, **self._engine.answers.beside.read()}

    def _learner_now(self, figures: dict[str, Any]) -> dict[str, Any]:
        learner = self._engine.learner
        about = self._engine.registry.about
        rejected = self._engine.registry.outcomes["rejected"] + self._traces.refused()[0]
        return {
            "alive": learner.alive if learner is not None else self._traces.fresh(),
            "restarts": learner.restarts if learner is not None else 0,
            "updates": figures.get("updates", about.get("updates", 0)),
            "updates_per_s": figures.get("updates_per_s", 0.0),
            "figures": figures.get("learning", about.get("learning", {})),
            "rejected": rejected,
        }
