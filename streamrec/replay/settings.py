"""What a replay is asked for, and the checks that need no log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from streamrec.build import BadSpec, did_you_mean
from streamrec.evaluation.lists.names import ACCURACY, BEYOND, EXPOSURE
from streamrec.ope.accumulator import INTERVALS, IntervalName
from streamrec.replay.measures import SEQUENCES, SLATES

Mode = Literal["prequential", "frozen", "rejection"]
MODES: tuple[Mode, ...] = ("prequential", "frozen", "rejection")

VALUES = ("matching", "dm", "ips", "snips", "clipped", "switch", "dr", "sndr", "dros")
LISTS = ("recall", "ndcg", "mrr", "coverage", "novelty")

KAFKA = "kafka:"


@dataclass
class Settings:
    """What a replay is asked for; everything that decides its figures.

    Attributes:
        log: a file or folder (`streamrec.data.events.read`), or `kafka:TOPIC`, `kafka:TOPIC@OFFSET` to begin there.
        policies: see `streamrec.replay.policies.Named`; baselines come by themselves.
        columns: event column -> expression over the columns of the file.
        mode: "prequential" (score, then learn after `delay_s`), "frozen" (learn before `start`, then decide only;
            runs and tables never learn), "rejection" (learn from what the policy would have done itself).
        start, until: event times between which decisions are scored; None = the ends of the log, in frozen mode the
            middle of its span. Sessions that began before `start` are not scored.
        delay_s: seconds from the closing of a decision until it may be learned.
        estimators: of `VALUES`, and of `SLATES` and `SEQUENCES`; None = `VALUES` where the log has propensities.
        metrics: of `streamrec.evaluation.lists.names`.
        ks: lengths at which lists are cut.
        reward: weight by kind of event.
        reward_range: (least, most) reward of a slot.
        cluster: "session", "user" or "row": what intervals take to be independent.
        interval: of `streamrec.ope.accumulator.INTERVALS`.
        alpha: 1 - level of the intervals.
        marginal: propensities of the log are those of an item in a slot, whatever stands in the others.
        items: "" = what the log has mentioned so far may be shown; "log" = every item of the log, from the start; else
            a file with a column `item`, all of which may be shown from the start.
        slate: K, slots of the log's slates that are looked at.
        history: clicks of a user that policies see.
        attribution_s: seconds after which a reaction no longer counts for what was shown.
        gap_s: pause that ends a session where the log names none.
        late_s: seconds by which a row may be older than the newest before it.
        bound: largest weight: of decisions, for rejection (see `Rejecting`; None = 1 / the smallest propensity of a
            slate); of slots, for the interval "bernstein", which needs it.
        clip, lam: see `Accumulator`.
        gamma: discount per step of a session, for `SEQUENCES`.
        allow_sampled: rank also where requests bring candidates of their own, and say so in the report.
        update_every: decisions per learning step.
        users: most users held at once; None = as many as the log has, at most 131,072. The longest idle make room.
        capacity: most items; None = as many as the log has.
        seed: of everything drawn.
        servers: of the Kafka where the log is a topic.
        until_offset: Kafka: "end" = until the producer's `end` message; "latest" = what is there now; or an offset.
        candidates: Kafka: the most candidates a request was limited to; those of one with more are not looked at. 0 =
            every request counts as one that could be answered with anything available.
        context: Kafka: numbers that come with a request.
    """

    log: str
    policies: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    mode: Mode = "prequential"
    start: float | None = None
    until: float | None = None
    delay_s: float = 0.0
    estimators: list[str] | None = None
    metrics: list[str] = field(default_factory=lambda: list(LISTS))
    ks: list[int] = field(default_factory=lambda: [20])
    reward: dict[str, float] = field(default_factory=dict)
    reward_range: tuple[float, float] | None = None
    cluster: str = "session"
    interval: IntervalName = "session"
    alpha: float = 0.05
    marginal: bool = False
    items: str = ""
    slate: int = 10
    history: int = 20
    attribution_s: float = 1800.0
    gap_s: float = 1800.0
    late_s: float = 60.0
    bound: float | None = None
    clip: float = 10.0
    lam: float = 50.0
    gamma: float = 1.0
    allow_sampled: bool = False
    update_every: int = 256
    users: int | None = None
    capacity: int | None = None
    seed: int = 0
    servers: str = "127.0.0.1:9092"
    until_offset: str = "end"
    candidates: int = 0
    context: int = 0

    def __post_init__(self) -> None:
        for what, given, known in (
            ("mode", [self.mode], MODES),
            ("interval", [self.interval], INTERVALS),
            ("estimators", self.estimators or [], [*VALUES, *SLATES, *SEQUENCES]),
            ("metrics", self.metrics, [*ACCURACY, *BEYOND, *EXPOSURE]),
        ):
            wrong = [name for name in given if name not in known]
            if wrong:
                raise BadSpec(f"{what}: there is no {wrong[0]!r}{did_you_mean(wrong[0], known)}")
        if self.first_offset is not None and not self.topic:
            raise BadSpec(f"{self.log} names no topic")
        of_prefix = {*SLATES, *SEQUENCES} - {"iips", "pi"}
        wrong_kind = of_prefix if self.marginal else {"iips", "pi"}
        if wrong_kind & set(self.estimators or []):
            what = (
                "given the slots above" if self.marginal else "of an item in a slot whatever stands above (--marginal)"
            )
            raise BadSpec(f"{', '.join(sorted(wrong_kind & set(self.estimators or [])))}: needs propensities {what}")
        if not 0.0 < self.alpha < 1.0 or self.slate < 1 or self.history < 1 or (self.ks and min(self.ks) < 1):
            raise BadSpec("expected alpha between 0 and 1, and slate, history and list lengths of at least 1")
        if self.start is not None and self.until is not None and not self.start < self.until:
            raise BadSpec(f"--from must be before --until, got {self.start} and {self.until}")

    @property
    def max_weight(self) -> float | None:
        """What `Accumulator` is told of the weights."""
        return self.bound if self.interval == "bernstein" else None

    @property
    def topic(self) -> str | None:
        """The Kafka topic, None where the log is a file."""
        return self.log.removeprefix(KAFKA).partition("@")[0] if self.log.startswith(KAFKA) else None

    @property
    def first_offset(self) -> int | None:
        """Where a topic is read from in every partition; None = from its beginning.

        Raises:
            BadSpec: what stands behind the @ is no offset.
        """
        text = self.log.partition("@")[2] if self.log.startswith(KAFKA) else ""
        if text in ("", "earliest"):
            return None
        if not text.isdigit():
            raise BadSpec(f"{self.log}: expected kafka:TOPIC, kafka:TOPIC@earliest or kafka:TOPIC@OFFSET")
        return int(text)

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def settings_of(values: Mapping[str, Any]) -> Settings:
    """`Settings.as_json` read again."""
    given = dict(values)
    if given.get("reward_range") is not None:
        given["reward_range"] = tuple(given["reward_range"])
    return Settings(**given)
