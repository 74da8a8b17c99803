"""A feed of items and thousands of people who scroll through it, all at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, normalize, one_hot

from simulators.core import Feedback, Unit
from simulators.draws import GOLDEN, keys, uniforms
from simulators.feed_items import draw_items, sphere
from simulators.feed_settings import check, reward_table
from streamrec.mixing import mix
from streamrec.ports import State
from streamrec.records import Kind

_USERS, _TOPICS, _ITEMS, _TASTE, _SHIFT, _SAMPLE, _FIRST, _LATE, _GROUP, _JUMP = range(1, 11)  # streams of randomness
_STEP = 0x2545F4914F6CDD1D  # odd: keys of successive steps never meet
_DRIFT = 1000  # first draw of a step that moves tastes; those before belong to slots, leaving and thinking
_LIKED = (1.0, 0.75, 0.5)  # weights of the topics a person likes
_MOOD = 0.3  # how much of the mood the newest slate decides
_SKIPS = 10  # skips that repel, at least a slate of them
_JUMPS_PER_DAY = 4
_ELSEWHERE = 0.125  # the oracle's unit of foresight about skips: most of the time something else is shown anyway


class Feed:
    """People with latent tastes who look at slates, click, skip, get bored, leave, come back and change.

    * Taste: a unit vector near the centres of three topics, popular topics more often. An item is a unit vector near
      the centre of its topic, and has a quality that everybody agrees on.
    * Looking: slot k (from 0) is looked at with probability `(k + 1) ** -position_bias` (position-based model, Craswell
      et al., WSDM 2008).
    * Click, once looked at: `sigmoid(base + match * <taste, item> + quality - boredom * (s + monotony * sum of s**2))`.
      s = the item's topic as a share of what was shown lately, the sum is over all topics: a topic one saw enough of
      is dull, and a feed that always shows the same makes everything in it dull. The second is what a myopic policy
      cannot see, since it is no reason to prefer one item to another now. Slots count as they are looked at, are
      forgotten with time constant `recover_s`, and shares are taken of at least three slates.
    * Skip, once looked at and not clicked: `skip * ((1 - <taste, item>) / 2 + haste * (1 + <taste, item>) / 2)`: a skip
      says something about taste, the less the more hasty people are.
    * Repulsion: an item loses `repulsion * sum of exp(-age / forgive_s) * max(cos(item, skipped), 0)` over the user's
      newest skips (10, or a slate of them): who passed over something wants no more of the kind for a while.
    * Purchase: a click is an order with probability `purchase * (1 + <taste, item>) / 2`.
    * Tide: everybody's probability of a click is multiplied by `1 + tide * sin(2 pi t / day_s) + jumps * level`, with
      a level between -1 and 1 that changes four times a day.
    * Groups of users, equally large: their log-odds of a click differ by `group_spread` from the first to the last, in
      equal steps around 0. Everybody may know the group (`context`). Group g asks `1 + mix * sin(2 pi (t / day_s +
      g / groups))` times as often, so that the shares of the requests come and go with the day.
    * Leaving: mood is a moving average of "this slate had a click" (weight 0.3, 1 at the start of a visit); the visit
      ends after a slate with probability `leave * (1 - mood) ** 2`, and the user is back after an exponential gap.
    * Tastes drift as a random walk on the sphere, and jump for a share of the users at `shift_at`.
    * Items arrive at a steady rate and, if wished, go after a while.

    Every effect is off at 0 (`groups`: at 1), alone. All draws are counted per user (`simulators.draws`): a user's life
    does not depend on who else is stepped. States on one device resume to the bit.

    Args:
        users: U, people.
        items: items there are at the start, numbered 1..items.
        topics: T.
        dim: width of tastes and items.
        slate: K, slots of a slate.
        base: log-odds of a click on an average item by somebody who is neutral about it.
        match: log-odds between a perfect match and a neutral item.
        quality: standard deviation of the quality of items, log-odds.
        position_bias: how fast looking falls off with the slot.
        skip: probability that an item as far from the taste as can be is skipped explicitly.
        boredom: log-odds that a topic loses which is all that was shown lately.
        monotony: log-odds that everything loses then, in units of `boredom`.
        recover_s: time constant of forgetting what was shown, seconds.
        leave: probability of leaving when the mood is at its worst.
        gap_s: mean time away, seconds.
        drift: angle by which a taste wanders off in an hour, radians, if dim is large.
        shift_at: seconds after the start at which tastes shift.
        shift_fraction: share of the users who take part in a shift.
        new_items_per_hour: items that arrive, until there have been `max_items`.
        life_hours: hours an item stays; those of the start have arrived at the same rate before it.
        max_items: the most items ever, 0 = `items`, or four times that if items arrive.
        think_s: mean time between a slate and the next request, seconds.
        haste: probability that a perfect match is skipped, in units of `skip`.
        repulsion: log-odds that an item loses which is like one skipped just now.
        forgive_s: time constant of forgetting skips, seconds.
        purchase: probability that a click on a perfect match is an order.
        tide: amplitude of the daily wave in everybody's probability of a click, 1 = down to 0.
        jumps: amplitude of the steps in it.
        day_s: length of a day of these waves, seconds.
        groups: G, groups of users.
        group_spread: log-odds between the first and the last group.
        mix: amplitude of the daily wave in how often a group asks, below 1.
        rewards: weight per kind of feedback in lower case, and "leave" per visit ended.
        seed: the world (topics, items) and, until `reset` with other seeds, its people.
        device: where the tensors live.

    Raises:
        ValueError: a setting out of its range.
    """

    offered, mortal = 0, False
    unit: Unit = "decision"

    def __init__(
        self,
        users: int = 4096,
        items: int = 1000,
        topics: int = 20,
        dim: int = 16,
        slate: int = 5,
        base: float = -3.3,
        match: float = 4.5,
        quality: float = 0.5,
        position_bias: float = 0.5,
        skip: float = 0.5,
        boredom: float = 1.5,
        monotony: float = 3.5,
        recover_s: float = 120.0,
        leave: float = 0.5,
        gap_s: float = 1800.0,
        drift: float = 0.1,
        shift_at: float = 0.0,
        shift_fraction: float = 0.5,
        new_items_per_hour: float = 20.0,
        life_hours: float = 0.0,
        max_items: int = 0,
        think_s: float = 10.0,
        haste: float = 0.0,
        repulsion: float = 0.0,
        forgive_s: float = 60.0,
        purchase: float = 0.0,
        tide: float = 0.0,
        jumps: float = 0.0,
        day_s: float = 86_400.0,
        groups: int = 1,
        group_spread: float = 0.0,
        mix: float = 0.0,
        rewards: Mapping[str, float] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._settings: dict[str, Any] = {k: v for k, v in locals().items() if k != "self"}
        check(self._settings)
        self.users, self.items, self.topics, self.dim, self.slate = users, items, topics, dim, slate
        self.base, self.match, self.quality = base, match, quality
        self.skip, self.boredom, self.monotony, self.recover_s = skip, boredom, monotony, recover_s
        self.leave, self.gap_s, self.think_s = leave, gap_s, think_s
        self.drift, self.shift_at, self.shift_fraction = drift, shift_at, shift_fraction
        self.per_hour, self.life_hours = new_items_per_hour, life_hours
        self.capacity = max_items or (items * 4 if new_items_per_hour else items)
        self.shape = (slate, 1)
        self.device = torch.device(device)
        self.look = (1.0 + torch.arange(slate, device=self.device)) ** -position_bias  # [K]
        self.haste, self.repulsion, self.forgive_s, self.purchase = haste, repulsion, forgive_s, purchase
        self.tide, self.jumps, self.day_s = tide, jumps, day_s
        self.groups, self.group_spread, self.mix = groups, group_spread, mix
        self._rewards = reward_table(rewards or {"click": 1.0, "purchase": 1.0}).to(self.device)
        self.shifts = 0
        self._jump_key = keys(torch.tensor([seed], device=self.device), _JUMP)
        self._make_items(seed)
        self._make_people(seed)

    def _make_items(self, seed: int) -> None:
        world = torch.tensor([seed])
        made = draw_items(self.capacity, self.topics, self.dim, keys(world, _TOPICS), keys(world, _ITEMS))
        self.centres, self.vectors = made.centres.to(self.device), made.vectors.to(self.device)
        self.topic = made.topic.to(self.device)
        self.offset = (self.base + self.quality * made.quality).to(self.device)  # [N + 1], log-odds of a neutral user
        self.category = self.topic + 1
        self.features = one_hot(self.topic, self.topics).float()

    def _make_people(self, seed: int) -> None:
        u, at = self.users, self.device
        self.key = mix(keys(torch.tensor([seed], device=at), _USERS) + torch.arange(u, device=at) * GOLDEN)
        self.taste = torch.zeros(u, self.dim, device=at)
        self.shown = torch.zeros(u, self.topics, device=at)  # slots remembered per topic, as of `time`
        self.mood = torch.ones(u, device=at)
        self.time = torch.zeros(u, dtype=torch.float64, device=at)
        self.steps = torch.zeros(u, dtype=torch.int64, device=at)
        self.shifted = torch.zeros(u, dtype=torch.bool, device=at)
        self.group = torch.zeros(u, dtype=torch.int64, device=at)
        ring = max(_SKIPS, self.slate) + 1 if self.repulsion else 0  # the last place takes what is not a skip
        self.skipped = torch.zeros(u, ring, dtype=torch.int64, device=at)
        self.skip_time = torch.zeros(u, ring, dtype=torch.float64, device=at)
        self.skips = torch.zeros(u, dtype=torch.int64, device=at)  # skips so far, while they matter
        self._settle(torch.arange(u, device=at))

    def _settle(self, users: Tensor) -> None:
        """Start the lives that the keys of `users` stand for."""
        self.taste[users] = self._tastes(mix(self.key[users] + _TASTE))
        self.shown[users], self.mood[users] = 0.0, 1.0
        self.steps[users], self.shifted[users] = 0, False
        self.skipped[users], self.skip_time[users], self.skips[users] = 0, 0.0, 0
        if self.groups > 1:
            self.group[users] = (uniforms(mix(self.key[users] + _GROUP), 1)[:, 0] * self.groups).long()
        self.time[users] = _exponential(uniforms(mix(self.key[users] + _FIRST), 1)[:, 0], self.think_s)

    def _tastes(self, key: Tensor) -> Tensor:
        draws = uniforms(key, len(_LIKED) + self.dim)
        liked = (self.topics * draws[:, : len(_LIKED)] ** 1.5).long()
        weights = torch.tensor(_LIKED, device=key.device).view(1, -1, 1)
        return normalize((self.centres[liked] * weights).sum(1) + 0.35 * sphere(draws[:, len(_LIKED) :]))

    # --- dynamics ----------------------------------------------------------------------------------------------

    def step(self, users: Tensor, slates: Tensor, time: Tensor | None = None) -> Feedback:
        """Show `slates` [n, K] of item numbers to `users` [n], each user at most once.

        Args:
            users: rows.
            slates: items, best place first; 0 = empty slot.
            time: seconds since the start at which the slates appear, where they come later than asked for.

        Returns:
            What they did, rows as `users`. Their clocks stand at their next requests then.

        Raises:
            ValueError: slates of another shape than [n, K].
        """
        if slates.shape != (len(users), self.slate):
            raise ValueError(f"expected slates of shape {(len(users), self.slate)}, got {tuple(slates.shape)}")
        users, slates = users.to(self.device), slates.to(self.device)
        key = self._now(users)
        taste, shown = self.taste.index_select(0, users), self.shown.index_select(0, users)
        if time is not None:
            late = (time.to(self.device) - self.time[users]).clamp_min(0.0)
            self.time[users] += late
            taste, shown = self._pass(mix(key + _LATE), taste, shown, late)
        topic = self.topic.index_select(0, slates.flatten()).view_as(slates)
        kinds = self._react(users, key, slates, taste, self._dull(shown).gather(1, topic))
        self._resent(users, slates, kinds == int(Kind.SKIP))
        pleased = (kinds == int(Kind.CLICK)) | (kinds == int(Kind.PURCHASE))
        leave, think, gap = self._stay(users, key, pleased.any(1))
        shown = shown.scatter_add(1, topic, (slates > 0) * self.look)
        taste, shown = self._pass(key, taste, shown, think + gap)
        self.taste.index_copy_(0, users, taste)
        self.shown.index_copy_(0, users, shown)
        self.time.index_add_(0, users, think + gap)
        self.steps.index_add_(0, users, torch.ones_like(users))
        self._keep_date(users)
        reward = self._rewards.index_select(0, kinds.int().flatten()).view_as(kinds).sum(1)
        reward += self._rewards[int(Kind.LEAVE)] * leave
        return Feedback(kinds, reward, leave, think, gap, torch.ones_like(reward).unsqueeze(1).expand(kinds.shape))

    def _now(self, users: Tensor) -> Tensor:
        """[n] int64, keys of the randomness of the users' coming steps."""
        return mix(self.key.index_select(0, users) + self.steps.index_select(0, users) * _STEP)

    def _react(self, users: Tensor, key: Tensor, slates: Tensor, taste: Tensor, dull: Tensor) -> Tensor:
        """[n, K] int8. One draw per slot decides between order, click, skip and nothing."""
        vectors = embedding(slates, self.vectors)
        affinity = (vectors * taste.unsqueeze(1)).sum(2)
        offset = self.offset.index_select(0, slates.flatten()).view_as(slates)
        click = self._click(users, offset + self.match * affinity - dull - self._repelled(users, vectors))
        skip = (1 - click) * self._scorn(affinity)
        draw = uniforms(key, self.slate) / self.look
        kinds = torch.where(draw < click + skip, int(Kind.SKIP), int(Kind.IMPRESSION))
        kinds = torch.where(draw < click, int(Kind.CLICK), kinds)
        if self.purchase:
            kinds = torch.where(draw < click * self._order(affinity), int(Kind.PURCHASE), kinds)
        return torch.where(slates > 0, kinds, int(Kind.NONE)).to(torch.int8)

    def _click(self, users: Tensor, odds: Tensor) -> Tensor:
        """Log-odds of what `users` [n] think of items [n, C] -> probability of a click now, once looked at."""
        if self.groups > 1:
            odds = odds + self.group_spread * (self.group[users] / (self.groups - 1) - 0.5).unsqueeze(1)
        p = torch.sigmoid(odds)
        if self.tide or self.jumps:
            p = (p * self._tide(self.time[users]).unsqueeze(1)).clamp(max=1.0)
        return p

    def _scorn(self, affinity: Tensor) -> Tensor:
        """Probability that what is not clicked is skipped, of any shape."""
        return self.skip * (0.5 - 0.5 * affinity + self.haste * (0.5 + 0.5 * affinity))

    def _order(self, affinity: Tensor) -> Tensor:
        """Probability that a click is an order, of any shape."""
        return self.purchase * (0.5 + 0.5 * affinity)

    def _tide(self, time: Tensor) -> Tensor:
        """[n] float32: what probabilities are multiplied by at `time` [n], the same for everybody."""
        day = time / self.day_s
        level = uniforms(self._jump_key + (day * _JUMPS_PER_DAY).floor().long() * GOLDEN, 1)[:, 0] * 2 - 1
        return (1 + self.tide * torch.sin(2 * math.pi * day) + self.jumps * level).clamp(0.0).float()

    def _pace(self, users: Tensor) -> Tensor:
        """[n] float64: how often `users` ask now, in units of the mean."""
        phase = self.time[users] / self.day_s + self.group[users] / self.groups
        return 1 + self.mix * torch.sin(2 * math.pi * phase)

    def _repelled(self, users: Tensor, vectors: Tensor) -> Tensor | float:
        """[n, C] log-odds that items with `vectors` [n, C, D], or [C, D] for all, lose to the skips of `users`."""
        if not self.repulsion:
            return 0.0
        skipped, weight = self.vectors[self.skipped[users, :-1]], self.repulsion * self._resentment(users)
        if vectors.dim() == 3:
            alike = (vectors @ skipped.transpose(1, 2)).clamp(min=0.0)
            return (alike @ weight.unsqueeze(2)).squeeze(2)
        lost = weight.new_zeros(len(users), len(vectors))
        for at in range(weight.shape[1]):  # one skip at a time: all at once would be as many tables of this size
            lost += weight[:, at, None] * (skipped[:, at] @ vectors.T).clamp(min=0.0)
        return lost

    def _resentment(self, users: Tensor) -> Tensor:
        """[n, R] float32: how fresh the newest skips are, 0 where there was none."""
        age = self.time[users].unsqueeze(1) - self.skip_time[users, :-1]
        return torch.exp(-age / self.forgive_s).float() * (self.skipped[users, :-1] > 0)

    def _resent(self, users: Tensor, slates: Tensor, skipped: Tensor) -> None:
        """Remember the skips [n, K] bool of the slates [n, K] that appear now."""
        if not self.repulsion:
            return
        ring = self.skipped.shape[1] - 1
        place = (self.skips[users].unsqueeze(1) + skipped.cumsum(1) - 1) % ring
        place = torch.where(skipped, place, ring)
        now = self.time[users].unsqueeze(1).expand(place.shape)
        self.skipped[users] = self.skipped[users].scatter(1, place, slates)
        self.skip_time[users] = self.skip_time[users].scatter(1, place, now)
        self.skips[users] += skipped.sum(1)

    def _stay(self, users: Tensor, key: Tensor, pleased: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Who leaves [n] bool, and seconds of thinking and of being away, two of [n] float64."""
        draws = uniforms(key, 3, self.slate)
        mood = (1 - _MOOD) * self.mood.index_select(0, users) + _MOOD * pleased
        leave = draws[:, 0] < self.leave * (1 - mood) ** 2
        self.mood.index_copy_(0, users, torch.where(leave, 1.0, mood))
        think = _exponential(draws[:, 1], self.think_s, self._pace(users) if self.mix else None)
        return leave, think, _exponential(draws[:, 2], self.gap_s) * leave

    def _share(self, shown: Tensor) -> Tensor:
        """[n, T] share of each topic in what was shown lately."""
        return shown / (shown.sum(1, keepdim=True) + 3 * self.look.sum())

    def _dull(self, shown: Tensor) -> Tensor:
        """[n, T] log-odds that the items of each topic lose."""
        share = self._share(shown)
        return self.boredom * (share + self.monotony * (share * share).sum(1, keepdim=True))

    def _pass(self, key: Tensor, taste: Tensor, shown: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
        """What `seconds` [n] of time do: topics recover, tastes drift."""
        if self.boredom:
            shown = shown * torch.exp(-seconds / self.recover_s).to(torch.float32).unsqueeze(1)
        if self.drift:
            angle = self.drift * torch.sqrt(seconds / 3600.0).to(torch.float32)
            noise = (uniforms(key, self.dim, _DRIFT) - 0.5) * math.sqrt(12 / self.dim)
            taste = normalize(taste + angle.unsqueeze(1) * noise)
        return taste, shown

    def _keep_date(self, users: Tensor) -> None:
        """Shift those whose clocks have passed `shift_at`."""
        if not self.shift_at:
            return
        due = users[(self.time[users] >= self.shift_at) & ~self.shifted[users]]
        self.shifted[due] = True
        self._shift(due, 0)

    def shift(self) -> None:
        """Give a share `shift_fraction` of all users a new taste now."""
        self.shifts += 1
        self._shift(torch.arange(self.users, device=self.device), self.shifts)

    def _shift(self, users: Tensor, number: int) -> None:
        key = mix(mix(self.key[users] + _SHIFT) + number)
        moved = uniforms(key, 1)[:, 0] < self.shift_fraction
        self.taste[users[moved]] = self._tastes(mix(key[moved] + _TASTE))

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
        """The oldest and the newest item there is: `time` [n] float64, seconds since the start -> two of [n] int64."""
        hours = time / 3600.0
        newest = self.items + (self.per_hour * hours).floor().long()
        oldest = torch.ones_like(newest)
        if self.life_hours:
            gone = self.items + (self.per_hour * (hours - self.life_hours)).floor().long()
            oldest = (gone + 1).clamp(1, self.capacity)
        return oldest, newest.clamp(max=self.capacity)

    def sample(self, users: Tensor, count: int) -> Tensor:
        """`count` different items that there are, at random: [n] -> [n, count] int64, 0 where there are too few.

        One of each of `count` equal stretches of the items, laid in a circle that is turned at random: all are
        different without a search, and equally likely. If there are no more than `count`, every item has its fixed
        column. The draw belongs to the user's coming step.
        """
        users = users.to(self.device)
        oldest, newest = self.alive(self.time[users])
        pool = (newest - oldest + 1).unsqueeze(1)
        edge = torch.arange(count + 1, device=self.device) * pool // count
        width = edge[:, 1:] - edge[:, :-1]
        draw = uniforms(mix(self._now(users) + _SAMPLE), count + 1)
        turn = torch.where(pool > count, (draw[:, -1:] * pool).long(), 0)
        place = (edge[:, :-1] + (draw[:, :-1] * width).long() + turn) % pool
        item = oldest.unsqueeze(1) + place
        return torch.where(width > 0, item, 0)

    def context(self, users: Tensor) -> Tensor:
        """The group, one-hot, [n, G]; with one group nothing is known of people but what they do: [n, 0]."""
        if self.groups == 1:
            return self.taste.new_zeros(len(users), 0)
        return one_hot(self.group[users.to(self.device)], self.groups).float()

    def best(self, users: Tensor, foresight: float = 0.0) -> Tensor:
        """The K items of the highest `worth`, [n, K]."""
        return self.worth(users, foresight=foresight).topk(self.slate, dim=1).indices + 1

    def worth(self, users: Tensor, items: Tensor | None = None, foresight: float = 0.0) -> Tensor:
        """What a policy that sees everything thinks of `items` [n, C] (None = 1..newest): [n, C] float32.

        With foresight 0: the probability of a click now, once looked at; -inf for items that are not there. With
        `purchase` it is the expected reward of the click or order instead.

        Showing an item makes everything duller, in proportion to the share its topic already has (the derivative of
        the sum of squares), so its index loses `foresight * boredom * monotony * share` in log-odds. If it is skipped,
        what is like it repels for a while: that costs clicks in proportion to the probability of the skip, to how
        welcome such items would be otherwise, and to the decisions it takes to forgive, times `foresight`. The best
        factor depends on the setting and is found by simulation (`simulators.oracle.tune`).
        """
        users = users.to(self.device)
        taste, shown = self.taste[users], self.shown[users]
        oldest, newest = (edge.unsqueeze(1) for edge in self.alive(self.time[users]))
        cost = self._dull(shown) + foresight * self.boredom * self.monotony * self._share(shown)
        if items is None:
            items = torch.arange(1, int(newest.max()) + 1, device=self.device).unsqueeze(0)
            vectors = self.vectors[items[0]]
            affinity, cost = taste @ vectors.T, cost[:, self.topic[items[0]]]
        else:
            items = items.to(self.device)
            vectors = self.vectors[items]
            affinity, cost = (vectors * taste.unsqueeze(1)).sum(2), cost.gather(1, self.topic[items])
        odds = self.offset[items] + self.match * affinity - cost
        p = self._click(users, odds - self._repelled(users, vectors))
        worth = p * self._price(affinity)
        if self.repulsion and foresight:
            lost = self.repulsion * self.forgive_s / self.think_s * self._click(users, odds)
            worth = worth - foresight * _ELSEWHERE * (1 - p) * self._scorn(affinity) * lost
        return worth.masked_fill((items < oldest) | (items > newest), -torch.inf)

    def _price(self, affinity: Tensor) -> Tensor | float:
        """Expected reward of a click, which may be an order."""
        if not self.purchase:
            return 1.0
        order = self._order(affinity)
        return self._rewards[int(Kind.CLICK)] * (1 - order) + self._rewards[int(Kind.PURCHASE)] * order

    # --- state -------------------------------------------------------------------------------------------------

    def like(self, **changes: object) -> Feed:
        """A fresh feed with the same settings except `changes`."""
        return Feed(**{**self._settings, **changes})

    def _tables(self) -> dict[str, Tensor]:
        names = ("key", "taste", "shown", "mood", "time", "steps", "shifted", "group", "skipped", "skip_time", "skips")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> State:
        """The people; the world itself follows from the settings."""
        return {**{name: table.cpu().clone() for name, table in self._tables().items()}, "shifts": self.shifts}

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()` of a feed with the same settings.

        Raises:
            ValueError: it is of another size.
        """
        for name, table in self._tables().items():
            if state[name].shape != table.shape:
                raise ValueError(
                    f"the saved state has {name} of shape {tuple(state[name].shape)}, this feed {tuple(table.shape)}: "
                    "users, topics and dim must be what they were, and repulsion on or off"
                )
            table.copy_(state[name])
        self.shifts = state["shifts"]


def _exponential(draws: Tensor, mean: float, rate: Tensor | None = None) -> Tensor:
    """[n] float64, at least a tenth of a second, whole milliseconds: the same on every device."""
    waits = draws.double().log() * -mean
    waits = waits if rate is None else waits / rate
    return waits.clamp_min(0.1).mul(1000.0).round().div(1000.0)
