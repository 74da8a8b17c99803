"""The `[serve]` table of a spec."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from streamrec.build import BadSpec, did_you_mean


@dataclass(frozen=True)
class ServeSettings:
    """How a service answers and what it trusts.

    Attributes:
        batch: most requests answered together.
        waiting: requests that may wait for an answer; beyond it they are refused.
        slice: most events taken in between two looks at the requests.
        snapshot_s: wall seconds between snapshots of the sessions.
        lag_records, lag_s: further behind than either, the service says it is not ready.
        remembered: ids of events and of answers by which repeated posts are known.
        recent: decisions kept per user to look at.
        recent_users: users whose recent decisions are kept.
        growth: a version whose norm is more than this many times that of the version before, for the same number of
            decisions learned from, is rejected.
        probe: users a version has to answer before it may serve.
        retain_s: wall seconds between the served versions that are kept to fall back on, next to the newest ones.
        retained: how many of those.
        guard_decisions: closed decisions of a span that are compared with those before it; 0 = no guard.
        guard_drop: share by which reward per decision may be worse, beyond chance, before the service rolls back.
        guard_z: standard errors that are chance.
        guard_spans: spans looked back on.
        ack_s: how long the broker may take to take an event.
    """

    batch: int = 64
    waiting: int = 2000
    slice: int = 64
    snapshot_s: float = 60.0
    lag_records: int = 10_000
    lag_s: float = 30.0
    remembered: int = 100_000
    recent: int = 10
    recent_users: int = 2000
    growth: float = 10.0
    probe: int = 16
    retain_s: float = 60.0
    retained: int = 5
    guard_decisions: int = 1000
    guard_drop: float = 0.2
    guard_z: float = 3.0
    guard_spans: int = 5
    ack_s: float = 10.0

    def __post_init__(self) -> None:
        for name in ("batch", "waiting", "slice", "remembered", "recent", "recent_users", "probe", "guard_spans"):
            if getattr(self, name) < 1:
                raise BadSpec(f"serve.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("snapshot_s", "retain_s", "lag_s", "guard_z", "ack_s"):
            if getattr(self, name) <= 0:
                raise BadSpec(f"serve.{name} must be above 0, got {getattr(self, name)}")
        if self.growth <= 1:
            raise BadSpec(f"serve.growth must be above 1, got {self.growth}")
        if not 0 <= self.guard_drop < 1:
            raise BadSpec(f"serve.guard_drop must be at least 0 and below 1, got {self.guard_drop}")

    @classmethod
    def of(cls, table: Mapping[str, Any], others: Collection[str] = ()) -> ServeSettings:
        """From the table of a spec.

        Args:
            table: as read from TOML.
            others: keys that are somebody else's.

        Raises:
            BadSpec: a setting that does not exist, or is out of its range.
        """
        known = [field.name for field in fields(cls)]
        for key in table:
            if key not in known and key not in others:
                raise BadSpec(f"serve: there is no setting {key!r}{did_you_mean(key, [*known, *others])}")
        return cls(**{key: value for key, value in table.items() if key in known})
