"""All policies of a replay side by side: each lists what it would show, and says how likely it would have done what
the log did, before anybody learns from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from streamrec.catalog import Catalog
from streamrec.evaluation.lists import Popularity, PopularityCounter
from streamrec.expiry import Recycles
from streamrec.explore import Probabilistic
from streamrec.ope.codes import FUTURE_LEAK, NOT_A_DISTRIBUTION, POLICY_NOT_PROBABILISTIC, Refused
from streamrec.ports import Agent, State
from streamrec.records import Decision, Events, History, Rows, Transition
from streamrec.replay.explorers import candidates
from streamrec.replay.rejection import Rejecting
from streamrec.replay.reward_model import RewardTable
from streamrec.replay.visits import Visits

AT_ONCE = 2_097_152  # probabilities held at a time (16 MiB of float64)


@dataclass
class Member:
    """One policy.

    Attributes:
        name: in the report.
        agent: decides; says probabilities if it can.
        learner: what observes, updates and acts: the agent, or a wrapper around it.
        about: what the policy is, for the report.
    """

    name: str
    agent: Agent
    learner: Agent
    about: str = ""


@runtime_checkable
class BySlot(Protocol):
    """A policy whose probabilities differ between slots and do not depend on the slots above."""

    def at_slot(self, slot: int, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """[B, C] float64, see `streamrec.explore.Probabilistic.probabilities`."""


@dataclass
class Ballots(Rows):
    """What was judged about B decisions; P policies, K slots shown."""

    session: Tensor  # [B] int64, hash of the session
    cluster: Tensor  # [B] int64, hash of what intervals take to be independent
    place: Tensor  # [B] int64, which request of the session, from 0
    scored: Tensor  # [B] bool, counts for the report
    known: Tensor  # [B, K] bool, shown with a propensity
    target: Tensor  # [B, P, K] float64, probability of what was shown, NaN = the policy does not say
    v: Tensor  # [B, P, K] float64, expected reward of the policy by the reward model
    q: Tensor  # [B, K] float64, expected reward of what was shown
    accepted: Tensor  # [B, P] bool, rejection: the policy lives through this decision
    listed: Tensor  # [B, P, D] int64, interactions with the listed items before this moment; D = 0: not asked for
    heard: Tensor  # [B, K] int64, interactions with what was shown before this moment
    total: Tensor  # [B] int64, interactions with any item before this moment


Window = Callable[[Tensor, Tensor], Tensor]
"""[B] bool: decisions to score, of their times and of the times their sessions began."""


class Jury:
    """An agent made of all policies, and the judge of what the past showed.

    A policy's probability of a shown slot is taken given the slots above it, as the log's own propensities are
    (`marginal`: given nothing, for logs whose propensities are those of an item in a slot whatever stood above).
    Candidates are those of the request, or everything available at that moment.

    Args:
        members: the policies.
        catalog: items.
        users: rows of the session store.
        slots: K, slots of the log's slates.
        rewards: the reward model.
        gap_s: see `Visits`.
        marginal: see above.
        cluster: "session": what the log calls a session, a user where it names none; "user"; "row": every decision.
        window: which decisions are scored; None = all.
        depth: D, places of the lists whose popularity is noted; 0 = none.
        places: of every list, longer ones are cut and shorter ones filled up; None = those of the longest.

    Raises:
        ValueError: no members, two of one name, or another `cluster`.
    """

    def __init__(
        self,
        members: Sequence[Member],
        catalog: Catalog,
        users: int,
        slots: int,
        rewards: RewardTable,
        gap_s: float = 1800.0,
        marginal: bool = False,
        cluster: str = "session",
        window: Window | None = None,
        depth: int = 0,
        places: int | None = None,
    ) -> None:
        names = [member.name for member in members]
        if not members or len(set(names)) < len(names):
            raise ValueError(f"policies need different names, got {', '.join(names) or 'none'}")
        if cluster not in ("session", "user", "row"):
            raise ValueError(f'cluster must be "session", "user" or "row", got {cluster!r}')
        self.members, self.catalog, self.rewards = list(members), catalog, rewards
        self.names, self.slots, self.marginal, self.cluster = names, slots, marginal, cluster
        self.window = window or (lambda time, begin: torch.ones_like(time, dtype=torch.bool))
        self.visits = Visits(users, gap_s)
        self.oldest = float("-inf")  # event time that no request to come is older than
        self.refused: dict[str, str] = {}  # policy -> why it says no probabilities
        p, rows = len(names), catalog.capacity + 1
        self.ballots = _empty(p, slots, depth).allocate(users)
        self.popularity, self.depth, self.places = PopularityCounter(catalog.capacity), depth, places
        self.latest = self._now()  # ranks and head as of the newest decision
        self._floor = float("-inf")  # popularity is never asked for before this time again
        self.mass = torch.zeros(
            p, rows, dtype=torch.float64
        )  # by policy and item: probability, summed over slots judged
        self.shown = torch.zeros(rows, dtype=torch.float64)  # slots judged in which the item was shown
        self.counts = {"cold": 0, "judged": 0, "named": 0, "sessionless": 0, "sampled": 0}
        self._waiting = torch.zeros(users, dtype=torch.bool)
        self._asking: History | None = None
        self._lists = torch.zeros(0, p, 0, dtype=torch.int64)

    @property
    def shadows(self) -> int:
        """Slates in `Decision.shadow`."""
        return len(self.members)

    def begin(self, oldest: float) -> None:
        """From now on no request is older than this event time: the reward model may know what came before it."""
        self.oldest = oldest
        self.rewards.turn(oldest)

    # --- deciding ----------------------------------------------------------------------------------------------

    def act(self, history: History) -> Decision:
        """The list of every member in `shadow`; the first member's is what is wanted."""
        self._asking = history
        lists = [member.learner.act(history).slate for member in self.members]
        wide = self.places or max(one.shape[1] for one in lists)
        shadow = torch.stack([pad(one[:, :wide], (0, max(0, wide - one.shape[1]))) for one in lists], dim=1)
        self._lists = shadow[:, :, : self.depth]
        return replace(Decision.of(history.user, shadow[:, 0]), shadow=shadow)

    def cast(self, shown: Decision, asked: Events) -> None:
        """Judge what was shown in answer to the requests that `act` saw last.

        Raises:
            Refused: `not_a_distribution`, or `future_leak`: the reward model knows rows at or after these.
        """
        history = self._asking
        if history is None or not torch.equal(history.user, shown.user):
            raise ValueError("cast must follow act, for the same requests")
        if len(history) == 0:
            return
        if self.rewards.newest >= float(history.time.min()):
            raise Refused(
                FUTURE_LEAK, "a request is older than rewards that were learned: sort the log, or allow --late"
            )
        ballots = self._ballots(history, shown, asked)
        self.counts["sampled"] += self._sampled(asked)
        rows = torch.nonzero(ballots.known.any(1) & ballots.scored).squeeze(1)
        limited = bool((asked.offer > 0).any(1).all())
        wide = asked.offer.shape[1] if limited else max(asked.offer.shape[1], self.catalog.size)
        for part in torch.split(rows, max(1, AT_ONCE // max(wide, 1))):
            self._judge(ballots, history[part], shown[part], part)
        self._accept(ballots, shown)
        self.ballots.put(history.user, ballots)
        self._waiting[history.user] = True

    def _ballots(self, history: History, shown: Decision, asked: Events) -> Ballots:
        session, begin, place = self.visits.take(history, asked)
        n, k = shown.slate.shape
        nothing = torch.full((n, len(self.members), k), torch.nan, dtype=torch.float64)
        listed, heard, total = self._popular(history, shown)
        named = asked.session != 0
        self.counts["named"] += int(named.sum())
        self.counts["sessionless"] += int((~named).sum())
        return Ballots(
            session=session,
            cluster=self._clusters(history, asked, shown),
            place=place,
            scored=self.window(history.time, begin),
            known=(shown.slate > 0) & shown.slot_logp.isfinite(),
            target=nothing,
            v=nothing.clone(),
            q=torch.zeros(n, k, dtype=torch.float64),
            accepted=torch.zeros(n, len(self.members), dtype=torch.bool),
            listed=listed,
            heard=heard,
            total=total,
        )

    def _sampled(self, asked: Events) -> int:
        """Requests that brought candidates of their own, fewer than there are items to choose from."""
        offered = (asked.offer > 0).sum(1)
        return int(((offered > 0) & (offered < int(self.catalog.available.sum()))).sum())

    def _popular(self, history: History, shown: Decision) -> tuple[Tensor, Tensor, Tensor]:
        """How popular what is listed and what was shown had become strictly before the requests."""
        n, p = len(history), len(self.members)
        time = history.time.clamp(min=self._floor)  # late requests count as if they came with the others
        self._floor = max(self._floor, float(time.min()))
        wide = torch.cat([self._lists.flatten(1), shown.slate], dim=1)
        self.latest = self.popularity.as_of(wide.numpy(), time.numpy())
        count = torch.from_numpy(self.latest.count)
        cut = p * self._lists.shape[2]
        listed = count[:, :cut].reshape(n, p, self._lists.shape[2])
        return listed, count[:, cut:], torch.from_numpy(self.latest.total)

    def _now(self) -> Popularity:
        return self.popularity.as_of(np.zeros((0, 1), dtype=np.int64), np.zeros(0))

    def _clusters(self, history: History, asked: Events, shown: Decision) -> Tensor:
        if self.cluster == "row":
            return shown.id
        if self.cluster == "user":
            return history.key
        return torch.where(asked.session != 0, asked.session, history.key)

    def _judge(self, ballots: Ballots, history: History, shown: Decision, part: Tensor) -> None:
        """Fill in `target`, `v` and `q` of the rows `part` of `ballots`, which `history` and `shown` are."""
        items, mask = candidates(history, self.catalog)
        for slot in range(shown.slate.shape[1]):
            rows = ballots.known[part, slot]
            if not bool(rows.any()):
                continue
            at, what = part[rows], shown.slate[rows, slot]
            among, free = items[rows], mask[rows] if self.marginal else _free(items, mask, shown.slate[:, :slot])[rows]
            hit = (among == what.unsqueeze(1)) & free
            values = self.rewards.predict(among, slot)
            ballots.q[at, slot] = self.rewards.predict(what, slot)
            self.counts["cold"] += int((~hit.any(1)).sum())
            self.counts["judged"] += len(at)
            self.shown.index_add_(0, what, torch.ones(len(what), dtype=torch.float64))
            for number, member in enumerate(self.members):
                chance = self._probabilities(member, slot, history[rows], among, free)
                if chance is None:
                    continue
                ballots.target[at, number, slot] = (chance * hit).sum(1)
                ballots.v[at, number, slot] = (chance * values).sum(1)
                self.mass[number].index_add_(0, among.flatten(), chance.flatten())

    def _probabilities(self, member: Member, slot: int, history: History, items: Tensor, mask: Tensor) -> Tensor | None:
        if member.name in self.refused:
            return None
        agent = member.agent
        try:
            if isinstance(agent, BySlot):
                chance = agent.at_slot(slot, history, items, mask)
            elif isinstance(agent, Probabilistic):
                chance = agent.probabilities(history, items, mask)
            else:
                raise Refused(POLICY_NOT_PROBABILISTIC, f"{type(agent).__name__} only gives lists")
        except Refused as refusal:
            if refusal.code != POLICY_NOT_PROBABILISTIC:
                raise
            self.refused[member.name] = refusal.found
            return None
        chance = chance.double()
        if not isinstance(agent, BySlot):
            _check(chance, mask, member.name)
        return chance

    def _accept(self, ballots: Ballots, shown: Decision) -> None:
        rejecting = [isinstance(member.learner, Rejecting) for member in self.members]
        if not any(rejecting):
            return
        whole = (ballots.known == (shown.slate > 0)).all(1) & ballots.known.any(1)
        chance = shown.slot_logp.double().exp()
        ratio = torch.where(ballots.known.unsqueeze(1), ballots.target / chance.unsqueeze(1), 1.0).prod(2)
        ratio[~whole] = torch.nan
        for number, member in enumerate(self.members):
            if isinstance(member.learner, Rejecting):
                ballots.accepted[:, number] = member.learner.judge(ratio[:, number])

    def leaving(self, portion: int) -> Tensor:
        """[W] int64, rising: the next rows of users whose decision was judged and not closed; each is named once."""
        rows = torch.nonzero(self._waiting).squeeze(1)[:portion]
        self._waiting[rows] = False  # rows whose user has lost the place to another will never close
        return rows

    # --- learning ----------------------------------------------------------------------------------------------

    def closed(self, transition: Transition) -> Ballots:
        """What was judged about decisions that close now; the meter calls it once for each."""
        self._waiting[transition.history.user] = False
        row, slot = torch.nonzero(transition.clicked() & (transition.shown.slate > 0), as_tuple=True)
        self.popularity.observe(transition.shown.slate[row, slot].numpy(), transition.time[row].numpy())
        return self.ballots[transition.history.user]

    def observe(self, transition: Transition) -> None:
        """Each member sees the transitions with its own list as what it wanted; a rejecting one what it accepted."""
        shadow = transition.wanted.shadow
        for number, member in enumerate(self.members):
            rows = transition
            mine = Decision.of(rows.wanted.user, shadow[:, number])
            rows = replace(rows, wanted=replace(mine, id=rows.wanted.id))
            if isinstance(member.learner, Rejecting):
                rows = rows[self.ballots.accepted[rows.history.user, number]]
            if len(rows):
                member.learner.observe(rows)

    def update(self) -> dict[str, float]:
        said = {member.name: member.learner.update() for member in self.members}
        return {f"{name}.{key}": value for name, values in said.items() for key, value in values.items()}

    def recycle(self, rows: Tensor) -> None:
        """Items that are gone leave every member; what they were worth in sums so far stays in no row."""
        for member in self.members:
            cast(Recycles, member.learner).recycle(rows)
        self.rewards.recycle(rows)

    # --- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        used = torch.nonzero(self._waiting).squeeze(1)
        kept = self.ballots[used]
        return {
            "members": {member.name: member.learner.state_dict() for member in self.members},
            "visits": self.visits.state_dict(),
            "waiting": used,
            "ballots": {name: value.clone() for name, value in kept.columns()},
            "mass": self.mass[:, : self.catalog.size].clone(),
            "shown": self.shown[: self.catalog.size].clone(),
            "counts": dict(self.counts),
            "refused": dict(self.refused),
            "popularity": self.popularity.state_dict(),
            "floor": torch.tensor(self._floor, dtype=torch.float64),
        }

    def load_state_dict(self, state: State) -> None:
        for member in self.members:
            member.learner.load_state_dict(state["members"][member.name])
        self.visits.load_state_dict(state["visits"])
        self._waiting.zero_()
        self._waiting[state["waiting"]] = True
        self.ballots.put(state["waiting"], Ballots(**state["ballots"]))
        self.mass.zero_()
        self.mass[:, : state["mass"].shape[1]] = state["mass"]
        self.shown.zero_()
        self.shown[: len(state["shown"])] = state["shown"]
        self.counts, self.refused = dict(state["counts"]), dict(state["refused"])
        self.popularity.load_state_dict(state["popularity"])
        self.latest = self._now()
        self._floor = float(state["floor"])

    def summary(self) -> dict[str, Any]:
        """What rejecting members say of themselves, by name."""
        return {m.name: m.learner.read() for m in self.members if isinstance(m.learner, Rejecting)}


def _empty(policies: int, slots: int, depth: int) -> Ballots:
    none = torch.zeros(0, dtype=torch.int64)
    wide = torch.zeros(0, policies, slots, dtype=torch.float64)
    return Ballots(
        session=none,
        cluster=none,
        place=none,
        scored=none.bool(),
        known=torch.zeros(0, slots, dtype=torch.bool),
        target=wide,
        v=wide,
        q=torch.zeros(0, slots, dtype=torch.float64),
        accepted=torch.zeros(0, policies, dtype=torch.bool),
        listed=torch.zeros(0, policies, depth, dtype=torch.int64),
        heard=torch.zeros(0, slots, dtype=torch.int64),
        total=none,
    )


def _free(items: Tensor, mask: Tensor, above: Tensor) -> Tensor:
    """`mask` [B, C] without what stands in the slots above, [B, k]."""
    for column in above.unbind(1):
        mask = mask & (items != column.unsqueeze(1))
    return mask


def _check(chance: Tensor, mask: Tensor, name: str) -> None:
    """Probabilities sum to 1 over the mask, or to 0 where it is empty."""
    wanted = mask.any(1).double()
    off = (chance.sum(1) - wanted).abs()
    outside = (chance * ~mask).abs().sum()
    if bool((off > 1e-6).any()) or bool(outside > 0) or bool((chance < 0).any()):
        found = f"{name} gives probabilities that sum to {float(chance.sum(1)[off.argmax()]):.6g}"
        raise Refused(
            NOT_A_DISTRIBUTION, found if float(off.max()) > 1e-6 else f"{name} gives some below 0 or to others"
        )
