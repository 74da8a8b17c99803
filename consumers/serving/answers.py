"""Answering requests: together, in time, and always something."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from consumers import wire
from consumers.serving.beside import Beside
from consumers.serving.explain import explain
from consumers.serving.follower import Closed, Follower
from consumers.serving.model import ServedModel
from consumers.serving.timings import Timings
from consumers.serving.types import Answer, Ask, BadAsk, Fallback, Scored
from streamrec.mixing import keys_of
from streamrec.records import Decision, History

log = logging.getLogger(__name__)

POPULAR = "popular"
"""Policy of the answers no model gave."""

NOTHING = torch.zeros(0, dtype=torch.int64)
"""Rows that a request hides when it names none."""

GATHER = 1.0
"""How many times as long as a group took is waited before the next: half of the thread is for the rest."""

GATHER_S = 0.012
"""Wall seconds that are waited at most."""

ON_THEIR_WAY_S = 0.001
"""Wall seconds in which answers get to their sockets before the shadow is asked."""


class Overloaded(RuntimeError):
    """More requests wait than are allowed to: try again in a moment."""


@dataclass
class _Waiting:
    ask: Ask
    answer: asyncio.Future[Answer]
    arrived: float  # monotonic
    row: int = 0  # of the user
    among: Tensor | None = None  # [C] rows, where the request brings candidates
    without: Tensor | None = None  # [E] rows


@dataclass
class _Given:
    """A group of answers, for the shadow."""

    history: History
    shown: Decision
    without: Tensor | None
    numbers: list[int]  # of the decisions, 0 = nothing was shown
    changed: int  # of the follower: what rows mean


class Answers:
    """Collects what is asked while a group is answered and for a moment after it, and answers that next.

    Args:
        model: the one that serves now; None = there is none.
        shadow: one that answers beside it and shows nothing; None = there is none.
        follower: sessions and items.
        slots: K of the model, the longest list.
        post: appends the record of an answer to the log.
        failed: told the version and the reason when a model fails.
        batch, waiting, remembered: see `ServeSettings`.
    """

    def __init__(
        self,
        model: Callable[[], ServedModel | None],
        shadow: Callable[[], ServedModel | None],
        follower: Follower,
        slots: int,
        post: Callable[[wire.Event], None],
        failed: Callable[[str, str], None],
        batch: int = 64,
        waiting: int = 2000,
        remembered: int = 100_000,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.fallbacks: Counter[str] = Counter()
        self.took = Timings()
        self.beside = Beside()
        self._model, self._shadow, self._follower = model, shadow, follower
        self._slots, self._post, self._failed = slots, post, failed
        self._batch, self._most, self._remembered = batch, waiting, min(remembered, 10_000)
        self._queue: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._given: OrderedDict[tuple[str, str], Answer] = OrderedDict()  # by user and id of the request
        self._coming: dict[tuple[str, str], asyncio.Future[Answer]] = {}
        self._given_now: list[_Given] = []  # answers that the shadow has not seen yet
        self._closing = False
        self._cost = 0.0  # wall seconds that a model takes for a group, smoothed

    async def ask(self, ask: Ask) -> Answer:
        """An answer, from the model or the popular list. A repeated id gets the answer it got before.

        Raises:
            BadAsk: no model could answer this.
            Overloaded: too many wait, or the service ends.
        """
        self._check(ask)
        name = (ask.user, ask.id)
        if name in self._given:
            return self._given[name]
        if name in self._coming:
            return await asyncio.shield(self._coming[name])
        if self._closing or len(self._queue) >= self._most:
            raise Overloaded("the service ends" if self._closing else f"{len(self._queue)} requests wait already")
        waiting = _Waiting(ask, asyncio.get_running_loop().create_future(), time.monotonic())
        self._queue.append(waiting)
        self._wake.set()
        if not ask.id:
            return await waiting.answer
        self._coming[name] = waiting.answer
        return await asyncio.shield(waiting.answer)

    def _check(self, ask: Ask) -> None:
        if not 1 <= ask.k <= self._slots:
            raise BadAsk("k", f"Expected 1 to {self._slots} slots, which the model has (run.slate), got {ask.k}")
        if not ask.user:
            raise BadAsk("user", "Expected the id of a user, got an empty text")
        if not ask.deadline_ms > 0:
            raise BadAsk("deadline_ms", f"Expected more than 0, got {ask.deadline_ms}")
        wide = self._follower.sessions.context_width
        if ask.context and len(ask.context) != wide:
            raise BadAsk("context", f"Expected {wide} numbers as in world.context, got {len(ask.context)}")

    async def run(self) -> None:
        """Answer until `drain`."""
        while not (self._closing and not self._queue):
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
            self._answer([self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))])
            if self._given_now:
                await asyncio.sleep(ON_THEIR_WAY_S)
                self._compare()
            # What arrives on the sockets meanwhile makes the next group, which costs less than its requests one by one.
            await asyncio.sleep(min(GATHER_S, GATHER * self._cost))

    def close(self, closed: Closed) -> None:
        """Tell the shadow of decisions that are over, which it has to have seen before: a click may be quick."""
        self._compare()
        self.beside.close(closed)

    def drain(self) -> None:
        """Take no more; `run` ends when everybody has an answer."""
        self._closing = True
        self._wake.set()

    # --- one batch -----------------------------------------------------------------------------------------------

    def _answer(self, batch: list[_Waiting]) -> None:
        batch = [one for one in batch if not one.answer.done()]
        if not batch:
            return
        model, now = self._model(), time.monotonic()
        self._look_up(batch)
        late = [one for one in batch if self._too_late(one, now)]
        self._cost *= 0.9 if late else 1.0  # or one slow answer would keep the model from ever being asked again
        self._fall_back(late, "deadline")
        rest = [one for one in batch if not one.answer.done()]
        if model is None:
            self._fall_back(rest, "no_model")
            return
        for group in _groups(rest):
            begun = time.monotonic()
            try:
                self._act(model, group)
                self._cost += 0.1 * (time.monotonic() - begun - self._cost)
            except Exception as error:
                log.exception("model %s failed", model.version)
                self._fall_back(group, "model_failed")
                self._failed(model.version, f"it failed while it answered: {type(error).__name__}: {error}")

    def _too_late(self, one: _Waiting, now: float) -> bool:
        patience = one.ask.deadline_ms / 1000
        return now - one.arrived + min(self._cost, patience / 2) > patience

    def _look_up(self, batch: list[_Waiting]) -> None:
        catalog = self._follower.catalog
        rows = self._follower.sessions.rows([one.ask.user for one in batch]).tolist()
        for one, row in zip(batch, rows, strict=True):
            one.row = row
            one.without = catalog.find(sorted(set(one.ask.exclude))) if one.ask.exclude else NOTHING
            if one.ask.candidates:
                among = torch.tensor(list(dict.fromkeys(catalog.find(one.ask.candidates).tolist())))
                one.among = among[(among > 0) & ~torch.isin(among, one.without)]

    def _history(self, group: list[_Waiting]) -> History:
        rows = torch.tensor([one.row for one in group])
        time_now = torch.full((len(group),), time.time(), dtype=torch.float64)
        sessions = keys_of([one.ask.session for one in group])
        history = self._follower.sessions.preview(rows, time_now, sessions)
        if wide := history.context.shape[1]:
            history.context = torch.tensor([one.ask.context or [0.0] * wide for one in group])
        width = max((len(one.among) for one in group if one.among is not None), default=0)
        offers = any(one.among is not None for one in group)
        history.offer = torch.zeros(len(group), max(width, 1) if offers else 0, dtype=torch.int64)
        for at, one in enumerate(group):
            if one.among is not None:
                history.offer[at, : len(one.among)] = one.among
        return history

    def _act(self, model: ServedModel, group: list[_Waiting]) -> None:
        catalog, history = self._follower.catalog, self._history(group)
        model.sync(catalog.ids, catalog.available)
        without = group[0].without if group[0].among is None else None
        decision = model.act(history, without)
        columns = (decision.slate.tolist(), decision.slot_logp.tolist(), decision.policy.tolist())
        given = _Given(history, decision, without, [], self._follower.changed)
        for at, (one, slate, logp, policy) in enumerate(zip(group, *columns, strict=True)):
            nothing = one.among is not None and not len(one.among)  # to the model that means: no candidates came
            rows = [] if nothing else [row for row in slate[: one.ask.k] if row]
            said = None
            scores: list[float] | None = None
            if one.ask.explain:
                said, scores = explain(model, history[at : at + 1], rows, policy, catalog.ids)
            name, version = model.policies[policy], model.version
            answer = self._settle(one, rows, logp[: len(rows)], name, version, None, said, scores)
            given.numbers.append(answer.decision if rows else 0)
        if self._shadow() is not None:
            self._given_now.append(given)

    def _compare(self) -> None:
        """Let the shadow answer what was answered just now, and note how likely it is to put the same item first."""
        shadow, catalog = self._shadow(), self._follower.catalog
        given, self._given_now = self._given_now, []
        for one in given:
            if shadow is None or one.changed != self._follower.changed:
                continue
            try:
                shadow.sync(catalog.ids, catalog.available)
                chances = self.beside.compare(shadow, one.history, one.shown, one.without)
            except Exception:
                log.exception("shadow model %s failed", shadow.version)
                continue
            first = one.shown.slot_logp[:, 0].tolist()
            for number, logp, chance in zip(one.numbers, first, chances, strict=True):
                if number and chance is not None:
                    self.beside.note(number, logp, chance)

    def _fall_back(self, group: list[_Waiting], why: Fallback) -> None:
        for one in group:
            if not one.answer.done():
                without = one.without if one.without is not None else torch.zeros(0)
                rows = self._follower.popular.top(one.ask.k, one.among, without)
                self.fallbacks[why] += 1
                self._settle(one, rows, [0.0] * len(rows), POPULAR, "", why)

    def _settle(
        self,
        one: _Waiting,
        rows: list[int],
        logp: list[float],
        policy: str,
        version: str,
        fallback: Fallback | None,
        said: dict[str, object] | None = None,
        scores: list[float] | None = None,
    ) -> Answer:
        ids = self._follower.catalog.ids
        items = [ids[row] for row in rows]
        number = -1 - secrets.randbits(52)
        took = time.monotonic() - one.arrived
        probable = [2.718281828459045**value for value in logp]
        slots = [
            Scored(item, p, None if scores is None else scores[at])
            for at, (item, p) in enumerate(zip(items, probable, strict=True))
        ]
        answer = Answer(number, slots, policy, version, fallback, 1000 * took, said)
        self.counts["requests"] += 1
        self.took.note([took])
        if items:
            self._post(_record(one.ask, answer, items, logp, self._could(one)))
        self._keep(one.ask, answer)
        one.answer.set_result(answer)
        return answer

    def _could(self, one: _Waiting) -> list[str]:
        """Of a request that brought candidates, those that could be shown; of others nothing."""
        if one.among is None:
            return []
        catalog = self._follower.catalog
        return [catalog.ids[row] for row in one.among[catalog.available[one.among]].tolist()]

    def _keep(self, ask: Ask, answer: Answer) -> None:
        if ask.id:
            self._coming.pop((ask.user, ask.id), None)
            self._given[ask.user, ask.id] = answer
            if len(self._given) > self._remembered:
                self._given.popitem(last=False)


def _groups(batch: list[_Waiting]) -> list[list[_Waiting]]:
    """Those with candidates together, those without together, those that hide the same items together."""
    groups: dict[object, list[_Waiting]] = {}
    for one in batch:
        without = () if one.without is None else tuple(one.without.tolist())
        groups.setdefault("candidates" if one.among is not None else without, []).append(one)
    return list(groups.values())


def _record(ask: Ask, answer: Answer, items: list[str], logp: list[float], among: list[str]) -> wire.Event:
    """What the log says of an answer. Candidates that do not fit into one message are left out: what was shown must
    be on the log, and is learned from as if everything could have been shown.
    """
    record = wire.Event(
        kind="request",
        user=ask.user,
        time=time.time(),
        session=ask.session,
        decision=answer.decision,
        slate=items,
        slot_logp=[min(value, 0.0) for value in logp],
        policy=answer.policy,
        model=answer.model,
        context=ask.context or (),
        candidates=among or (),
    )
    if len(among) > wire.MAX_CANDIDATES or (among and len(wire.encode(record)) > wire.MAX_BYTES):
        record.candidates = ()
    return record
