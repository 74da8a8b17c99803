"""Item-kNN on co-clicks, counted click by click: who clicked this also clicked that."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from agents.popular import Fade, Popular
from streamrec.catalog import Catalog
from streamrec.expiry import among
from streamrec.explore import allowed, choose, first_choice, offered, pick, unseen
from streamrec.ports import State
from streamrec.records import Decision, History, Transition, rank_within

AT_ONCE = 65_536
"""Lists looked through together."""


class ItemKNN:
    """Recommends the neighbours of what the user clicked in the running session.

    Two clicks of a session that are d clicks apart, d <= `window`, add 1/d to the co-count c_ij of their items; a
    click adds 1 to the count n_i of its item. The similarity is s_ij = c_ij / ((n_i n_j)^power + shrink): a cosine
    with power 1/2 (Sarwar et al., WWW 2001). A session with the newest clicks i_0, i_1, ... gives item j the score
    sum_a s(i_a, j) / (1 + a) over the newest `last` clicks; equal scores are told apart by popularity, and lists that
    end early are filled with it.

    Departures from the paper: it computes similarities from the whole matrix; here each item has a list of at most
    `neighbours`, and counts grow with every click. While no list is full, c is exact. A newcomer to a full list
    takes the place of the neighbour with the smallest co-count and inherits it, so that heavy neighbours are never lost
    (Space-Saving: Metwally et al., ICDT 2005); of one item's newcomers in one call the heaviest `neighbours` enter.

    Args:
        catalog: which items may be shown.
        slate: K, slots of a slate.
        neighbours: M, length of an item's list; memory is 8 * M bytes per item of the catalogue's capacity.
        window: farthest distance of two clicks that count as a pair.
        last: clicks of the session that are scored.
        power: 1/2 = cosine, 0 = bare co-counts.
        shrink: how many clicks' worth of doubt weakens rare items.
        half_life_s: see `agents.popular.Fade`; None = co-counts do not fade with time.
        half_life_clicks: the same for clicks.
        epsilon: share of exploration, see `streamrec.explore.choose`; 0 = always the top K.
        exclude_seen: never show what is in the user's window of positives.
        seed: exploration.
        device: where the lists live.

    Raises:
        ValueError: if a setting is out of its range.
    """

    reads = ("items",)
    """Windows of `History` that are used."""

    def __init__(
        self,
        catalog: Catalog,
        slate: int,
        neighbours: int = 100,
        window: int = 10,
        last: int = 5,
        power: float = 0.5,
        shrink: float = 20.0,
        half_life_s: float | None = None,
        half_life_clicks: float | None = None,
        epsilon: float = 0.0,
        exclude_seen: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, value in (("neighbours", neighbours), ("window", window), ("last", last)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if power < 0.0 or shrink < 0.0:
            raise ValueError(f"power and shrink must be at least 0, got power={power}, shrink={shrink}")
        self.catalog, self.slate, self.epsilon, self.exclude_seen = catalog, slate, epsilon, exclude_seen
        self.neighbours, self.window, self.last = neighbours, window, last
        self.power, self.shrink = power, shrink
        self.device = torch.device(device)
        rows = catalog.capacity + 1
        self.ids = torch.zeros(rows, neighbours, dtype=torch.int32, device=self.device)
        self.weights = torch.zeros(rows, neighbours, device=self.device)  # c_ij
        self.filled = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self.counts = torch.zeros(rows, device=self.device)  # n_i
        self.fade = Fade(half_life_s, half_life_clicks)
        self.popular = Popular(catalog, slate, device=device)
        self.generator = Generator(device).manual_seed(seed)

    # --- deciding ----------------------------------------------------------------------------------------------

    def act(self, history: History) -> Decision:
        items, scores = self._neighbours_of(history)
        seen = history.items if self.exclude_seen else None
        scores = scores.where(allowed(items, self.catalog.available, seen), -torch.inf)
        given = offered(history, self.catalog.available, seen)
        if given is not None:
            _, everything = self._all(items, scores, seen)
            items, mask = given
            scores = everything.gather(1, items).where(mask, -torch.inf)
        elif self.epsilon:
            items, scores = self._all(items, scores, seen)
        else:
            items, scores = self._filled(items, scores, seen)
        index, slot_logp = choose(scores, self.slate, self.epsilon, self.generator)
        return Decision.of(history.user, pick(items, index), slot_logp)

    def scores(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """Similarity, and below it popularity; see `streamrec.explore.Scoring`."""
        near, scores = self._neighbours_of(history)
        seen = history.items if self.exclude_seen else None
        scores = scores.where(allowed(near, self.catalog.available, seen), -torch.inf)
        _, everything = self._all(near, scores, seen)
        return everything.gather(1, items).where(mask, -torch.inf)

    def probabilities(self, history: History, items: Tensor, mask: Tensor) -> Tensor:
        """See `streamrec.explore.Probabilistic`."""
        return first_choice(self.scores(history, items, mask), self.epsilon, self.slate)

    def _neighbours_of(self, history: History) -> tuple[Tensor, Tensor]:
        """Items [B, C] int64, 0 = none, and their scores [B, C] float64 above 0."""
        recent = history.items[:, -self.last :].long().flip(1)  # newest first
        age = torch.arange(recent.shape[1], device=self.device)
        recent = recent * (age < history.in_session.unsqueeze(1))
        items = self.ids[recent].long()  # [B, last, M]
        scores = self._similar(recent, items) / (1.0 + age).unsqueeze(1)
        items, scores = items.flatten(1), scores.flatten(1)
        return (items, scores) if recent.shape[1] == 1 else _merged(items, scores)

    def _similar(self, recent: Tensor, items: Tensor) -> Tensor:
        """Similarity of `recent` [B, R] and their neighbours `items` [B, R, M], equals told apart by popularity."""
        similar = self.weights[recent].double()
        if self.power or self.shrink:
            norm = (self.counts[recent].double().unsqueeze(2) * self.counts[items]).pow(self.power)
            similar /= (norm + self.shrink * self.fade.unit).clamp(min=1e-30)
        share = self.popular.counts[items] / self.popular.counts.max().clamp(min=1e-30)
        return similar * (1.0 + 1e-6 * share)

    def _filled(self, items: Tensor, scores: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        """The best K of the candidates, and behind them popular items that are not among these."""
        top = scores.topk(min(self.slate, scores.shape[1]), dim=1)
        best = items.gather(1, top.indices).masked_fill(top.values == -torch.inf, 0)
        more = self.popular.top(2 * self.slate + (0 if seen is None else seen.shape[1])).unsqueeze(0)
        # What is listed already must not come twice: the same test as for what was seen.
        listed = best if seen is None else torch.cat([best, seen.long()], dim=1)
        order = -1.0 - torch.arange(more.shape[1], device=self.device, dtype=torch.float64)
        filler = order.where(allowed(more, self.catalog.available, listed), -torch.inf)
        more = more.expand(len(best), -1)
        return torch.cat([best, more], dim=1), torch.cat([top.values, filler], dim=1)

    def _all(self, items: Tensor, scores: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        """Every item of the catalogue as a candidate: what exploration needs. [1, N + 1], [B, N + 1]."""
        rows = torch.arange(self.catalog.size, device=self.device).unsqueeze(0)
        available = self.catalog.available[: self.catalog.size].to(self.device).unsqueeze(0)
        wide = self.popular.order().where(unseen(available, rows, seen), -torch.inf).expand(len(items), -1).clone()
        there = scores > -torch.inf
        at = torch.where(there, items, 0)
        return rows, wide.scatter(1, at, torch.where(there, scores, -torch.inf))

    # --- learning ----------------------------------------------------------------------------------------------

    def observe(self, transition: Transition) -> None:
        """Count the clicked slots, each with the clicks before it: of the session, then of the same slate."""
        shown = transition.shown.slate
        clicked = transition.clicked() & (shown != 0)
        row, slot = torch.nonzero(clicked, as_tuple=True)
        if len(row) == 0:
            return
        target = shown[row, slot]
        weight, scale = self.fade.weigh(transition.history.time[row])
        if scale != 1.0:
            self.counts *= scale
            self.weights *= scale
        self.counts.index_add_(0, target, weight.float())
        context, distance = self._context(transition.history, shown * clicked, row, slot)
        pair, at = torch.nonzero((context != 0) & (distance <= self.window), as_tuple=True)
        self._count(context[pair, at], target[pair], (weight[pair] / distance[pair, at]).float())
        self.popular.observe(transition)

    def _context(self, history: History, clicks: Tensor, row: Tensor, slot: Tensor) -> tuple[Tensor, Tensor]:
        """What was clicked before each target [P], and how many clicks before: [P, W + K] items and distances.

        `clicks` [B, K] holds the clicked items of the slate, 0 elsewhere; their order is taken to be that of the slots.
        """
        recent = history.items[:, -self.window :].long().flip(1)
        age = torch.arange(recent.shape[1], device=self.device)
        recent = recent * (age < history.in_session.unsqueeze(1))
        nth = (clicks != 0).cumsum(1) - 1  # how many clicks of the slate came before
        mine = nth[row, slot].unsqueeze(1)
        apart = mine - nth[row]
        earlier = clicks[row] * (apart > 0)
        return torch.cat([recent[row], earlier], dim=1), torch.cat([age + 1 + mine, apart], dim=1)

    def _count(self, earlier: Tensor, later: Tensor, weight: Tensor) -> None:
        """Add `weight` [P] to the pairs of `earlier` and `later` items, in both directions."""
        other = earlier != later
        earlier, later, weight = earlier[other], later[other], weight[other]
        self._add(torch.cat([earlier, later]), torch.cat([later, earlier]), torch.cat([weight, weight]))

    def _add(self, item: Tensor, neighbour: Tensor, weight: Tensor) -> None:
        """Add to the lists, pairs that occur more than once summed up before. [P] each."""
        rows = self.catalog.capacity + 1
        pair, inverse = torch.unique(item * rows + neighbour, return_inverse=True)
        weight = weight.new_zeros(len(pair)).index_add_(0, inverse, weight)
        item, neighbour = pair // rows, pair % rows
        at = self.ids[item] == neighbour.unsqueeze(1)
        known = at.any(1)
        self.weights[item[known], at[known].int().argmax(1)] += weight[known]
        self._insert(item[~known], neighbour[~known], weight[~known])

    def _insert(self, item: Tensor, neighbour: Tensor, weight: Tensor) -> None:
        """New neighbours, each pair once: into free places, heaviest first, then in place of the lightest."""
        order = torch.argsort(weight, descending=True, stable=True)
        item, neighbour, weight = item[order], neighbour[order], weight[order]
        nth = rank_within(item)
        place = self.filled[item] + nth
        free = place < self.neighbours
        self._write(item[free], place[free], neighbour[free], weight[free])
        crowded = ~free & (nth < self.neighbours)
        if bool(crowded.any()):
            item, neighbour, weight = item[crowded], neighbour[crowded], weight[crowded]
            lightest = torch.argsort(self.weights[item], dim=1, stable=True)
            place = lightest.gather(1, rank_within(item).unsqueeze(1)).squeeze(1)
            self._write(item, place, neighbour, weight + self.weights[item, place])

    def _write(self, item: Tensor, place: Tensor, neighbour: Tensor, weight: Tensor) -> None:
        self.ids[item, place] = neighbour.int()
        self.weights[item, place] = weight
        self.filled.scatter_reduce_(0, item, place + 1, "amax")

    def recycle(self, rows: Tensor) -> None:
        """Items that are gone lose their lists and leave those of others, whose places are the next to be taken."""
        for table in (self.ids, self.weights, self.filled, self.counts):
            table[rows] = 0
        for ids, weights in zip(torch.split(self.ids, AT_ONCE), torch.split(self.weights, AT_ONCE), strict=True):
            gone = among(ids, rows)
            ids.masked_fill_(gone, 0)
            weights.masked_fill_(gone, 0.0)
        self.popular.recycle(rows)

    def update(self) -> dict[str, float]:
        """Nothing to do: counts are up to date as soon as a click is observed."""
        return {}

    def state_dict(self) -> State:
        """Counts and lists of the catalogue rows in use, as copies."""
        used = self.catalog.size
        tables = {name: getattr(self, name)[:used].clone() for name in ("ids", "weights", "filled", "counts")}
        fade, random = self.fade.state_dict(), self.generator.get_state()
        return {"tables": tables, "fade": fade, "popular": self.popular.state_dict(), "generator": random}

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()`.

        Raises:
            ValueError: if it was saved with lists of another length.
        """
        length = state["tables"]["ids"].shape[1]
        if length != self.neighbours:
            raise ValueError(f"the lists were saved with neighbours={length}, here it is {self.neighbours}")
        for name, saved in state["tables"].items():
            table = getattr(self, name)
            table[: len(saved)] = saved
            table[len(saved) :] = 0
        self.fade.load_state_dict(state["fade"])
        self.popular.load_state_dict(state["popular"])
        self.generator.set_state(state["generator"])


def _merged(items: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of repeated items of a row added up, each item then once. [B, C] -> [B, C], 0 = none."""
    items, order = items.sort(dim=1, stable=True)
    starts = torch.ones_like(items, dtype=torch.bool)
    starts[:, 1:] = items[:, 1:] != items[:, :-1]
    group = starts.cumsum(1) - 1
    total = torch.zeros_like(scores).scatter_add_(1, group, scores.gather(1, order))
    return torch.zeros_like(items).scatter_(1, group, items), total
