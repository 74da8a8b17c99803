"""How far a fitted user model can be trusted: measured on slates it never saw, before anybody trains in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from simulators.core import Core
from simulators.logged import Logged
from simulators.logged_data import Observed, together
from simulators.logged_fit import World
from simulators.oracle import MakeCore, scale
from streamrec.records import Kind

_BINS = 15
_WINDOW = 20  # newest positives a ranking policy reads
_SET = 10  # items that a policy chooses from where slates hold one item each
_RESAMPLES = 200

Policies = Mapping[str, Callable[[Tensor], Tensor]]
"""Name -> function of the newest positives [n, W] (0 = none) to scores [n, N] of the items 1..N."""


def measure(world: World) -> dict[str, Any]:
    """Everything that is measured on the test part, JSON values.

    Returns:
        `rows`; `temperature`; `log_loss` per row, beside it `log_loss_base` of the base rates and `log_loss_still` of
        the model as if nobody remembered what happened lately; `per_class`: see `per_class`; `calibration`: see
        `calibration`; `leaving`: what `World.leaving` says; `agreement`: see `agreement`.
    """
    p, rows = world.predict(world.parts.test)
    y = world.target[world.observed.kind[rows]]
    base = world.base.clamp(min=1e-9).log()
    still, _ = world.predict(world.parts.test, dynamics=0.0)
    return {
        "rows": len(rows),
        "temperature": float(world.model.temperature),
        "log_loss": float(F.nll_loss(p.clamp(min=1e-9).log(), y)),
        "log_loss_base": float(-base[y].mean()),
        "log_loss_still": float(F.nll_loss(still.clamp(min=1e-9).log(), y)),
        "per_class": {kind.name.lower(): per_class(p, y, column) for column, kind in enumerate(world.kinds)},
        "calibration": calibration(p, y, [kind.name.lower() for kind in world.kinds]),
        "leaving": world.leaving()[1],
        "agreement": agreement(world, p, rows),
    }


def per_class(p: Tensor, y: Tensor, column: int) -> dict[str, float | None]:
    """How well one kind is told from the others. `p` [R, C], `y` [R].

    Returns:
        `share` of the rows; `precision` and `recall` where the most probable kind is predicted, as the papers do (None
        = never predicted or never there); `break_even`: precision = recall where as many rows are predicted as there
        are; `auc`: chance that a row of the kind gets more than one of another kind, ties count half.
    """
    mine, predicted = y == column, p.argmax(1) == column
    hits, there, said = int((mine & predicted).sum()), int(mine.sum()), int(predicted.sum())
    top = torch.zeros_like(mine)
    top[p[:, column].topk(there).indices] = True
    return {
        "share": there / len(y),
        "precision": hits / said if said else None,
        "recall": hits / there if there else None,
        "break_even": int((mine & top).sum()) / there if there else None,
        "auc": _auc(p[:, column], mine),
    }


def _auc(score: Tensor, positive: Tensor) -> float | None:
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return None
    _, inverse, counts = torch.unique(score, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    rank = (last - (counts.double() - 1) / 2)[inverse]
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * m))


def calibration(p: Tensor, y: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Expected calibration error per kind: mean distance of predicted and observed share over 15 bins of equal size."""
    found = {}
    for column, name in enumerate(names):
        order = torch.argsort(p[:, column], stable=True)
        bins = torch.arange(len(order)) * _BINS // max(len(order), 1)
        gap = p[order, column].double() - (y[order] == column).double()
        found[name] = float(torch.zeros(_BINS, dtype=torch.float64).index_add_(0, bins, gap).abs().sum() / len(order))
    return found


# --- policies ------------------------------------------------------------------------------------------------------


