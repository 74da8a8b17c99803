"""Replay memory: transitions as ids in a ring; returns over several steps are put together when they are sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Generator, Tensor

from streamrec.ports import State
from streamrec.records import Decision, History, Rows, Transition


@dataclass
class Sample(Rows):
    """Transitions to learn from, each with what followed it for the same user.

    For a transition at step t with m steps in reach, the n-step target of a slot is
    `first.rewards[slot] + later + discount * value(next)`.
    """

    first: Transition
    later: Tensor  # [B] float32, sum over i = 1..m-1 of gamma^i * reward of step t + i, summed over its slots
    discount: Tensor  # [B] float32, gamma^m, 0 where the visit ended
    next: History  # the user after step t + m - 1
    steps: Tensor  # [B] int64, m


class Replay:
    """The newest transitions, overwriting the oldest, sampled uniformly.

    Only ids are kept, never vectors: encoders change while they learn, ids do not. Discounting is per decision, not
    per second. A chain of steps follows one user: it ends after `n_step` steps, at the end of a visit, and where the
    user has no later transition yet; then the value of the state after the last one stands for the rest. Users
    are told apart by store row and key, so a user who lost the row and came back starts a new chain.

    Args:
        size: transitions kept.
        n_step: longest chain.
        gamma: discount per decision.
        reads: windows of `History` to keep; the others come back with width 0. None = all.
        device: where the ring lives.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(
        self,
        size: int = 100_000,
        n_step: int = 1,
        gamma: float = 0.9,
        reads: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if size < 1 or n_step < 1:
            raise ValueError(f"a replay memory needs size >= 1 and n_step >= 1, got size={size}, n_step={n_step}")
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma must be between 0 and 1, got {gamma}")
        unknown = set(reads or ()) - {f.name for f in fields(History)}
        if unknown:
            raise ValueError(f"History has no {sorted(unknown)}; it has {[f.name for f in fields(History)]}")
        self.size, self.n_step, self.gamma, self.reads = size, n_step, gamma, reads
        self.device = torch.device(device)
        self.added = 0  # transitions ever added; number i stands in row i % size
        self.ring: Transition | None = None  # allocated by the first transition, whose widths it takes
        self._successor = torch.full((size,), -1, device=self.device)  # number of the same user's next transition
        self._newest = torch.full((0,), -1, device=self.device)  # number of each store row's newest transition
        self._powers = torch.tensor([gamma**i for i in range(n_step + 1)], device=self.device)

    def __len__(self) -> int:
        return min(self.added, self.size)

    def add(self, transition: Transition) -> None:
        """Append rows, oldest first. The transition is copied.

        Raises:
            ValueError: if its widths are not those of the transitions before.
        """
        n = len(transition)
        if n == 0:
            return
        slim = replace(transition, history=self._slim(transition.history), next=self._slim(transition.next))
        if self.ring is None:
            self.ring = slim.allocate(self.size)
        self._check(slim)
        numbers = self.added + torch.arange(n, device=self.device)
        kept = slice(max(n - self.size, 0), n)
        rows = numbers[kept] % self.size
        self.ring.put(rows, slim[kept])
        self._successor[rows] = -1
        self.added += n
        self._link(transition.history.user, numbers, self.ring.history.key)

    def _check(self, transition: Transition) -> None:
        assert self.ring is not None
        for (name, mine), (_, theirs) in zip(self.ring.columns(), transition.columns(), strict=True):
            if mine.shape[1:] != theirs.shape[1:]:
                raise ValueError(
                    f"the replay memory holds {name} of width {list(mine.shape[1:])}, a transition with "
                    f"{list(theirs.shape[1:])} came: slate and windows must not change during a run"
                )

    def _link(self, user: Tensor, numbers: Tensor, key: Tensor) -> None:
        """Point from each user's transition before to the one just added."""
        self._reserve(int(user.max()) + 1)
        order = torch.argsort(user, stable=True)
        user, numbers = user[order], numbers[order]
        repeated = user[1:] == user[:-1]
        before = self._newest[user]
        before[1:] = torch.where(repeated, numbers[:-1], before[1:])
        there = before >= max(self.added - self.size, 0)
        before, after = before[there], numbers[there]
        same = key[before % self.size] == key[after % self.size]
        self._successor[before[same] % self.size] = after[same]
        last = torch.ones_like(user, dtype=torch.bool)
        last[:-1] = ~repeated
        self._newest[user[last]] = numbers[last]

    def _reserve(self, users: int) -> None:
        """Make room for `users` store rows, doubling: bounded by the users the session store may hold."""
        missing = users - len(self._newest)
        if missing > 0:
            self._newest = torch.cat([self._newest, self._newest.new_full((max(missing, len(self._newest)),), -1)])

    def sample(self, batch: int, generator: Generator) -> Sample:
        """`batch` transitions drawn uniformly with replacement, with their n-step returns.

        Raises:
            ValueError: if nothing was added yet.
        """
        if len(self) == 0:
            raise ValueError("the replay memory is empty; add a transition before sampling")
        oldest = self.added - len(self)
        numbers = torch.randint(oldest, self.added, (batch,), generator=generator, device=generator.device)
        return self.at(numbers.to(self.device))

    def at(self, numbers: Tensor) -> Sample:
        """The transitions with these numbers, which must be among the newest `size`. [B] int64."""
        ring = self.ring
        assert ring is not None
        first = ring[numbers % self.size]
        at, open_end = numbers, ~first.done
        steps = torch.ones_like(numbers)
        later = torch.zeros(len(numbers), device=self.device)
        for i in range(1, self.n_step):
            successor = self._successor[at % self.size]
            open_end = open_end & (successor >= 0)
            at = torch.where(open_end, successor, at)
            later += torch.where(open_end, self._powers[i] * ring.rewards[at % self.size].sum(1), 0.0)
            steps += open_end
            open_end = open_end & ~ring.done[at % self.size]
        rows = at % self.size
        discount = torch.where(ring.done[rows], 0.0, self._powers[steps])
        return Sample(first, later, discount, ring.next[rows], steps)

    def _slim(self, history: History) -> History:
        if self.reads is None:
            return history
        windows = {f.name: getattr(history, f.name) for f in fields(History)}
        unread = {name: x[:, :0] for name, x in windows.items() if x.dim() > 1 and name not in self.reads}
        return replace(history, **unread)

    def state_dict(self) -> State:
        """Everything, as copies: rows in use only."""
        n = len(self)
        ring = {} if self.ring is None else {name: column[:n].clone() for name, column in self.ring.columns()}
        links = {"successor": self._successor[:n].clone(), "newest": self._newest.clone()}
        return {"size": self.size, "added": self.added, "ring": ring, **links}

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()`.

        Raises:
            ValueError: if it was saved with another size.
        """
        if state["size"] != self.size:
            raise ValueError(f"the replay memory was saved with size={state['size']}, here it is {self.size}")
        self.added = state["added"]
        n = len(self)
        self.ring = None
        if state["ring"]:
            saved = _transition({name: column.to(self.device) for name, column in state["ring"].items()})
            self.ring = saved.allocate(self.size)
            self.ring.put(torch.arange(n, device=self.device), saved)
        self._successor.fill_(-1)
        self._successor[:n] = state["successor"].to(self.device)
        self._newest = state["newest"].to(self.device, copy=True)


def _transition(columns: dict[str, Tensor]) -> Transition:
    """A transition from `Transition.columns()`."""

    def part(record: str) -> dict[str, Tensor]:
        return {name.removeprefix(record): x for name, x in columns.items() if name.startswith(record)}

    return Transition(
        history=History(**part("history.")),
        shown=Decision(**part("shown.")),
        wanted=Decision(**part("wanted.")),
        next=History(**part("next.")),
        **{name: x for name, x in columns.items() if "." not in name},
    )
