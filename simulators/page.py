"""A shop window of rows and columns, and people who look at some of its places more than at others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from simulators.core import Feedback, Unit
from simulators.draws import GOLDEN, keys, uniforms
from streamrec.mixing import mix
from streamrec.ports import State
from streamrec.records import Kind

_USERS, _TOPICS, _ITEMS, _TASTE, _SAMPLE, _FIRST, _LATE, _CONTENT = range(31, 39)  # streams of randomness
_STEP = 0x2545F4914F6CDD1D  # odd: keys of successive steps never meet
_LIKED = ((1.0, 0.8), (0.7, 0.5))  # weights of the topics a person likes: two pairs that go together
_MOOD = 0.3  # how much of the mood the newest page decides
_MEMORY = 2.0  # pages that shares of what was shown are taken of, at least
_PASSES = 2  # times `best` goes over a page: once to fill it, then to exchange
_ROWS, _COLUMNS = (0.7, 1.0, 0.45, 0.3, 0.6), (0.5, 1.0)  # looking, if nothing else is said; repeated as needed


class Page:
    """People who get pages of rows x columns items: where an item stands and what stands beside it matters.

    What the claims of DeepPage (Zhao et al., RecSys 2018) need. The paper learned its simulator from a private log;
    this one is ours, in closed form, each effect with a value at which it is off.

    * Taste: a unit vector near the centres of two pairs of categories. An item is a unit vector near the centre of its
      category and has a quality that everybody agrees on. `features` are its vector with noise, length 1: content
      vectors as one would have trained them elsewhere.
    * Looking: place (r, c) is looked at with probability `(row_attention[r] * column_attention[c]) ** attention`, which
      need not fall along the page. With `attention` 0 every place is looked at.
    * Companions: categories 1 and 2, 3 and 4, ... complete each other. An item gains `companion` log-odds for each
      neighbour (above, below, left, right) of the category that completes its own, and loses as much for each of its
      own category.
    * Click, once looked at: `sigmoid(base + match * <taste, item> + quality + companions - saturation * (s + spill *
      sum of s**2))`, with s the share of the item's category in what was looked at lately; the sum is over all
      categories. Its part makes everything dull and is no reason to prefer an item now: only who looks ahead minds it.
    * A click is a purchase with probability `buy * <taste, item>`; a slot is CLICK or PURCHASE, not both.
    * Skip, once looked at and not clicked: `skip * (1 - <taste, item>) / 2`. Everything else is silence.
    * Leaving: mood is a moving average of "this page had a click" (weight 0.3, 1 at the start of a visit); the visit
      ends after a page with probability `leave * (1 - mood) ** 2`, and the user is back after an exponential gap.

    `attention`, `companion`, `saturation`, `spill`, `buy`, `skip` and `leave` are off at 0, each alone. All draws are
    counted per user (`simulators.draws`). States on one device resume to the bit.

    Args:
        users: U, people.
        items: N, all there from the start.
        topics: T, categories; where their number is odd the last one completes nothing.
        dim: width of tastes and items, and F, of the features.
        rows: of a page.
        columns: of a page; slot k of a slate is the place (k // columns, k % columns).
        base: log-odds of a click on an average item by somebody who is neutral about it.
        match: log-odds between a perfect match and a neutral item.
        quality: standard deviation of the quality of items, log-odds.
        attention: how much places differ in being looked at.
        row_attention: rows numbers above 0, at most 1; None = .7, 1, .45, .3, .6.
        column_attention: columns numbers above 0, at most 1; None = .5, 1.
        companion: log-odds per neighbour.
        saturation: log-odds that a category loses which is all that was shown lately.
        spill: log-odds that everything loses then, in units of `saturation`.
        recover_s: time constant of forgetting what was shown, seconds.
        buy: probability that a click on a perfect match is a purchase.
        skip: probability that an item as far from the taste as can be is skipped explicitly.
        leave: probability of leaving when the mood is at its worst.
        gap_s: mean time away, seconds.
        think_s: mean time between a page and the next request, seconds.
        noise: length of what is added to an item's vector to make its features.
        rewards: weight per kind of feedback in lower case, and "leave" per visit ended; None = the paper's, 1 for a
            click and 5 for a purchase.
        seed: the world (topics, items) and, until `reset` with other seeds, its people.
        device: where the tensors live.

    Raises:
        ValueError: a setting out of its range.
    """

    offered, mortal = 0, False
    unit: Unit = "decision"

    def __init__(
        self,
        users: int = 1024,
        items: int = 120,
        topics: int = 6,
        dim: int = 16,
        rows: int = 5,
        columns: int = 2,
        base: float = -2.5,
        match: float = 4.5,
        quality: float = 0.3,
        attention: float = 1.0,
        row_attention: Sequence[float] | None = None,
        column_attention: Sequence[float] | None = None,
        companion: float = 0.75,
        saturation: float = 1.5,
        spill: float = 8.0,
        recover_s: float = 60.0,
        buy: float = 0.3,
        skip: float = 0.5,
        leave: float = 0.3,
        gap_s: float = 600.0,
        think_s: float = 10.0,
        noise: float = 0.3,
        rewards: Mapping[str, float] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._settings: dict[str, Any] = {k: v for k, v in locals().items() if k != "self"}
        _check(self._settings)
        self.users, self.items, self.topics, self.dim, self.slate = users, items, topics, dim, rows * columns
        self.shape, self.capacity = (rows, columns), items
        self.base, self.match, self.quality, self.companion = base, match, quality, companion
        self.saturation, self.spill, self.recover_s = saturation, spill, recover_s
        self.buy, self.skip, self.leave, self.gap_s, self.think_s = buy, skip, leave, gap_s, think_s
        self.device = torch.device(device)
        down = _profile("row_attention", row_attention, _ROWS, rows)
        across = _profile("column_attention", column_attention, _COLUMNS, columns)
        self.look = (down.unsqueeze(1) * across).flatten().pow(attention).to(self.device)  # [K]
        self.beside = _beside(rows, columns).to(self.device)  # [K, K] 1 = neighbours
        self.fits = _fits(topics).to(self.device)  # [T + 1, T + 1] 1 = complete each other, -1 = the same
        self._rewards = _reward_table({"click": 1.0, "purchase": 5.0} if rewards is None else rewards).to(self.device)
        self._make_items(seed, noise)
        self._make_people(seed)

    def _make_items(self, seed: int, noise: float) -> None:
        # Drawn on the CPU so that every device has the same world, to the bit.
        world = torch.tensor([seed])
        centres = _sphere(uniforms(keys(world, _TOPICS), self.topics * self.dim).view(self.topics, self.dim))
        one = mix(keys(world, _ITEMS) + torch.arange(self.items + 1) * GOLDEN)
        draws = uniforms(one, self.dim + 5)
        topic = (draws[:, 0] * self.topics).long()
        vectors = normalize(centres[topic] + 0.5 * _sphere(draws[:, 5:]))
        self.category = (topic + 1).to(self.device)  # [N + 1]
        self.category[0] = 0
        self.vectors, self.centres = vectors.to(self.device), centres.to(self.device)  # [N + 1, D], [T, D]
        standard = (draws[:, 1:5].sum(1) - 2) * math.sqrt(3)
        self.offset = (self.base + self.quality * standard).to(self.device)  # [N + 1] log-odds of a neutral user
        self.features = normalize(vectors + noise * _sphere(uniforms(mix(one + _CONTENT), self.dim))).to(self.device)
        self.features[0] = 0.0

    def _make_people(self, seed: int) -> None:
        u, at = self.users, self.device
        self.key = mix(keys(torch.tensor([seed], device=at), _USERS) + torch.arange(u, device=at) * GOLDEN)
        self.taste = torch.zeros(u, self.dim, device=at)
        self.shown = torch.zeros(u, self.topics, device=at)  # looks remembered per category, as of `time`
        self.mood = torch.ones(u, device=at)
        self.time = torch.zeros(u, dtype=torch.float64, device=at)
        self.steps = torch.zeros(u, dtype=torch.int64, device=at)
        self._settle(torch.arange(u, device=at))

    def _settle(self, users: Tensor) -> None:
        """Start the lives that the keys of `users` stand for."""
        self.taste[users] = self._tastes(mix(self.key[users] + _TASTE))
        self.shown[users], self.mood[users], self.steps[users] = 0.0, 1.0, 0
        self.time[users] = _exponential(uniforms(mix(self.key[users] + _FIRST), 1)[:, 0], self.think_s)

    def _tastes(self, key: Tensor) -> Tensor:
        draws = uniforms(key, len(_LIKED) + self.dim)
        pairs = (self.topics + 1) // 2
        first = 2 * (pairs * draws[:, : len(_LIKED)]).long()  # [n, pairs liked] category - 1
        taste = 0.35 * _sphere(draws[:, len(_LIKED) :])
        for at, (one, other) in enumerate(_LIKED):
            second = (first[:, at] + 1).clamp(max=self.topics - 1)
            taste = taste + one * self.centres[first[:, at]] + other * self.centres[second]
        return normalize(taste)

    # --- dynamics ----------------------------------------------------------------------------------------------

    def step(self, users: Tensor, slates: Tensor, time: Tensor | None = None) -> Feedback:
        """Show pages `slates` [n, K] of item numbers to `users` [n], each user at most once.

        Args:
            users: rows.
            slates: items, row after row of the page; 0 = empty place.
            time: seconds since the start at which the pages appear, where they come later than asked for.

        Returns:
            What they did, rows as `users`. Their clocks stand at their next requests then.

        Raises:
            ValueError: slates of another shape than [n, K].
        """
        if slates.shape != (len(users), self.slate):
            raise ValueError(f"expected slates of shape {(len(users), self.slate)}, got {tuple(slates.shape)}")
        users, slates = users.to(self.device), slates.to(self.device)
        key, shown = self._now(users), self.shown[users]
        if time is not None:
            late = (time.to(self.device) - self.time[users]).clamp_min(0.0)
            self.time[users] += late
            shown = self._forget(shown, late)
        category = self.category[slates]
        kinds = self._react(key, users, slates, self._dull(shown), category)
        positive = (kinds == int(Kind.CLICK)) | (kinds == int(Kind.PURCHASE))
        leave, think, gap = self._stay(users, key, positive.any(1))
        seen = one_hot(category, self.topics + 1)[:, :, 1:] * self.look.unsqueeze(1)
        self.shown[users] = self._forget(shown + seen.sum(1), think + gap)
        self.time[users] += think + gap
        self.steps[users] += 1
        reward = self._rewards[kinds.long()].sum(1) + self._rewards[int(Kind.LEAVE)] * leave
        return Feedback(kinds, reward, leave, think, gap, torch.ones_like(reward).unsqueeze(1).expand(kinds.shape))

    def _now(self, users: Tensor) -> Tensor:
        """[n] int64, keys of the randomness of the users' coming steps."""
        return mix(self.key[users] + self.steps[users] * _STEP)

    def _react(self, key: Tensor, users: Tensor, slates: Tensor, dull: Tensor, category: Tensor) -> Tensor:
        """[n, K] int8. One draw per slot decides between purchase, click, skip and nothing."""
        affinity = (self.vectors[slates] * self.taste[users].unsqueeze(1)).sum(2)
        logit = self.offset[slates] + self.match * affinity + self.company(category)
        click = torch.sigmoid(logit - dull.gather(1, (category - 1).clamp(min=0)))
        bought = click * self._buys(affinity)
        skip = (1 - click) * self.skip * (0.5 - 0.5 * affinity)
        draw = uniforms(key, self.slate) / self.look
        kinds = torch.where(draw < click + skip, int(Kind.SKIP), int(Kind.IMPRESSION))
        kinds = torch.where(draw < click, int(Kind.CLICK), kinds)
        kinds = torch.where(draw < bought, int(Kind.PURCHASE), kinds)
        return torch.where(slates > 0, kinds, int(Kind.NONE)).to(torch.int8)

    def company(self, category: Tensor) -> Tensor:
        """Log-odds that items gain from their neighbours: categories [n, K], 0 = empty, -> [n, K] float32."""
        pairs = self.fits[category.unsqueeze(2), category.unsqueeze(1)]
        return self.companion * (pairs * self.beside).sum(2)

    def _buys(self, affinity: Tensor) -> Tensor:
        return self.buy * affinity.clamp(min=0.0)

    def _stay(self, users: Tensor, key: Tensor, pleased: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Who leaves [n] bool, and seconds of thinking and of being away, two of [n] float64."""
        draws = uniforms(key, 3, self.slate)
        mood = (1 - _MOOD) * self.mood[users] + _MOOD * pleased
        leave = draws[:, 0] < self.leave * (1 - mood) ** 2
        self.mood[users] = torch.where(leave, 1.0, mood)
        return leave, _exponential(draws[:, 1], self.think_s), _exponential(draws[:, 2], self.gap_s) * leave

    def _share(self, shown: Tensor) -> Tensor:
        """[n, T] share of each category in what was looked at lately."""
        return shown / (shown.sum(1, keepdim=True) + _MEMORY * self.look.sum())

    def _dull(self, shown: Tensor) -> Tensor:
        """[n, T] log-odds that the items of each category lose."""
        share = self._share(shown)
        return self.saturation * (share + self.spill * (share * share).sum(1, keepdim=True))

    def _forget(self, shown: Tensor, seconds: Tensor) -> Tensor:
        return shown * torch.exp(-seconds / self.recover_s).to(torch.float32).unsqueeze(1)

    def shift(self) -> None:
        """Nothing: tastes do not change here."""

    def reset(self, users: Tensor, seeds: Tensor | None = None) -> None:
        """Put new people into the rows `users` [n].

        Args:
            users: rows.
            seeds: [n] int64; equal seeds are equal people with equal futures. None = the next people of these rows.
        """
        users = users.to(self.device)
        self.key[users] = mix(self.key[users] + GOLDEN) if seeds is None else keys(seeds.to(self.device), _USERS)
        self._settle(users)

    # --- items -------------------------------------------------------------------------------------------------

    def alive(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """The oldest and the newest item there is: `time` [n] float64 -> two of [n] int64, always 1 and N."""
        oldest = torch.ones_like(time, dtype=torch.int64)
        return oldest, torch.full_like(oldest, self.items)

    def sample(self, users: Tensor, count: int) -> Tensor:
        """`count` different items at random: [n] -> [n, count] int64, 0 where there are too few.

        One of each of `count` equal stretches of the items, laid in a circle that is turned at random: all are
        different without a search, and equally likely. The draw belongs to the user's coming step.
        """
        users = users.to(self.device)
        edge = torch.arange(count + 1, device=self.device) * self.items // count
        width = edge[1:] - edge[:-1]
        draw = uniforms(mix(self._now(users) + _SAMPLE), count + 1)
        turn = (draw[:, -1:] * self.items).long() * (self.items > count)
        place = (edge[:-1] + (draw[:, :-1] * width).long() + turn) % self.items
        return torch.where(width > 0, place + 1, 0)

    def context(self, users: Tensor) -> Tensor:
        """Nothing is known of people but what they do: [n, 0]."""
        return self.taste.new_zeros(len(users), 0)

    def worth(self, users: Tensor, items: Tensor | None = None, foresight: float = 0.0) -> Tensor:
        """What a policy that sees everything thinks of `items` [n, C] (None = 1..N): [n, C] float32.

        The probability of a click once looked at, with nothing beside it. With foresight the log-odds lose what showing
        the category costs everything else later: `foresight * saturation * spill * share`, the derivative of the sum
        of squares; the best factor is found by simulation (`simulators.oracle.tune`).
        """
        users = users.to(self.device)
        affinity = self._affinity(users, items)
        items = self._all() if items is None else items.to(self.device)
        cost = self._dull(self.shown[users]) + self._later(self._share(self.shown[users]), foresight)
        topic = (self.category[items] - 1).clamp(min=0).expand(len(users), -1)
        return torch.sigmoid(self.offset[items] + self.match * affinity - cost.gather(1, topic))

    def _all(self) -> Tensor:
        return torch.arange(1, self.items + 1, device=self.device).unsqueeze(0)

    def _affinity(self, users: Tensor, items: Tensor | None) -> Tensor:
        if items is None:
            return self.taste[users] @ self.vectors[1:].T
        return (self.vectors[items.to(self.device)] * self.taste[users].unsqueeze(1)).sum(2)

    def _later(self, share: Tensor, foresight: float) -> Tensor:
        return foresight * self.saturation * self.spill * share

    def best(self, users: Tensor, foresight: float = 0.0) -> Tensor:
        """A good page of who knows everything, [n, K].

        Places are filled in the order in which they are looked at, each with the item that adds most to the reward
        expected of the page, neighbours included; then each is tried again. Greedy with exchanges: not the optimum of
        the assignment, which is quadratic and hard. With foresight, categories cost as in `worth`, those already on the
        page included.
        """
        users = users.to(self.device)
        draft = _Draft(self, users, foresight)
        order = self.look.argsort(descending=True, stable=True).tolist()
        for _ in range(_PASSES):
            for slot in order:
                draft.place(slot)
        return draft.page

    # --- state -------------------------------------------------------------------------------------------------

    def like(self, **changes: object) -> Page:
        """A fresh world with the same settings except `changes`."""
        return Page(**{**self._settings, **changes})

    def _tables(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("key", "taste", "shown", "mood", "time", "steps")}

    def state_dict(self) -> State:
        """The people; the world itself follows from the settings."""
        return {name: table.cpu().clone() for name, table in self._tables().items()}

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()` of a world with the same settings.

        Raises:
            ValueError: it is of another size.
        """
        for name, table in self._tables().items():
            if state[name].shape != table.shape:
                raise ValueError(
                    f"the saved state has {name} of shape {tuple(state[name].shape)}, this page {tuple(table.shape)}: "
                    "users, topics and dim must be what they were"
                )
            table.copy_(state[name])


class _Draft:
    """Pages being filled by somebody who knows everything; see `Page.best`."""

    def __init__(self, world: Page, users: Tensor, foresight: float) -> None:
        self.world, self.foresight = world, foresight
        affinity = world._affinity(users, None)
        buys = world._buys(affinity)
        click, purchase = world._rewards[int(Kind.CLICK)], world._rewards[int(Kind.PURCHASE)]
        self.price = click * (1 - buys) + purchase * buys  # [n, N] of a click on average
        self.share = world._share(world.shown[users])
        self.unit = world.shown[users].sum(1, keepdim=True) + _MEMORY * world.look.sum()
        self.category = world.category[1:].expand(len(users), -1)
        dull = world._dull(world.shown[users]).gather(1, self.category - 1)
        self.logit = world.offset[1:] + world.match * affinity - dull  # [n, N] alone on the page
        self.page = torch.zeros(len(users), world.slate, dtype=torch.int64, device=world.device)
        self.free = torch.ones_like(self.logit, dtype=torch.bool)

    def place(self, slot: int) -> None:
        """Empty `slot` of every page and put there what adds most."""
        here = self.page[:, slot : slot + 1]
        filled = here > 0
        self.free.scatter_(1, (here - 1).clamp(min=0), filled | self.free.gather(1, (here - 1).clamp(min=0)))
        self.page[:, slot] = 0
        gain = self._own(slot) + self._to_others(slot).gather(1, self.category - 1)
        self.page[:, slot] = gain.masked_fill(~self.free, -torch.inf).argmax(1) + 1
        self.free.scatter_(1, self.page[:, slot : slot + 1] - 1, False)

    def _own(self, slot: int) -> Tensor:
        """[n, N] reward expected of each item in `slot`, what its category costs later taken off its log-odds."""
        world, category = self.world, self.world.category[self.page]
        fits = (world.fits[category] * world.beside[slot].unsqueeze(1)).sum(1)[:, 1:]  # [n, T]
        there = (one_hot(category, world.topics + 1)[:, :, 1:] * world.look.unsqueeze(1)).sum(1) / self.unit
        by_topic = world.companion * fits - world._later(self.share + there, self.foresight)
        return world.look[slot] * self.price * torch.sigmoid(self.logit + by_topic.gather(1, self.category - 1))

    def _to_others(self, slot: int) -> Tensor:
        """[n, T] what each category in `slot` adds to the reward expected of the items beside it."""
        world = self.world
        category, at = world.category[self.page], (self.page - 1).clamp(min=0)
        before = (self.logit.gather(1, at) + world.company(category)).unsqueeze(2)
        after = before + world.companion * world.fits[category][:, :, 1:]
        counts = world.look * world.beside[slot] * (self.page > 0) * self.price.gather(1, at)  # [n, K]
        return (counts.unsqueeze(2) * (torch.sigmoid(after) - torch.sigmoid(before))).sum(1)


def _beside(rows: int, columns: int) -> Tensor:
    """[K, K] float32, 1 where two places of the page share an edge."""
    k = torch.arange(rows * columns)
    down = (k // columns).unsqueeze(1) - (k // columns)
    across = (k % columns).unsqueeze(1) - (k % columns)
    return (down.abs() + across.abs() == 1).float()


def _fits(topics: int) -> Tensor:
    """[T + 1, T + 1] float32: 1 for categories 2j - 1 and 2j, -1 for a category and itself, else 0; row 0 is 0."""
    fits = torch.zeros(topics + 1, topics + 1)
    c = torch.arange(1, topics + 1)
    other = (c - 1 ^ 1) + 1
    paired = other <= topics
    fits[c[paired], other[paired]] = 1.0
    fits[c, c] = -1.0
    return fits


def _profile(name: str, given: Sequence[float] | None, usual: tuple[float, ...], length: int) -> Tensor:
    values = [usual[at % len(usual)] for at in range(length)] if given is None else list(given)
    if len(values) != length or not all(0.0 < value <= 1.0 for value in values):
        raise ValueError(f"page.{name} must be {length} numbers above 0 and at most 1, got {values}")
    return torch.tensor(values)


def _sphere(draws: Tensor) -> Tensor:
    """Directions from draws in (0, 1): [n, D] -> [n, D]."""
    return normalize(draws - 0.5)


def _exponential(draws: Tensor, mean: float) -> Tensor:
    """[n] float64, at least a tenth of a second, whole milliseconds: the same on every device."""
    return (draws.double().log() * -mean).clamp_min(0.1).mul(1000.0).round().div(1000.0)


def _reward_table(weights: Mapping[str, float]) -> Tensor:
    """[kinds] float32."""
    table = torch.zeros(len(Kind))
    for name, weight in weights.items():
        if name not in ("click", "purchase", "skip", "impression", "leave"):
            raise ValueError(f"page.rewards knows click, purchase, skip, impression and leave, got {name!r}")
        table[Kind[name.upper()]] = weight
    return table


def _check(settings: dict[str, Any]) -> None:
    for name in ("users", "items", "topics", "dim", "rows", "columns"):
        if settings[name] < 1:
            raise ValueError(f"page.{name} must be at least 1, got {settings[name]}")
    for name in ("attention", "companion", "saturation", "spill", "gap_s", "noise"):
        if settings[name] < 0:
            raise ValueError(f"page.{name} must not be negative, got {settings[name]}")
    for name in ("recover_s", "think_s"):
        if settings[name] <= 0:
            raise ValueError(f"page.{name} must be above 0, got {settings[name]}")
    for name in ("buy", "skip", "leave"):
        if not 0 <= settings[name] <= 1:
            raise ValueError(f"page.{name} must be between 0 and 1, got {settings[name]}")
    if settings["items"] < settings["rows"] * settings["columns"]:
        raise ValueError(
            f"page.items must fill a page of {settings['rows']} x {settings['columns']}, got {settings['items']}"
        )
