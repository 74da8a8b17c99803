"""The loop, the only one: simulator training, live consumption and replay differ in the world they are given."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from streamrec.catalog import Catalog
from streamrec.expiry import check, renew
from streamrec.parallel import Learners
from streamrec.ports import Agent, Meter, State, World
from streamrec.records import Events, Kind, Transition
from streamrec.sessions import SessionStore


class Loop:
    """Polls the world, keeps the sessions, lets the agent decide and learn.

    Order within a wave: reactions meet their decisions, meters see what closed, the agent observes it, then whoever
    asked gets a decision. Predict, score, then learn: never the reverse.

    Args:
        world: source of events and sink of decisions.
        sessions: per-user state.
        catalog: items.
        agent: who decides and learns.
        meters: who measures, by name.
        update_every: closed decisions per learning step.
        decisions: stop once this many decisions have closed; None = when the world is over.
        device: records move there after `poll` and back before `send`.
        clock: wall clock, seconds since the epoch; only for `event_to_weights_ms`.
        learners: this process among several that learn one model, see `streamrec.parallel`; None = it is alone.
        update_s: wall seconds after which a learning step is taken for fewer decisions than `update_every`, so that a
            quiet stream is learned too; 0 = never, and the same stream always gives the same weights.

    Raises:
        ValueError: a setting out of its range, or items expire and the agent cannot let go of them.
    """

    def __init__(
        self,
        world: World,
        sessions: SessionStore,
        catalog: Catalog,
        agent: Agent,
        meters: dict[str, Meter] | None = None,
        update_every: int = 512,
        decisions: int | None = None,
        device: torch.device | str = "cpu",
        clock: Callable[[], float] = time.time,
        learners: Learners | None = None,
        update_s: float = 0.0,
    ) -> None:
        if update_every < 1:
            raise ValueError(f"run.update_every must be at least 1, got {update_every}")
        check(catalog, agent)
        self.world, self.sessions, self.catalog, self.agent = world, sessions, catalog, agent
        self.meters = meters or {}
        self.update_every, self.limit = update_every, decisions
        self.device, self.clock, self.learners = torch.device(device), clock, learners
        self.update_s, self._updated = update_s, clock()
        self.counts = {"polls": 0, "events": 0, "requests": 0, "decisions": 0, "updates": 0}
        self.pending = 0  # closed decisions since the last update
        self.learning: dict[str, float] = {}  # what the last update of each policy said
        self.delays_s: deque[float] = deque(maxlen=20_000)  # event sent -> weights that know it, newest last
        self.newest_sent = 0.0  # wall clock when the newest event was sent that the weights know, 0 = none
        self._taken = 0.0  # wall clock when the newest event was sent that was polled, 0 = unknown
        self._unlearned: list[torch.Tensor] = []  # when the events were sent that no update has used yet

    def step(self, timeout_s: float = 0.1) -> bool:
        """One poll and all that follows from it. False: the run is over, nothing was polled or the world ended.

        Among learners, it is over when it is for all of them: until then a stream that has ended is polled on, for it
        may get partitions of another's, and a group must hear from its members.
        """
        if self.learners is None and self.enough:
            return False
        events = self.world.poll(timeout_s)
        ended = events is None
        if events is None:
            if self.learners is None:
                return False
            events = Events.empty()
        self.counts["polls"] += 1
        self.counts["events"] += len(events)
        self._taken = max(self._taken, float(events.sent.max()) if len(events) else 0.0)
        for wave in events.to(self.device).waves():
            self._wave(wave)
        self._learn_from(self.sessions.expire())
        if self.learners is not None:
            return not self._update_together(self.learners, ended)
        if self._due():
            self._update()
        self._expire_items(events)
        return True

    @property
    def enough(self) -> bool:
        """As many decisions have closed as the run shall have."""
        return self.limit is not None and self.counts["decisions"] >= self.limit

    def _expire_items(self, events: Events) -> None:
        """Items that nobody mentions any more lose their rows, and whoever keeps anything about them hears of it."""
        if self.catalog.ttl_s is None or len(events) == 0:
            return
        # The median: one message from a clock that is years ahead must not make everything look old.
        rows = self.catalog.expire(float(events.time.median()))
        if len(rows):
            renew(self.catalog, rows, self.sessions, self.agent)

    def _wave(self, wave: Events) -> None:
        self._learn_from(self.sessions.take(wave))
        self.catalog.see(wave.item)
        asked = wave.only(Kind.REQUEST)
        if len(asked):
            self._decide(asked)

    def _decide(self, asked: Events) -> None:
        self.counts["requests"] += len(asked)
        history = self.sessions.read(asked.user, asked.time)
        wanted = self.agent.act(history)
        wanted.id = self.sessions.number(asked.user)
        shown = self.world.send(wanted.to("cpu"), asked.to("cpu")).to(self.device)
        self.sessions.open(shown, wanted, history, asked)
        self.catalog.see(shown.slate.flatten())

    def _learn_from(self, closed: Transition | None) -> None:
        if closed is None:
            return
        for meter in self.meters.values():
            meter.see(closed)
        self.agent.observe(closed)
        self.counts["decisions"] += len(closed)
        self.pending += len(closed)
        self._unlearned.append(closed.sent[closed.sent > 0])
        while self.learners is None and self.pending >= self.update_every:
            self._update()

    def _update(self) -> None:
        self.pending = max(0, self.pending - self.update_every)
        self._updated = self.clock()
        self.learning |= self.agent.update()
        self.counts["updates"] += 1
        self._note_delays()

    def _update_together(self, learners: Learners, ended: bool) -> bool:
        """As many updates as the busiest learner has due; whoever has none follows the others' steps.

        Returns:
            whether every stream is over.
        """
        due, over = learners.most(self._due(), ended)
        for _ in range(due):
            with learners.round():
                if self._due():
                    self._update()
        return over

    def _due(self) -> int:
        """Updates that decisions, or time, ask for."""
        late = self.update_s and self.pending and self.clock() - self._updated >= self.update_s
        return max(self.pending // self.update_every, int(bool(late)))

    def _note_delays(self) -> None:
        """The weights know now what was closed before this update."""
        now, sent = self.clock(), self._unlearned
        self._unlearned = []
        for part in sent:
            self.delays_s.extend((now - part).tolist())
            self.newest_sent = max(self.newest_sent, float(part.max()) if len(part) else 0.0)

    def read(self) -> dict[str, Any]:
        """Counters and what every meter says, as JSON values."""
        dead = getattr(self.world, "dead_letters", 0)
        return {
            **self.counts,
            **self.sessions.counts,
            "time": self.sessions.watermark if self.counts["events"] else None,
            "items": len(self.catalog),
            **self._lag(),
            "dead_letters": dead,
            "event_to_weights_ms": self._delays(),
            "learning": dict(self.learning),
            "world": getattr(self.world, "figures", dict)(),
            "meters": {name: meter.read() for name, meter in self.meters.items()},
        }

    def _lag(self) -> dict[str, float | None]:
        """Records not taken in yet, and for how long the world has gone on without us."""
        records = getattr(self.world, "lag", None)
        if records is None or not self._taken:
            return {"lag": records, "lag_s": 0.0 if records == 0 else None}
        return {"lag": records, "lag_s": max(0.0, self.clock() - self._taken) if records else 0.0}

    def _delays(self) -> dict[str, float] | None:
        if not self.delays_s:
            return None
        delays = 1000 * torch.tensor(self.delays_s, dtype=torch.float64)
        p50, p95 = torch.quantile(delays, torch.tensor([0.5, 0.95], dtype=torch.float64)).tolist()
        return {"p50": p50, "p95": p95}

    def state_dict(self) -> State:
        """Everything needed to go on as if never stopped: one atomic unit with the position in the stream."""
        self.world.flush()
        return {
            "position": self.world.position(),
            "sessions": self.sessions.state_dict(),
            "catalog": self.catalog.state_dict(),
            "agent": self.agent.state_dict(),
            "meters": {name: meter.state_dict() for name, meter in self.meters.items()},
            "loop": {"counts": dict(self.counts), "pending": self.pending, "learning": dict(self.learning)},
            "random": torch.get_rng_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()` and seek the world to where it was."""
        self.catalog.load_state_dict(state["catalog"])
        self.sessions.load_state_dict(state["sessions"])
        self.agent.load_state_dict(state["agent"])
        for name, meter in self.meters.items():
            meter.load_state_dict(state["meters"][name])
        loop = state["loop"]
        self.counts, self.pending, self.learning = dict(loop["counts"]), loop["pending"], dict(loop["learning"])
        torch.set_rng_state(state["random"])
        self.world.seek(state["position"])


def policy_names(agent: Agent) -> Sequence[str]:
    """Names of the policies an agent consists of; a lone agent is one policy named after its class."""
    names: Sequence[str] | None = getattr(agent, "names", None)
    return names if names is not None else [type(agent).__name__.lower()]
