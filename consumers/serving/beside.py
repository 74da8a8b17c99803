"""A shadow beside the model that serves: how often it agrees, and what it would have earned."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from consumers.serving.follower import Closed
from consumers.serving.model import ServedModel
from streamrec.ope.accumulator import Accumulator
from streamrec.ope.estimate import Estimate
from streamrec.ope.intervals import by_session
from streamrec.records import Decision, History

CLIP = 100.0
"""Weight that stands for all larger ones."""

WAITING = 50_000
"""Most decisions whose reward is waited for; the oldest is given up."""

AT_ONCE = 256
"""Closed decisions that are added up together."""

BUCKETS = 1024
"""Of users, from whose spread the interval is made."""

ENOUGH = 30.0
"""Effective decisions below which there is nothing to say yet."""


class Beside:
    """What can be said of one shadow from the answers of the models that serve.

    The value is the reward of the first slot per decision, had the shadow chosen what stands there: sum of w r / sum of
    w, w = min(p'/p, clip), p the probability with which the item was shown first and p' that with which
    the shadow would have (self-normalised: Swaminathan, Joachims, NIPS 2015, eq. 10; cut weights: Ionides, J. Comp.
    Graph. Stat. 2008). The first slot alone, because its propensity depends on no other slot: the product over a slate
    would weigh almost every decision with 0. What lies below it is what was really shown, and so is the past of the
    user: it is the value of replacing one decision at a time, not of a shadow that serves for days. The interval
    (95 %, delta method) is made of users, whose decisions depend on each other. It is no better than the propensities:
    a policy that never tries anything says nothing of what another would show.

    Beside it stands the mean over the same decisions of what was really shown.

    Args:
        clip: see above; how many weights were cut is told.
        waiting: most decisions whose reward is waited for.
    """

    def __init__(self, clip: float = CLIP, waiting: int = WAITING) -> None:
        self.clip, self.most = clip, waiting
        self.answers = self.cut = 0
        self._agreed = 0.0
        self._waiting: OrderedDict[int, tuple[float, float]] = OrderedDict()  # decision -> p, p'
        self._closed: list[tuple[float, float, float, int]] = []  # reward, p, p', user
        self._sums = Accumulator(["snips"], buckets=BUCKETS)

    def compare(
        self, shadow: ServedModel, history: History, shown: Decision, without: Tensor | None
    ) -> list[float | None]:
        """Let the shadow answer; returns how likely it is to put first what was shown first, None = it cannot say.

        Args:
            shadow: in step with the service's catalogue.
            history: [B] of who asked.
            shown: [B] what they see.
            without: rows that must not be shown.
        """
        other = shadow.act(history, without)
        there = shown.slate > 0
        same = ((shown.slate.unsqueeze(2) == other.slate.unsqueeze(1)) & there.unsqueeze(2)).any(2).sum(1)
        self._agreed += float((same / there.sum(1).clamp(min=1)).sum())
        self.answers += len(history)
        chances = shadow.chances(history, shown.slate[:, 0], other.policy, without)
        known = torch.isfinite(chances) & torch.isfinite(shown.slot_logp[:, 0])
        return [chance if sure else None for chance, sure in zip(chances.tolist(), known.tolist(), strict=True)]

    def note(self, decision: int, logp: float, chance: float) -> None:
        """Wait for what comes of an answer: its first item was shown with the natural log of probability `logp`."""
        self._waiting[decision] = (math.exp(min(logp, 0.0)), min(max(chance, 0.0), 1.0))
        if len(self._waiting) > self.most:
            self._waiting.popitem(last=False)

    def close(self, closed: Closed) -> None:
        """Take in decisions that are over; those never noted are not the shadow's business."""
        for decision, reward, user in zip(closed.decisions, closed.first, closed.users, strict=True):
            known = self._waiting.pop(decision, None)
            if known is not None:
                self._closed.append((reward, *known, user))
        if len(self._closed) >= AT_ONCE:
            self._add_up()

    def _add_up(self) -> None:
        if not self._closed:
            return
        reward, p, chance, user = (np.array(column) for column in zip(*self._closed, strict=True))
        self._closed.clear()
        most = self.clip * p
        self.cut += int((chance > most).sum())
        self._sums.add(reward, p, np.minimum(chance, most), session=user.astype(np.uint64))

    # --- looking -------------------------------------------------------------------------------------------------

    def read(self) -> dict[str, Any]:
        """`agreement` in the slots shown, `answers` compared, and `value`, None as long as nothing is known.

        `value`: `reward`, `low`, `high` of the shadow, `serving` of what was shown, `decisions`, `users`, effective
        decisions `ess`, `cut` weights, `warnings` {code: text}, and a sentence that `says` it.
        """
        agreement = self._agreed / self.answers if self.answers else None
        return {"agreement": agreement, "answers": self.answers, "value": self.value()}

    def value(self) -> dict[str, Any] | None:
        """See `read`."""
        self._add_up()
        if not self._sums.sums.rows:
            return None
        found = self._sums.result()
        mine, theirs = found["snips"], found["logged"]
        warnings = {warned.code: warned.message for warned in mine.warnings}
        if mine.refused is not None:
            warnings |= {mine.refused.code: mine.refused.message}
        return {
            "reward": mine.value,
            "low": mine.low,
            "high": mine.high,
            "serving": theirs.value,
            "decisions": mine.n,
            "users": mine.sessions,
            "ess": mine.ess,
            "cut": self.cut,
            "warnings": warnings,
            "says": self._says(mine, theirs),
        }

    def _says(self, mine: Estimate, theirs: Estimate) -> str:
        if mine.value is None or mine.low is None or mine.high is None or (mine.ess or 0.0) < ENOUGH:
            heard = 0.0 if mine.ess is None else mine.ess
            return f"too few decisions say anything of the shadow yet ({heard:.0f} of {mine.n} in effect)"
        assert theirs.value is not None
        low, high = self._gain(mine.value - theirs.value)
        least = 1e-6 * abs(theirs.value)  # propensities are float32 on the way: equal models differ by as much
        than = "more than" if low > least else "less than" if high < -least else "not clearly more or less than"
        cut = f"; {self.cut} weights were cut, which leans towards what both would show" if self.cut else ""
        earned = f"{mine.value:.3g} per decision ({mine.low:.3g} to {mine.high:.3g})"
        return (
            f"in the first slot it would have earned {earned}, {than} the {theirs.value:.3g} of what was shown, "
            f"over {mine.n} decisions{cut}"
        )

    def _gain(self, value: float) -> tuple[float, float]:
        """Ends of the interval of the difference `value`: both means are of the same decisions and move together."""
        by_bucket, total = self._sums.sums.by_bucket(), self._sums.sums.total()
        mine, theirs = (self._sums.estimators[name].residuals(by_bucket, total) for name in ("snips", "logged"))
        ends = by_session(value, mine - theirs, 0.05)
        return (-math.inf if ends.low is None else ends.low, math.inf if ends.high is None else ends.high)

    def metrics(self) -> dict[str, float]:
        """The same as numbers alone: `shadow.reward`, `.low`, `.high`, `.serving`, `.decisions`, `.agreement`."""
        said = self.read()
        figures = {"agreement": said["agreement"], **(said["value"] or {})}
        names = ("agreement", "reward", "low", "high", "serving", "decisions", "ess", "cut")
        return {f"shadow.{name}": float(figures[name]) for name in names if figures.get(name) is not None}
