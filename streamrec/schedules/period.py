"""The clicks of the running period, and when it ends."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from streamrec.ports import State
from streamrec.schedules.clicks import Click, Clicks, Mixture, alive, between


class Periods:
    """Cuts a stream into periods of event time.

    Args:
        period_s: seconds in a period; None = periods are ended by hand.

    Raises:
        ValueError: if `period_s` is not above 0.
    """

    def __init__(self, period_s: float | None) -> None:
        if period_s is not None and not period_s > 0.0:
            raise ValueError(f"period_s must be above 0 or left out, got {period_s}")
        self.period_s = period_s
        self.now: int | None = None

    def pieces(self, times: Tensor) -> Iterator[tuple[bool, slice]]:
        """Consecutive pieces of clicks at `times` [B] float64, each with whether a period ended before it.

        Clicks that come late belong to the running period. A period without clicks passes unnoticed.
        """
        if self.period_s is None or len(times) == 0:
            yield False, slice(0, len(times))
            return
        index = torch.floor(times / self.period_s).long().cummax(0).values
        index = index.clamp(min=self.now) if self.now is not None else index
        start = 0
        for period, count in torch.stack(torch.unique_consecutive(index, return_counts=True)).t().tolist():
            ended = self.now is not None and period > self.now
            self.now = period
            yield ended, slice(start, start + count)
            start += count


class RunningPeriod:
    """A ring of clicks from which only those of the running period are drawn again.

    Args:
        period_s: seconds of event time in a period; None = `end` says when one is over.
        memory: newest clicks kept.
        batch: clicks in one step, at least; see `streamrec.schedules.clicks.Mixture`.
        replay_ratio: older clicks of the period per new one, at least.
        generator: of the draws; whoever owns it saves it.
        device: where the memory lives.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        period_s: float | None,
        memory: int,
        batch: int,
        replay_ratio: float,
        generator: Generator,
        device: torch.device | str,
    ) -> None:
        self.periods = Periods(period_s)
        self.mixture = Mixture(batch, replay_ratio)
        self.clicks = Clicks(memory, torch.device(device))
        self.generator = generator
        self.since = 0  # number of the first click of the period
        self.before = 0  # clicks of the period before

    @property
    def size(self) -> int:
        """Clicks of the period: so far, or those of the period before where they were more and this one is not over."""
        brought = self.clicks.added - self.since
        return brought if self.periods.period_s is None else max(brought, self.before)

    def draw(self) -> Click | None:
        """New clicks, oldest first, then some of the period at random; None: there are none."""
        clicks, low = self.clicks, max(self.since, self.clicks.oldest)
        before = clicks.trained
        new = clicks.take(self.mixture.most_new)
        count = min(self.mixture.older(len(new)), max(before - low, 0))
        drawn = torch.cat([new, between(low, before, count, self.generator, clicks.device)])
        return alive(clicks[drawn]) if len(drawn) else None

    def held(self) -> Click | None:
        """The clicks of the period that are still remembered."""
        low = max(self.since, self.clicks.oldest)
        if low == self.clicks.added:
            return None
        return alive(self.clicks[torch.arange(low, self.clicks.added, device=self.clicks.device)])

    def end(self) -> None:
        """What comes now belongs to a new period."""
        self.before, self.since = self.clicks.added - self.since, self.clicks.added

    def state_dict(self) -> State:
        clicks = self.clicks.state_dict()
        return {"clicks": clicks, "now": self.periods.now, "since": self.since, "before": self.before}

    def load_state_dict(self, state: State) -> None:
        self.clicks.load_state_dict(state["clicks"])
        self.periods.now, self.since, self.before = state["now"], state["since"], state["before"]
