"""People whose interests change with what they watch, and whose time a good document lengthens: the world of SlateQ."""

from __future__ import annotations

import math
from itertools import combinations, permutations
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from simulators.core import Feedback, Unit
from simulators.draws import GOLDEN, keys, uniforms
from streamrec.mixing import mix
from streamrec.ports import State
from streamrec.records import Kind

Choice = Literal["mnl", "proportional"]

BUDGET = 200.0
"""Minutes a person has at the start."""
LENGTH = 4.0
"""Minutes of a document."""
BONUS = 0.9 / 3.4
"""Share of the time watched that comes back per unit of quality."""
NO_CLICK = 0.5
"""Minutes that a slate without a click costs."""
MEMORY = 0.3
"""Largest step of an interest."""
QUALITY_NOISE = 0.1
"""Standard deviation of quality within a topic."""

_USERS, _INTEREST, _TOPICS, _QUALITY, _FIRST = range(11, 16)  # streams of randomness
_STEP = 0x2545F4914F6CDD1D  # odd: keys of successive steps never meet
_MOST_SLATES = 20_000


class Interest:
    """The simulation of Ie et al. (SlateQ, arXiv 1905.12767, section 6), as published with RecSim (arXiv 1909.04847).

    * Documents belong to one of 20 topics and last 4 minutes. Their hidden quality is normal around the mean of the
      topic with deviation 0.1; the means of the first 70 % of the topics lie evenly on [-3, 0], the others on [0, 3].
      Each request comes with 10 fresh documents, topics uniform.
    * A person has an interest in [-1, 1] in each topic, uniform at first, which everybody may read (`context`), and
      200 minutes left, which nobody may.
    * Of a slate of 3 at most one document is chosen, i with probability v_i / (v_0 + sum of v). "mnl":
      v = e^interest, v_0 = e. "proportional", the default of RecSim: v = interest + 1, v_0 = 2.
    * A chosen document is watched, `min(time left, 4)` minutes, which is the reward. It costs these minutes and gives
      back 0.9 / 3.4 of them times its quality. A slate without a click costs half a minute. With no time left the visit
      ends.
    * Watching moves the interest I in the topic by 0.3 (1 - |I|) (1 - I), up with probability (1 + I) / 2, else down.
      That is RecSim's form; the report prints a step of 0.3 (1 - |I|) (-I), which would never leave 0.

    A myopic policy shows what will be clicked. It does better to show what is good, since that lengthens the visit:
    with `spread` 0 all qualities are 0 and there is nothing more to gain than the myopic policy has.

    An item of the catalogue is "document number j of topic t in a list", row `t * candidates + j + 1`, so that lists
    may hold a topic several times. Its quality is drawn anew for every person and step, and is the same in `sample`,
    `step` and `best`. All draws are counted per person (`simulators.draws`).

    With `cascade` below 1 a slot is a factor `cascade` less attractive than the one above: v of slot j (from 0) is
    multiplied by cascade^j before the choice. The report tells its cascade in words only.

    Args:
        users: U, people.
        slate: K, documents shown.
        candidates: documents that come with a request.
        topics: T.
        choice: see above.
        cascade: 1 = slots are alike; the report has 0.65.
        spread: factor on every quality; 0 = all equal.
        observe_budget: `context` ends with the share of the time that is left.
        think_s: seconds between requests, the same for everybody; people begin at different moments.
        seed: who the people are, until `reset` with other seeds.
        device: where the tensors live.

    Raises:
        ValueError: a setting out of its range.
    """

    mortal = True
    unit: Unit = "life"

    def __init__(
        self,
        users: int = 1024,
        slate: int = 3,
        candidates: int = 10,
        topics: int = 20,
        choice: Choice = "mnl",
        cascade: float = 1.0,
        spread: float = 1.0,
        observe_budget: bool = False,
        think_s: float = 10.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._settings: dict[str, Any] = {k: v for k, v in locals().items() if k != "self"}
        _check(self._settings)
        self.users, self.slate, self.offered, self.topics = users, slate, candidates, topics
        self.choice, self.spread = choice, spread
        self.observe_budget, self.think_s = observe_budget, think_s
        self.capacity = topics * candidates
        self.shape = (slate, 1)
        self.device = torch.device(device)
        topic = torch.arange(self.capacity, device=self.device) // candidates
        self.topic = torch.cat([topic[:1], topic])  # [N + 1]; row 0 is never shown
        self.category = torch.cat([topic.new_zeros(1), topic + 1])
        self.features = one_hot(self.topic, topics).float() * (self.category > 0).unsqueeze(1)
        self.means = spread * topic_means(topics).to(self.device)  # [T], quality
        self.look = cascade ** torch.arange(slate, device=self.device, dtype=torch.float32)  # [K]
        arrange = combinations if cascade == 1.0 else permutations
        self._slates = torch.tensor(list(arrange(range(candidates), slate)), device=self.device)  # [A, K]
        self._make_people(seed)

    def _make_people(self, seed: int) -> None:
        u, at = self.users, self.device
        self.key = mix(keys(torch.tensor([seed], device=at), _USERS) + torch.arange(u, device=at) * GOLDEN)
        self.interest = torch.zeros(u, self.topics, device=at)
        self.budget = torch.zeros(u, device=at)
        self.time = torch.zeros(u, dtype=torch.float64, device=at)
        self.steps = torch.zeros(u, dtype=torch.int64, device=at)
        self._settle(torch.arange(u, device=at))

    def _settle(self, users: Tensor) -> None:
        """Start the lives that the keys of `users` stand for."""
        self.interest[users] = 2 * uniforms(mix(self.key[users] + _INTEREST), self.topics) - 1
        self.budget[users], self.steps[users] = BUDGET, 0
        first = uniforms(mix(self.key[users] + _FIRST), 1)[:, 0].double() * self.think_s
        self.time[users] = first.mul(1000.0).ceil().div(1000.0)  # whole milliseconds: the same on every device

    # --- dynamics ----------------------------------------------------------------------------------------------

    def step(self, users: Tensor, slates: Tensor, time: Tensor | None = None) -> Feedback:
        """Show `slates` [n, K] of item numbers to `users` [n], each user at most once.

        Args:
            users: rows.
            slates: items, best place first; 0 = empty slot.
            time: seconds since the start at which the slates appear, where they come later than asked for.

        Returns:
            What they did, rows as `users`; the value of a click is the minutes watched.

        Raises:
            ValueError: slates of another shape than [n, K].
        """
        if slates.shape != (len(users), self.slate):
            raise ValueError(f"expected slates of shape {(len(users), self.slate)}, got {tuple(slates.shape)}")
        users, slates = users.to(self.device), slates.to(self.device)
        key = self._now(users)
        coin, flip = uniforms(key, 2).unbind(1)
        slot = (coin.unsqueeze(1) >= self.probabilities(users, slates).cumsum(1)).sum(1)  # K = no click
        clicked = one_hot(slot, self.slate + 1)[:, : self.slate].bool()
        item = (slates * clicked).sum(1)
        left = self.budget[users].clamp_min(0.0)
        watched = left.clamp(max=LENGTH) * (item > 0)
        back = BONUS * watched * self.quality(users, item.unsqueeze(1)).squeeze(1)
        self.budget[users] = left - torch.where(item > 0, watched - back, NO_CLICK)
        self._move_interest(users, item, flip)
        self.time[users] = self.time[users] if time is None else torch.maximum(self.time[users], time.to(self.device))
        self.time[users] += self.think_s
        self.steps[users] += 1
        return self._feedback(users, slates, clicked, watched)

    def _feedback(self, users: Tensor, slates: Tensor, clicked: Tensor, watched: Tensor) -> Feedback:
        kinds = torch.where(clicked, int(Kind.CLICK), int(Kind.IMPRESSION))
        kinds = torch.where(slates > 0, kinds, int(Kind.NONE)).to(torch.int8)
        think = torch.full_like(self.time[users], self.think_s)
        value = torch.where(clicked, watched.unsqueeze(1), 1.0)
        return Feedback(kinds, watched, self.budget[users] <= 0, think, torch.zeros_like(think), value)

    def _now(self, users: Tensor) -> Tensor:
        """[n] int64, keys of the randomness of the users' coming steps."""
        return mix(self.key[users] + self.steps[users] * _STEP)

    def _move_interest(self, users: Tensor, item: Tensor, flip: Tensor) -> None:
        topic = self.topic[item]
        now = self.interest[users, topic]
        size = MEMORY * (1 - now.abs()) * (1 - now)
        moved = torch.where(flip < (1 + now) / 2, now + size, now - size).clamp(-1.0, 1.0)
        self.interest[users, topic] = torch.where(item > 0, moved, now)

    def appeal(self, users: Tensor, items: Tensor) -> Tensor:
        """v of `items` [n, C] for `users` [n]: [n, C] float32, 0 for no item."""
        interest = self.interest[users].gather(1, self.topic[items])
        appeal = interest.exp() if self.choice == "mnl" else interest + 1
        return appeal * (items > 0)

    @property
    def nothing(self) -> float:
        """v_0, how attractive it is to choose nothing."""
        return math.e if self.choice == "mnl" else 2.0

    def probabilities(self, users: Tensor, slates: Tensor) -> Tensor:
        """Of a click on each slot of `slates` [n, K]: [n, K] float32; what is missing to 1 is no click."""
        return self._choose(self.appeal(users, slates))

    def _choose(self, appeal: Tensor) -> Tensor:
        """[..., K] -> [..., K]."""
        weight = appeal * self.look
        return weight / (self.nothing + weight.sum(-1, keepdim=True))

    def quality(self, users: Tensor, items: Tensor) -> Tensor:
        """Hidden quality of `items` [n, C] in the lists of the users' coming steps: [n, C] float32."""
        one = mix(mix(self._now(users) + _QUALITY).unsqueeze(1) + items * GOLDEN)
        radius, angle = uniforms(one.flatten(), 2).view(*items.shape, 2).unbind(-1)
        normal = (-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()
        return self.means[self.topic[items]] + self.spread * QUALITY_NOISE * normal

    def reset(self, users: Tensor, seeds: Tensor | None = None) -> None:
        """Put new people into the rows `users` [n].

        Args:
            users: rows.
            seeds: [n] int64; equal seeds are equal people with equal futures. None = the next people of these rows.
        """
        users = users.to(self.device)
        self.key[users] = mix(self.key[users] + GOLDEN) if seeds is None else keys(seeds.to(self.device), _USERS)
        self._settle(users)

    def shift(self) -> None:
        """Nothing: interests change by what is watched only."""

    # --- what is known -----------------------------------------------------------------------------------------

    def alive(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """All items at all times: `time` [n] -> 1 and N, two of [n] int64."""
        first = torch.ones_like(time, dtype=torch.int64)
        return first, first * self.capacity

    def sample(self, users: Tensor, count: int) -> Tensor:
        """The first `count` of the documents that come with the users' coming requests, [n, count] int64.

        Topics are drawn one by one, so these are `count` documents at random. 0 beyond the `offered` ones.
        """
        users = users.to(self.device)
        draw = uniforms(mix(self._now(users) + _TOPICS), self.offered)
        topic = (draw * self.topics).long()
        same = topic.unsqueeze(2) == topic.unsqueeze(1)
        number = same.tril(-1).sum(2)  # how many of the same topic stand before it
        items = topic * self.offered + number + 1
        return torch.nn.functional.pad(items[:, :count], (0, max(0, count - self.offered)))

    def context(self, users: Tensor) -> Tensor:
        """Interests [n, T]; with `observe_budget`, the share of the time left as well, [n, T + 1]."""
        users = users.to(self.device)
        if not self.observe_budget:
            return self.interest[users]
        return torch.cat([self.interest[users], self.budget[users].unsqueeze(1) / BUDGET], dim=1)

    # --- policies that know everything -------------------------------------------------------------------------

    def best(self, users: Tensor, foresight: float = 0.0) -> Tensor:
        """The slate of the highest expected index of what is chosen, nothing included: all of them are tried.

        The index is minutes watched, less `foresight` per minute of time spent. 0 is the myopic optimum. A price p with
        which nothing is left on average, by the renewal argument, is the minutes watched per minute of budget (about
        1.4); the best one is found by simulation (`simulators.oracle.tune`).

        Returns:
            [n, K] items of the coming requests.
        """
        users = users.to(self.device)
        items = self.sample(users, self.offered)
        gain, nothing = self._index(users, items, foresight)
        appeal = self.appeal(users, items)
        worth = appeal * (gain - nothing)
        top = bottom = torch.zeros(1, device=self.device)
        for look, place in zip(self.look, self._slates.T, strict=True):  # slot by slot: [n, A] for A slates
            top, bottom = top + look * worth[:, place], bottom + look * appeal[:, place]
        value = top / (self.nothing + bottom)
        return items.gather(1, self._slates[value.argmax(1)])

    def _index(self, users: Tensor, items: Tensor, foresight: float) -> tuple[Tensor, float]:
        """Index of choosing each of `items` [n, C]: [n, C], and of choosing nothing."""
        cost = LENGTH * (1 - BONUS * self.quality(users, items))
        return LENGTH - foresight * cost, -foresight * NO_CLICK

    def worth(self, users: Tensor, items: Tensor | None = None, foresight: float = 0.0) -> Tensor:
        """What a policy that sees everything thinks of `items` [n, C] (None = 1..N), each shown alone: [n, C] float32.

        With foresight 0: the probability of a click. Above 0: the expected index of `best`, as a multiple of a
        document's minutes. -inf for what does not come with the coming request.
        """
        users = users.to(self.device)
        if items is None:
            items = torch.arange(1, self.capacity + 1, device=self.device).expand(len(users), -1)
        items = items.to(self.device)
        appeal = self.appeal(users, items)
        gain, nothing = self._index(users, items, foresight)
        value = appeal / (self.nothing + appeal) * (gain - nothing) / LENGTH
        there = torch.zeros(len(users), self.capacity + 1, dtype=torch.bool, device=self.device)
        there.scatter_(1, self.sample(users, self.offered), True)
        return value.masked_fill(~there.gather(1, items), -torch.inf)

    # --- state -------------------------------------------------------------------------------------------------

    def like(self, **changes: object) -> Interest:
        """A fresh world with the same settings except `changes`."""
        return Interest(**{**self._settings, **changes})

    def _tables(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("key", "interest", "budget", "time", "steps")}

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
                    f"the saved state has {name} of shape {tuple(state[name].shape)}, this world {tuple(table.shape)}: "
                    "users and topics must be what they were"
                )
            table.copy_(state[name])


def topic_means(topics: int) -> Tensor:
    """Mean quality of each topic, [T] float32: seven in ten evenly on [-3, 0], the others on [0, 3]."""
    poor = int(topics * 0.7)
    return torch.cat([torch.linspace(-3, 0, poor), torch.linspace(0, 3, topics - poor)])


def _check(settings: dict[str, Any]) -> None:
    for name, least in (("users", 1), ("slate", 1), ("candidates", 1), ("topics", 2)):
        if settings[name] < least:
            raise ValueError(f"interest.{name} must be at least {least}, got {settings[name]}")
    if settings["slate"] > settings["candidates"]:
        raise ValueError(
            f"interest.candidates must be at least slate = {settings['slate']}, got {settings['candidates']}"
        )
    if settings["choice"] not in ("mnl", "proportional"):
        raise ValueError(f'interest.choice must be "mnl" or "proportional", got {settings["choice"]!r}')
    if not 0 <= settings["cascade"] <= 1:
        raise ValueError(f"interest.cascade must be between 0 and 1, got {settings['cascade']}")
    if settings["spread"] < 0 or settings["think_s"] <= 0:
        raise ValueError(
            f"interest.spread must not be negative and think_s must be above 0, got {settings['spread']} and "
            f"{settings['think_s']}"
        )
    count = math.comb if settings["cascade"] == 1 else math.perm
    if count(settings["candidates"], settings["slate"]) > _MOST_SLATES:
        raise ValueError(
            f"{settings['candidates']} candidates make {count(settings['candidates'], settings['slate'])} slates of "
            f"{settings['slate']}, which the oracle would all try; at most {_MOST_SLATES} are possible"
        )
