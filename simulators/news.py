"""A news portal on a real clock: articles that go stale, and readers who come back as soon as they were served well."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from simulators.core import Feedback, Unit
from simulators.draws import GOLDEN, keys, uniforms
from streamrec.mixing import mix
from streamrec.ports import State
from streamrec.records import Kind

_USERS, _TOPICS, _ITEMS, _TASTE, _GROUP, _SAMPLE, _FIRST, _LATE = range(1, 9)  # streams of randomness
_STEP = 0x2545F4914F6CDD1D  # odd: keys of successive steps never meet
_DRIFT = 1000  # first draw of a step that moves tastes
_LIKED = (1.0, 0.75, 0.5)  # weights of the topics a reader likes
_PLENTY = 2.0  # good articles in one slate after which nobody wishes for more
_HOUR, _DAY = 3600.0, 24.0  # seconds, hours
_EDITORS, _READERS = 10.0, 19.0  # hours of the day at which most is written and read


class News:
    """Readers of a news portal: today's clicks against next week's returns.

    * Articles are born by the hour, more of them by day, and leave after `life_hours`. Each belongs to a topic (a unit
      vector near the topic's centre) and a provider, and has a quality on which everybody agrees. Each is bait to a
      degree between 0 and 1: providers differ in it, and articles a little.
    * Click, once looked at: `sigmoid(base + match * <taste, article> + quality + clickbait * bait - ln 2 * age /
      half_life_hours)`, so staleness halves the odds. What a reader remembers to have read is not clicked again. Slot k
      (from 0) is looked at with probability `(k + 1) ** -position_bias`.
    * Being served: a read article is worth `1 - regret * bait` to its reader, which the click does not tell. A slate
      is worth the sum of what was read of it, two good articles being all one can wish for: between -1 and 1.
      Satisfaction is a moving average of that over requests.
    * Boredom: the sum over topics of squared shares in what was shown lately. It fades with time.
    * Returning: a visit goes on after each request with probability `1 - 1 / requests`, however good it was. Who leaves
      returns by a survival process whose hazard is constant, but for the hour of the day, until the return:
      `exp(eta * (satisfaction - weary * boredom)) / away_hours` per hour. Clicks per user and day are the clicks of a
      visit times how often one visits. A myopic policy shows bait, which gets clicks, and loses its readers.

    Time 0 is midnight before a Monday. All draws are counted per user (`simulators.draws`): a reader's life does not
    depend on who else is stepped. States on one device resume to the bit. Every effect is off at 0, alone.

    After Zheng et al. (WWW 2018), whose users become active and inactive by a survival process; the dependence of the
    hazard on satisfaction and boredom is ours, since their log has no counterfactual returns.

    Args:
        users: U, readers.
        topics: T.
        providers: P; provider p is bait to the degree p / (P - 1) on average.
        dim: width of tastes and articles.
        slate: K, slots of a slate.
        births_per_hour: articles born in an hour, the mean over a day.
        life_hours: hours an article stays; those of the start were born in the hours before it.
        half_life_hours: hours in which the odds of a click halve; 0 = articles do not go stale.
        rhythm: how much writing and reading follow the hour of the day; 0 = not at all, at most 0.9.
        base: log-odds of a click on a fresh average article by somebody who is neutral about it.
        match: log-odds between a perfect match and a neutral article.
        quality: standard deviation of the quality of articles, log-odds.
        clickbait: log-odds that bait gains.
        regret: what reading bait takes off its worth, where a good article is worth 1.
        position_bias: how fast looking falls off with the slot.
        remember: read articles that a reader remembers.
        care: weight of the newest slate in the satisfaction.
        eta: how much returning depends on having been served well; 0 = the hazard is the same for everybody.
        weary: weight of boredom against satisfaction.
        recover_hours: time constant of forgetting what was shown.
        requests: mean number of requests in a visit, at least 1.
        away_hours: mean hours away of who is neither satisfied nor bored.
        think_s: mean seconds between a slate and the next request of the visit.
        drift: angle by which a taste wanders off in a day, radians, if dim is large.
        groups: user groups told with each request, 0 = none; a reader's group follows from the topic liked most.
        max_items: the most articles ever; 0 = those of 60 days. After the last nothing is born and nothing leaves.
        seed: the world (topics, articles) and, until `reset` with other seeds, its readers.
        device: where the tensors live.

    Raises:
        ValueError: a setting out of its range.
    """

    offered, mortal = 0, False
    unit: Unit = "day"

    def __init__(
        self,
        users: int = 1024,
        topics: int = 8,
        providers: int = 6,
        dim: int = 8,
        slate: int = 5,
        births_per_hour: float = 8.0,
        life_hours: float = 36.0,
        half_life_hours: float = 12.0,
        rhythm: float = 0.6,
        base: float = -2.5,
        match: float = 2.5,
        quality: float = 0.5,
        clickbait: float = 1.5,
        regret: float = 2.0,
        position_bias: float = 0.3,
        remember: int = 12,
        care: float = 0.4,
        eta: float = 1.5,
        weary: float = 0.5,
        recover_hours: float = 48.0,
        requests: float = 3.0,
        away_hours: float = 24.0,
        think_s: float = 40.0,
        drift: float = 0.05,
        groups: int = 4,
        max_items: int = 0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._settings: dict[str, Any] = {k: v for k, v in locals().items() if k != "self"}
        _check(self._settings)
        self.users, self.topics, self.providers, self.dim, self.slate = users, topics, providers, dim, slate
        self.per_hour, self.life_hours, self.half_life_hours = births_per_hour, life_hours, half_life_hours
        self.rhythm, self.base, self.match, self.quality = rhythm, base, match, quality
        self.clickbait, self.regret, self.care = clickbait, regret, care
        self.remember, self.eta, self.weary, self.recover_hours = remember, eta, weary, recover_hours
        self.requests, self.away_hours, self.think_s = requests, away_hours, think_s
        self.drift, self.groups = drift, groups
        self.shape = (slate, 1)
        self.device = torch.device(device)
        self.look = (1.0 + torch.arange(slate, device=self.device)) ** -position_bias  # [K]
        self._make_articles(seed, max_items)
        self._make_people(seed)

    def _make_articles(self, seed: int, max_items: int) -> None:
        # Drawn on the CPU so that every device has the same world, to the bit.
        before = self._written(torch.tensor([-self.life_hours], dtype=torch.float64))
        self.born = self._births(before, max_items or math.ceil(60 * _DAY * self.per_hour - float(before)))
        self.capacity = len(self.born) - 1
        world = torch.tensor([seed])
        self.centres = _sphere(uniforms(keys(world, _TOPICS), self.topics * self.dim).view(self.topics, self.dim))
        draws = uniforms(mix(keys(world, _ITEMS) + torch.arange(self.capacity + 1) * GOLDEN), self.dim + 8)
        topic, provider = (draws[:, 0] * self.topics).long(), (draws[:, 1] * self.providers).long()
        quality, own, noise = ((draws[:, at : at + 2].sum(1) - 1) * math.sqrt(6) for at in (2, 4, 6))
        self.bait = (provider / max(self.providers - 1, 1) + 0.1 * own).clamp(0, 1)  # [N + 1]
        self.vectors = normalize(self.centres[topic] + 0.5 * _sphere(draws[:, 8:]))  # [N + 1, D]
        offset = self.base + self.quality * quality + self.clickbait * self.bait
        tone = (self.bait + 0.2 * noise).unsqueeze(1)  # what a headline sounds like
        features = torch.cat([one_hot(topic, self.topics), one_hot(provider, self.providers), tone], 1)
        at = self.device
        self.topic, self.category, self.features = topic.to(at), topic.to(at) + 1, features.float().to(at)
        self.offset, self.bait, self.born = offset.to(at), self.bait.to(at), self.born.to(at)
        self.vectors, self.centres = self.vectors.to(at), self.centres.to(at)

    def _written(self, hours: Tensor) -> Tensor:
        """Articles born between time 0 and `hours`, not rounded; below 0 for what was born before."""
        start = torch.zeros_like(hours)
        return self.per_hour * (_warped(hours, self.rhythm, _EDITORS) - _warped(start, self.rhythm, _EDITORS))

    def _births(self, before: Tensor, count: int) -> Tensor:
        """[count + 1] float64, seconds since the start at which each article was born, in order."""
        nth = before.floor() + torch.arange(count + 1, dtype=torch.float64)
        start = _warped(torch.zeros_like(nth), self.rhythm, _EDITORS)
        return _round(_HOUR * _unwarped(nth / self.per_hour + start, self.rhythm, _EDITORS))

    def _make_people(self, seed: int) -> None:
        u, at = self.users, self.device
        self.key = mix(keys(torch.tensor([seed], device=at), _USERS) + torch.arange(u, device=at) * GOLDEN)
        self.taste = torch.zeros(u, self.dim, device=at)
        self.group = torch.zeros(u, dtype=torch.int64, device=at)
        self.shown = torch.zeros(u, self.topics, device=at)  # slots remembered per topic, as of `time`
        self.satisfaction = torch.zeros(u, device=at)
        self.read = torch.zeros(u, self.remember, dtype=torch.int64, device=at)  # newest last
        self.time = torch.zeros(u, dtype=torch.float64, device=at)
        self.since = torch.zeros(u, dtype=torch.float64, device=at)  # hours away before the running visit
        self.steps = torch.zeros(u, dtype=torch.int64, device=at)
        self._settle(torch.arange(u, device=at))

    def _settle(self, users: Tensor) -> None:
        """Start the lives that the keys of `users` stand for: first visits follow as returns of the neutral do."""
        draws = uniforms(mix(self.key[users] + _TASTE), len(_LIKED) + self.dim)
        liked = (self.topics * draws[:, : len(_LIKED)] ** 1.5).long()
        weights = torch.tensor(_LIKED, device=self.device).view(1, -1, 1)
        taste = (self.centres[liked] * weights).sum(1) + 0.35 * _sphere(draws[:, len(_LIKED) :])
        self.taste[users], self.group[users] = normalize(taste), liked[:, 0] % max(self.groups, 1)
        self.shown[users], self.satisfaction[users], self.read[users] = 0.0, 0.0, 0
        self.steps[users], self.since[users], self.time[users] = 0, 0.0, 0.0
        hours = -self.away_hours * uniforms(mix(self.key[users] + _FIRST), 1)[:, 0].double().log()
        self.time[users] = _round(_HOUR * self._later(self.time[users], hours))

    # --- dynamics ----------------------------------------------------------------------------------------------

    def step(self, users: Tensor, slates: Tensor, time: Tensor | None = None) -> Feedback:
        """Show `slates` [n, K] of article numbers to `users` [n], each user at most once.

        Args:
            users: rows.
            slates: articles, best place first; 0 = empty slot.
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
        if time is not None:
            late = (time.to(self.device) - self.time[users]).clamp_min(0.0)
            self._pass(users, mix(key + _LATE), late)
        clicks = (uniforms(key, self.slate) / self.look < self._click(users, slates)) & (slates > 0)
        self._serve(users, slates, clicks)
        draws = uniforms(key, 3, self.slate)
        leave = draws[:, 0] * self.requests < 1.0
        think = _round((draws[:, 1].double().log() * -self.think_s).clamp_min(0.1))
        gap = self._gap(users, think, draws[:, 2]) * leave
        self._pass(users, key, think + gap)
        self.since[users] = torch.where(leave, gap / _HOUR, self.since[users])
        self.steps[users] += 1
        kinds = torch.where(clicks, int(Kind.CLICK), int(Kind.IMPRESSION)).masked_fill(slates == 0, int(Kind.NONE))
        reward = clicks.sum(1).float()
        return Feedback(kinds.to(torch.int8), reward, leave, think, gap, torch.ones_like(slates, dtype=torch.float32))

    def _now(self, users: Tensor) -> Tensor:
        """[n] int64, keys of the randomness of the users' coming steps."""
        return mix(self.key[users] + self.steps[users] * _STEP)

    def _click(self, users: Tensor, items: Tensor) -> Tensor:
        """[n, C] probability of a click once looked at, whether the articles are still there or not."""
        affinity = (self.vectors[items] * self.taste[users].unsqueeze(1)).sum(2)
        odds = self.offset[items] + self.match * affinity
        if self.half_life_hours:
            age = (self.time[users].unsqueeze(1) - self.born[items]).clamp_min(0.0) / _HOUR
            odds = odds - math.log(2.0) * (age / self.half_life_hours).float()
        known = torch.zeros_like(items, dtype=torch.bool)
        for column in self.read[users].unbind(1):
            known |= items == column.unsqueeze(1)
        return torch.sigmoid(odds).masked_fill(known, 0.0)

    def _serve(self, users: Tensor, slates: Tensor, clicks: Tensor) -> None:
        """What the slates do to satisfaction, boredom and memory."""
        worth = ((1.0 - self.regret * self.bait[slates]) * clicks).sum(1) / _PLENTY
        self.satisfaction[users] += self.care * (worth.clamp(-1.0, 1.0) - self.satisfaction[users])
        self.shown[users] = self.shown[users].scatter_add(1, self.topic[slates], (slates > 0) * self.look)
        if self.remember:
            both = torch.cat([self.read[users], slates * clicks], 1)
            # The articles not read are moved to the front, the others keep their order, and the newest are kept.
            order = (both > 0).to(torch.int8).argsort(dim=1, stable=True)
            self.read[users] = both.gather(1, order)[:, -self.remember :]

    def _gap(self, users: Tensor, think: Tensor, draw: Tensor) -> Tensor:
        """[n] float64, seconds until the readers who leave now are back."""
        wish = self.satisfaction[users] - self.weary * self._boredom(self.shown[users])
        hours = -self.away_hours * torch.exp(-self.eta * wish).double() * draw.double().log()
        left = self.time[users] + think
        return (_round(_HOUR * self._later(left, hours)) - left).clamp_min(1.0)

    def _later(self, time: Tensor, hours: Tensor) -> Tensor:
        """[n] float64, the hour by which `hours` [n] of reading time have passed since `time` [n], seconds."""
        return _unwarped(_warped(time / _HOUR, self.rhythm, _READERS) + hours, self.rhythm, _READERS)

    def _share(self, shown: Tensor) -> Tensor:
        """[n, T] share of each topic in what was shown lately."""
        return shown / (shown.sum(1, keepdim=True) + self.look.sum())

    def _boredom(self, shown: Tensor) -> Tensor:
        """[n] between 0 (a bit of everything) and 1 (always the same)."""
        share = self._share(shown)
        return (share * share).sum(1)

    def _pass(self, users: Tensor, key: Tensor, seconds: Tensor) -> None:
        """Let `seconds` [n] of time pass: what was shown is forgotten, tastes drift."""
        self.time[users] += seconds
        if self.recover_hours:
            self.shown[users] *= torch.exp(-seconds / (_HOUR * self.recover_hours)).float().unsqueeze(1)
        if self.drift:
            angle = self.drift * torch.sqrt(seconds / (_HOUR * _DAY)).float()
            noise = (uniforms(key, self.dim, _DRIFT) - 0.5) * math.sqrt(12 / self.dim)
            self.taste[users] = normalize(self.taste[users] + angle.unsqueeze(1) * noise)

    def shift(self) -> None:
        """Nothing: tastes drift here, and do not jump."""

    def reset(self, users: Tensor, seeds: Tensor | None = None) -> None:
        """Put new readers into the rows `users` [n]; their clocks start at 0.

        Args:
            users: rows.
            seeds: [n] int64; equal seeds are equal people with equal futures. None = the next people of these rows.
        """
        users = users.to(self.device)
        self.key[users] = mix(self.key[users] + GOLDEN) if seeds is None else keys(seeds.to(self.device), _USERS)
        self._settle(users)

    # --- articles ----------------------------------------------------------------------------------------------

    def alive(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """The oldest and the newest article there is: `time` [n] float64, seconds since the start -> two [n] int64."""
        births = self.born[1:]
        newest = torch.searchsorted(births, time, right=True)
        oldest = torch.searchsorted(births, time.clamp(max=float(births[-1])) - self.life_hours * _HOUR) + 1
        return oldest.minimum(newest.clamp_min(1)), newest.clamp_min(1)

    def sample(self, users: Tensor, count: int) -> Tensor:
        """`count` different articles that there are, at random: [n] -> [n, count] int64, 0 where there are too few.

        One of each of `count` equal stretches of the articles, laid in a circle that is turned at random. The draw
        belongs to the user's coming step.
        """
        users = users.to(self.device)
        oldest, newest = self.alive(self.time[users])
        pool = (newest - oldest + 1).unsqueeze(1)
        edge = torch.arange(count + 1, device=self.device) * pool // count
        width = edge[:, 1:] - edge[:, :-1]
        draw = uniforms(mix(self._now(users) + _SAMPLE), count + 1)
        turn = torch.where(pool > count, (draw[:, -1:] * pool).long(), 0)
        place = (edge[:, :-1] + (draw[:, :-1] * width).long() + turn) % pool
        return torch.where(width > 0, oldest.unsqueeze(1) + place, 0)

    def context(self, users: Tensor) -> Tensor:
        """[n, 5 + groups]: hour and weekday as points on circles, log(1 + hours away before the visit), the group."""
        users = users.to(self.device)
        hours = self.time[users] / _HOUR
        turns = 2 * math.pi * torch.stack([hours / _DAY, hours / (7 * _DAY)], 1)
        group = one_hot(self.group[users], max(self.groups, 1))[:, : self.groups]
        return torch.cat([turns.sin(), turns.cos(), self.since[users].log1p().unsqueeze(1), group], 1).float()

    # --- policies that see everything --------------------------------------------------------------------------

    def best(self, users: Tensor, foresight: float = 0.0) -> Tensor:
        """The slate by greedy choice: articles of the highest `worth`, which falls with what stands above: [n, K]."""
        users = users.to(self.device)
        oldest, newest = self.alive(self.time[users])
        width = max(int((newest - oldest).max()) + 1, self.slate) if len(users) else self.slate
        items = (oldest.unsqueeze(1) + torch.arange(width, device=self.device)).clamp(max=self.capacity)
        there = items <= newest.unsqueeze(1)
        score = self._value(users, items, foresight).masked_fill(~there, -torch.inf)
        if not foresight or not self.weary:
            return _pick(items, score.topk(self.slate, 1))
        shown, topic, out = self.shown[users], self.topic[items], torch.zeros_like(items[:, : self.slate])
        for slot in range(self.slate):
            now = score - foresight * self.weary * self._share(shown).gather(1, topic)
            top = now.max(1, keepdim=True)
            out[:, slot : slot + 1] = _pick(items, top)
            score = score.scatter(1, top.indices, -torch.inf)
            shown = shown.scatter_add(1, topic.gather(1, top.indices), self.look[slot].expand(len(users), 1))
        return out

    def worth(self, users: Tensor, items: Tensor | None = None, foresight: float = 0.0) -> Tensor:
        """What a policy that sees everything thinks of `items` [n, C] (None = 1..newest): [n, C] float32.

        With foresight 0: the probability of a click now, once looked at; -inf for articles that are not there. Above
        0 the click counts `1 + foresight * (1 - regret * bait)`, and showing the article costs `foresight * weary *
        share` of its topic: the satisfaction that the click brings and the boredom that the slot brings, up to a
        factor that depends on the setting and is found by simulation (`simulators.oracle.tune`).
        """
        users = users.to(self.device)
        oldest, newest = (edge.unsqueeze(1) for edge in self.alive(self.time[users]))
        if items is None:
            last = int(newest.max()) if len(users) else 1
            items = torch.arange(1, last + 1, device=self.device).expand(len(users), -1)
        items = items.to(self.device)
        value = self._value(users, items, foresight)
        if foresight:
            value = value - foresight * self.weary * self._share(self.shown[users]).gather(1, self.topic[items])
        return value.masked_fill((items < oldest) | (items > newest), -torch.inf)

    def _value(self, users: Tensor, items: Tensor, foresight: float) -> Tensor:
        click = self._click(users, items)
        return click * (1.0 + foresight * (1.0 - self.regret * self.bait[items])) if foresight else click

    # --- state -------------------------------------------------------------------------------------------------

    def like(self, **changes: object) -> News:
        """A fresh world with the same settings except `changes`."""
        return News(**{**self._settings, **changes})

    def _tables(self) -> dict[str, Tensor]:
        names = ("key", "taste", "group", "shown", "satisfaction", "read", "time", "since", "steps")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> State:
        """The readers; the articles follow from the settings."""
        return {name: table.cpu().clone() for name, table in self._tables().items()}

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()` of a world with the same settings.

        Raises:
            ValueError: it is of another size.
        """
        for name, table in self._tables().items():
            if state[name].shape != table.shape:
                raise ValueError(
                    f"the saved state has {name} of shape {tuple(state[name].shape)}, this world {tuple(table.shape)}: "
                    "users, topics, dim and remember must be what they were"
                )
            table.copy_(state[name])


def _pick(items: Tensor, top: Any) -> Tensor:
    """The items at the places of a `topk` or `max`, 0 where nothing is left."""
    return items.gather(1, top.indices).masked_fill(top.values == -torch.inf, 0)


def _sphere(draws: Tensor) -> Tensor:
    """Directions from draws in (0, 1): [n, D] -> [n, D]."""
    return normalize(draws - 0.5)


def _round(seconds: Tensor) -> Tensor:
    """Whole milliseconds, so that devices whose logarithms differ in the last bit agree."""
    return (seconds * 1000.0).round() / 1000.0


def _warped(hours: Tensor, rhythm: float, peak: float) -> Tensor:
    """The integral over `hours` of the rate `1 + rhythm * cos(2 pi (hour - peak) / 24)`, up to a constant."""
    angle = 2 * math.pi / _DAY
    return hours + rhythm / angle * torch.sin(angle * (hours - peak))


def _unwarped(mass: Tensor, rhythm: float, peak: float) -> Tensor:
    """The inverse of `_warped`: Kepler's equation, by Newton's method kept inside the bracket around the root."""
    angle = 2 * math.pi / _DAY
    target = angle * (mass - peak)
    x = target - rhythm * torch.sin(target)
    for _ in range(8):
        x = x - (x + rhythm * torch.sin(x) - target) / (1 + rhythm * torch.cos(x))
        x = x.clamp(target - rhythm, target + rhythm)
    return x / angle + peak


def _check(settings: dict[str, Any]) -> None:
    for name in ("users", "topics", "providers", "dim", "slate"):
        if settings[name] < 1:
            raise ValueError(f"news.{name} must be at least 1, got {settings[name]}")
    effects = ("half_life_hours", "quality", "clickbait", "regret", "position_bias", "remember", "eta", "weary")
    for name in (*effects, "recover_hours", "drift", "groups", "max_items"):
        if settings[name] < 0:
            raise ValueError(f"news.{name} must not be negative, got {settings[name]}")
    for name in ("births_per_hour", "life_hours", "away_hours", "think_s"):
        if settings[name] <= 0:
            raise ValueError(f"news.{name} must be above 0, got {settings[name]}")
    for name, most in (("rhythm", 0.9), ("care", 1.0)):
        if not 0 <= settings[name] <= most:
            raise ValueError(f"news.{name} must be between 0 and {most}, got {settings[name]}")
    if settings["requests"] < 1:
        raise ValueError(f"news.requests must be at least 1, got {settings['requests']}")
    there = settings["births_per_hour"] * settings["life_hours"]
    least = settings["slate"] + 2
    if there < least or 0 < settings["max_items"] < there + 1:
        raise ValueError(
            f"news.life_hours * news.births_per_hour must keep at least news.slate + 2 = {least} articles and "
            f"fit into news.max_items, got {there} and {settings['max_items']}"
        )
