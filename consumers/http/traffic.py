"""Operations of a shop's traffic: recommendations out, events and rewards in."""

from __future__ import annotations

import time
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from consumers import wire
from consumers.http import reading
from consumers.http.bodies import TAKEN, EventsAnswer, RankBody, RecommendBody, RewardBody
from consumers.http.gate import trace
from consumers.http.meters import Meters
from consumers.http.operations import Operation, json_answer
from consumers.http.overload import Overload
from consumers.http.problems import FieldError, Refusal
from consumers.http.service import Service
from consumers.serving.types import Answer, Ask, Verdict

T = TypeVar("T")

_RECOMMEND = msgspec.json.Decoder(RecommendBody)
_RANK = msgspec.json.Decoder(RankBody)
_REWARD = msgspec.json.Decoder(RewardBody)


class Traffic:
    """Recommendations out, events in.

    Args:
        service: who answers.
        overload: limits.
        meters: counts verdicts and fallbacks.
    """

    def __init__(self, service: Service, overload: Overload, meters: Meters) -> None:
        self._service, self._overload, self._meters = service, overload, meters

    async def recommend(self, request: Request) -> Response:
        """A slate for a user."""
        body = await self._body(request, _RECOMMEND)
        return await self._answer(request, body.ask())

    async def rank(self, request: Request) -> Response:
        """Candidates, put in order for a user."""
        body = await self._body(request, _RANK)
        return await self._answer(request, body.ask(self._service.slots))

    async def reward(self, request: Request) -> Response:
        """What a shown item was worth."""
        body = await self._body(request, _REWARD)
        trace(request).user = body.user
        self._require_near(body.time, "$.time")
        item = body.item or self._shown(body)
        kind = body.kind or ("rating" if body.value > 0 else "skip")
        event = wire.Event(
            kind, body.user, item=item, time=body.time, value=body.value, session=body.session, decision=body.decision
        )
        event.slot, event.id = body.slot, body.id
        verdicts = await self._service.append([event])
        self._count(verdicts)
        return json_answer(verdicts[0], 202)

    async def events(self, request: Request) -> Response:
        """Events in, a verdict for each out."""
        kind = reading.media(request)
        if kind not in (reading.JSON, *reading.NDJSON):
            accepted = f"{reading.JSON}, {reading.NDJSON[0]}"
            raise Refusal(415, f"expected Content-Type {accepted}", headers={"Accept-Post": accepted})
        limits = self._overload.limits
        body = await reading.read_body(request, self._overload)
        parts = reading.split_events(body, kind in reading.NDJSON, limits.events, limits.depth)
        decoded = [self._judged(part, event) for part, event in zip(parts, wire.decode_events(parts), strict=True)]
        accepted_events = [event for event in decoded if isinstance(event, wire.Event)]
        if decoded and not accepted_events:
            refused = [_rejected(event) for event in decoded if isinstance(event, str)]
            self._count(refused)
            errors = [FieldError(f"$[{at}]", verdict.reason) for at, verdict in enumerate(refused)]
            raise Refusal(422, "none of the events can be read", errors[:20], events=refused)
        verdicts = iter(await self._service.append(accepted_events) if accepted_events else [])
        answers = [_rejected(event) if isinstance(event, str) else next(verdicts) for event in decoded]
        self._count(answers)
        return json_answer(EventsAnswer(answers), 202)

    async def _answer(self, request: Request, ask: Ask) -> Response:
        trace(request).user = ask.user
        answer = await self._service.recommend(ask)
        self._meters.recommend.observe(answer.took_ms / 1000)
        if answer.fallback is not None:
            self._meters.fallbacks.labels(answer.fallback).inc()
        return json_answer(answer)

    async def _body(self, request: Request, decoder: msgspec.json.Decoder[T]) -> T:
        reading.require_json(request)
        body = await reading.read_body(request, self._overload)
        return reading.decode(body, decoder, self._overload.limits.depth)

    def _judged(self, part: bytes, event: wire.Event | str) -> wire.Event | str:
        """The event, or why it is not taken over HTTP."""
        limits = self._overload.limits
        if isinstance(event, str):
            return event
        if reading.is_deep(part, limits.depth):
            return str(reading.deep(limits.depth))
        if event.kind in wire.ORDERS:
            return f"Expected one of {', '.join(TAKEN)}; {event.kind!r} is an instruction, with an operation of its own"
        if event.time is not None and event.time > time.time() + limits.ahead_seconds:
            return f"{_far(limits.ahead_seconds)} - at `$.time`"
        return event

    def _require_near(self, stamp: float | None, path: str) -> None:
        ahead = self._overload.limits.ahead_seconds
        if stamp is not None and stamp > time.time() + ahead:
            raise Refusal(422, f"{_far(ahead)}, at {path}", [FieldError(path, _far(ahead))])

    def _shown(self, body: RewardBody) -> str:
        """The item that stood in a slot of a recent decision."""
        state = self._service.user(body.user) if body.slot >= 0 else None
        for recent in state.recent if state else []:
            if recent.decision == body.decision and body.slot < len(recent.items):
                return recent.items[body.slot]
        says = "expected an item, or a slot of one of the user's recent decisions"
        raise Refusal(422, f"{says}, at $.item", [FieldError("$.item", says)])

    def _count(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            self._meters.events.labels(verdict.status).inc()

    def operations(self) -> list[Operation]:
        """What this part answers."""
        recommend = {
            "ten items": {"user": "u81"},
            "within a page": {"user": "u81", "k": 3, "exclude": ["i7"], "session": "s3", "deadline_ms": 25},
        }
        return [
            Operation(
                "POST",
                "/v1/recommend",
                "recommend",
                "traffic",
                "serve",
                "A slate for a user",
                self.recommend,
                "Always answers within the deadline: where the model cannot, the popular list does and `fallback` says "
                "why. Quote `decision` in the events that follow.",
                body=RecommendBody,
                answer=Answer,
                refusals=(503,),
                examples=recommend,
            ),
            Operation(
                "POST",
                "/v1/rank",
                "rank",
                "traffic",
                "serve",
                "Candidates in order for a user",
                self.rank,
                body=RankBody,
                answer=Answer,
                refusals=(503,),
                examples={"three candidates": {"user": "u81", "candidates": ["i1", "i7", "i9"]}},
            ),
            Operation(
                "POST",
                "/v1/reward",
                "reward",
                "traffic",
                "ingest",
                "What a shown item was worth",
                self.reward,
                "The same as an event that quotes the decision. A decision nobody speaks about closes by itself, with "
                "the rewards for silence that `[sessions]` sets.",
                body=RewardBody,
                answer=Verdict,
                status=202,
                refusals=(503,),
                examples={"by item": {"user": "u81", "decision": -12, "item": "i7", "value": 1.0, "id": "r1"}},
            ),
            Operation(
                "POST",
                "/v1/events",
                "events",
                "traffic",
                "ingest",
                "Events in, a verdict for each out",
                self.events,
                "One event, an array of them, or NDJSON. 202 comes after the broker has them. An `id` makes it safe to "
                "send again: a second event with the same id is a duplicate. `user` is always needed; impression, "
                "click, skip, purchase and rating need `item`. If not one event can be read, the answer is 422.",
                body=[list[wire.Event], wire.Event],
                media=(reading.NDJSON[0],),
                answer=EventsAnswer,
                status=202,
                refusals=(503,),
                examples={
                    "two events": [
                        {"kind": "impression", "user": "u81", "item": "i7", "decision": -12, "slot": 0, "id": "e1"},
                        {"kind": "click", "user": "u81", "item": "i7", "decision": -12, "slot": 0, "id": "e2"},
                    ]
                },
            ),
        ]


def _rejected(reason: str) -> Verdict:
    return Verdict("rejected", "", reason)


def _far(ahead: float) -> str:
    return f"Expected a time at most {ahead:g} seconds ahead of the server's clock"
