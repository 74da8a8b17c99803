"""LinUCB: ridge regressions per item, and an optimism that shrinks as they become sure."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor

from streamrec.catalog import Catalog
from streamrec.explore import allowed, choose, offered, pick
from streamrec.mixing import mix
from streamrec.ports import State
from streamrec.records import Decision, History, Transition
from streamrec.sessions import SessionStore

_TIE = 1e-12
"""Scores closer than about this are a tie: far below any difference that data make in float64."""


class LinUCB:
    """LinUCB with disjoint or hybrid linear models (Li, Chu, Langford & Schapire, WWW 2010, algorithms 1 and 2).

    x of a user is [context of the request, mean of the vectors of the positives in the window with weights
    `decay`^age, 1], d numbers. The vector v of an item is its features where the world tells any, else `dim` signs
    +-1/sqrt(dim) hashed from its row, so that items can be told apart and nothing has to be learned first.

    An arm is an item. Disjoint: A_a = I + sum x x', b_a = sum r x, score = x'A_a^-1 b_a + alpha sqrt(x'A_a^-1 x).
    Hybrid: the reward is z'beta + x'theta_a with z = x outer [v_a, 1] and beta shared by all arms, so k = d (dim + 1).
    Because z = F_a x is linear in x (F_a = I kron [v_a, 1]), the sums over z follow from those over x:
    B_a = (A_a - I) F_a', and the algorithm's equations become

        A_0 = I + sum_a F_a (I - A_a^-1) F_a',  b_0 = sum_a F_a A_a^-1 b_a,  beta = A_0^-1 b_0
        score = x'A_a^-1 (b_a + F_a'beta) + alpha sqrt(x'(A_a^-1 + A_a^-1 F_a'A_0^-1 F_a A_a^-1) x)

    which is what lines 8-13 compute, to rounding, without a d x k matrix per arm; A_0 and b_0 are kept up to date
    by the arms that a batch touched, old share out and new share in, as in lines 17-24.

    Shown are the K items of the highest score, among the candidates of the request or else all that are available: a
    deterministic policy, propensity 1. Arms that score the same, as all do at the start, are ordered by a hash of
    user and item ("ties broken arbitrarily" in the paper), so that the users of one wave try different ones. With
    `alpha` 0 and `epsilon` above 0 it is the paper's epsilon-greedy (disjoint or hybrid).

    Departures from the paper: every shown slot is one trial of its arm, as if slots did not influence each other and
    each were looked at; what is observed counts from the next `update` on, not from the next event, and the
    inverses of the arms touched are made anew then (Cholesky, exact for any number of trials of one arm at a time)
    instead of event by event; the paper's x is fixed per user, here it moves with the window; an arm keeps the vector
    that its item had when it was first shown; there are at most `arms` arms, the one not shown for longest goes
    first, and what it taught the shared part stays.

    An update costs O(T d^3) for T arms touched, hybrid O(N k^2) for N items more; a decision O(N d^2).

    Args:
        catalog: which items may be shown, and their features.
        sessions: knows how wide the context of a request is.
        slate: K, slots of a slate.
        model: "disjoint" or "hybrid".
        alpha: width of the confidence bound; 1 + sqrt(ln(2 / delta) / 2) holds with probability 1 - delta in theory.
        epsilon: share of exploration per slot, see `streamrec.explore.choose`.
        dim: width of item vectors where the world tells no features.
        decay: weight of a positive against the one after it, 0..1; 0 = the newest alone.
        arms: the most items with an arm of their own; each takes 2 d^2 numbers of float64. Others have the prior.
        exclude_seen: never show what is in the user's window of positives.
        seed: exploration.
        device: where the regressions live.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(
        self,
        catalog: Catalog,
        sessions: SessionStore,
        slate: int,
        model: Literal["disjoint", "hybrid"] = "disjoint",
        alpha: float = 1.0,
        epsilon: float = 0.0,
        dim: int = 32,
        decay: float = 0.5,
        arms: int = 10_000,
        exclude_seen: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if model not in ("disjoint", "hybrid"):
            raise ValueError(f'model must be "disjoint" or "hybrid", got {model!r}')
        if alpha < 0.0:
            raise ValueError(f"alpha must be at least 0, got {alpha}")
        for name, share in (("epsilon", epsilon), ("decay", decay)):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} must be between 0 and 1, got {share}")
        for name, number in (("dim", dim), ("arms", arms)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        self.catalog, self.slate, self.hybrid = catalog, slate, model == "hybrid"
        self.alpha, self.epsilon, self.decay = alpha, epsilon, decay
        self.most, self.exclude_seen = arms, exclude_seen
        self.device = torch.device(device)
        self.dim = catalog.features.shape[1] or dim
        self.width = sessions.context_width + self.dim + 1  # d
        self.generator = Generator(device).manual_seed(seed)
        self.used = 0  # places that hold an arm
        self.batches = 0  # records observed
        self.place = torch.full((catalog.capacity + 1,), -1, device=self.device)  # [N + 1], where the arm is, -1 = none
        self.item = torch.zeros(0, dtype=torch.int64, device=self.device)  # [M] whose arm it is
        self.seen = torch.zeros_like(self.item)  # [M] batch in which it was last shown
        self.touched = torch.zeros(0, dtype=torch.bool, device=self.device)  # [M] shown since the last update
        self.gram = self._zeros(0, self.width, self.width)  # [M, d, d] A_a
        self.inverse = torch.zeros_like(self.gram)  # [M, d, d] A_a^-1 as of the last update
        self.target = self._zeros(0, self.width)  # [M, d] b_a
        self.theta = torch.zeros_like(self.target)  # [M, d] A_a^-1 b_a as of the last update
        self.vector = self._zeros(0, self.dim + 1)  # [M, q] of the arm's item
        k = self.width * (self.dim + 1) if self.hybrid else 0
        self.shared_gram = torch.eye(k, dtype=torch.float64, device=self.device)  # [k, k] A_0
        self.shared_target = self._zeros(k)  # [k] b_0
        self.fresh = self._zeros(2)  # trials and rewards since the last update
        self._table: tuple[Tensor, Tensor, Tensor] | None = None  # rows, weights, widths: made when first needed

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of `History` that are used."""
        return ("items", "context", "offer")

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    # --- features ----------------------------------------------------------------------------------------------

    def vectors(self, rows: Tensor) -> Tensor:
        """What is known of items: [...] rows -> [..., dim + 1] float64, the last number 1; zero for "no item"."""
        if self.catalog.features.shape[1]:
            known = self.catalog.features[rows].to(self.device, torch.float64)
        else:
            lanes = torch.arange(self.dim, device=rows.device)
            sign = (mix(mix(rows.long()).unsqueeze(-1) + lanes) >> 40) & 1
            known = (sign * 2 - 1).double() / math.sqrt(self.dim)
        return torch.cat([known, torch.ones_like(known[..., :1])], dim=-1) * (rows != 0).unsqueeze(-1)

    def users(self, history: History) -> Tensor:
        """x of each row, [B, d] float64."""
        length = history.items.shape[1]
        age = torch.arange(length - 1, -1, -1, device=self.device)
        weight = (history.items != 0) * torch.as_tensor(self.decay, dtype=torch.float64, device=self.device) ** age
        total = (weight.unsqueeze(2) * self.vectors(history.items)[..., :-1]).sum(1)
        mean = total / weight.sum(1, keepdim=True).clamp(min=1e-12)
        return torch.cat([history.context.double(), mean, torch.ones_like(mean[:, :1])], dim=1)

    # --- deciding ----------------------------------------------------------------------------------------------

    def act(self, history: History) -> Decision:
        rows = torch.nonzero(self.catalog.available[: self.catalog.size].to(self.device)).squeeze(1)
        scores = self.score(history, rows)
        seen = history.items if self.exclude_seen else None
        given = offered(history, self.catalog.available, seen)
        if given is None:
            items, mask = rows.unsqueeze(0), allowed(rows.unsqueeze(0), self.catalog.available, seen)
        else:
            items, mask = given
            column = torch.zeros(self.catalog.capacity + 1, dtype=torch.int64, device=self.device)
            column[rows] = torch.arange(len(rows), device=self.device)
            scores = scores.gather(1, column[items]) if len(rows) else self._zeros(*items.shape)
        index, slot_logp = choose(scores.where(mask, -torch.inf), self.slate, self.epsilon, self.generator)
        return Decision.of(history.user, pick(items, index), slot_logp)

    def score(self, history: History, rows: Tensor) -> Tensor:
        """Upper confidence bounds of the items `rows` [R], [B, R] float64, ties ordered by a hash."""
        weights, widths = self.tables(rows)
        x = self.users(history)
        squares = (x.unsqueeze(2) * x.unsqueeze(1)).flatten(1)
        spread = (squares @ widths.flatten(1).t()).clamp(min=0.0).sqrt()
        turn = (mix(rows).unsqueeze(0) + mix(history.key).unsqueeze(1) >> 16) & 0xFFFF
        return x @ weights.t() + self.alpha * spread + turn * (_TIE / 0xFFFF)

    def tables(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """w_a [R, d] and S_a [R, d, d] of the items `rows` [R]: a score is x'w_a + alpha sqrt(x'S_a x)."""
        if self._table is None or not torch.equal(self._table[0], rows):
            self._table = (rows, *self._tables(rows))
        return self._table[1], self._table[2]

    def _tables(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        place = self.place[rows]
        there = place >= 0
        eye = torch.eye(self.width, dtype=torch.float64, device=self.device)
        inverse = eye.repeat(len(rows), 1, 1)
        inverse[there] = self.inverse[place[there]]
        theta = self._zeros(len(rows), self.width)
        theta[there] = self.theta[place[there]]
        if not self.hybrid:
            return theta, inverse
        vector = self.vectors(rows)
        vector[there] = self.vector[place[there]]
        factor = torch.linalg.cholesky(self.shared_gram)
        beta = torch.cholesky_solve(self.shared_target.unsqueeze(1), factor).view(self.width, -1)
        prior = vector @ beta.t()  # [R, d] F_a'beta
        shared = _contract(torch.cholesky_inverse(factor), vector, self.width)
        return theta + (inverse @ prior.unsqueeze(2)).squeeze(2), inverse + inverse @ shared @ inverse

    # --- learning ----------------------------------------------------------------------------------------------

    def observe(self, transition: Transition) -> None:
        """Add every shown slot to the sums of its arm; they count from the next `update` on."""
        self.batches += 1
        row, slot = torch.nonzero(transition.shown.slate > 0, as_tuple=True)
        items = transition.shown.slate[row, slot]
        self._open(torch.nonzero(items.bincount()).squeeze(1))
        place = self.place[items]
        kept = place >= 0  # all, unless one batch shows more items than there may be arms
        row, slot, place = row[kept], slot[kept], place[kept]
        x, reward = self.users(transition.history)[row], transition.rewards[row, slot].double()
        self.gram.view(len(self.gram), -1).index_add_(0, place, (x.unsqueeze(2) * x.unsqueeze(1)).flatten(1))
        self.target.index_add_(0, place, x * reward.unsqueeze(1))
        self.touched[place] = True
        self.seen[place] = self.batches
        self.fresh += torch.stack([torch.ones_like(reward).sum(), reward.sum()])

    def _open(self, items: Tensor) -> None:
        """Give an arm to each of `items` [U] that has none, the longest unseen ones making room."""
        known = self.place[items] >= 0
        self.seen[self.place[items[known]]] = self.batches
        new = items[~known][: self.most - int(known.sum())]
        if not len(new):
            return
        free = torch.arange(self.used, min(self.used + len(new), self.most), device=self.device)
        self._reserve(self.used + len(free))
        self.used += len(free)
        if len(free) < len(new):
            self._absorb()  # what is about to go has yet to teach the shared part
            idle = self.seen[: self.used].clone()
            idle[free] = self.batches
            oldest = idle.topk(len(new) - len(free), largest=False).indices
            self.place[self.item[oldest]] = -1
            free = torch.cat([free, oldest])
        self._settle(free, new)

    def _settle(self, places: Tensor, items: Tensor) -> None:
        """Arms that know nothing yet."""
        eye = torch.eye(self.width, dtype=torch.float64, device=self.device)
        self.place[items], self.item[places] = places, items
        self.gram[places], self.inverse[places] = eye, eye
        self.target[places], self.theta[places] = 0.0, 0.0
        self.vector[places] = self.vectors(items)
        self.touched[places], self.seen[places] = False, self.batches

    def _reserve(self, arms: int) -> None:
        """Make room for `arms` arms, doubling: memory grows with what was shown."""
        have = len(self.item)
        if arms <= have:
            return
        more = min(max(arms, 2 * have), self.most) - have
        for name in _PER_ARM:
            table = getattr(self, name)
            setattr(self, name, torch.cat([table, table.new_zeros(more, *table.shape[1:])]))

    def update(self) -> dict[str, float]:
        """Let what was observed count; {} if nothing was."""
        trials, reward = self.fresh.tolist()
        if not trials:
            return {}
        self._absorb()
        self.fresh.zero_()
        return {"arms": float(self.used), "reward_per_slot": reward / trials}

    def _absorb(self) -> None:
        at = torch.nonzero(self.touched).squeeze(1)
        before, theta = self.inverse[at], self.theta[at]
        self.inverse[at] = torch.cholesky_inverse(torch.linalg.cholesky(self.gram[at]))
        self.theta[at] = (self.inverse[at] @ self.target[at].unsqueeze(2)).squeeze(2)
        self.touched[at] = False
        self._table = None
        if self.hybrid:
            vector = self.vector[at]
            self.shared_gram += _spread(before - self.inverse[at], vector)
            self.shared_target += ((self.theta[at] - theta).t() @ vector).flatten()

    # --- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Sums, inverses and randomness, as copies: arms in use only."""
        arms = {name: getattr(self, name)[: self.used].clone() for name in _PER_ARM}
        shared = {"gram": self.shared_gram.clone(), "target": self.shared_target.clone()}
        counts = {"batches": self.batches, "fresh": self.fresh.clone()}
        return {"arms": arms, "shared": shared, "counts": counts, "generator": self.generator.get_state()}

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()`.

        Raises:
            ValueError: it was saved with another model, with wider or narrower vectors, or with more arms.
        """
        item, gram = state["arms"]["item"], state["arms"]["gram"]
        if gram.shape[1] != self.width or state["shared"]["gram"].shape != self.shared_gram.shape:
            raise ValueError(
                f"LinUCB was saved with {gram.shape[1]} numbers per user and {len(state['shared']['gram'])} shared "
                f"ones, here they are {self.width} and {len(self.shared_gram)}: model, dim and features must be "
                "the same"
            )
        if len(item) > self.most:
            raise ValueError(f"LinUCB was saved with {len(item)} arms, here arms={self.most}: raise it")
        for name in _PER_ARM:
            setattr(self, name, state["arms"][name].to(self.device, copy=True))
        self.used = len(item)
        self.place.fill_(-1)
        self.place[self.item] = torch.arange(self.used, device=self.device)
        self.shared_gram.copy_(state["shared"]["gram"])
        self.shared_target.copy_(state["shared"]["target"])
        self.batches = state["counts"]["batches"]
        self.fresh.copy_(state["counts"]["fresh"])
        self.generator.set_state(state["generator"])
        self._table = None


_PER_ARM = ("item", "seen", "touched", "gram", "inverse", "target", "theta", "vector")


def _spread(inner: Tensor, vector: Tensor) -> Tensor:
    """sum_a F_a D_a F_a' for D [T, d, d] and vectors [T, q] with F_a = I kron v_a: [d q, d q]."""
    d, q = inner.shape[1], vector.shape[1]
    squares = (vector.unsqueeze(2) * vector.unsqueeze(1)).flatten(1)
    return (inner.flatten(1).t() @ squares).view(d, d, q, q).transpose(1, 2).reshape(d * q, d * q)


def _contract(whole: Tensor, vector: Tensor, d: int) -> Tensor:
    """F_a' W F_a for W [d q, d q] and vectors [R, q] with F_a = I kron v_a: [R, d, d]."""
    q = vector.shape[1]
    squares = (vector.unsqueeze(2) * vector.unsqueeze(1)).flatten(1)
    return (squares @ whole.view(d, q, d, q).permute(1, 3, 0, 2).reshape(q * q, d * d)).view(-1, d, d)
