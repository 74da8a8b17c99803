"""Simulated users at the far end of Kafka."""

from __future__ import annotations

import math
import time
import uuid
from itertools import islice
from typing import Any

import msgspec
import torch
from kafka import KafkaConsumer, TopicPartition

from consumers import wire
from consumers.broker import create_topics
from consumers.clients.settings import ClientSettings
from consumers.kafka import connect_consumer
from consumers.messages import from_events
from consumers.topic import EventTopic
from streamrec.catalog import Catalog
from streamrec.ports import World
from streamrec.records import Decision, Events, Kind
from streamrec.sessions import SessionStore


class Players:
    """Simulated users over Kafka: their requests and reactions go out, decisions come back.

    Users who wait for an answer wait, the others go on. Every request carries an id that its decision brings back, so
    an answer that comes twice, or late from an earlier run, is left alone.

    Args:
        world: a simulator. Must hand out no request of a user who still waits for an answer.
        catalog, sessions: the ones that `world` was made with.
        slate: K, slots of a slate; longer answers are cut.
        servers: host:port[,host:port].
        topic, decisions: where events go and answers come from; made with one partition if they do not exist.
        settings: how to connect.
    """

    def __init__(
        self,
        world: World,
        catalog: Catalog,
        sessions: SessionStore,
        slate: int,
        servers: str,
        topic: str = "streamrec.events",
        decisions: str = "streamrec.decisions",
        settings: ClientSettings | None = None,
    ) -> None:
        self.world, self.catalog, self.sessions, self.slate = world, catalog, sessions, slate
        self.requests = self.answered = self.ignored = 0
        self._waiting: dict[str, Events] = {}  # request id -> the request
        self._run = uuid.uuid4().hex[:8]
        self._rows: dict[str, int] = {}
        self._target = EventTopic(servers, topic, settings=settings)
        create_topics(servers, {decisions: 1}, settings)
        self._answers = _tail(servers, decisions, settings)

    @property
    def events(self) -> int:
        """Events sent so far."""
        return self._target.sent

    def step(self, timeout_s: float = 0.01) -> bool:
        """Send what the users do, hand them the answers that are there. False: the world is over.

        Raises:
            BrokerUnavailable: the broker does not take events any more.
        """
        events = self.world.poll(0.0)
        if events is None:
            return False
        self._send(events)
        self._hand_out(timeout_s)
        return True

    def finish(self) -> None:
        """Close the topic's partitions with `end` messages."""
        self._target.end()

    def close(self) -> None:
        self._answers.close(autocommit=False)
        self._target.close()
        self.world.close()

    def report(self) -> dict[str, Any]:
        counts = {"requests": self.requests, "answered": self.answered, "ignored": self.ignored}
        return {"events": self.events, **counts, "unanswered": len(self._waiting)}

    def _send(self, events: Events) -> None:
        ids = self._number(events)
        for key, value in from_events(events, self.catalog, self.sessions, ids):
            self._target.send(key, value)

    def _number(self, events: Events) -> dict[int, str]:
        """Ids for the requests among `events`, by row."""
        ids = {}
        for at in torch.nonzero(events.kind == int(Kind.REQUEST)).squeeze(1).tolist():
            self.requests += 1
            ids[at] = request = f"{self._run}-{self.requests}"
            self._waiting[request] = events[at : at + 1]
        return ids

    def _hand_out(self, timeout_s: float) -> None:
        """Give the users what was decided for them, waiting up to `timeout_s` for it if anybody waits."""
        if not self._waiting:
            time.sleep(timeout_s)  # the world's clock has to move first
            return
        answers: list[wire.DecisionMessage] = []
        asked: list[Events] = []
        for records in self._answers.poll(timeout_ms=int(1000 * timeout_s), max_records=10_000).values():
            for record in records:
                message = _decision(record.value)
                request = None if message is None else self._waiting.pop(message.request, None)
                if message is None or request is None:
                    self.ignored += 1
                    continue
                answers.append(message)
                asked.append(request)
        if answers:
            self.answered += len(answers)
            self._answer(answers, Events.cat(asked))

    def _answer(self, answers: list[wire.DecisionMessage], asked: Events) -> None:
        decision = Decision.of(asked.user, self._slates(answers), self._logps(answers))
        decision.id = torch.tensor([answer.decision for answer in answers])
        self.world.send(decision, asked)

    def _slates(self, answers: list[wire.DecisionMessage]) -> torch.Tensor:
        """[B, K] rows; 0 where an answer is shorter, or names an item these users cannot see."""
        if len(self._rows) < self.catalog.size:
            start = len(self._rows)
            self._rows |= {item: row for row, item in enumerate(islice(self.catalog.ids, start, None), start)}
        rows = [[self._rows.get(item, 0) for item in answer.items[: self.slate]] for answer in answers]
        return torch.tensor([row + [0] * (self.slate - len(row)) for row in rows])

    def _logps(self, answers: list[wire.DecisionMessage]) -> torch.Tensor:
        """[B, K] log-propensities, NaN where unknown."""
        known = [[math.nan if p is None else p for p in answer.slot_logp[: self.slate]] for answer in answers]
        return torch.tensor([logp + [math.nan] * (self.slate - len(logp)) for logp in known])


def _tail(servers: str, topic: str, settings: ClientSettings | None) -> KafkaConsumer:
    """A consumer that stands at the end of `topic`, or a batch before it: the embedded broker is not exact there."""
    consumer = connect_consumer(servers, settings=settings)
    places = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
    consumer.assign(places)
    consumer.seek_to_end(*places)
    for place in places:
        consumer.position(place, timeout_ms=10_000)  # looked up now, before the first request can be answered
    return consumer


def _decision(value: bytes | None) -> wire.DecisionMessage | None:
    try:
        return None if value is None else wire.decode_decision(value)
    except msgspec.MsgspecError:
        return None
