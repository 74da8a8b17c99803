"""What is measured about every policy of a replay, in one pass over closed decisions: values, lists and what was left
out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamrec.catalog import Catalog
from streamrec.evaluation.lists import Popularity, segments
from streamrec.ope.accumulator import NAMES, Accumulator
from streamrec.ope.sequences.accumulator import SequenceAccumulator
from streamrec.ope.slates.accumulator import SlateAccumulator
from streamrec.ports import State
from streamrec.records import Rows, Transition
from streamrec.replay.fingerprint import Fingerprint
from streamrec.replay.jury import Ballots, Jury
from streamrec.replay.learning import pack
from streamrec.replay.lengths import Lengths
from streamrec.replay.lists import list_metrics
from streamrec.replay.policies import LOGGED
from streamrec.replay.rejection import Rejecting
from streamrec.replay.reward_model import RewardTable

SLATES = ("sips", "iips", "rips", "pi", "cascade_dr")
"""Estimators of what a slate earns; `iips` and `pi` need marginal propensities, others those given the slots above."""

SEQUENCES = ("pdis", "weighted_pdis", "sequential_dr")
"""Estimators of what a session earns; they need propensities given the slots above."""

Q_EDGES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0)
"""Bins of q over the mean reward, for its calibration; below the first and above the last are bins too."""


AT_ONCE = 4096
"""Decisions added up together."""


@dataclass
class Seen(Rows):
    """What is kept of B closed decisions until they are added up; P policies, K slots shown, D places of a list."""

    user: Tensor  # [B] int64, stable hash of the user id
    time: Tensor  # [B] float64, of the request
    slate: Tensor  # [B, K] int64
    slot_logp: Tensor  # [B, K] float32
    rewards: Tensor  # [B, K] float32
    liked: Tensor  # [B, K] bool
    history: Tensor  # [B, L] int64, what the user had liked before, for calibration; L = 0: not asked for
    lists: Tensor  # [B, P, D] int64
    listable: Tensor  # [B] bool, counts for the lists
    labels: Tensor  # [B, S] int64, numbers of labels in the order of `segments.SEGMENTS`
    ballots: Ballots


class Measures:
    """The meter of a replay: sees closed decisions and adds them up for every policy.

    Values: a shown slot with a known propensity is a row, its reward is that of the slot. Lists: a decision with a
    positive reaction is a row, what was liked in it is relevant. A question asked of a click that is the first of its
    session says nothing about the session and is left out of the lists.

    Args:
        jury: has judged what was shown.
        catalog: items.
        rewards: the reward model, taught here.
        estimators: of `streamrec.ope.accumulator.NAMES`, and of `SLATES` and `SEQUENCES`; none = no values.
        metrics: of `streamrec.evaluation.lists.names`; none = no lists.
        ks: lengths at which lists are cut.
        reward_range: (least, most) reward of a slot, None = not declared.
        max_weight, clip, lam: see `Accumulator`.
        gamma, timeout_s: see `SequenceAccumulator`.
        buckets: hash buckets of sessions.
        lengths: of the log's sessions, None = not known.
        independent: decisions are taken as independent of each other.
    """

    def __init__(
        self,
        jury: Jury,
        catalog: Catalog,
        rewards: RewardTable,
        estimators: Sequence[str],
        metrics: Sequence[str],
        ks: Sequence[int] = (20,),
        reward_range: tuple[float, float] | None = None,
        max_weight: float | None = None,
        clip: float = 10.0,
        lam: float = 50.0,
        gamma: float = 1.0,
        timeout_s: float = 7200.0,
        buckets: int = 4096,
        lengths: Lengths | None = None,
        independent: bool = False,
    ) -> None:
        self.lengths, self._calibrated = lengths, "calibration" in metrics
        self.jury, self.catalog, self.rewards, self.independent = jury, catalog, rewards, independent
        of_slots, of_slates, of_sequences = (
            [n for n in estimators if n in kind] for kind in (NAMES, SLATES, SEQUENCES)
        )
        self.values = {
            name: Accumulator(names, buckets, reward_range, max_weight, clip, lam)
            for name, names in self._by_policy(of_slots, bool(estimators)).items()
        }
        self.slates = {
            name: SlateAccumulator(names, buckets)
            for name, names in self._by_policy(of_slates, bool(of_slates)).items()
        }
        self.sequences = {
            name: SequenceAccumulator(names, gamma, timeout_s, buckets)
            for name, names in self._by_policy(of_sequences, bool(of_sequences)).items()
        }
        rejecting = [member.name for member in jury.members if isinstance(member.learner, Rejecting)]
        self.lived = {name: Accumulator([], buckets, reward_range) for name in rejecting}
        self.lists = {
            name: list_metrics(ks, metrics, catalog.category.numpy(), buckets) if metrics else None
            for name in jury.names
        }
        self.fingerprint = Fingerprint(catalog)
        self.dropped = {"outside the window": 0, "first click of its session": 0, "no propensity": 0}
        self.decisions = 0
        self.span = [float("inf"), float("-inf")]  # event times of the decisions scored
        self.calibration = torch.zeros(3, len(Q_EDGES) + 1, dtype=torch.float64)  # rows, sum of q, sum of rewards
        self._sum = torch.zeros(2, dtype=torch.float64)  # rows and rewards that the bins are relative to
        self.rewarded = [float("inf"), float("-inf")]  # least and most reward of a slot that was seen
        self._waiting: list[Seen] = []
        self._latest = jury.latest  # popularity ranks that hold for what waits

    def _by_policy(self, names: list[str], wanted: bool) -> dict[str, list[str]]:
        """Policy -> estimators; of the log itself those without a model, whose weights are all 1."""
        if not wanted:
            return {}
        own = [name for name in names if name in ("ips", "snips", "sips", "rips", "iips", "pdis")]
        return {LOGGED: own} | {name: list(names) for name in self.jury.names}

    def see(self, transition: Transition) -> None:
        """Take in decisions that have just been closed."""
        ballots = self.jury.closed(transition)
        scored = ballots.scored
        self.dropped["outside the window"] += int((~scored).sum())
        self._teach(transition, ballots)
        if not bool(scored.any()):
            return
        seen = self._seen(transition[scored], ballots[scored])
        self._calibrate(seen)
        self.decisions += len(seen)
        self.span = [min(self.span[0], float(seen.time.min())), max(self.span[1], float(seen.time.max()))]
        if self.jury.latest.rank is not self._latest.rank:
            self.settle()
        self._waiting.append(seen)
        if sum(map(len, self._waiting)) >= AT_ONCE:
            self.settle()

    def settle(self) -> None:
        """Add up what waits. Sums do not depend on how rows are cut, so this may be called at any time."""
        if self._waiting:
            seen = Seen.cat(self._waiting)
            self._waiting = []
            self._sign(seen)
            self._add_values(seen)
            self._add_slates(seen)
            self._add_sequences(seen)
            self._add_lived(seen)
            self._add_lists(seen[seen.listable])
        self._latest = self.jury.latest

    def _seen(self, transition: Transition, ballots: Ballots) -> Seen:
        slate, history = transition.shown.slate, transition.history
        organic = ((slate > 0).sum(1) == 1) & ~ballots.known.any(1)
        first = organic & (history.in_session == 0)
        self.dropped["first click of its session"] += int(first.sum())
        self.dropped["no propensity"] += int(((slate > 0) & ~ballots.known & ~organic.unsqueeze(1)).sum())
        liked = transition.clicked() & (slate > 0)
        return Seen(
            user=history.key,
            time=history.time,
            slate=slate,
            slot_logp=transition.shown.slot_logp,
            rewards=transition.rewards,
            liked=liked,
            history=history.items.long() if self._calibrated else history.items[:, :0].long(),
            lists=transition.wanted.shadow,
            listable=~first,
            labels=self._labels(transition, ballots, liked),
            ballots=ballots,
        )

    def _labels(self, transition: Transition, ballots: Ballots, liked: Tensor) -> Tensor:
        """[B, S] numbers of labels; of the target only where there is exactly one, else -1."""
        history = transition.history
        one = liked.sum(1) == 1
        slot = liked.int().argmax(1, keepdim=True)
        target = transition.shown.slate.gather(1, slot).squeeze(1)
        known = segments.new((history.items > 0).sum(1).numpy())
        of_target = {
            "item": segments.new(ballots.heard.gather(1, slot).squeeze(1).numpy()),
            "repeat": segments.repeat(history.items.numpy(), target.numpy()),
            "popularity": segments.popularity(self.jury.popularity.decile, target.numpy()),
        }
        labels = {
            "user": known,
            "position": segments.position(history.in_session.numpy() + 1),
            "session_length": self._length(ballots.session),
            **{name: np.where(one.numpy(), numbers, -1) for name, numbers in of_target.items()},
        }
        return torch.from_numpy(np.stack([labels[name] for name in segments.SEGMENTS], axis=1))

    def _length(self, session: Tensor) -> NDArray[np.int64]:
        many = torch.zeros_like(session) if self.lengths is None else self.lengths.of(session)
        return segments.position(many.numpy())

    def _sign(self, seen: Seen) -> None:
        row, slot = torch.nonzero(seen.slate > 0, as_tuple=True)
        self.fingerprint.add(
            seen.user[row],
            seen.time[row],
            slot,
            seen.slate[row, slot],
            seen.rewards[row, slot],
            seen.slot_logp[row, slot],
        )

    # --- values ----------------------------------------------------------------------------------------------------

    def _add_values(self, seen: Seen) -> None:
        ballots = seen.ballots
        row, slot = torch.nonzero(ballots.known, as_tuple=True)
        if not self.values or len(row) == 0:
            return
        reward = seen.rewards[row, slot].double().numpy()
        propensity = seen.slot_logp[row, slot].double().exp().numpy()
        session = self._sessions(ballots.cluster[row])
        time = seen.time[row].numpy()
        self.values[LOGGED].add(reward, propensity, propensity, session, time=time)
        self.rewarded = [min(self.rewarded[0], float(reward.min())), max(self.rewarded[1], float(reward.max()))]
        q = ballots.q[row, slot]
        for number, name in enumerate(self.jury.names):
            if name not in self.jury.refused:
                target, v = ballots.target[row, number, slot].numpy(), ballots.v[row, number, slot].numpy()
                self.values[name].add(reward, propensity, target, session, q.numpy(), v, time=time)

    def _add_slates(self, seen: Seen) -> None:
        """Decisions whose slots are filled from the first on, all with a propensity."""
        filled = seen.slate > 0
        whole = (filled == seen.ballots.known).all(1) & filled[:, 0] & ~(filled[:, 1:] & ~filled[:, :-1]).any(1)
        if not self.slates or not bool(whole.any()):
            return
        seen, filled = seen[whole], filled[whole]
        logged = torch.where(filled, seen.slot_logp.double().exp(), 1.0)
        kind = "slot" if self.jury.marginal else "prefix"
        common = {"session": self._sessions(seen.ballots.cluster), "time": seen.time.numpy(), "filled": filled.numpy()}
        reward, q = seen.rewards.double().numpy(), seen.ballots.q.numpy()
        for name, acc in self.slates.items():
            if name in self.jury.refused:
                continue
            number = None if name == LOGGED else self.jury.names.index(name)
            target = logged if number is None else torch.where(filled, seen.ballots.target[:, number], 0.0)
            v = q if number is None else torch.where(filled, seen.ballots.v[:, number], 0.0).numpy()
            ratio = {f"propensity_{kind}": logged.numpy(), f"target_{kind}": target.numpy()}
            acc.add(reward, **common, **ratio, q=q, v=v)

    def _add_sequences(self, seen: Seen) -> None:
        """Each slot with a propensity is a step of its session, from the top of a slate to its bottom."""
        row, slot = torch.nonzero(seen.ballots.known, as_tuple=True)
        if not self.sequences or len(row) == 0:
            return
        reward, propensity = seen.rewards[row, slot].double().numpy(), seen.slot_logp[row, slot].double().exp().numpy()
        session: NDArray[np.uint64] = seen.ballots.session[row].numpy().view(np.uint64)
        time, q = seen.time[row].numpy(), seen.ballots.q[row, slot].numpy()
        for name, acc in self.sequences.items():
            if name == LOGGED:
                acc.add(reward, propensity, propensity, session, time, q, q)
            elif name not in self.jury.refused:
                number = self.jury.names.index(name)
                target, v = seen.ballots.target[row, number, slot].numpy(), seen.ballots.v[row, number, slot].numpy()
                acc.add(reward, propensity, target, session, time, q, v)

    def _add_lived(self, seen: Seen) -> None:
        for name, lived in self.lived.items():
            rows = seen.ballots.accepted[:, self.jury.names.index(name)]
            row, slot = torch.nonzero(seen.ballots.known & rows.unsqueeze(1), as_tuple=True)
            reward = seen.rewards[row, slot].double().numpy()
            lived.add(reward, session=self._sessions(seen.ballots.cluster[row]), time=seen.time[row].numpy())

    def _sessions(self, cluster: Tensor) -> NDArray[np.uint64] | None:
        if self.independent:
            return None
        keys: NDArray[np.uint64] = cluster.numpy().view(np.uint64)
        return keys

    def _teach(self, transition: Transition, ballots: Ballots) -> None:
        """The reward model learns what was shown with a propensity, scored or not."""
        row, slot = torch.nonzero(ballots.known, as_tuple=True)
        if len(row):
            reward = transition.rewards[row, slot].double()
            self.rewards.learn(transition.shown.slate[row, slot], slot, reward, transition.time[row])

    def _calibrate(self, seen: Seen) -> None:
        """What the reward model said of shown slots, beside what came; bins are relative to the mean reward so far."""
        row, slot = torch.nonzero(seen.ballots.known, as_tuple=True)
        if len(row) == 0:
            return
        q, reward = seen.ballots.q[row, slot], seen.rewards[row, slot].double()
        if float(self._sum[0]) and float(self._sum[1]) > 0.0:
            edges = torch.tensor(Q_EDGES, dtype=torch.float64) * float(self._sum[1] / self._sum[0])
            at = torch.bucketize(q, edges)
            for line, values in enumerate((torch.ones_like(q), q, reward)):
                self.calibration[line].index_add_(0, at, values)
        self._sum += torch.tensor([float(len(q)), float(reward.sum())], dtype=torch.float64)

    # --- lists -----------------------------------------------------------------------------------------------------

    def _add_lists(self, seen: Seen) -> None:
        if len(seen) == 0:
            return
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), seen.liked.sum(1).cumsum(0)]).numpy()
        relevant = seen.slate[seen.liked].numpy()
        session = self._sessions(seen.ballots.cluster)
        labels = {name: seen.labels[:, at].numpy() for at, name in enumerate(segments.SEGMENTS)}
        for number, name in enumerate(self.jury.names):
            metrics = self.lists[name]
            if metrics is not None:
                metrics.add(
                    seen.lists[:, number].numpy(),
                    relevant,
                    session,
                    offsets=offsets,
                    popularity=self._popularity(seen.ballots, number) if self.jury.depth else None,
                    history=seen.history.numpy() if seen.history.shape[1] else None,
                    segments=labels,
                )

    def _popularity(self, ballots: Ballots, number: int) -> Popularity:
        ranks = self._latest
        return Popularity(ballots.listed[:, number].numpy(), ballots.total.numpy(), ranks.rank, ranks.tail)

    # --- state -----------------------------------------------------------------------------------------------------

    def read(self) -> dict[str, Any]:
        """How far it has come."""
        return {"decisions": self.decisions, "fingerprint": self.fingerprint.read()}

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {f"values.{name}": part for name, part in self.values.items()}
        parts |= {f"slates.{name}": part for name, part in self.slates.items()}
        parts |= {f"sequences.{name}": part for name, part in self.sequences.items()}
        parts |= {f"lived.{name}": part for name, part in self.lived.items()}
        parts |= {f"lists.{name}": part for name, part in self.lists.items() if part is not None}
        return parts | {"fingerprint": self.fingerprint, "rewards": self.rewards}

    def state_dict(self) -> State:
        return {
            "parts": {name: part.state_dict() for name, part in self._parts().items()},
            "dropped": dict(self.dropped),
            "decisions": self.decisions,
            "span": torch.tensor(self.span, dtype=torch.float64),
            "calibration": self.calibration.clone(),
            "sum": self._sum.clone(),
            "rewarded": torch.tensor(self.rewarded, dtype=torch.float64),
            "waiting": pack(Seen.cat(self._waiting)) if self._waiting else None,
            "ranks": [torch.tensor(self._latest.rank), torch.tensor(self._latest.tail)],
        }

    def load_state_dict(self, state: State) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state["parts"][name])
        self.dropped, self.decisions = dict(state["dropped"]), state["decisions"]
        self.span = state["span"].tolist()
        self.calibration, self._sum = state["calibration"].clone(), state["sum"].clone()
        self.rewarded = state["rewarded"].tolist()
        self._waiting = [] if state["waiting"] is None else [_unpacked(state["waiting"])]
        self._latest = replace(self.jury.latest, **_tables(state["ranks"]))


def _tables(ranks: list[Tensor]) -> dict[str, NDArray[Any]]:
    return {name: np.array(table.numpy()) for name, table in zip(("rank", "tail"), ranks, strict=True)}


def _unpacked(tree: dict[str, Any]) -> Seen:
    plain = {field.name: tree[field.name] for field in fields(Seen) if field.name != "ballots"}
    return Seen(**plain, ballots=Ballots(**tree["ballots"]))
