"""The service's own reading of the log: sessions, items, and what came of the decisions that were shown."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import torch
from torch import Tensor

from consumers import wire
from consumers.kafka import KafkaWorld
from consumers.serving.popular import PopularList
from consumers.serving.timings import Timings
from consumers.serving.types import ItemInfo, RecentDecision, UserItem, UserState
from streamrec.catalog import Catalog
from streamrec.data.logs import answer_from_past
from streamrec.evaluation.reward import Reward
from streamrec.ports import State
from streamrec.records import POSITIVE, Decision, Events, Kind, Transition
from streamrec.sessions import SessionStore

OTHERS = "others"
"""Policy of requests on the topic that say none, or one this service does not know."""


class Shown(msgspec.Struct, array_like=True):
    """One decision on the log that showed something. `reward` is None while it is open."""

    decision: int
    user: str
    time: float
    items: list[str]
    policy: str
    model: str
    reward: float | None = None


class Followed(msgspec.Struct, array_like=True):
    """The decisions of a snapshot."""

    open: dict[int, Shown]  # by number in the session store
    recent: dict[str, list[Shown]]  # by user

    def packed(self) -> Tensor:
        """[bytes] uint8: as JSON, tens of thousands of them would keep the interpreter from who answers meanwhile."""
        return torch.frombuffer(bytearray(msgspec.msgpack.encode(self)), dtype=torch.uint8)

    @classmethod
    def unpacked(cls, saved: Tensor) -> Followed:
        return msgspec.msgpack.decode(saved.numpy().tobytes(), type=cls)


@dataclass
class Closed:
    """Decisions of this service that are over, for whoever watches the models."""

    models: list[str] = field(default_factory=list)
    users: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)  # of the first slot
    decisions: list[int] = field(default_factory=list)  # as the answers gave them

    def of_models(self) -> Closed:
        """Without what the popular list answered."""
        mine = [at for at, model in enumerate(self.models) if model]
        return Closed(**{name: [column[at] for at in mine] for name, column in vars(self).items()})


class Follower:
    """Takes in what is read of the topic, in small slices, on the thread of whoever answers.

    Nothing here writes to the log. A request with a slate opens a decision; reactions close it as they do in a run, so
    rewards are those that the learner sees.

    Args:
        world: the topic, read without a group and without questions before clicks. Its `fetch` belongs to whoever calls
            `step`, between two steps; it may take as long as it likes on another thread.
        sessions, catalog: what `world` was built with.
        policies: names that the meter keeps apart.
        recent: decisions kept per user to look at.
        recent_users: users whose decisions are kept.
        on_closed: told about decisions that are over.
    """

    def __init__(
        self,
        world: KafkaWorld,
        sessions: SessionStore,
        catalog: Catalog,
        policies: Sequence[str],
        recent: int = 10,
        recent_users: int = 5000,
        on_closed: Callable[[Closed], None] = lambda closed: None,
    ) -> None:
        self.world, self.sessions, self.catalog = world, sessions, catalog
        self.policies = list(dict.fromkeys([*policies, OTHERS]))
        self.meter = Reward(self.policies)
        self.popular = PopularList(catalog)
        self.counts: Counter[str] = Counter()
        self.to_state = Timings()
        self.lag: int | None = None  # records on the log that are not taken in; None = not known yet
        self.lag_s = 0.0
        self.changed = 0  # grows when rows of the catalogue mean other items
        self._recent_each, self._recent_users = recent, recent_users
        self._on_closed = on_closed
        self._said: OrderedDict[int, wire.Event] = OrderedDict()  # requests of the slice in hand by decision
        self._open: OrderedDict[int, Shown] = OrderedDict()  # by number in the session store
        self._recent: OrderedDict[str, deque[Shown]] = OrderedDict()
        self._seen = np.zeros(catalog.capacity + 1, dtype=np.int64)
        self._last_seen = np.zeros(catalog.capacity + 1)
        world.on_messages = self._read

    # --- following -----------------------------------------------------------------------------------------------

    def step(self) -> int:
        """Take in the next slice of what was fetched; returns how many events it had.

        Raises:
            BrokerUnavailable: see `KafkaWorld.take`.
        """
        events = self.world.take()
        self.lag = self.world.lag
        if events is None or len(events) == 0:
            self.lag_s = 0.0 if not self.lag else self.lag_s
            return 0
        for wave in events.waves():
            self._wave(wave)
        self._said.clear()
        self._closed(self.sessions.expire())
        self._note_items(events)
        self._expire_items(events)
        self.counts["events"] += len(events)
        now, sent = time.time(), events.sent[events.sent > 0]
        if len(sent):
            self.to_state.note((now - sent).clamp(min=0).tolist())
            self.lag_s = max(0.0, now - float(sent.max()))
        return len(events)

    def _read(self, messages: Sequence[wire.Event]) -> None:
        """The messages behind the events that come next: what they say beside the columns of `Events`."""
        for message in messages:
            if message.kind == "request":
                if message.slate:
                    self._said[message.decision] = message
            elif message.kind == "erase":
                self.forget(message.user)

    def _wave(self, wave: Events) -> None:
        self._closed(self.sessions.take(wave))
        self.catalog.see(wave.item)
        asked = wave.only(Kind.REQUEST)
        self.counts["requests"] += len(asked)
        if asked.shown.shape[1]:
            answered = asked[(asked.shown > 0).any(1)]
            if len(answered):
                self._open_all(answered)

    def _open_all(self, asked: Events) -> None:
        history = self.sessions.read(asked.user, asked.time)
        blank = Decision.of(asked.user, asked.shown)
        blank.id = self.sessions.number(asked.user)
        shown = answer_from_past(blank, asked)
        names = [self._name(ticket) for ticket in asked.decision.tolist()]
        shown.policy = torch.tensor([self.policies.index(name) for name in names])
        self.sessions.open(shown, shown, history, asked)
        self.catalog.see(shown.slate.flatten())
        for at, number in enumerate(shown.id.tolist()):
            self._note_shown(number, self._said.get(int(asked.decision[at])), float(asked.time[at]))

    def _name(self, ticket: int) -> str:
        said = self._said.get(ticket)
        return said.policy if said is not None and said.policy in self.policies else OTHERS

    def _note_shown(self, number: int, said: wire.Event | None, at: float) -> None:
        if said is None:
            return
        shown = Shown(said.decision, said.user, at, list(said.slate), said.policy, said.model)
        self._open[number] = shown
        if len(self._open) > self.sessions.users.capacity:
            self._open.popitem(last=False)
        mine = self._recent.get(said.user)
        if mine is None:
            mine = self._recent[said.user] = deque(maxlen=self._recent_each)
        mine.append(shown)
        self._recent.move_to_end(said.user)
        if len(self._recent) > self._recent_users:
            self._recent.popitem(last=False)

    def _closed(self, transition: Transition | None) -> None:
        if transition is None:
            return
        self.meter.see(transition)
        self.counts["decisions"] += len(transition)
        clicked = transition.shown.slate[transition.clicked() & (transition.shown.slate > 0)]
        self.popular.note(clicked)
        closed = Closed()
        columns = (transition.shown.id, transition.reward, transition.rewards[:, 0], transition.history.key)
        for number, reward, first, key in zip(*(column.tolist() for column in columns), strict=True):
            shown = self._open.pop(number, None)
            if shown is not None:
                shown.reward = reward
                closed.models.append(shown.model)
                closed.users.append(key)
                closed.rewards.append(reward)
                closed.first.append(first)
                closed.decisions.append(shown.decision)
        if closed.models:
            self._on_closed(closed)

    def _note_items(self, events: Events) -> None:
        named = events.item > 0
        rows = events.item[named].numpy()
        np.add.at(self._seen, rows, 1)
        np.maximum.at(self._last_seen, rows, events.time[named].numpy())
        organic = torch.zeros_like(named)
        for kind in POSITIVE:
            organic |= events.kind == int(kind)
        self.popular.note(events.item[organic & named & (events.decision == 0)])

    def _expire_items(self, events: Events) -> None:
        if self.catalog.ttl_s is None:
            return
        rows = self.catalog.expire(float(events.time.median()))
        if len(rows):
            self.sessions.recycle(rows)
            self.popular.forget(rows)
            self._seen[rows.numpy()], self._last_seen[rows.numpy()] = 0, 0.0
            self.changed += 1

    # --- looking -------------------------------------------------------------------------------------------------

    def user(self, user: str) -> UserState | None:
        """What is held of a user; None = nothing."""
        row = self.sessions.find(user)
        if row is None:
            return None
        rows = torch.tensor([row])
        last = float(self.sessions.heard(rows)[0])
        one = self.sessions.read(rows, torch.tensor([last], dtype=torch.float64))
        items = self._acts(one.items[0], [_KINDS[kind] for kind in one.kinds[0].tolist()], one.times[0])
        skips = self._acts(one.skipped[0], ["skip"] * one.skipped.shape[1], one.skip_times[0])
        recent = [
            RecentDecision(s.decision, s.time, s.items, s.policy, s.reward)
            for s in reversed(self._recent.get(user, ()))
        ]
        return UserState(user, items, skips, int(one.in_session[0]), last, recent)

    def _acts(self, rows: Tensor, kinds: list[str], times: Tensor) -> list[UserItem]:
        ids = self.catalog.ids
        acts = zip(rows.tolist(), kinds, times.tolist(), strict=True)
        return [UserItem(ids[row], kind, at) for row, kind, at in acts if row]

    def users(self, query: str, limit: int) -> list[str]:
        """Ids that contain `query`, those heard of last first."""
        ids = self.sessions.users.ids
        last = self.sessions.heard(torch.arange(len(ids)))
        found: list[str] = []
        for row in torch.argsort(last, descending=True).tolist():
            name = ids[row]
            if name and query in name:
                found.append(name)
                if len(found) == limit:
                    break
        return found

    def items(self, query: str, limit: int) -> list[ItemInfo]:
        """Items whose id or category contains `query`, those seen most often first."""
        size, found = self.catalog.size, []
        names, numbers = self.catalog.categories, self.catalog.category
        for row in np.argsort(-self._seen[:size], kind="stable").tolist():
            name = self.catalog.ids[row]
            if name and (query in name or query in _named(names, int(numbers[row]))):
                found.append(self._item(name, row))
                if len(found) == limit:
                    break
        return found

    def _item(self, name: str, row: int) -> ItemInfo:
        catalog = self.catalog
        category = _named(catalog.categories, int(catalog.category[row]))
        available, retired = bool(catalog.available[row]), bool(catalog.withdrawn[row])
        return ItemInfo(name, category, available, retired, int(self._seen[row]), float(self._last_seen[row]))

    def forget(self, user: str) -> None:
        """Drop what is kept of a user beside the sessions."""
        for shown in self._recent.pop(user, ()):
            shown.user = ""
        for shown in self._open.values():
            if shown.user == user:
                shown.user = ""

    # --- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        size = self.catalog.size
        return {
            "position": self.world.position(),
            "sessions": self.sessions.state_dict(),
            "catalog": self.catalog.state_dict(),
            "meter": self.meter.state_dict(),
            "popular": self.popular.state_dict(),
            "follower": {
                "policies": self.policies,
                "counts": dict(self.counts),
                "seen": torch.from_numpy(self._seen[:size].copy()),
                "last_seen": torch.from_numpy(self._last_seen[:size].copy()),
                "shown": Followed(self._open, {user: list(mine) for user, mine in self._recent.items()}).packed(),
            },
        }

    def load_state_dict(self, state: State) -> None:
        self.catalog.load_state_dict(state["catalog"])
        self.sessions.load_state_dict(state["sessions"])
        self.popular.load_state_dict(state["popular"])
        mine = state["follower"]
        if mine["policies"] == self.policies:  # else the spec names others now, and the meter begins anew
            self.meter.load_state_dict(state["meter"])
        self.counts = Counter(mine["counts"])
        self._seen[: len(mine["seen"])] = mine["seen"].numpy()
        self._last_seen[: len(mine["last_seen"])] = mine["last_seen"].numpy()
        followed = Followed.unpacked(mine["shown"])
        self._open = OrderedDict(followed.open)
        by_decision = {shown.decision: shown for shown in self._open.values()}
        for user, shown_to in followed.recent.items():
            self._recent[user] = deque((by_decision.get(s.decision, s) for s in shown_to), self._recent_each)
        self.changed += 1
        self.world.seek(state["position"])


_KINDS = {int(kind): kind.name.lower() for kind in Kind}


def _named(names: list[str], number: int) -> str:
    """A category's name; worlds that number theirs give none."""
    return names[number] if number < len(names) else str(number)
