"""How many rows an interval of a wanted width needs, as the log was made and with more exploration in it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from streamrec.build import BadSpec
from streamrec.catalog import Catalog
from streamrec.ope.estimate import Estimate
from streamrec.ports import State
from streamrec.records import Transition
from streamrec.replay.jury import Jury
from streamrec.replay.policies import LOGGED
from streamrec.replay.results import values_of
from streamrec.replay.run import Replay
from streamrec.replay.settings import Settings

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of uniform exploration that the logger is imagined to have."""

PLANNED = ("ips", "snips", "dr")

_SUMS = ("1", "a", "ar", "arr", "add", "wd", "v", "vv", "wvd")


class Moments:
    """A meter: the second moments that estimates would have had under loggers with more exploration.

    With the logger p mixed with a uniform choice among C candidates, p' = (1 - e) p + e / C, a figure's mean square is
    E over p' of (t / p')^2 f^2 = E over p of a f^2, with a = t^2 / (p p') and t the policy's probability: what it would
    be there is itself an importance-weighted mean over this log. Of each row are kept sums of a, a r, a r^2, a d^2
    (d = r - q), and w d, v, v^2, w v d for the doubly robust one.

    Args:
        jury: has judged the decisions.
        catalog: C is the number of its available items.
        shares: e.
    """

    def __init__(self, jury: Jury, catalog: Catalog, shares: Sequence[float] = SHARES) -> None:
        self.jury, self.catalog, self.shares = jury, catalog, (0.0, *shares)
        self.sums = torch.zeros(len(jury.names), len(self.shares), len(_SUMS), dtype=torch.float64)

    def see(self, transition: Transition) -> None:
        ballots = self.jury.ballots[transition.history.user]
        row, slot = torch.nonzero(ballots.known & ballots.scored.unsqueeze(1), as_tuple=True)
        if len(row) == 0:
            return
        p = transition.shown.slot_logp[row, slot].double().exp()
        reward, q = transition.rewards[row, slot].double(), ballots.q[row, slot]
        taken = torch.zeros_like(slot) if self.jury.marginal else slot
        uniform = 1.0 / (int(self.catalog.available.sum()) - taken).clamp(min=1).double()
        for number, name in enumerate(self.jury.names):
            if name not in self.jury.refused:
                target, v = ballots.target[row, number, slot], ballots.v[row, number, slot]
                for at, share in enumerate(self.shares):
                    a = target.square() / (p * ((1.0 - share) * p + share * uniform))
                    self.sums[number, at] += _figures(a, target / p, reward, reward - q, v)

    def variance(self, policy: int, share: int, estimator: str, value: float) -> float:
        """Of one row's figure around `value`; `share` counts from 0, which is the log as it was made."""
        mean = dict(zip(_SUMS, (self.sums[policy, share] / self.sums[policy, share, 0]).tolist(), strict=True))
        if estimator == "ips":
            found = mean["arr"] - value * value
        elif estimator == "snips":
            found = mean["arr"] - 2 * value * mean["ar"] + value * value * mean["a"]
        else:
            of_model = mean["vv"] - 2 * value * mean["v"] + value * value
            found = of_model + 2 * (mean["wvd"] - value * mean["wd"]) + mean["add"]
        return max(float(found), 0.0)

    def read(self) -> dict[str, Any]:
        return {}

    def state_dict(self) -> State:
        return {"sums": self.sums.clone()}

    def load_state_dict(self, state: State) -> None:
        self.sums = state["sums"].clone()


def _figures(a: Tensor, w: Tensor, reward: Tensor, error: Tensor, v: Tensor) -> Tensor:
    columns = (
        torch.ones_like(a),
        a,
        a * reward,
        a * reward.square(),
        a * error.square(),
        w * error,
        v,
        v.square(),
        w * v * error,
    )
    return torch.stack([column.sum() for column in columns])


def planned(settings: Settings, estimator: str, width: float) -> dict[str, Any]:
    """Replay a log and say how many rows of such a log each policy's interval would need.

    Rows needed are deff * variance * (2 z / width)^2, where deff is how much wider the interval by session is than one
    that takes rows as independent, squared: more rows are taken to come in sessions like these.

    Args:
        settings: of the replay.
        estimator: "ips", "snips" or "dr".
        width: high - low of the interval that is wanted.

    Raises:
        BadSpec: another estimator, or a width that is not above 0.
        Refused: as a replay does.
    """
    if estimator not in PLANNED:
        raise BadSpec(f"--estimator takes {', '.join(PLANNED)}, got {estimator!r}")
    if not width > 0.0:
        raise BadSpec(f"--width must be above 0, got {width}")
    with tempfile.TemporaryDirectory() as folder:
        replay = Replay(settings, Path(folder), checkpoint_s=math.inf)
        moments = Moments(replay.jury, replay.catalog)
        replay.loop.meters["moments"] = moments
        replay.run()
    found = {LOGGED: values_of(replay, LOGGED)["logged"]}
    found |= {name: values_of(replay, name)[estimator] for name in replay.jury.names}
    rows = {
        name: _rows(estimate, None if name == LOGGED else (moments, replay.jury.names.index(name)), estimator,
                    width, settings.alpha)
        for name, estimate in found.items()
    }  # fmt: skip
    return {
        "width": width,
        "estimator": estimator,
        "rows": next(iter(found.values())).n,
        "explorations": list(SHARES),
        "policies": rows,
        "notes": _notes(found),
    }


def _rows(
    estimate: Estimate, of: tuple[Moments, int] | None, estimator: str, width: float, alpha: float
) -> dict[str, Any]:
    nothing = {"width": None, "rows": None, "mixed": [None] * len(SHARES)}
    if estimate.value is None or not estimate.se or estimate.low is None or estimate.high is None:
        return nothing
    z = NormalDist().inv_cdf(1 - alpha / 2)
    needed = math.ceil(estimate.n * (2 * z * estimate.se / width) ** 2)
    told = {"width": estimate.high - estimate.low, "rows": needed, "mixed": [None] * len(SHARES)}
    if of is None:
        return told
    moments, number = of
    here = moments.variance(number, 0, estimator, estimate.value)
    if here > 0.0:
        effect = estimate.n * estimate.se**2 / here
        spread = [moments.variance(number, at, estimator, estimate.value) for at in range(1, len(SHARES) + 1)]
        told["mixed"] = [math.ceil(effect * one * (2 * z / width) ** 2) for one in spread]
    return told


def _notes(found: dict[str, Estimate]) -> list[str]:
    """Why a plan may be worth little."""
    notes = [
        "A plan is as good as the variance it rests on: that of other loggers is itself estimated from this log.",
        "Exploration costs what the uniform policy earns less; see its row in a replay.",
    ]
    poor = [name for name, estimate in found.items() if any(w.code == "low_ess" for w in estimate.warnings)]
    if poor:
        notes.append(f"low_ess for {', '.join(poor)}: their variance is hardly known here, and more likely too small.")
    return notes
