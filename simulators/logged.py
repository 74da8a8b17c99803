"""Users fitted on a real log: what a recorded past can say about slates that it never showed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from simulators.core import Feedback, Unit
from simulators.draws import GOLDEN, keys, uniforms
from simulators.logged_fit import FORMAT, MOOD
from simulators.logged_model import POSITIVE, SHOWN, SKIPPED, STREAMS, ClickModel, Recent, Taste
from streamrec.mixing import mix
from streamrec.ports import State
from streamrec.records import Kind

SHIPPED = Path(__file__).parent / "fitted" / "feed"
"""A small user model that comes with the package, fitted on a log of the simulated users of `simulators.feed`."""

REPORTED = ("per_class", "calibration", "agreement")
"""What must have been measured before anybody may train in a world."""

_PEOPLE, _WHO, _SAMPLE, _FIRST = range(1, 5)  # streams of randomness
_STEP = 0x2545F4914F6CDD1D  # odd: keys of successive steps never meet


class Logged:
    """People drawn from those of a log, who react to slates as a user model says that was fitted on that log.

    * A person is the taste of one user of the log, drawn with replacement, who comes without a past beyond it.
    * Reaction: each slot gets a kind by the softmax of `simulators.logged_model.ClickModel`, from the taste, from what
      the person clicked, skipped and was shown lately, from the item and the slot. Slots of a slate do not see each
      other.
    * Lately: sums over items that fade with the time constants the log has; they move with every slate.
    * Leaving: log-odds are a square function of the mood, a moving average of "something of the slate was liked"
      (weight 0.3, 1 at the start of a visit). Pauses within and between visits have the quantiles of the log.

    What it is not: tastes do not drift, items neither come nor go, and a slate unlike any that the log held is answered
    by extrapolation. Averages over a user's past are less different from each other than the users are. Whether looking
    ahead gains anything is decided by the log, not by us: the manifest says (`report.scale`).

    The randomness is that of `simulators.feed`: counted per user. Fitting is `simulators.logged_fit.fit`.

    Args:
        path: a folder that `fit` wrote; None = the small one that comes with the package.
        users: U, people.
        slate: K, slots of a slate; 0 = what the log had.
        dynamics: strength of what happened lately, 1 = as fitted; 0 = nobody remembers anything, and then
            looking ahead gains nothing.
        position: strength of the effect of the slot, 1 = as fitted, 0 = none.
        leave: what the probabilities of leaving are multiplied by, 0 = nobody leaves.
        rewards: weight per kind of feedback in lower case, and "leave" per visit ended.
        seed: who the people are, until `reset` with other seeds.
        device: where the tensors live.

    Raises:
        ValueError: a setting out of its range, a folder that is no fitted world, that was altered, or that was never
            measured.
    """

    offered, mortal = 0, False
    unit: Unit = "decision"

    def __init__(
        self,
        path: Path | str | None = None,
        users: int = 1024,
        slate: int = 0,
        dynamics: float = 1.0,
        position: float = 1.0,
        leave: float = 1.0,
        rewards: Mapping[str, float] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._settings: dict[str, Any] = {k: v for k, v in locals().items() if k != "self"}
        if users < 1 or slate < 0:
            raise ValueError(f"logged.users must be at least 1 and logged.slate 0, got {users} and {slate}")
        for name in ("dynamics", "position", "leave"):
            if self._settings[name] < 0:
                raise ValueError(f"logged.{name} must not be negative, got {self._settings[name]}")
        self.path = SHIPPED if path is None else Path(path).expanduser()
        self.manifest, tensors, known = read(self.path)
        self.device = torch.device(device)
        self.users, self.slate = users, slate or int(self.manifest["slate"])
        self.dynamics, self.position, self.leave = dynamics, position, leave
        self.names: list[str] = known["items"]
        self.capacity, self.shape = len(self.names), (self.slate, 1)
        if self.slate > self.capacity:
            raise ValueError(f"logged.slate must be at most the {self.capacity} items of the log, got {self.slate}")
        self._load(tensors, len(known["categories"]))
        self._columns(rewards or {"click": 1.0, "purchase": 1.0})
        self._make_people(seed)

    def _load(self, tensors: dict[str, Tensor], categories: int) -> None:
        at, kinds = self.device, self.manifest["kinds"]
        dim, hidden = tensors["model.vectors"].shape[1], tensors["model.shift"].shape[0]
        self.tau = torch.tensor(self.manifest["tau_s"], dtype=torch.float64, device=at)
        slots, scales = int(self.manifest["slots"]), len(self.tau)
        self.model = ClickModel(self.capacity, len(kinds), slots, dim, hidden, scales, Generator())
        weights = {name.removeprefix("model."): x for name, x in tensors.items() if name.startswith("model.")}
        self.model.load_state_dict(weights)
        # Double: the last bits of a product of matrices depend on how many users are asked, and must decide nothing.
        self.model.to(at, torch.float64).requires_grad_(False)
        with torch.no_grad():
            self.model.slot.mul_(self.position)
        people = (tensors[f"people.{name}"].to(at, torch.float64) for name in ("liked", "passed", "level"))
        self.population = Taste(*people)
        self.leaving, self.think, self.gap = (tensors[name].to(at) for name in ("leaving", "think", "gap"))
        self.category = tensors["category"].to(at)
        self.features = one_hot(self.category, categories + 1)[:, 1:].float()

    def _columns(self, rewards: Mapping[str, float]) -> None:
        """What the columns of the model stand for, and what they are worth."""
        order = [Kind[name.upper()] for name in self.manifest["kinds"]]
        self.kinds = torch.tensor([int(kind) for kind in order], device=self.device)
        self._rewards = _reward_table(rewards).to(self.device)
        self._worth = self._rewards[self.kinds].double()  # [C]
        self._positive = (self.kinds == int(Kind.CLICK)) | (self.kinds == int(Kind.PURCHASE))
        self._skip = self.kinds == int(Kind.SKIP)

    def _make_people(self, seed: int) -> None:
        u, at, scales, dim = self.users, self.device, len(self.tau), self.model.dim
        self.key = mix(keys(torch.tensor([seed], device=at), _PEOPLE) + torch.arange(u, device=at) * GOLDEN)
        self.who = torch.zeros(u, dtype=torch.int64, device=at)  # row of the population
        self.lately = torch.zeros(u, STREAMS, scales, dim, dtype=torch.float64, device=at)
        self.mass = torch.zeros(u, STREAMS, scales, dtype=torch.float64, device=at)
        self.mood = torch.ones(u, device=at)
        self.time = torch.zeros(u, dtype=torch.float64, device=at)
        self.steps = torch.zeros(u, dtype=torch.int64, device=at)
        self._settle(torch.arange(u, device=at))

    def _settle(self, users: Tensor) -> None:
        """Start the lives that the keys of `users` stand for."""
        draw = uniforms(mix(self.key[users] + _WHO), 1)[:, 0].double()
        self.who[users] = (draw * len(self.population.liked)).long()
        self.lately[users], self.mass[users], self.mood[users], self.steps[users] = 0.0, 0.0, 1.0, 0
        self.time[users] = _quantile(self.think, uniforms(mix(self.key[users] + _FIRST), 1)[:, 0])

    # --- dynamics ------------------------------------------------------------------------------------------------

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
        if time is not None:
            late = (time.to(self.device) - self.time[users]).clamp_min(0.0)
            self.time[users] += late
            self._fade(users, late)
        kinds = self._react(users, key, slates)
        self._remember(users, slates, kinds)
        pleased = (kinds == int(Kind.CLICK)) | (kinds == int(Kind.PURCHASE))
        leave, think, gap = self._stay(users, key, pleased.any(1))
        self._fade(users, think + gap)
        self.time[users] += think + gap
        self.steps[users] += 1
        reward = self._rewards[kinds.long()].sum(1) + self._rewards[int(Kind.LEAVE)] * leave
        return Feedback(kinds, reward, leave, think, gap, torch.ones_like(reward).unsqueeze(1).expand(kinds.shape))

    def _now(self, users: Tensor) -> Tensor:
        """[n] int64, keys of the randomness of the users' coming steps."""
        return mix(self.key[users] + self.steps[users] * _STEP)

    def _recent(self, users: Tensor) -> Recent:
        return Recent(self.lately[users] * self.dynamics, self.mass[users] * self.dynamics)

    def _react(self, users: Tensor, key: Tensor, slates: Tensor) -> Tensor:
        """[n, K] int8. One draw per slot decides."""
        p = self._probabilities(users, slates, torch.arange(self.slate, device=self.device))
        # From the last kind to the first: with one draw, what pays more comes first.
        below = p.flip(2).cumsum(2)[..., :-1]
        draw = uniforms(key, self.slate)
        column = len(self.kinds) - 1 - (draw.unsqueeze(2) >= below).sum(2)
        return torch.where(slates > 0, self.kinds[column], int(Kind.NONE)).to(torch.int8)

    def _probabilities(self, users: Tensor, items: Tensor, slot: Tensor) -> Tensor:
        """[n, C', C] of the kinds for `items` [n, C'] in the slots `slot` [C']."""
        query, level = self.model.read(self.model.state(self.population[self.who[users]], self._recent(users)))
        match = torch.einsum("nkd,nid->nik", query, self.model.vectors[items])
        logits = match + level.unsqueeze(1) + self.model.bias[items] + self.model.slots_of(slot)
        return torch.softmax(logits / self.model.temperature, 2)

    def _remember(self, users: Tensor, slates: Tensor, kinds: Tensor) -> None:
        vectors = self.model.vectors[slates]
        liked = (kinds == int(Kind.CLICK)) | (kinds == int(Kind.PURCHASE))
        masks = {POSITIVE: liked, SKIPPED: kinds == int(Kind.SKIP), SHOWN: slates > 0}
        weight = torch.stack([masks[stream] for stream in range(STREAMS)], 1).double()  # [n, STREAMS, K]
        for slot in range(self.slate):  # not as a product of matrices: see `_load`
            self.lately[users] += (weight[:, :, slot, None] * vectors[:, None, slot]).unsqueeze(2)
        self.mass[users] += weight.sum(2).unsqueeze(2)

    def _fade(self, users: Tensor, seconds: Tensor) -> None:
        kept = torch.exp(-seconds.unsqueeze(1) / self.tau).unsqueeze(1)  # [n, 1, T]
        self.lately[users] *= kept.unsqueeze(3)
        self.mass[users] *= kept

    def _stay(self, users: Tensor, key: Tensor, pleased: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Who leaves [n] bool, and seconds of thinking and of being away, two of [n] float64."""
        draws = uniforms(key, 3, self.slate)
        mood = (1 - MOOD) * self.mood[users] + MOOD * pleased
        odds = self.leaving[0] + self.leaving[1] * mood + self.leaving[2] * mood**2
        leave = draws[:, 0] < self.leave * torch.sigmoid(odds)
        self.mood[users] = torch.where(leave, 1.0, mood)
        return leave, _quantile(self.think, draws[:, 1]), _quantile(self.gap, draws[:, 2]) * leave

    def reset(self, users: Tensor, seeds: Tensor | None = None) -> None:
        """Put new people into the rows `users` [n].

        Args:
            users: rows.
            seeds: [n] int64; equal seeds are equal people with equal futures. None = the next people of these rows.
        """
        users = users.to(self.device)
        self.key[users] = mix(self.key[users] + GOLDEN) if seeds is None else keys(seeds.to(self.device), _PEOPLE)
        self._settle(users)

    def shift(self) -> None:
        """Nothing: a log that was fitted once knows no other tastes."""

    # --- items ---------------------------------------------------------------------------------------------------

    def alive(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """All items, always: `time` [n] float64, seconds since the start -> two of [n] int64."""
        oldest = torch.ones(len(time), dtype=torch.int64, device=time.device)
        return oldest, oldest * self.capacity

    def sample(self, users: Tensor, count: int) -> Tensor:
        """`count` different items at random: [n] -> [n, count] int64, 0 where there are too few.

        One of each of `count` equal stretches of the items, laid in a circle that is turned at random. The draw belongs
        to the user's coming step.
        """
        users = users.to(self.device)
        edge = torch.arange(count + 1, device=self.device) * self.capacity // count
        width = edge[1:] - edge[:-1]
        draw = uniforms(mix(self._now(users) + _SAMPLE), count + 1).double()
        turn = (draw[:, -1:] * self.capacity).long() if self.capacity > count else 0
        place = (edge[:-1] + (draw[:, :-1] * width).long() + turn) % self.capacity
        return torch.where(width > 0, place + 1, 0)

    def context(self, users: Tensor) -> Tensor:
        """Nothing is known of people but what they do: [n, 0]."""
        return self.mood.new_zeros(len(users), 0)

    def best(self, users: Tensor, foresight: float = 0.0) -> Tensor:
        """The K items of the highest `worth`, [n, K]."""
        return self.worth(users, foresight=foresight).topk(self.slate, dim=1).indices + 1

    def worth(self, users: Tensor, items: Tensor | None = None, foresight: float = 0.0) -> Tensor:
        """What a policy that sees everything thinks of `items` [n, C] (None = 1..newest): [n, C] float32.

        With foresight 0: the expected reward of the item in the first slot now, the probability of a click where a
        click pays 1. Above 0 comes `foresight` times a first-order estimate of what showing it does to later rewards:
        how the mean reward of the user's K best items changes with what happened lately, times what showing the item
        adds to that, for as long as it is remembered. The best factor is found by simulation
        (`simulators.oracle.tune`).
        """
        users = users.to(self.device)
        if items is None:
            items = torch.arange(1, self.capacity + 1, device=self.device).expand(len(users), -1)
            p = self._everything(users)
        else:
            items = items.to(self.device)
            p = self._probabilities(users, items, torch.zeros((), dtype=torch.int64, device=self.device))
        now = p @ self._worth
        if foresight and self.dynamics:
            now = now + foresight * self._later(users, items, p)
        return now.float().masked_fill((items < 1) | (items > self.capacity), -torch.inf)

    def _everything(self, users: Tensor) -> Tensor:
        """[n, N, C] of the kinds for all items in the first slot."""
        query, level = self.model.read(self.model.state(self.population[self.who[users]], self._recent(users)))
        first = torch.zeros((), dtype=torch.int64, device=self.device)
        return torch.softmax(self.model.everything(query, level, first) / self.model.temperature, 2)

    def _later(self, users: Tensor, items: Tensor, p: Tensor) -> Tensor:
        """[n, C'] reward to come per item shown, first order, of `items` [n, C'] with reactions `p` [n, C', C]."""
        of_vectors, of_mass = self._slopes(users)
        pause = float(self.think.mean())
        # How many later decisions an addition is felt in: the sum over k >= 1 of exp(-k pause / tau).
        felt = 1 / torch.expm1(pause / self.tau)
        slope = torch.einsum("nstd,t->nsd", of_vectors, felt)
        level = of_mass @ felt  # [n, STREAMS]
        change = torch.einsum("nsd,nid->nis", slope, self.model.vectors[items]) + level.unsqueeze(1)
        chance = torch.stack([p[..., self._positive].sum(2), p[..., self._skip].sum(2), torch.ones_like(p[..., 0])], 2)
        return self.slate * (change * chance).sum(2)

    def _slopes(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes of the mean reward of each user's K best items in the sums of `_recent`: as these two tensors."""
        with torch.no_grad():
            top = (self._everything(users) @ self._worth).topk(self.slate, dim=1).indices + 1
        with torch.enable_grad():
            vectors = self.lately[users].requires_grad_()
            mass = self.mass[users].requires_grad_()
            recent = Recent(vectors * self.dynamics, mass * self.dynamics)
            query, level = self.model.read(self.model.state(self.population[self.who[users]], recent))
            match = torch.einsum("nkd,nid->nik", query, self.model.vectors[top])
            logits = match + level.unsqueeze(1) + self.model.bias[top] + self.model.slot[0]
            mean = (torch.softmax(logits / self.model.temperature, 2) @ self._worth).mean(1)
            slopes = torch.autograd.grad(mean.sum(), (vectors, mass))
        return slopes[0].detach(), slopes[1].detach()

    # --- state ---------------------------------------------------------------------------------------------------

    def like(self, **changes: object) -> Logged:
        """A fresh world with the same settings except `changes`."""
        return Logged(**{**self._settings, **changes})

    def _tables(self) -> dict[str, Tensor]:
        names = ("key", "who", "lately", "mass", "mood", "time", "steps")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> State:
        """The people; the user model itself follows from the folder."""
        return {name: table.cpu().clone() for name, table in self._tables().items()}

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()` of a world with the same settings.

        Raises:
            ValueError: it is of another size.
        """
        for name, table in self._tables().items():
            if state[name].shape != table.shape:
                raise ValueError(
                    f"the saved state has {name} of shape {tuple(state[name].shape)}, this world "
                    f"{tuple(table.shape)}: users and path must be what they were"
                )
            table.copy_(state[name])


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, list[str]]]:
    """Manifest, tensors, and the ids of items and categories of a folder that `fit` wrote.

    Raises:
        ValueError: it is no such folder, it was altered, or nobody measured how good it is.
    """
    if not (folder / "manifest.json").is_file():
        raise ValueError(f"{folder} is no fitted world: it has no manifest.json; make one with `streamrec fit-world`")
    manifest = json.loads((folder / "manifest.json").read_text())
    if manifest["format"] > FORMAT:
        raise ValueError(f"{folder} has format {manifest['format']}, this version reads up to {FORMAT}: update")
    for name, digest in manifest["sha256"].items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise ValueError(f"{folder / name} does not match its sha256 in manifest.json; fit it again")
    missing = [name for name in REPORTED if not manifest.get("report", {}).get(name)]
    if missing:
        raise ValueError(
            f"{folder} has no report of {', '.join(missing)}: nobody may train in a world before it is known how far "
            "it can be trusted; fit it again with `streamrec fit-world`"
        )
    return manifest, load_file(folder / "model.safetensors"), json.loads((folder / "items.json").read_text())


def _quantile(table: Tensor, draws: Tensor) -> Tensor:
    """Values [n] float64 of the quantiles `table` [Q] at `draws` [n], whole milliseconds: the same on every device."""
    place = (draws.double() * len(table) - 0.5).clamp(0.0, len(table) - 1.0)
    low = place.floor().long()
    high = (low + 1).clamp(max=len(table) - 1)
    value = table[low] + (table[high] - table[low]) * (place - low)
    return value.mul(1000.0).round().div(1000.0)


def _reward_table(weights: Mapping[str, float]) -> Tensor:
    """[kinds] float32."""
    table = torch.zeros(len(Kind))
    for name, weight in weights.items():
        if name not in ("click", "purchase", "skip", "impression", "leave"):
            raise ValueError(f"logged.rewards knows click, purchase, skip, impression and leave, got {name!r}")
        table[Kind[name.upper()]] = weight
    if not math.isfinite(float(table.sum())):
        raise ValueError(f"logged.rewards must be finite, got {dict(weights)}")
    return table