def policies(world: World) -> dict[str, Callable[[Tensor], Tensor]]:
    """Simple policies to rank, learned on the fitting part; they read nothing but the newest positives.

    `random`; `popular`: most clicks; `rate`: highest share of clicks, shrunk; `rare`: least often shown; `itemknn`:
    cosine of co-clicks, summed; `last`: the same of the newest click; `ease`: the closed form of Steck (WWW 2019). The
    last three know the 2,000 most clicked items and leave the others at 0.
    """
    items, seen = len(world.observed.names), world.observed
    rows, owner = seen.rows(world.parts.fit)
    positive = seen.positive()[rows]
    clicks = torch.bincount(seen.item[rows][positive], minlength=items + 1)[1:].float()
    shown = torch.bincount(seen.item[rows], minlength=items + 1)[1:].float()
    rate = (clicks + 10 * clicks.sum() / shown.sum()) / (shown + 10)
    user = seen.user[world.parts.fit][owner]
    pairs = together(seen.item[rows][positive], user[positive], clicks)
    norm = pairs.diagonal().clamp(min=1.0).sqrt()
    cosine = pairs / (norm.unsqueeze(1) * norm)
    cosine.fill_diagonal_(0.0)
    inverse = torch.linalg.inv(pairs + torch.eye(len(pairs)) * max(float(pairs.diagonal().mean()), 1.0))
    ease = -inverse / inverse.diagonal()
    ease.fill_diagonal_(0.0)
    known = torch.zeros(items + 1, dtype=torch.int64)
    known[clicks.topk(len(pairs)).indices + 1] = torch.arange(len(pairs))
    inside = torch.zeros(items + 1)
    inside[clicks.topk(len(pairs)).indices + 1] = 1.0

    def fixed(scores: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda past: scores.expand(len(past), -1)

    def of_past(similar: Tensor, last: int) -> Callable[[Tensor], Tensor]:
        # The click rate breaks ties, and decides where nothing is known yet.
        def score(past: Tensor) -> Tensor:
            past = past[:, -last:]
            weight = inside[past]
            places = F.embedding_bag(known[past], similar, mode="sum", per_sample_weights=weight)
            return places[:, known[1:]] * inside[1:] + 1e-4 * rate

        return score

    return {
        "random": fixed(torch.zeros(items)),
        "popular": fixed(clicks),
        "rate": fixed(rate),
        "rare": fixed(-shown),
        "itemknn": of_past(cosine, _WINDOW),
        "last": of_past(cosine, 1),
        "ease": of_past(ease, _WINDOW),
    }


def _past(seen: Observed, slates: Tensor) -> Tensor:
    """[B, W] newest positives before each slate, newest last, 0 = none."""
    stream = seen.streams["positive"]
    place = seen.end["positive"][slates].unsqueeze(1) - torch.arange(_WINDOW, 0, -1)
    there = place >= seen.begin["positive"][slates].unsqueeze(1)
    return torch.where(there, stream.item[place.clamp(min=0)], 0)


# --- agreement -----------------------------------------------------------------------------------------------------


def agreement(world: World, p: Tensor, rows: Tensor) -> dict[str, Any]:
    """Whether the model ranks policies as the held-out log does.

    Where propensities are known, a policy draws from the best tenth of all items in its order, slot by slot, and is
    valued by self-normalised inverse propensities: "snips". Where they are not, it takes the best of the items that
    were shown (of ten in a row, where slates hold one item), as DEERS re-ranks logged sessions (Algorithm 2):
    "re-ranking". Either way the log and the model value the same rows with the same weights, by the share that is
    liked.

    Returns:
        `method`, `policies` (name -> `log`, `error`, `fitted`; error = standard error of log), `tau`: Kendall's between
        the two rankings, with the 95 % interval `low`, `high` over resampled users, and `gap`: the largest distance of
        the two.
    """
    seen, made = world.observed, policies(world)
    positive = [column for column, kind in enumerate(world.kinds) if kind in (Kind.CLICK, Kind.PURCHASE)]
    fitted, liked = p[:, positive].sum(1).double(), seen.positive()[rows].double()
    known = bool(torch.isfinite(seen.propensity[rows]).all()) and not seen.organic
    weights = _draws(world, rows, made) if known else _choices(world, rows, made)
    owner = torch.repeat_interleave(seen.user[world.parts.test], seen.size[world.parts.test])
    users, number = torch.unique(owner, return_inverse=True)
    sums = torch.zeros(3, len(made), len(users), dtype=torch.float64)
    for at, weight in enumerate(weights.values()):
        for part, value in enumerate((weight, weight * liked, weight * fitted)):
            sums[part, at].index_add_(0, number, value)
    return {"method": "snips" if known else "re-ranking", **_ranked(list(made), sums)}


def _ranked(names: Sequence[str], sums: Tensor) -> dict[str, Any]:
    """`sums` [3, P, users]: weights, and what they say in the log and in the model."""
    total = sums.sum(2)
    log, fitted = total[1] / total[0], total[2] / total[0]
    count = sums.shape[2]
    resampled = torch.zeros(_RESAMPLES, count, dtype=torch.float64)
    draw = torch.randint(count, (_RESAMPLES, count), generator=Generator().manual_seed(0))
    resampled.scatter_add_(1, draw, torch.ones_like(draw, dtype=torch.float64))
    again = torch.einsum("ru,spu->rsp", resampled, sums)
    logs, fits = again[:, 1] / again[:, 0], again[:, 2] / again[:, 0]
    taus = [kendall(a, b) for a, b in zip(logs.tolist(), fits.tolist(), strict=True)]
    low, high = np.quantile(taus, [0.025, 0.975]).tolist()
    found = {
        name: {"log": float(log[at]), "error": float(logs[:, at].std()), "fitted": float(fitted[at])}
        for at, name in enumerate(names)
    }
    gap = float((log - fitted).abs().max())
    return {"policies": found, "tau": kendall(log.tolist(), fitted.tolist()), "low": low, "high": high, "gap": gap}


def _choices(world: World, rows: Tensor, made: Policies) -> dict[str, Tensor]:
    """Weights [R] of the test rows: each policy takes the best of every set, ties share it."""
    seen, slates = world.observed, world.parts.test
    size = seen.size[slates]
    owner = torch.repeat_interleave(torch.arange(len(slates)), size)
    group = owner
    if seen.organic:
        user = seen.user[slates]
        start = torch.ones(len(user), dtype=torch.bool)
        start[1:] = user[1:] != user[:-1]
        at = torch.arange(len(user))
        nth = at - torch.cummax(torch.where(start, at, 0), 0).values
        group = (start | (nth % _SET == 0)).cumsum(0) - 1
    leader = torch.zeros(int(group.max()) + 1, dtype=torch.int64).scatter_reduce_(
        0, group, owner, "amin", include_self=False
    )
    scores = _scored(seen, slates[leader], group, seen.item[rows], made)
    many = torch.bincount(group)
    choice = many[group] > 1  # where one item was shown there is nothing to choose
    weights = {}
    for name, score in scores.items():
        best = torch.full((len(many),), -torch.inf).scatter_reduce_(0, group, score, "amax")
        top = (score >= best[group] - 1e-9).double()
        weights[name] = torch.where(choice, top / torch.bincount(group, top)[group], 0.0)
    return weights


def _scored(seen: Observed, heads: Tensor, group: Tensor, item: Tensor, made: Policies) -> dict[str, Tensor]:
    """Scores [R] of `item` [R] by each policy, from what was liked before the slate `heads[group]`."""
    found = {name: torch.zeros(len(item)) for name in made}
    order = torch.argsort(group, stable=True)
    edges = torch.searchsorted(group[order], torch.arange(0, len(heads) + 512, 512))
    for start, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        first = start * 512
        past, some = _past(seen, heads[first : first + 512]), order[low:high]
        for name, score in made.items():
            found[name][some] = score(past)[group[some] - first, item[some] - 1]
    return found


def _draws(world: World, rows: Tensor, made: Policies) -> dict[str, Tensor]:
    """Weights [R] of the test rows: chance that each policy shows the item there over the chance that the log did."""
    seen, slates = world.observed, world.parts.test
    owner = torch.repeat_interleave(torch.arange(len(slates)), seen.size[slates])
    item, slot, propensity = seen.item[rows], seen.slot[rows], seen.propensity[rows]
    tenth = max(len(seen.names) // 10, int(slot.max()) + 1)
    found = {name: torch.zeros(len(rows), dtype=torch.float64) for name in made}
    edges = torch.searchsorted(owner, torch.arange(0, len(slates) + 512, 512))
    for start, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        first, some = start * 512, slice(low, high)
        past, mine = _past(seen, slates[first : first + 512]), owner[low:high] - start * 512
        for name, score in made.items():
            everything = score(past)
            width = len(seen.names) if name == "random" else tenth
            chosen = torch.zeros(everything.shape, dtype=torch.bool)
            chosen.scatter_(1, everything.topk(width, dim=1).indices, True)
            inside = chosen[mine, item[some] - 1]
            above = _above(inside, mine, slot[some])
            found[name][some] = inside.double() / (width - above) / propensity[some]
    return found


def _above(inside: Tensor, owner: Tensor, slot: Tensor) -> Tensor:
    """[R] how many rows of the same slate in slots above are `inside`; rows in the order of slate and slot."""
    counted = inside.long().cumsum(0) - inside.long()
    start = torch.ones_like(inside)
    start[1:] = owner[1:] != owner[:-1]
    return counted - torch.cummax(torch.where(start, counted, 0), 0).values


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b of two rankings of the same things; 0 where one of them ranks nothing."""
    x, y = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    upper = torch.triu(torch.ones(len(x), len(x), dtype=torch.bool), 1)
    one, two = (torch.sign(z.unsqueeze(1) - z)[upper] for z in (x, y))
    norm = float(one.abs().sum() * two.abs().sum()) ** 0.5
    return float((one * two).sum()) / norm if norm else 0.0


# --- in the finished world -----------------------------------------------------------------------------------------


def played(world: World, folder: Path, horizon: int = 50) -> dict[str, Any]:
    """What the finished world says when policies play in it for a while, so that what they showed before counts.

    No log can confirm this: nobody played them then. It says whether the world can be evidence at all. Measured on 128
    people, fewer where there are many items.

    Returns:
        `policies`: mean reward per decision; `scale`: random, myopic and oracle, and what looking ahead gains
        (`simulators.oracle.scale`).
    """
    users = min(128, max(16, 200_000 // len(world.observed.names)))

    def make(seed: int) -> Core:
        return Logged(folder, users=users, seed=seed)

    rewards = play_policies(make, policies(world), horizon)
    return {"policies": rewards, "scale": scale(make, horizon, seeds=(0,))}


def play_policies(make: MakeCore, made: Policies, horizon: int, seed: int = 0) -> dict[str, float]:
    """Mean reward per decision of each policy when it decides for everybody, `horizon` slates each.

    The same people with the same luck for all; policies start without a past. It works in any world whose items have
    the numbers that `made` scores, the true one included where there is one.
    """
    return {name: _rollout(make(seed), name, score, horizon) for name, score in made.items()}


def _rollout(core: Core, name: str, score: Callable[[Tensor], Tensor], horizon: int) -> float:
    users = torch.arange(core.users, device=core.device)
    past = torch.zeros(core.users, _WINDOW, dtype=torch.int64)
    total = 0.0
    for _ in range(horizon):
        slates = core.sample(users, core.slate)
        if name != "random":
            slates = score(past).topk(core.slate, dim=1).indices.to(core.device) + 1
        feedback = core.step(users, slates)
        total += float(feedback.reward.mean())
        kinds = feedback.kinds
        liked = ((kinds == int(Kind.CLICK)) | (kinds == int(Kind.PURCHASE))).cpu()
        past = _pushed(past, torch.where(liked, slates.cpu(), 0))
    return total / horizon


def _pushed(past: Tensor, items: Tensor) -> Tensor:
    """`past` [n, W] with the items [n, K] above 0 behind it, the newest W of both."""
    both = torch.cat([past, items], 1)
    order = torch.argsort((both > 0).int(), dim=1, stable=True)
    return both.gather(1, order)[:, -past.shape[1] :]
