"""Replay memory: transitions as ids in a ring; returns over several steps are put together when they are sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Generator, Tensor

from streamrec.expiry import blank
from streamrec.ports import State
from streamrec.records import Decision, History, Rows, Transition, rank_within


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
    number: Tensor  # [B] int64, by which the memory knows the first transition
    weight: Tensor  # [B] float32, what its loss is multiplied with; 1 where nothing is to be corrected


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
        self.added = 0  # transitions ever added
        self.ring: Transition | None = None  # allocated by the first transition, whose widths it takes
        self._number = torch.full((size,), -1, device=self.device)  # of the transition in each row; number % size = row
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
        numbers, kept = self._allot(transition)
        rows = numbers[kept] % self.size
        self.ring.put(rows, slim[kept])
        self._number[rows], self._successor[rows] = numbers[kept], -1
        self.added += n
        self._link(transition.history.user, numbers, self.ring.history.key)

    def _allot(self, transition: Transition) -> tuple[Tensor, Tensor | slice]:
        """Numbers of new rows, [n] int64, and which of them are not overwritten by the very same batch."""
        n = len(transition)
        return self.added + torch.arange(n, device=self.device), slice(max(n - self.size, 0), n)

    def holds(self, numbers: Tensor) -> Tensor:
        """Which transitions have not been overwritten: [B] int64, -1 = none -> [B] bool."""
        return (self._number[numbers % self.size] == numbers) & (numbers >= 0)

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
        there = self.holds(before) & self.holds(numbers)
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
        self._check_filled()
        oldest = self.added - len(self)
        numbers = torch.randint(oldest, self.added, (batch,), generator=generator, device=generator.device)
        return self.at(numbers.to(self.device))

    def _check_filled(self) -> None:
        if len(self) == 0:
            raise ValueError("the replay memory is empty; add a transition before sampling")

    def at(self, numbers: Tensor) -> Sample:
        """The transitions with these numbers, which must still be held. [B] int64."""
        ring = self.ring
        assert ring is not None
        rows = numbers % self.size
        first = replace(ring[rows], rewards=self.rewards(rows))
        at, open_end = numbers, ~first.done
        steps = torch.ones_like(numbers)
        later = torch.zeros(len(numbers), device=self.device)
        for i in range(1, self.n_step):
            successor = self._successor[at % self.size]
            open_end = open_end & self.holds(successor)
            at = torch.where(open_end, successor, at)
            rows = at % self.size
            later += torch.where(open_end, self._powers[i] * self.rewards(rows).sum(1), 0.0)
            steps += open_end
            open_end = open_end & ~ring.done[rows]
        discount = torch.where(ring.done[rows], 0.0, self._powers[steps])
        return Sample(first, later, discount, ring.next[rows], steps, numbers, torch.ones_like(later))

    def recycle(self, rows: Tensor) -> None:
        """Items that are gone leave windows and slots; see `streamrec.expiry.blank`."""
        if self.ring is not None:
            blank(self.ring, rows)

    def rewards(self, rows: Tensor) -> Tensor:
        """What the rows of the ring pay per slot: [B] int64 -> [B, K] float32. Here: what they paid.

        A place to override: rewards may look different afterwards, and samples are put together from these.
        """
        assert self.ring is not None
        return self.ring.rewards[rows]

    def prioritise(self, numbers: Tensor, errors: Tensor) -> None:
        """Take note of the errors [B] at the transitions `numbers` [B]; uniform sampling has no use for them."""

    def _slim(self, history: History) -> History:
        if self.reads is None:
            return history
        windows = {f.name: getattr(history, f.name) for f in fields(History)}
        unread = {name: x[:, :0] for name, x in windows.items() if x.dim() > 1 and name not in self.reads}
        return replace(history, **unread)

    def state_dict(self) -> State:
        """Everything, as copies: rows in use only."""
        rows = torch.nonzero(self._number >= 0).squeeze(1)
        ring = {} if self.ring is None else {name: column[rows] for name, column in self.ring.columns()}
        links = {"successor": self._successor[rows], "newest": self._newest.clone()}
        return {"size": self.size, "added": self.added, "ring": ring, "number": self._number[rows], **links}

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()`.

        Raises:
            ValueError: if it was saved with another size.
        """
        if state["size"] != self.size:
            raise ValueError(f"the replay memory was saved with size={state['size']}, here it is {self.size}")
        self.added = state["added"]
        number = state["number"].to(self.device)
        rows = number % self.size
        self.ring = None
        if state["ring"]:
            saved = _transition({name: column.to(self.device) for name, column in state["ring"].items()})
            self.ring = saved.allocate(self.size)
            self.ring.put(rows, saved)
        self._number.fill_(-1)
        self._number[rows] = number
        self._successor.fill_(-1)
        self._successor[rows] = state["successor"].to(self.device)
        self._newest = state["newest"].to(self.device, copy=True)


