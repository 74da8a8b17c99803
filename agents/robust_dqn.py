"""Robust DQN: rewards in a world that drifts are made comparable before they are learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from agents.dqn import DQN
from agents.frozen import Frozen
from streamrec.catalog import Catalog
from streamrec.explore import allowed, offered
from streamrec.memory import StratifiedReplay
from streamrec.mixing import mix
from streamrec.models.next_item import Encoder
from streamrec.ports import Agent, State
from streamrec.records import Decision, History, Transition
from streamrec.sessions import SessionStore

_SALT = 0x5EED_BA5E
"""The benchmark group must not be one that another split of the users by their hashes has cut out."""


class RobustDQN(DQN):
    """Double DQN with stratified replay and approximate regretted reward (Chen et al., KDD 2018).

    Rewards drift with the hour, with campaigns and with who happens to come. Two things keep that out of the values:

    * Stratified sampling replay (`stratified`): users are told apart by something that does not change (age, region;
      here a group in the context of their requests), each stratum has a memory of its own, and every minibatch holds
      each with the share it has in the long run (`StratifiedReplay`).
    * Approximate regretted reward (`regretted`): a random share of the users, the benchmark group, is served by a
      policy that does not change. What they earn now, r_b(t), says how times are, and r - r_b(t) takes the place of
      the reward r. Memory keeps r and the time, so r_b is that of the whole window around a transition, also of what
      came after it, whenever it is sampled.

    With both switched off this is `DQN` with `double`; no users are set apart then.

    Departures: the paper subtracts per decision; here per slot, r_b being the mean per shown slot, since values are of
    slots. The window is centred where there are rewards on both sides. r_b is drawn towards the mean of all
    benchmark rewards by `prior` slots, so that a window with few benchmark decisions adds little noise. The
    benchmark policy, trained offline in the paper, learns from its own group for the first `benchmark_s` seconds and
    then never again. Where the context names no group, there is one stratum: strata made of user ids would be
    random, and change nothing.

    Args:
        catalog: as in `DQN`.
        sessions: as in `DQN`.
        slate: as in `DQN`.
        benchmark: the policy of the benchmark group; it never sees what other users do.
        encoder: as in `DQN`.
        candidates: as in `DQN`; it learns from users outside the benchmark group.
        stratified: stratified replay.
        regretted: regretted reward.
        strata: H, groups; the first H columns of the context are 1 for the user's group and 0 for the others. None =
            all columns.
        shares: long-run share of each stratum; None = of all transitions so far.
        share: part of the users that is the benchmark group, by a hash of their ids.
        window_s: seconds of event time over which r_b is a mean.
        by_stratum: a benchmark reward for each stratum.
        prior: shown slots that the mean of all benchmark rewards counts as.
        benchmark_s: seconds of event time, from the first decision, in which the benchmark policy still learns.
        gamma: from here on as in `DQN`.
        n_step: chains.
        double: targets.
        dueling: network.
        batch: transitions per gradient step.
        steps: per update.
        memory: all strata together.
        hidden: head.
        learning_rate: Adam.
        item_learning_rate: Adagrad.
        target_every: steps between copies.
        epsilon: exploration, of those outside the benchmark group.
        epsilon_start: in the beginning.
        epsilon_decay: its end.
        extra: random candidates.
        exclude_seen: also by the benchmark policy, which then chooses from what is left.
        seed: start.
        device: home.

    Raises:
        ValueError: if a setting is out of its range, or the context has fewer columns than `strata`.
    """

    def __init__(
        self,
        catalog: Catalog,
        sessions: SessionStore,
        slate: int,
        benchmark: Agent,
        encoder: Encoder | None = None,
        candidates: Agent | None = None,
        stratified: bool = True,
        regretted: bool = True,
        strata: int | None = None,
        shares: Sequence[float] | None = None,
        share: float = 0.05,
        window_s: float = 1800.0,
        by_stratum: bool = False,
        prior: float = 5.0,
        benchmark_s: float = 3600.0,
        gamma: float = 0.9,
        n_step: int = 3,
        double: bool = True,
        dueling: bool = False,
        batch: int = 256,
        steps: int = 1,
        memory: int = 100_000,
        hidden: int = 64,
        learning_rate: float = 1e-3,
        item_learning_rate: float = 0.05,
        target_every: int = 100,
        epsilon: float = 0.05,
        epsilon_start: float = 0.5,
        epsilon_decay: int = 20_000,
        extra: int = 10,
        exclude_seen: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(
            *(catalog, sessions, slate, encoder, candidates, gamma, n_step, double, dueling, False, batch, steps),
            *(memory, hidden, learning_rate, item_learning_rate, target_every, epsilon, epsilon_start, epsilon_decay),
            *(extra, exclude_seen, seed, device),
        )
        if not 0.0 < share < 1.0 or window_s <= 0.0 or prior < 0.0:
            raise ValueError(
                "share must be between 0 and 1, window_s above 0 and prior at least 0, "
                f"got share={share}, window_s={window_s}, prior={prior}"
            )
        self.regretted, self.share = regretted, share
        self.strata = _strata(strata, sessions.context_width) if stratified else 1
        self.benchmark = Frozen(benchmark, benchmark_s)
        self.baseline = Baseline(self.strata if by_stratum else 1, window_s, prior, self.device)
        plain = self.replay
        self.replay = RegrettedReplay(
            self.baseline if regretted else None,
            *(plain.size, plain.n_step, plain.gamma, plain.reads, self.device),
            strata=self.strata,
            label=self.stratum if self.strata > 1 else None,
            shares=shares if self.strata > 1 else None,
        )

    def stratum(self, history: History) -> Tensor:
        """Which stratum users belong to, [B] int64."""
        return history.context[:, : self.strata].argmax(1)

    def in_benchmark(self, key: Tensor) -> Tensor:
        """Who is in the benchmark group: [B] int64 stable hashes of user ids -> [B] bool."""
        if not self.regretted:
            return torch.zeros_like(key, dtype=torch.bool)
        return ((mix(key ^ _SALT) >> 33) & 0x7FFFFFFF) < self.share * 2**31

    def act(self, history: History) -> Decision:
        apart = self.in_benchmark(history.key)
        rows = [torch.nonzero(group).squeeze(1) for group in (~apart, apart)]
        given = self._offer(history[rows[1]])
        mine, theirs = super().act(history[rows[0]]), self.benchmark.act(given)
        if self.exclude_seen:  # whom nothing is left for: without candidates the benchmark would show anything
            nothing = (given.offer == 0).all(1)
            theirs.slate[nothing], theirs.logp[nothing], theirs.slot_logp[nothing] = 0, 0.0, 0.0
        # A member of several policies would number them; to the outside this is one agent.
        theirs.policy.zero_()
        theirs.shadow = mine.shadow.new_zeros(len(theirs), *mine.shadow.shape[1:])
        return Decision.cat([mine, theirs])[torch.argsort(torch.cat(rows))]

    def _offer(self, history: History) -> History:
        """With `exclude_seen`, the history with what may be shown as its candidates."""
        if not self.exclude_seen:
            return history
        given = offered(history, self.catalog.available, history.items)
        if given is None:
            every = torch.nonzero(self.catalog.available[: self.catalog.size].to(self.device)).squeeze(1)
            items = every.expand(len(history), -1)
            given = items, allowed(items, self.catalog.available, history.items)
        return replace(history, offer=given[0].where(given[1], 0))

    def observe(self, transition: Transition) -> None:
        """Learn from those outside the benchmark group; of those in it, note how much they earn."""
        apart = self.in_benchmark(transition.history.key)
        group = transition[apart]
        slots = (group.shown.slate != 0).sum(1)
        stratum = self.stratum(group.history) if self.baseline.strata > 1 else torch.zeros_like(slots)
        self.baseline.add(group.history.time, stratum, group.reward, slots)
        self.benchmark.observe(group)
        super().observe(transition[~apart])

    def update(self) -> dict[str, float]:
        """As `DQN`, with `benchmark`, the mean reward per slot of that group so far."""
        self.benchmark.update()
        said = super().update()
        return said | {"benchmark": self.baseline.mean} if said else said

    def state_dict(self) -> State:
        more = {"benchmark": self.benchmark.state_dict(), "baseline": self.baseline.state_dict()}
        return {**super().state_dict(), **more}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self.benchmark.load_state_dict(state["benchmark"])
        self.baseline.load_state_dict(state["baseline"])


class RegrettedReplay(StratifiedReplay):
    """Stratified replay of rewards from which the benchmark group's of the same time are subtracted.

    Args:
        baseline: r_b by time and stratum; None = rewards stay as they are.
        more: as in `StratifiedReplay`.
        settings: as in `StratifiedReplay`.
    """

    def __init__(self, baseline: Baseline | None, *more: Any, **settings: Any) -> None:
        super().__init__(*more, **settings)
        self.baseline = baseline

    def rewards(self, rows: Tensor) -> Tensor:
        """[B] int64 -> [B, K] float32: r - r_b of shown slots, 0 of empty ones."""
        paid = super().rewards(rows)
        if self.baseline is None:
            return paid
        assert self.ring is not None
        stratum = torch.div(rows, self.part, rounding_mode="floor") % self.baseline.strata
        usual = self.baseline.at(self.ring.history.time[rows], stratum)
        return paid - usual.unsqueeze(1) * (self.ring.shown.slate[rows] != 0)


class Baseline:
    """r_b(t): mean reward per shown slot in a window of event time, by stratum.

    Rewards are kept as sums over sixths of the window, the newest `CELLS` of them (two weeks of windows of half an
    hour), so the ends of the window are rounded to those.

    Args:
        strata: H.
        window_s: seconds.
        prior: shown slots that the mean of all rewards counts as.
        device: where the sums live.
    """

    CELLS, REACH = 4096, 3

    def __init__(self, strata: int, window_s: float, prior: float, device: torch.device) -> None:
        self.strata, self.cell_s, self.prior = strata, window_s / (2 * self.REACH), prior
        self.device = device
        self.sums = torch.zeros(self.CELLS, strata, 2, dtype=torch.float64, device=device)  # rewards, slots
        self.stamps = torch.full((self.CELLS,), -1, device=device)  # which sixth since the epoch stands in each cell
        self.total = torch.zeros(strata, 2, dtype=torch.float64, device=device)  # rewards and slots ever

    @property
    def mean(self) -> float:
        """Of all rewards so far."""
        rewards, slots = self.total.sum(0).tolist()
        return float(rewards / max(slots, 1.0))

    def add(self, time: Tensor, stratum: Tensor, reward: Tensor, slots: Tensor) -> None:
        """Note rewards [B], summed over `slots` [B], of decisions at `time` [B] by users of `stratum` [B]."""
        both = torch.stack([reward.double(), slots.double()], dim=1)
        self.total.index_add_(0, stratum, both)
        stamp = (time / self.cell_s).floor().long()
        cell = stamp % self.CELLS
        newest = self.stamps.scatter_reduce(0, cell, stamp, "amax")
        self.sums[newest != self.stamps] = 0.0
        self.stamps = newest
        late = stamp < newest[cell]  # its cell was given to a later time
        self.sums.index_put_((cell, stratum), both.masked_fill(late.unsqueeze(1), 0.0), accumulate=True)

    def at(self, time: Tensor, stratum: Tensor) -> Tensor:
        """r_b at `time` [B] for users of `stratum` [B]: [B] float32; the mean of all where nobody is near."""
        stamps = (time / self.cell_s).floor().long().unsqueeze(1) + torch.arange(
            -self.REACH, self.REACH + 1, device=self.device
        )
        cells = stamps % self.CELLS
        there = self.stamps[cells] == stamps
        near = (self.sums[cells, stratum.unsqueeze(1)] * there.unsqueeze(2)).sum(1)
        overall = self.total[:, 0] / self.total[:, 1].clamp(min=1.0)
        usual = overall[stratum]
        slots = near[:, 1] + self.prior
        mean = (near[:, 0] + self.prior * usual) / slots.clamp(min=1e-9)
        return mean.where(slots > 0, usual).float()

    def state_dict(self) -> State:
        return {"sums": self.sums.clone(), "stamps": self.stamps.clone(), "total": self.total.clone()}

    def load_state_dict(self, state: State) -> None:
        self.sums.copy_(state["sums"])
        self.stamps.copy_(state["stamps"])
        self.total.copy_(state["total"])


def _strata(wanted: int | None, columns: int) -> int:
    """How many strata there are, given the width of the context."""
    if columns == 0:
        return 1
    if wanted is not None and not 1 <= wanted <= columns:
        raise ValueError(f"strata must be between 1 and the {columns} columns of the context, got {wanted}")
    return wanted or columns
