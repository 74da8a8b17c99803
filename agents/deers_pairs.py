"""Which shown items compete: same category, other feedback, same visit, closest in time (DEERS's three rules)."""

from __future__ import annotations

import torch
from torch import Tensor

from streamrec.catalog import Catalog
from streamrec.memory import Replay
from streamrec.ports import State
from streamrec.records import POSITIVE, Kind, Transition, rank_within

_ACTS = (*POSITIVE, Kind.SKIP)
"""Feedback that can be compared; silence says nothing."""


class Competitors:
    """The competitor of every slot in a replay memory, found as feedback comes in (Zhao et al., KDD 2018, section 3.4).

    The competitor of an item has (1) the same category, (2) another kind of feedback, and (3) is of those shown in
    the same visit the closest in time, before or after. It may come later, so every new transition is compared with the
    newest ones of its user: it looks for its own competitor among them, and becomes theirs where it is closer than
    what they have. At the end of a visit everything is as if it had been looked up then.

    Visits end where the world says so, after a pause, and where the count of positives in the session starts anew.

    Args:
        replay: where the transitions are; `note` comes after its `add`.
        catalog: categories; items without one do not compete.
        window: decisions of a user that are compared, at most.
        gap_s: pause that ends a visit, seconds.
    """

    def __init__(self, replay: Replay, catalog: Catalog, window: int, gap_s: float) -> None:
        self.replay, self.catalog, self.window, self.gap_s = replay, catalog, window, gap_s
        self.device = replay.device
        self.recent = torch.full((0, window), -1, device=self.device)  # [users, W] numbers, newest last, -1 = none
        self._table: tuple[Tensor, Tensor, Tensor] | None = None

    def of(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Competitors of the slots of the transitions `numbers` [B]: items [B, K], 0 = none, and their rewards."""
        item, reward, _ = self._tables()
        rows = numbers % self.replay.size
        return item[rows], reward[rows]

    def _tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """Per row of the memory and slot: competitor, its reward, and how far away it is, seconds."""
        if self._table is None:
            assert self.replay.ring is not None
            shape, at = self.replay.ring.rewards.shape, self.device
            item, reward = torch.zeros(shape, dtype=torch.int64, device=at), torch.zeros(shape, device=at)
            self._table = (item, reward, torch.full(shape, torch.inf, dtype=torch.float64, device=at))
        return self._table

    def note(self, transition: Transition) -> None:
        """Take in transitions that were just added to the memory, [n]."""
        n = len(transition)
        if n == 0:
            return
        numbers = self.replay.added - n + torch.arange(n, device=self.device)
        kept = self.replay.holds(numbers)
        user, numbers = transition.history.user[kept], numbers[kept]
        self._reserve(int(user.max()) + 1)
        rank = rank_within(user)
        for at in range(int(rank.max()) + 1):  # once, unless somebody is there twice
            self._take(user[rank == at], numbers[rank == at])

    def _take(self, user: Tensor, numbers: Tensor) -> None:
        self._cut(user, numbers)
        self.recent[user] = torch.cat([self.recent[user, 1:], numbers.unsqueeze(1)], dim=1)
        rows = numbers % self.replay.size
        for table, nothing in zip(self._tables(), (0, 0.0, torch.inf), strict=True):
            table[rows] = nothing
        self._pair(self.recent[user])

    def _cut(self, user: Tensor, numbers: Tensor) -> None:
        """Forget what belongs to earlier visits."""
        ring = self.replay.ring
        assert ring is not None
        last = self.recent[user, -1]
        before, now = last % self.replay.size, numbers % self.replay.size
        goes_on = self.replay.holds(last) & ~ring.done[before] & (ring.history.key[before] == ring.history.key[now])
        goes_on &= ring.history.time[now] - ring.history.time[before] <= self.gap_s
        goes_on &= ring.history.in_session[now] >= ring.history.in_session[before]
        self.recent[user[~goes_on]] = -1

    def _pair(self, window: Tensor) -> None:
        """Compare the newest transition of each row of `window` [n, W] with the others and with itself."""
        ring, (n, w) = self.replay.ring, window.shape
        assert ring is not None
        rows = window % self.replay.size
        items, kinds = ring.shown.slate[rows], ring.feedback[rows]  # [n, W, K]
        k = items.shape[2]
        category = self.catalog.category.to(self.device)[items]
        time = ring.history.time[rows]
        distance = (time - time[:, -1:]).abs().unsqueeze(2).expand(n, w, k)
        counts = _acts(kinds) & (category > 0) & self.replay.holds(window).unsqueeze(2)
        # [n, K, W, K]: slots of the newest transition against all slots of the window.
        match = (category[:, -1, :, None, None] == category.unsqueeze(1)) & counts.unsqueeze(1)
        match &= counts[:, -1, :, None, None] & (kinds[:, -1, :, None, None] != kinds.unsqueeze(1))
        match &= items[:, -1, :, None, None] != items.unsqueeze(1)
        self._write_newest(rows, items, distance, match)
        self._write_older(rows, items, distance, match)

    def _write_newest(self, rows: Tensor, items: Tensor, distance: Tensor, match: Tensor) -> None:
        """The closest match of each new slot."""
        ring = self.replay.ring
        assert ring is not None
        far = distance.unsqueeze(1).where(match, torch.inf).flatten(2)  # [n, K, W * K]
        # The last of the closest: the neighbouring decision where times are equal.
        nearest, place = far.flip(2).min(2)
        place = far.shape[2] - 1 - place
        item = items.flatten(1).gather(1, place)
        reward = ring.rewards[rows].flatten(1).gather(1, place)
        self._write(rows[:, -1], item.where(nearest < torch.inf, 0), reward.where(nearest < torch.inf, 0.0), nearest)

    def _write_older(self, rows: Tensor, items: Tensor, distance: Tensor, match: Tensor) -> None:
        """The new slots become the competitors of older ones which they are closer to."""
        ring, (item, reward, away) = self.replay.ring, self._tables()
        assert ring is not None
        closer = match.any(1)[:, :-1] & (distance[:, :-1] < away[rows[:, :-1]])  # [n, W - 1, K]
        slot = match[:, :, :-1].int().argmax(1)
        row, place, of = torch.nonzero(closer, as_tuple=True)
        mine = slot[row, place, of]
        at = rows[row, place]
        item[at, of], reward[at, of] = items[row, -1, mine], ring.rewards[rows[row, -1], mine]
        away[at, of] = distance[row, place, of]

    def _write(self, rows: Tensor, *values: Tensor) -> None:
        for table, value in zip(self._tables(), values, strict=True):
            table[rows] = value

    def _reserve(self, users: int) -> None:
        """Make room for `users` store rows, doubling: bounded by the users the session store may hold."""
        missing = users - len(self.recent)
        if missing > 0:
            more = self.recent.new_full((max(missing, len(self.recent)), self.window), -1)
            self.recent = torch.cat([self.recent, more])

    def state_dict(self) -> State:
        """What was found, as copies."""
        if self._table is None:
            return {"recent": self.recent.clone()}
        names = ("item", "reward", "distance")
        used = len(self.replay)
        tables = {name: table[:used].clone() for name, table in zip(names, self._table, strict=True)}
        return {"recent": self.recent.clone(), **tables}

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()`, after the replay memory has.

        Raises:
            ValueError: if it was saved with another window.
        """
        if state["recent"].shape[1] != self.window:
            raise ValueError(f"competitors were saved with window={state['recent'].shape[1]}, here it is {self.window}")
        self.recent = state["recent"].to(self.device, copy=True)
        self._table = None
        if "item" in state:
            for table, name in zip(self._tables(), ("item", "reward", "distance"), strict=True):
                table[: len(state[name])] = state[name].to(self.device)


def _acts(kinds: Tensor) -> Tensor:
    """Which feedback can be compared, of any shape."""
    mask = torch.zeros_like(kinds, dtype=torch.bool)
    for kind in _ACTS:
        mask |= kinds == int(kind)
    return mask