class PrioritisedReplay(Replay):
    """Transitions drawn in proportion to how wrong they were last time (Schaul et al., ICLR 2016, "proportional").

    P(i) = p_i^alpha / sum_k p_k^alpha, p_i = |error| + eps. New transitions get the highest p there ever was, so that
    each is likely to be seen once. The total is cut into as many equal stretches as are drawn, one draw in each, as in
    the paper's appendix. What is drawn too often is corrected by (N P(i))^-beta, over the largest in the sample; beta
    rises from `beta` to 1 in a straight line over `anneal` samples.

    Departures: a running sum over all rows and a binary search in place of the sum-tree, which gives the same draws
    (in tensors, 100 thousand rows are summed in the time of a few small operations), and the weights are divided by
    the largest of the sample instead of the largest there is (the paper leaves open which), so one tiny
    probability somewhere in the memory does not shrink every step.

    Args:
        size: as in `Replay`, like those up to `device`.
        n_step: chains.
        gamma: discount.
        reads: windows.
        device: home.
        alpha: 0 = uniform, 1 = in proportion to the error.
        beta: correction in the beginning; 1 = full.
        anneal: samples until beta is 1; 0 = at once.
        eps: added to every error, so that nothing is lost for good.

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
        alpha: float = 0.6,
        beta: float = 0.4,
        anneal: int = 10_000,
        eps: float = 1e-3,
    ) -> None:
        super().__init__(size, n_step, gamma, reads, device)
        if alpha < 0.0 or not 0.0 <= beta <= 1.0 or anneal < 0 or eps <= 0.0:
            raise ValueError(
                "prioritised replay needs alpha >= 0, beta between 0 and 1, anneal >= 0 and eps > 0, "
                f"got alpha={alpha}, beta={beta}, anneal={anneal}, eps={eps}"
            )
        self.alpha, self.anneal, self.eps = alpha, anneal, eps
        self._beta = beta
        self.samples = 0  # drawn so far
        self._mass = torch.zeros(size, device=self.device)  # p^alpha of each row
        self._highest = torch.ones((), device=self.device)  # largest p there ever was

    @property
    def beta(self) -> float:
        """How much of the bias is corrected now."""
        progress = min(1.0, self.samples / self.anneal) if self.anneal else 1.0
        return self._beta + (1.0 - self._beta) * progress

    def _allot(self, transition: Transition) -> tuple[Tensor, Tensor | slice]:
        numbers, kept = super()._allot(transition)
        self._mass[numbers[kept] % self.size] = self._highest**self.alpha
        return numbers, kept

    def sample(self, batch: int, generator: Generator) -> Sample:
        """`batch` transitions drawn by priority, with the weights that correct for it.

        Raises:
            ValueError: if nothing was added yet.
        """
        self._check_filled()
        until = self._mass[: len(self)].cumsum(0, dtype=torch.float64)
        draw = torch.rand(batch, generator=generator, device=generator.device, dtype=torch.float64).to(self.device)
        place = (torch.arange(batch, device=self.device) + draw) / batch * until[-1]
        rows = torch.searchsorted(until, place, right=True).clamp_(max=len(self) - 1)
        share = self._mass[rows] / until[-1]
        weight = (len(self) * share).pow(-self.beta).float()
        self.samples += 1
        return replace(self.at(self._number[rows]), weight=weight / weight.max())

    def prioritise(self, numbers: Tensor, errors: Tensor) -> None:
        """Set the priorities of transitions to the size of their errors.

        Args:
            numbers: [B] int64, `Sample.number`; those overwritten since are left out.
            errors: [B], of any sign.
        """
        there = self.holds(numbers)
        priority = errors.detach().abs().to(self._mass.dtype)[there] + self.eps
        if len(priority):
            self._highest = torch.maximum(self._highest, priority.max())
            self._mass[numbers[there] % self.size] = priority**self.alpha

    def state_dict(self) -> State:
        """Everything, as copies: rows in use only."""
        mass, highest = self._mass[: len(self)].clone(), self._highest.clone()
        return {**super().state_dict(), "mass": mass, "highest": highest, "samples": self.samples}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._mass.zero_()
        self._mass[: len(self)] = state["mass"].to(self.device)
        self._highest = state["highest"].to(self.device, copy=True)
        self.samples = state["samples"]


class StratifiedReplay(Replay):
    """Every sample holds each stratum of users with the share it has in the long run (Chen et al., KDD 2018).

    Each stratum has a part of the memory of its own, `size` / `strata` rows, so that one whose users stay away for a
    while is not pushed out by the others. Of a sample of B, stratum h gets B p_h transitions: rounded up or down at
    random, so that its expectation is exact (systematic sampling: one random start, then equal steps through the
    strata). A mean over the sample then has the variance sum of p_h^2 sigma_h^2 / n_h (Neyman 1934) in place of the one
    of uniform draws, and does not move when the mix of users does. Strata that are still empty are left out, and the
    shares of the others add up to 1.

    Args:
        size: as in `Replay`, like those up to `device`. All strata together.
        n_step: chains.
        gamma: discount.
        reads: windows; what `label` looks at must be among the columns of the transition, not of the memory.
        device: home.
        strata: H.
        label: stratum of each row, [B] int64 in 0..H-1, of the histories when decisions were made. It should follow
            from something about the user that does not change. None = one stratum.
        shares: p_h, known beforehand from a long log; None = the share of all transitions ever added.

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
        strata: int = 1,
        label: Callable[[History], Tensor] | None = None,
        shares: Sequence[float] | None = None,
    ) -> None:
        if strata < 1 or size < strata:
            raise ValueError(f"strata must be at least 1 and at most size, got strata={strata}, size={size}")
        if shares is not None and (len(shares) != strata or min(shares) < 0.0 or sum(shares) <= 0.0):
            raise ValueError(f"shares must be {strata} numbers, none below 0 and some above, got {list(shares)}")
        self.part = size // strata  # rows of each stratum
        super().__init__(self.part * strata, n_step, gamma, reads, device)
        self.strata, self.label = strata, label
        self._shares = None if shares is None else torch.tensor(shares, dtype=torch.float64, device=self.device)
        self.counts = torch.zeros(strata, dtype=torch.int64, device=self.device)  # transitions ever added, by stratum

    def __len__(self) -> int:
        return int(self.counts.clamp(max=self.part).sum())

    @property
    def shares(self) -> Tensor:
        """[H] float64, share of each stratum in a sample."""
        weights = self.counts.double() if self._shares is None else self._shares * (self.counts > 0)
        return weights / weights.sum()

    def _allot(self, transition: Transition) -> tuple[Tensor, Tensor | slice]:
        stratum = self._stratum(transition.history)
        nth = self.counts[stratum] + rank_within(stratum)  # how many of the stratum were there before
        self.counts.index_add_(0, stratum, torch.ones_like(stratum))
        numbers = torch.div(nth, self.part, rounding_mode="floor") * self.size + stratum * self.part + nth % self.part
        return numbers, nth >= self.counts[stratum] - self.part

    def _stratum(self, history: History) -> Tensor:
        """[B] int64."""
        if self.label is None:
            return torch.zeros_like(history.user)
        return self.label(history).to(self.device)

    def sample(self, batch: int, generator: Generator) -> Sample:
        """`batch` transitions, as many of each stratum as its share says.

        Raises:
            ValueError: if nothing was added yet, or only in strata whose share is 0.
        """
        self._check_filled()
        until = self.shares.cumsum(0)
        if not bool(until[-1] > 0):
            raise ValueError("only strata with share 0 have transitions; give them a share or leave shares out")
        draw = torch.rand(batch + 1, generator=generator, device=generator.device, dtype=torch.float64).to(self.device)
        place = (torch.arange(batch, device=self.device) + draw[-1]) / batch * until[-1]
        last = torch.searchsorted(until, until[-1])  # for a draw that was rounded up to the total
        stratum = torch.searchsorted(until, place, right=True).minimum(last)
        there = self.counts[stratum].clamp(max=self.part)
        rows = stratum * self.part + (draw[:-1] * there).long()
        return self.at(self._number[rows])

    def state_dict(self) -> State:
        """Everything, as copies: rows in use only."""
        return {**super().state_dict(), "counts": self.counts.clone()}

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()`.

        Raises:
            ValueError: if it was saved with another size or other strata.
        """
        if len(state["counts"]) != self.strata:
            raise ValueError(f"the memory was saved with {len(state['counts'])} strata, here it has {self.strata}")
        super().load_state_dict(state)
        self.counts = state["counts"].to(self.device, copy=True)


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
