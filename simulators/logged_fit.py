"""Fits a user model on a part of a log, and says how good it is: what `simulators.logged.Logged` is made of."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Generator, Tensor
from torch.nn import functional as F

from simulators.logged_data import Observed, Parts, Split, divide, load, observe, parts, together
from simulators.logged_model import POSITIVE, SHOWN, SKIPPED, ClickModel, Recent, Taste
from streamrec.data.events import COLUMNS, write
from streamrec.data.rules import KINDS
from streamrec.records import Kind

FORMAT = 1
"""Version of the folder. A reader refuses what is newer than itself."""

MOOD = 0.3
"""How much of the mood the newest slate decides."""

_TASTE, _SLATES, _WIDEST = 50, 30, 240  # events of a taste, slates and events of what passes
_SCALES = (3.0, 12.0)  # time constants, in mean pauses between the slates of a visit
_QUANTILES = 64
_DOUBT = 20.0  # observations with which everything is usual
_NAMES = ("positive", "skipped", "shown")


@dataclass
class Settings:
    """How to fit; the defaults are for logs of ten thousand to a million events.

    Attributes:
        split: "user" gives the world a share of the users, "time" the newest share of the events.
        share: that share; what is left is for agents.
        like: ratings of at least this are clicks.
        dim: width of item vectors.
        hidden: hidden units.
        learning_rate: of Adam.
        batch: slates per step; up to 20 times as many where slates hold one item.
        epochs: passes at most; it stops earlier when two in a row were no better on the validation part.
        seconds: wall time of training at most.
        prior: strength of the pull of item vectors and biases to 0 (a normal prior, in observations).
        people: users whose tastes are kept, at most.
        seed: start of the weights and order of the slates.
    """

    split: Split = "user"
    share: float = 0.5
    like: float = 4.0
    dim: int = 16
    hidden: int = 64
    learning_rate: float = 5e-3
    batch: int = 256
    epochs: int = 20
    seconds: float = 120.0
    prior: float = 1.0
    people: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in ("user", "time"):
            raise ValueError(f'split must be "user" or "time", got {self.split!r}')
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")
        for name in ("dim", "hidden", "batch", "epochs", "people"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate <= 0 or self.seconds <= 0 or self.prior < 0:
            raise ValueError(
                "learning_rate and seconds must be above 0 and prior not below, got "
                f"{self.learning_rate}, {self.seconds} and {self.prior}"
            )


def fit(
    log: Path | str | pd.DataFrame,
    out: Path | str,
    columns: Mapping[str, str] | None = None,
    categories: Mapping[str, str] | None = None,
    rest: Path | str | None = None,
    source: str = "",
    **settings: Any,
) -> dict[str, Any]:
    """Fit a user model and write the folder `out` that `Logged(path=out)` reads. Returns its manifest.

    The log is cut in two: the world gets its share, agents may see the rest and nothing else. The world's share is
    cut again: 70 % to fit, 10 % to stop and to calibrate (one temperature: Guo et al., ICML 2017), 20 % to measure. The
    manifest holds what was measured (`simulators.logged_report`); without that no world is made of it.

    Args:
        log: an event log (`streamrec.data.events`), or a frame in that format.
        out: the folder, new or to be written over: `model.safetensors`, `items.json` and `manifest.json`.
        columns: for logs in other words, see `streamrec.data.events.read`.
        categories: item id -> category; items that are not in it have none.
        rest: where to write the share of the log that agents may see, as an event log of its own.
        source: where the log comes from, for the manifest.
        **settings: of `Settings`.

    Raises:
        ValueError: a setting out of its range, or a log without anything passed over or clicked.
        BadLog: the log cannot be read.
    """
    from simulators.logged_report import measure, played  # they measure what is defined here

    chosen = Settings(**settings)
    frame = load(log, columns)
    mine = divide(frame, chosen.split, chosen.share)
    if rest is not None:
        write(rest, [_canonical(frame[~mine])])
    observed = observe(frame[mine], chosen.like)
    world = World.of(observed, parts(observed, chosen.split), chosen)
    seconds = world.train()
    manifest = world.manifest(columns or {}, source, len(frame), int(mine.sum()))
    manifest["seconds"] = {"training": round(seconds, 1)}
    folder = Path(out).expanduser()
    world.save(folder, manifest, categories or {})
    manifest["report"] = measure(world)
    _seal(folder, manifest)
    # Only now is there a world to play in.
    manifest["report"]["played"] = played(world, folder)
    _seal(folder, manifest)
    return manifest


def _canonical(frame: pd.DataFrame) -> pd.DataFrame:
    kinds = frame["kind"].map(dict(enumerate(KINDS)))
    return frame.assign(kind=kinds)[[name for name in COLUMNS if name in frame]]


def _seal(folder: Path, manifest: dict[str, Any]) -> None:
    manifest["sha256"] = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("items.json", "model.safetensors")
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


class World:
    """A user model with the data it is fitted and measured on.

    Args:
        observed: the world's share of a log.
        parts: its slates to fit, to calibrate and to test.
        settings: how.
        kinds: kinds of feedback that the log has, in the order of the model's columns.
        tau: time constants of what passes, seconds.
    """

    def __init__(self, observed: Observed, parts: Parts, settings: Settings, kinds: list[Kind], tau: Tensor) -> None:
        self.observed, self.parts, self.settings, self.kinds, self.tau = observed, parts, settings, kinds, tau
        self.generator = Generator().manual_seed(settings.seed)
        slots = 1 if observed.organic else min(int(observed.slot.max()) + 1, 20)
        scales = len(tau)
        self.model = ClickModel(
            len(observed.names), len(kinds), slots, settings.dim, settings.hidden, scales, self.generator
        )
        self.target = torch.zeros(max(Kind) + 1, dtype=torch.int64)
        for column, kind in enumerate(kinds):
            self.target[int(kind)] = column
        mean = max(float(observed.size.double().mean()), 1.0)
        self.width = {name: min(int(_SLATES * mean), _WIDEST) for name in _NAMES}
        fit_rows = observed.rows(parts.fit)[0]
        self.base = torch.bincount(self.target[observed.kind[fit_rows]], minlength=len(kinds)).double()
        self.base /= self.base.sum()
        with torch.no_grad():
            self.model.level.view(len(kinds), -1)[:, -1] = self.base.clamp(min=1e-6).log().float()
            self.model.usual.copy_(self._usual())
            self._start_from_rates(fit_rows)
            self._start_from_pairs(fit_rows)

    def _start_from_rates(self, rows: Tensor) -> None:
        """Biases of items and slots: how much more often each kind came than usual, in logarithms, shrunk."""
        kind = F.one_hot(self.target[self.observed.kind[rows]], len(self.kinds)).float()
        slot = self.observed.slot[rows].clamp(max=self.model.slots - 1)
        for table, place in ((self.model.bias, self.observed.item[rows]), (self.model.slot, slot)):
            seen = torch.zeros_like(table).index_add_(0, place, kind)
            usual = _DOUBT * self.base.float()
            table.copy_(torch.log((seen + usual) / (seen.sum(1, keepdim=True) + _DOUBT)) - self.base.log().float())

    def _start_from_pairs(self, rows: Tensor) -> None:
        """Item vectors from who clicked what together, and clicks that go by them: a start that a few thousand clicks
        cannot give by gradients.

        The vectors are the leading eigenvectors of (c_ij - n_i n_j / users) / sqrt(n_i n_j), c the users who clicked
        both.
        """
        seen, model = self.observed, self.model
        user = torch.repeat_interleave(seen.user[self.parts.fit], seen.size[self.parts.fit])
        liked = seen.positive()[rows]
        clicks = torch.bincount(seen.item[rows][liked], minlength=len(seen.names) + 1)[1:]
        pairs = together(seen.item[rows][liked], user[liked], clicks).double()
        one = pairs.diagonal().clamp(min=1.0)
        excess = (pairs - one.unsqueeze(1) * one / len(torch.unique(user))) / (one.unsqueeze(1) * one + 25.0).sqrt()
        excess.fill_diagonal_(0.0)
        width = min(model.dim, len(pairs))
        values, vectors = torch.linalg.eigh(excess)
        vectors = vectors[:, -width:] * values[-width:].clamp(min=0.0).sqrt()
        vectors = vectors / vectors.square().sum(1).mean().sqrt().clamp(min=1e-6)
        model.vectors[1:] *= 0.1
        model.vectors[clicks.topk(len(pairs)).indices + 1, :width] += vectors.float()
        straight = model.straight.view(model.kinds, model.dim + 1, -1)
        for column, kind in enumerate(self.kinds):
            sign = {Kind.CLICK: 1.0, Kind.PURCHASE: 1.0, Kind.SKIP: -0.2}.get(kind, 0.0)
            straight[column, :-1, : model.dim] += sign * torch.eye(model.dim)

    @classmethod
    def of(cls, observed: Observed, parts: Parts, settings: Settings) -> World:
        """What the log itself decides: kinds and time constants.

        Raises:
            ValueError: a part is empty.
        """
        for name in ("fit", "validation", "test"):
            if len(getattr(parts, name)) == 0:
                raise ValueError(f"the log is too short: its {name} part has no slates; take a longer one")
        there = set(torch.bincount(observed.kind[observed.rows(parts.fit)[0]]).nonzero().flatten().tolist())
        kinds = [kind for kind in (Kind.IMPRESSION, Kind.SKIP, Kind.CLICK, Kind.PURCHASE) if int(kind) in there]
        inside = observed.pause[(observed.left != 1) & (observed.pause > 0)]
        pause = float(inside.clamp(max=600.0).mean()) if len(inside) else 60.0
        return cls(observed, parts, settings, kinds, torch.tensor(_SCALES, dtype=torch.float64) * max(pause, 1.0))

    @torch.no_grad()
    def _usual(self) -> Tensor:
        """[STREAMS, T] mean mass of what passes, over some slates of the fitting part."""
        few = self.parts.fit[:: max(len(self.parts.fit) // 2000, 1)]
        mass = torch.stack([self._fading(name, few)[1].sum(1) for name in _NAMES], 1)
        return mass.mean(0).clamp(min=0.5).float()

    # --- what a user is like before a slate ----------------------------------------------------------------------

    def _window(self, name: str, slates: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Places in the stream of the newest events before each slate, [B, width], and whether there are so many."""
        place = self.observed.end[name][slates].unsqueeze(1) - 1 - torch.arange(width)
        there = place >= self.observed.begin[name][slates].unsqueeze(1)
        return place.clamp(min=0), there

    def _fading(self, name: str, slates: Tensor) -> tuple[Tensor, Tensor]:
        """Items [B, W] and their weights now [B, W, T] float32."""
        stream = self.observed.streams[name]
        if len(stream.item) == 0:
            return torch.zeros(len(slates), 1, dtype=torch.int64), torch.zeros(len(slates), 1, len(self.tau))
        place, there = self._window(name, slates, self.width[name])
        # What is not there belongs to others, maybe from later: its weight must not overflow before it is masked.
        age = (self.observed.time[slates].unsqueeze(1) - stream.time[place]).clamp(min=0.0)
        weight = torch.exp(-age.unsqueeze(2) / self.tau) * there.unsqueeze(2)
        return stream.item[place], weight.float()

    def _lasting(self, name: str, slates: Tensor) -> tuple[Tensor, Tensor]:
        """Items [B, W] of the longer window and whether they are there, 0 or 1."""
        stream = self.observed.streams[name]
        if len(stream.item) == 0:
            return torch.zeros(len(slates), 1, dtype=torch.int64), torch.zeros(len(slates), 1)
        place, there = self._window(name, slates, _TASTE)
        return stream.item[place], there.float()

    def taste(self, slates: Tensor) -> Taste:
        """What lasts of the users of `slates` [B], from all they did before."""
        averages = []
        for name in ("positive", "skipped"):
            items, there = self._lasting(name, slates)
            summed = F.embedding_bag(items, self.model.vectors, mode="sum", per_sample_weights=there)
            averages.append(summed / (there.sum(1, keepdim=True) + 3.0))
        return Taste(averages[0], averages[1], self._level(slates))

    def _level(self, slates: Tensor) -> Tensor:
        """[B, LEVELS]: how much was shown, and log shares of clicks and of skips against everybody's, shrunk."""
        count = [(self.observed.end[name] - self.observed.begin[name])[slates].float() for name in _NAMES]
        shown, doubt = count[SHOWN], _DOUBT
        base = dict(zip(self.kinds, self.base.tolist(), strict=True))
        clicks = max(base.get(Kind.CLICK, 0.0) + base.get(Kind.PURCHASE, 0.0), 1e-6)
        skips = max(base.get(Kind.SKIP, 0.0), 1e-6)
        liked = torch.log((count[POSITIVE] / clicks + doubt) / (shown + doubt))
        passed = torch.log((count[SKIPPED] / skips + doubt) / (shown + doubt))
        return torch.stack([torch.log1p(shown) / 5.0, liked.clamp(-3, 3), passed.clamp(-3, 3)], 1)

    def recent(self, slates: Tensor) -> Recent:
        """What passes of them."""
        vectors, masses = [], []
        for name in _NAMES:
            items, weight = self._fading(name, slates)
            vectors.append(torch.einsum("bwt,bwd->btd", weight, self.model.vectors[items]))
            masses.append(weight.sum(1))
        return Recent(torch.stack(vectors, 1), torch.stack(masses, 1))

    def logits(self, slates: Tensor, dynamics: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-odds of the kinds [R', C] of the rows [R'] of `slates`, before the temperature."""
        recent = self.recent(slates)
        state = self.model.state(self.taste(slates), Recent(recent.vectors * dynamics, recent.mass * dynamics))
        rows, owner = self.observed.rows(slates)
        query, level = self.model.read(state)
        return self.model.rows(query, level, owner, self.observed.item[rows], self.observed.slot[rows]), rows

    @torch.no_grad()
    def predict(self, slates: Tensor, dynamics: float = 1.0) -> tuple[Tensor, Tensor]:
        """Calibrated probabilities [R', C] of the rows [R'] of `slates`; `dynamics` as in `Logged`."""
        logits, rows = self._held(slates, dynamics)
        return torch.softmax(logits / self.model.temperature, 1), rows

    # --- fitting -------------------------------------------------------------------------------------------------

    def train(self) -> float:
        """Fit, keep the weights that were best on the validation part, calibrate. Returns the seconds it took."""
        start, settings = time.monotonic(), self.settings
        optimiser = torch.optim.Adam(self.model.parameters(), settings.learning_rate)
        rows = len(self.observed.rows(self.parts.fit)[0])
        best, kept, since = float("inf"), copy.deepcopy(self.model.state_dict()), 0
        for epoch in range(settings.epochs):
            if epoch == settings.epochs * 2 // 3 or since == 1:
                for group in optimiser.param_groups:
                    group["lr"] *= 0.3
            for slates in self._batches(rows):
                self._step(optimiser, slates, rows)
                if time.monotonic() - start > settings.seconds:
                    break
            loss = self._loss(self.parts.validation)
            since = 0 if loss < best - 1e-5 else since + 1
            if loss < best:
                best, kept = loss, copy.deepcopy(self.model.state_dict())
            if since == 2 or time.monotonic() - start > settings.seconds:
                break
        self.model.load_state_dict(kept)
        self._calibrate()
        return time.monotonic() - start

    def _batches(self, rows: int) -> Iterator[Tensor]:
        slates = self.parts.fit
        many = self.settings.batch * max(round(20 * len(slates) / rows), 1)
        order = torch.randperm(len(slates), generator=self.generator)
        return iter(torch.split(slates[order], many))

    def _step(self, optimiser: torch.optim.Optimizer, slates: Tensor, rows: int) -> None:
        logits, at = self.logits(slates)
        loss = F.cross_entropy(logits, self.target[self.observed.kind[at]])
        # Vectors start with length 1: that is what the prior thinks is usual.
        pull = self.model.bias.square().sum() + self.model.dim * self.model.vectors.square().sum()
        pull = pull + self.model.straight.square().sum()
        loss = loss + 0.5 * self.settings.prior / rows * pull
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()

    @torch.no_grad()
    def _loss(self, slates: Tensor) -> float:
        """Mean log-loss per row, uncalibrated."""
        logits, rows = self._held(slates)
        return float(F.cross_entropy(logits, self.target[self.observed.kind[rows]]))

    def _held(self, slates: Tensor, dynamics: float = 1.0) -> tuple[Tensor, Tensor]:
        found = [self.logits(part, dynamics) for part in torch.split(slates, 4096)]
        logits, rows = (torch.cat([one[at] for one in found]) for at in (0, 1))
        return logits, rows

    @torch.no_grad()
    def _calibrate(self) -> None:
        """The temperature with the smallest log-loss on the validation part, by golden section on its logarithm."""
        logits, rows = self._held(self.parts.validation)
        target = self.target[self.observed.kind[rows]]
        low, high, ratio = -1.5, 1.5, (5.0**0.5 - 1) / 2
        for _ in range(30):
            a, b = high - ratio * (high - low), low + ratio * (high - low)
            losses = [float(F.cross_entropy(logits / float(np.exp(x)), target)) for x in (a, b)]
            low, high = (low, b) if losses[0] < losses[1] else (a, high)
        self.model.temperature.fill_(float(np.exp((low + high) / 2)))

    # --- visits and people ---------------------------------------------------------------------------------------

    def leaving(self) -> tuple[Tensor, dict[str, Any]]:
        """Weights [3] of 1, mood and mood^2 in the log-odds of leaving after a slate, and what they explain.

        The mood is what it is in the world: 1 at the start of a visit, then a moving average of "something of the slate
        was liked".
        """
        mood, known = self._moods(), torch.isfinite(self.observed.left)
        fit = self.parts.fit[known[self.parts.fit]]
        test = self.parts.test[known[self.parts.test]]
        if len(fit) == 0 or not 0 < float(self.observed.left[fit].mean()) < 1:
            return torch.tensor([-20.0, 0.0, 0.0]), {"rate": 0.0}
        features = torch.stack([torch.ones_like(mood), mood, mood**2], 1)
        weights = _logistic(features[fit], self.observed.left[fit].double())
        rate = self.observed.left[fit].double().mean()
        p = torch.sigmoid(features[test] @ weights)
        y = self.observed.left[test].double()
        loss = float(F.binary_cross_entropy(p, y)) if len(y) else float("nan")
        base = float(F.binary_cross_entropy(torch.full_like(y, float(rate)), y)) if len(y) else float("nan")
        return weights.float(), {"rate": float(rate), "log_loss": loss, "log_loss_base": base}

    def _moods(self) -> Tensor:
        """[M] float64: mood after each slate. Slates stand in the order of user and time."""
        seen = self.observed
        owner = torch.repeat_interleave(torch.arange(len(seen.size)), seen.size)
        pleased = torch.zeros(len(seen.size), dtype=torch.float64).index_add_(0, owner, seen.positive().double()) > 0
        starts = torch.ones_like(pleased)
        starts[1:] = (seen.user[1:] != seen.user[:-1]) | (seen.left[:-1] == 1)
        begin = torch.cummax(torch.where(starts, torch.arange(len(starts)), 0), 0).values
        nth = torch.arange(len(starts)) - begin
        mood = (1 - MOOD) ** (nth + 1).double()
        for back in range(30):
            place = torch.arange(len(starts)) - back
            inside = back <= nth
            mood += torch.where(inside, MOOD * (1 - MOOD) ** back * pleased[place.clamp(min=0)].double(), 0.0)
        return mood

    def pauses(self) -> tuple[Tensor, Tensor]:
        """Quantiles [_QUANTILES] of seconds to the next slate within a visit, and from one visit to the next."""
        fit = self.parts.fit
        pause, left = self.observed.pause[fit], self.observed.left[fit]
        there = torch.isfinite(pause)
        usual = (torch.tensor([10.0]).double(), torch.tensor([1800.0]).double())
        found = []
        for wanted, default in zip((left != 1, left == 1), usual, strict=True):
            some = pause[there & wanted]
            some = some if len(some) else default
            at = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
            found.append(torch.from_numpy(np.quantile(some.numpy(), at.numpy())).clamp(min=0.1))
        return found[0], found[1]

    @torch.no_grad()
    def people(self) -> Taste:
        """What lasts of some users of the fitting part, at their last slate there, in random order."""
        user = self.observed.user[self.parts.fit]
        newest = self.parts.fit[torch.cat([user[1:] != user[:-1], torch.ones(1, dtype=torch.bool)])]
        order = torch.randperm(len(newest), generator=Generator().manual_seed(self.settings.seed))
        return self.taste(newest[order[: self.settings.people]])

    # --- the folder ----------------------------------------------------------------------------------------------

    def manifest(self, columns: Mapping[str, str], source: str, rows: int, mine: int) -> dict[str, Any]:
        seen = self.observed
        return {
            "format": FORMAT,
            "source": source,
            "settings": {**vars(self.settings), "columns": dict(columns)},
            "log": {"rows": rows, "of_the_world": mine, "organic": seen.organic},
            "slates": {name: len(getattr(self.parts, name)) for name in ("fit", "validation", "test")},
            "items": len(seen.names),
            "kinds": [kind.name.lower() for kind in self.kinds],
            "slots": self.model.slots,
            "slate": min(max(round(float(seen.size.double().mean())), 1), 10) if not seen.organic else 5,
            "tau_s": self.tau.tolist(),
        }

    def save(self, folder: Path, manifest: dict[str, Any], categories: Mapping[str, str]) -> None:
        """Write the folder, without a report: it cannot be trained in yet."""
        folder.mkdir(parents=True, exist_ok=True)
        weights, manifest["leaving"] = self.leaving()
        think, gap = self.pauses()
        people = self.people()
        names = sorted({categories[name] for name in self.observed.names if name in categories})
        number = {name: at + 1 for at, name in enumerate(names)}
        category = [0, *(number.get(categories.get(name, ""), 0) for name in self.observed.names)]
        tensors = {f"model.{name}": value.detach().contiguous() for name, value in self.model.state_dict().items()}
        tensors |= {f"people.{name}": value.contiguous() for name, value in vars(people).items()}
        tensors |= {"leaving": weights, "think": think, "gap": gap, "category": torch.tensor(category)}
        save_file(tensors, folder / "model.safetensors")
        (folder / "items.json").write_text(json.dumps({"items": self.observed.names, "categories": names}))
        _seal(folder, manifest)


def _logistic(features: Tensor, target: Tensor) -> Tensor:
    """Weights of a logistic regression by Newton's method, with a ridge that keeps them finite."""
    weights = torch.zeros(features.shape[1], dtype=torch.float64)
    ridge = torch.eye(features.shape[1], dtype=torch.float64)
    for _ in range(50):
        p = torch.sigmoid(features @ weights)
        gradient = features.T @ (p - target) + ridge @ weights
        curvature = features.T @ (features * (p * (1 - p)).unsqueeze(1)) + ridge
        weights = weights - torch.linalg.solve(curvature, gradient)
    return weights
