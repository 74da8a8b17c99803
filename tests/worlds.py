"""Small deterministic worlds and agents for tests of the core."""

from __future__ import annotations

import torch

from streamrec.catalog import Catalog
from streamrec.ports import State
from streamrec.records import Decision, Events, History, Kind, Transition
from streamrec.sessions import SessionStore


class EchoWorld:
    """Users with hidden favourites who ask, click what they like of the slate, skip the first thing they dislike.

    Every poll: reactions to what was shown, then a request by everybody. All randomness is in the state.
    """

    def __init__(
        self, catalog: Catalog, sessions: SessionStore, users: int = 16, items: int = 30, seed: int = 0
    ) -> None:
        self.rows = sessions.rows([f"u{i}" for i in range(users)])
        self.items = catalog.rows([f"i{i}" for i in range(items)])
        catalog.see(self.items)
        self.generator = torch.Generator().manual_seed(seed)
        likes = torch.Generator().manual_seed(7)
        self.liked = torch.rand(users, catalog.capacity + 1, generator=likes) < 0.3
        self.clock = 1_000_000.0
        self.waiting: Decision | None = None
        self.index = torch.zeros(sessions.users.capacity, dtype=torch.int64)
        self.index[self.rows] = torch.arange(users)

    def poll(self, timeout_s: float = 0.0) -> Events | None:
        self.clock += 10.0
        parts = []
        if self.waiting is not None:
            parts.append(self._reactions(self.waiting))
        asking = torch.rand(len(self.rows), generator=self.generator) < 0.8
        rows = self.rows[asking]
        parts.append(Events.of(rows, Kind.REQUEST, torch.full((len(rows),), self.clock)))
        return Events.cat(parts)

    def _reactions(self, shown: Decision) -> Events:
        liked = self.liked[self.index[shown.user].unsqueeze(1), shown.slate] & (shown.slate > 0)
        seen = torch.rand(liked.shape, generator=self.generator) < 0.7
        kinds = torch.where(liked, int(Kind.CLICK), int(Kind.SKIP)) * seen
        row, slot = torch.nonzero(kinds, as_tuple=True)
        return Events.of(
            shown.user[row],
            kinds[row, slot],
            self.clock - 5 + 0.1 * slot,
            item=shown.slate[row, slot],
            decision=shown.id[row],
            slot=slot,
        )

    def send(self, wanted: Decision, asked: Events) -> Decision:
        self.waiting = wanted if self.waiting is None or not self._same_poll() else Decision.cat([self.waiting, wanted])
        self._sent_at = self.clock
        return wanted

    def _same_poll(self) -> bool:
        return self._sent_at == self.clock

    _sent_at = 0.0

    def position(self) -> State:
        waiting = None if self.waiting is None else {name: column.clone() for name, column in self.waiting.columns()}
        return {"clock": self.clock, "random": self.generator.get_state(), "waiting": waiting, "sent_at": self._sent_at}

    def seek(self, position: State) -> None:
        self.clock, self._sent_at = position["clock"], position["sent_at"]
        self.generator.set_state(position["random"])
        self.waiting = None if position["waiting"] is None else Decision(**position["waiting"])

    def flush(self) -> None: ...

    def commit(self, position: State) -> None: ...

    def close(self) -> None: ...


class Counter:
    """Shows what was clicked most, and learns at every update with some noise: enough to notice a lost bit."""

    def __init__(self, catalog: Catalog, slate: int, seed: int = 0) -> None:
        self.catalog, self.slate = catalog, slate
        self.scores = torch.zeros(catalog.capacity + 1)
        self.fresh = torch.zeros(catalog.capacity + 1)
        self.generator = torch.Generator().manual_seed(seed)

    def act(self, history: History) -> Decision:
        noise = torch.rand(len(history), self.catalog.size, generator=self.generator)
        scores = self.scores[: self.catalog.size] + noise
        scores = scores.masked_fill(~self.catalog.available[: self.catalog.size], -torch.inf)
        return Decision.of(history.user, scores.topk(self.slate).indices)

    def observe(self, transition: Transition) -> None:
        self.fresh.index_add_(0, transition.shown.slate.flatten(), transition.rewards.flatten())

    def update(self) -> dict[str, float]:
        self.scores = 0.9 * self.scores + 0.1 * self.fresh + 0.01 * torch.rand(1, generator=self.generator)
        self.fresh = torch.zeros_like(self.fresh)
        return {"total": float(self.scores.sum())}

    def state_dict(self) -> State:
        return {"scores": self.scores, "fresh": self.fresh, "random": self.generator.get_state()}

    def load_state_dict(self, state: State) -> None:
        self.scores, self.fresh = state["scores"].clone(), state["fresh"].clone()
        self.generator.set_state(state["random"])
