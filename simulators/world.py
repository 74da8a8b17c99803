"""Any core as a world of the loop: a source of its users' events and a sink for decisions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from simulators.core import Core, Feedback
from simulators.oracle import fraction, scale
from streamrec.catalog import Catalog
from streamrec.ports import State
from streamrec.records import Decision, Events, Kind
from streamrec.sessions import SessionStore

_WAITING = float("inf")  # next request of a user who has asked and has no answer yet


class SimulatorWorld:
    """Users of a core who ask, react, leave and come back, in event time.

    `poll` hands out the reactions to what was sent, then a request by every user who is due. `send` steps exactly the
    users it names, in any order and number; a decision for somebody who does not wait for one (an answer sent twice)
    changes nothing. Users are called "u0", "u1", ..., items "i1", "i2", ...; an item gets its row, and may be
    recommended, when it arrives. Where lives end (`Core.mortal`), the row of who has left goes to a new user, "u0.1".

    What the core lets everybody know reaches the run: category and features of items in the catalogue, context of
    users and candidates with their requests.

    Args:
        core: the dynamics.
        catalog: where items are registered.
        sessions: where users are registered. It must have room for all of them.
        decisions: requests after which the world ends, once their reactions are handed out; None = never.
        clock: "simulated" goes on to the next thing that happens; a function returns the event time now, seconds since
            the epoch, and `poll` then hands out only what is due.
        tick_s: with the simulated clock, the stretch of event time that one poll covers, seconds.
        start: event time at which the core's time 0 is, seconds since the epoch.

    Raises:
        ValueError: the session store or its slates are too small, or a setting is out of its range.
    """

    def __init__(
        self,
        core: Core,
        catalog: Catalog,
        sessions: SessionStore,
        decisions: int | None = None,
        clock: str | Callable[[], float] = "simulated",
        tick_s: float = 1.0,
        start: float = 1_700_000_000.0,
    ) -> None:
        if sessions.users.capacity < core.users:
            raise ValueError(
                f"{core.users} simulated users do not fit into sessions.users = {sessions.users.capacity}: raise it"
            )
        if sessions.slots != core.slate:
            raise ValueError(f"slates have {sessions.slots} slots in this run but {core.slate} in the simulator")
        if isinstance(clock, str) and clock != "simulated":
            raise ValueError(f'clock must be "simulated" or a function that returns seconds, got {clock!r}')
        if tick_s <= 0:
            raise ValueError(f"tick_s must be above 0, got {tick_s}")
        if catalog.ttl_s is not None:
            raise ValueError("a simulator says itself when its items go: leave catalog.ttl_s out")
        self.core, self.catalog, self.limit = core, catalog, decisions
        self.clock, self.tick_s, self.start = clock, tick_s, start
        self.now = 0.0  # seconds since the start, as all times of the core
        self.asked = 0  # requests handed out
        self.sessions = sessions
        self._reserve()
        self._lives = torch.zeros(core.users, dtype=torch.int64)  # [U] people who were in the row before
        self._gone = torch.zeros(core.users, dtype=torch.bool)  # [U] whose row waits for the next person
        self._rows = sessions.rows([f"u{user}" for user in range(core.users)])  # [U], store row of each user
        self._user = torch.full((sessions.users.capacity,), -1)  # [rows], the user at each store row
        self._user[self._rows] = torch.arange(core.users)
        self._due = core.time.cpu().clone()  # [U] next request, `_WAITING` between request and answer
        self._pending = Events.empty()  # what users did that is not handed out yet
        self._item_row = torch.zeros(core.capacity + 1, dtype=torch.int64)  # catalogue row of each item
        self._item = torch.zeros(catalog.capacity + 1, dtype=torch.int64)  # item at each catalogue row
        self._oldest, self._newest = 1, 0  # items announced and still there
        self._announce()

    def _reserve(self) -> None:
        core, none = self.core, torch.zeros(0, dtype=torch.int64, device=self.core.device)
        if core.features.shape[1]:
            self.catalog.reserve(core.features.shape[1])
        self.sessions.reserve(context=core.context(none).shape[1], offer=core.offered)

    # --- source ------------------------------------------------------------------------------------------------

    def poll(self, timeout_s: float = 0.0) -> Events | None:
        """Reactions first, then requests, in the order of their event time."""
        self._replace_the_gone()
        if self._over():
            return None
        self._advance(timeout_s)
        self._announce()
        ready = self._pending.time <= self.start + self.now
        happened, self._pending = self._pending[ready], self._pending[~ready]
        if self.core.mortal:
            left = happened.only(Kind.LEAVE)
            self._gone[self._user[left.user]] = True
        events = Events.cat([happened, self._requests()])
        # Stable: at the same moment a user is back before he asks.
        return events[torch.argsort(events.time, stable=True)]

    def _replace_the_gone(self) -> None:
        """New people in the rows of those whose leaving was handed out before."""
        users = torch.nonzero(self._gone).squeeze(1)
        if len(users) == 0:
            return
        self._gone[users] = False
        self._lives[users] += 1
        self.core.reset(users)
        self.core.time[users.to(self.core.device)] += self.now
        names = [f"u{user}.{life}" for user, life in zip(users.tolist(), self._lives[users].tolist(), strict=True)]
        self.sessions.rename(self._rows[users], names)
        self._due[users] = self.core.time.cpu()[users]

    def _over(self) -> bool:
        if self.limit is None or self.asked < self.limit or len(self._pending):
            return False
        return not bool(torch.isinf(self._due).any())

    def _advance(self, timeout_s: float) -> None:
        if isinstance(self.clock, str):
            following = self._next()
            if self.now < following < _WAITING:
                self.now = following + self.tick_s
            return
        patience = time.monotonic() + timeout_s
        self.now = max(self.now, self.clock() - self.start)
        while self._next() > self.now and time.monotonic() < patience:
            time.sleep(0.002)
            self.now = max(self.now, self.clock() - self.start)

    def _next(self) -> float:
        """When the next thing happens, seconds since the start; `_WAITING` = only an answer can make it happen."""
        asking = float(self._due.min()) if self.limit is None or self.asked < self.limit else _WAITING
        reacting = float(self._pending.time.min()) - self.start if len(self._pending) else _WAITING
        return min(asking, reacting)

    def _requests(self) -> Events:
        users = torch.nonzero(self._due <= self.now).squeeze(1)
        if self.limit is not None:
            first = torch.argsort(self._due[users], stable=True)[: max(0, self.limit - self.asked)]
            users = users[first]
        when = self._due[users] + self.start
        self._due[users] = _WAITING
        self.asked += len(users)
        context, offer = self._said(users)
        return Events.of(self._rows[users], Kind.REQUEST, when, context=context, offer=offer)

    def _said(self, users: Tensor) -> tuple[Tensor, Tensor | None]:
        """Context [n, G] and candidates [n, C] that come with the requests of `users`."""
        asking = users.to(self.core.device)
        context = self.core.context(asking).to("cpu")
        if not self.core.offered:
            return context, None
        return context, self._item_row[self.core.sample(asking, self.core.offered).to("cpu")]

    def _announce(self) -> None:
        """Give rows to the items that have arrived, take out those that are gone."""
        ends = self.core.alive(torch.tensor([self.now], dtype=torch.float64, device=self.core.device))
        oldest, newest = (int(end) for end in ends)
        if newest > self._newest:
            numbers = torch.arange(self._newest + 1, newest + 1)
            rows = self.catalog.rows([self._name(number) for number in numbers.tolist()])
            self._item_row[numbers], self._item[rows] = rows, numbers
            self._item[0] = 0
            self._describe(rows, numbers)
            self.catalog.see(rows)
        # Every time: somebody who clicks on an item that is gone would otherwise bring it back.
        self.catalog.retire(self._item_row[1:oldest])
        self._oldest, self._newest = oldest, newest

    def _name(self, number: int) -> str:
        """The id of an item: its name in the log, where the world was made from one."""
        names = getattr(self.core, "names", None)
        return f"i{number}" if names is None else str(names[number - 1])

    def _describe(self, rows: Tensor, numbers: Tensor) -> None:
        known, at = rows > 0, numbers.to(self.core.device)
        features = self.core.features[at][known.to(at.device)] if self.core.features.shape[1] else None
        born = torch.full((int(known.sum()),), self.start + self.now, dtype=torch.float64)
        self.catalog.describe(rows[known], self.core.category[at][known.to(at.device)], features, born)

    # --- sink --------------------------------------------------------------------------------------------------

    def send(self, wanted: Decision, asked: Events) -> Decision:
        """Show the slates and let their users react. Returns `wanted`: in a simulator we show what we want."""
        users = self._user[wanted.user]
        waits = (users >= 0) & torch.isinf(self._due[users.clamp_min(0)])
        if bool(waits.any()):
            self._show(users[waits], wanted[waits])
        return wanted

    def _show(self, users: Tensor, shown: Decision) -> None:
        slates = self._item[shown.slate]
        at = self._appears(users)
        feedback = self.core.step(users, slates, None if isinstance(self.clock, str) else at).to("cpu")
        self._due[users] = self.core.time.cpu()[users]
        if self.core.mortal:
            self._due[users[feedback.leave]] = _WAITING
        self._pending = Events.cat([self._pending, *self._reactions(users, shown, feedback, at + self.start)])

    def _appears(self, users: Tensor) -> Tensor:
        """When the slates of `users` appear, [n] float64: at the request, or now where answering took its time."""
        at = self.core.time.cpu()[users]
        return at if isinstance(self.clock, str) else at.clamp_min(self.clock() - self.start)

    def _reactions(self, users: Tensor, shown: Decision, feedback: Feedback, at: Tensor) -> list[Events]:
        acted = (feedback.kinds != int(Kind.NONE)) & (feedback.kinds != int(Kind.IMPRESSION))
        row, slot = torch.nonzero(acted, as_tuple=True)
        acts = Events.of(
            shown.user[row],
            feedback.kinds[row, slot],
            at[row] + feedback.delay[row, slot],
            item=shown.slate[row, slot],
            value=feedback.value[row, slot],
            decision=shown.id[row],
            slot=slot,
        )
        gone = feedback.leave
        leaves = Events.of(shown.user[gone], Kind.LEAVE, (at + feedback.think)[gone], decision=shown.id[gone])
        if self.core.mortal:
            return [acts, leaves]
        # The very moment of the next request, to the bit, so that the two keep their order.
        return [acts, leaves, Events.of(shown.user[gone], Kind.RETURN, self._due[users[gone]] + self.start)]

    def flush(self) -> None:
        """Nothing is on its way: `send` has done everything when it returns."""

    def commit(self, position: State) -> None:
        """Nobody else keeps track of where we are."""

    def close(self) -> None:
        """Nothing is held open."""

    # --- state -------------------------------------------------------------------------------------------------

    def position(self) -> State:
        """The whole state: users, what they did that is not handed out, and the clock."""
        return {
            "core": self.core.state_dict(),
            "pending": {name: column.clone() for name, column in self._pending.columns()},
            "due": self._due.clone(),
            "now": torch.tensor(self.now, dtype=torch.float64),
            "asked": self.asked,
            "rows": self._rows.clone(),
            "item_row": self._item_row.clone(),
            "alive": [self._oldest, self._newest],
            "lives": self._lives.clone(),
            "gone": self._gone.clone(),
        }

    def seek(self, position: State) -> None:
        """Go on at a `position()` of a world with the same settings; catalogue and sessions are restored apart."""
        self.core.load_state_dict(position["core"])
        self._pending = Events(**{name: column.clone() for name, column in position["pending"].items()})
        self._due, self.now = position["due"].clone(), float(position["now"])
        self.asked = position["asked"]
        self._rows, self._item_row = position["rows"].clone(), position["item_row"].clone()
        self._user.fill_(-1)
        self._user[self._rows] = torch.arange(len(self._rows))
        self._item.zero_()
        self._item[self._item_row] = torch.arange(len(self._item_row))
        self._item[0] = 0
        self._oldest, self._newest = position["alive"]
        self._lives, self._gone = position["lives"].clone(), position["gone"].clone()

    def ideal(self, rows: Tensor, foresight: float = 0.0) -> Tensor:
        """What a policy that sees everything would show the users at store `rows` [n] now: [n, K] catalogue rows."""
        users = self._user[rows.cpu()].to(self.core.device)
        return self._item_row[self.core.best(users, foresight).cpu()]

    # --- more --------------------------------------------------------------------------------------------------

    def shift(self) -> None:
        """Change tastes now."""
        self.core.shift()

    def scale(self, policies: Mapping[str, Any] | None = None, users: int = 256, horizon: int = 50) -> dict[str, Any]:
        """Random, myopic and oracle in this setting (`simulators.oracle.scale`), and where `policies` stand between.

        Measured on other people of the same world; takes some seconds.

        Args:
            policies: name -> {"reward": mean reward per decision, ...}, as the reward meter gives them.
            users: people to measure on.
            horizon: decisions each.
        """

        def make(seed: int) -> Core:
            core = self.core.like(users=users)
            core.reset(torch.arange(users), torch.arange(users) + (seed + 1) * 1_000_000_007)
            return core

        ends = scale(make, horizon)
        scores = {name: figures["reward"] for name, figures in (policies or {}).items()}
        ends["fractions"] = {name: fraction(score, ends["random"], ends["oracle"]) for name, score in scores.items()}
        return ends
