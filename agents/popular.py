"""What most people click lately: the baseline that is hard to beat on news, and the filler of other lists."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from streamrec.catalog import Catalog
from streamrec.explore import allowed, choose, first_choice, offered, pick, unseen
from streamrec.ports import State
from streamrec.records import Decision, History, Transition

LONGEST_GAP = 60.0
"""Half-lives that one pause can cost at most: after a longer one the old order must still be told from nothing."""

ROOM = 30.0
"""Halvings that new weights may grow by before the tables are scaled down."""


class Fade:
    """Weights that halve with time and with clicks, kept as weights that double: old entries need no visit.

    Forward decay (Cormode et al., ICDE 2009): what happens at age exponent e gets weight 2^(e - offset), and only when
    that grows too large are all tables scaled down together. If event time stands still, only clicks count.

    Args:
        half_life_s: seconds of event time after which a click counts half; None = it does not fade with time.
        half_life_clicks: clicks of anybody after which a click counts half; None = it does not fade with them.

    Raises:
        ValueError: if a half-life is not above 0.
    """

    def __init__(self, half_life_s: float | None, half_life_clicks: float | None) -> None:
        for name, value in (("half_life_s", half_life_s), ("half_life_clicks", half_life_clicks)):
            if value is not None and value <= 0.0:
                raise ValueError(f"{name} must be above 0 or left out, got {value}")
        self.per_second = 1 / half_life_s if half_life_s else 0.0
        self.per_click = 1 / half_life_clicks if half_life_clicks else 0.0
        self.start: float | None = None  # event time of the first click
        self.clicks = 0
        self.offset = 0.0
        self.newest = 0.0

    def weigh(self, time: Tensor) -> tuple[Tensor, float]:
        """Weights [P] float64 of the next clicks at `time` [P], and what to multiply all tables with before adding."""
        if self.start is None:
            self.start = float(time.min())
        number = self.clicks + torch.arange(len(time), device=time.device, dtype=torch.float64)
        exponent = (time - self.start) * self.per_second + number * self.per_click
        self.clicks += len(time)
        self.newest = max(self.newest, float(exponent.max()))
        growth = self.newest - self.offset
        if growth > ROOM:
            self.offset = self.newest
            return torch.exp2(exponent - self.offset), 2.0 ** -min(growth, LONGEST_GAP)
        return torch.exp2(exponent - self.offset), 1.0

    @property
    def unit(self) -> float:
        """What a click weighs now."""
        return float(2.0 ** (self.newest - self.offset))

    def state_dict(self) -> State:
        return {"start": self.start, "clicks": self.clicks, "offset": self.offset, "newest": self.newest}

    def load_state_dict(self, state: State) -> None:
        self.start, self.clicks = state["start"], state["clicks"]
        self.offset, self.newest = state["offset"], state["newest"]


class Popular:
    """The items with the most clicks, where old clicks count less.

    Args:
        catalog: which items may be shown.
        slate: K, slots of a slate.
        half_life_s: see `Fade`.
        half_life_clicks: see `Fade`.
        epsilon: share of exploration, see `streamrec.explore.choose`; 0 = always the top K.
        exclude_seen: never show what is in the user's window of positives.
        seed: exploration.
        device: where the counts live.
    """

    def __init__(
        self,
        catalog: Catalog,
        slate: int,
        half_life_s: float | None = None,
        half_life_clicks: float | None = 10_000.0,
        epsilon: float = 0.0,
        exclude_seen: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.catalog, self.slate, self.epsilon, self.exclude_seen = catalog, slate, epsilon, exclude_seen
        self.device = torch.device(device)
        self.fade = Fade(half_life_s, half_life_clicks)
        self.counts = torch.zeros(catalog.capacity + 1, dtype=torch.float64, device=self.device)
        self.generator = Generator(device).manual_seed(seed)
        self._ordered = (0, -1, 0)  # what `_order` was made from
        self._order = torch.zeros(0, dtype=torch.float64, device=self.device)

    @property
    def reads(self) -> tuple[str, ...]:
        """Windows of `History` that are used."""
        return ("items",) if self.exclude_seen else ()

    def act(self, history: History) -> Decision:
        seen = history.items if self.exclude_seen else None
        given = offered(history, self.catalog.available, seen)
        if given is not None:
            items, mask = given
            scores = self.counts[items].where(mask, -torch.inf)
            index, slot_logp = choose(scores, self.slate, self.epsilon, self.generator)
            return Decision.of(history.user, pick(items, index), slot_logp)
        wide = self.slate + (0 if seen is None else seen.shape[1])
        items = self.top(self.catalog.size if self.epsilon else wide).unsqueeze(0)
        mask = allowed(items, self.catalog.available, seen).expand(len(history), -1)
        order = -torch.arange(items.shape[1], device=self.device, dtype=torch.float64)
        index, slot_logp = choose(order.where(mask, -torch.inf), self.slate, self.epsilon, self.generator)
        slate = torch.cat([items[0], items.new_zeros(1)])[index]  # -1 is the 0 at the end
        return Decision.of(history.user, slate, slot_logp)

    def scores(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """Clicks on the candidates, see `streamrec.explore.Scoring`."""
        seen = history.items if self.exclude_seen else None
        return self.counts[items].where(unseen(mask, items, seen), -torch.inf)

    def probabilities(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """See `streamrec.explore.Probabilistic`."""
        return first_choice(self.scores(history, items, mask), self.epsilon, self.slate)

    def top(self, n: int) -> Tensor:
        """The n available items with the most clicks, best first; fewer if there are fewer. [n] int64."""
        available = self.catalog.available[: self.catalog.size].to(self.device)
        counts = self.counts[: self.catalog.size].masked_fill(~available, -1.0)
        top = counts.topk(min(n, len(counts)))
        return top.indices[top.values >= 0]

    def order(self) -> Tensor:
        """Scores that fall with the clicks: -1 for the row with the most, -2, ...; equals by row.

        Sorted again only after the counts have changed: whoever explores asks for every decision.

        Returns:
            [catalog.size] float64.
        """
        asked = (self.counts.data_ptr(), self.counts._version, self.catalog.size)
        if asked != self._ordered:
            rows = torch.argsort(self.counts[: self.catalog.size], descending=True, stable=True)
            falling = -1.0 - torch.arange(len(rows), device=self.device, dtype=torch.float64)
            self._order = torch.empty_like(falling).scatter_(0, rows, falling)
            self._ordered = asked
        return self._order

    def recycle(self, rows: Tensor) -> None:
        """Forget the clicks on items that are gone."""
        self.counts[rows] = 0.0

    def observe(self, transition: Transition) -> None:
        shown = transition.shown.slate
        row, slot = torch.nonzero(transition.clicked() & (shown != 0), as_tuple=True)
        if len(row):
            weights, scale = self.fade.weigh(transition.history.time[row])
            if scale != 1.0:
                self.counts *= scale
            self.counts.index_add_(0, shown[row, slot], weights)

    def update(self) -> dict[str, float]:
        """Nothing to do: counts are up to date as soon as a click is observed."""
        return {}

    def state_dict(self) -> State:
        random = self.generator.get_state()
        return {"counts": self.counts.clone(), "fade": self.fade.state_dict(), "generator": random}

    def load_state_dict(self, state: State) -> None:
        self.counts.copy_(state["counts"])
        self.fade.load_state_dict(state["fade"])
        self.generator.set_state(state["generator"])
