"""How active users are, from the times of their returns: a survival process with a constant hazard."""

from __future__ import annotations

import torch
from torch import Tensor

from streamrec.ports import State
from streamrec.records import rank_within

START, DECAY, GAIN = 0.5, 1.2e-5, 0.32
"""S0; the hazard per second, about one in 24 hours; Sa, which brings S0 back to S0 after 24 hours away."""


class Activeness:
    """S_u of every user (Zheng et al., WWW 2018, section 4.5): S(t) = S e^(-hazard * t), S <- min(1, S + Sa) on return.

    A request after more than `away_s` without one is a return, and begins a visit. What a visit led to, its outcome, is
    S_u right after the return that follows it. As long as the user is away the outcome is S_u now: who never returns
    is no gap in the data but a visit whose outcome goes to 0.

    Store rows may be given to other users. A row is known by its user's key; another key starts anew at `start`, and
    the visit before it keeps the outcome it had then.

    Args:
        users: store rows.
        visits: the newest visits whose outcomes are kept.
        away_s: seconds between two requests after which the second is a return.
        start: S0.
        decay: hazard per second.
        gain: Sa.
        device: where the tables live.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        users: int,
        visits: int,
        away_s: float = 1800.0,
        start: float = START,
        decay: float = DECAY,
        gain: float = GAIN,
        device: torch.device | str = "cpu",
    ) -> None:
        if away_s <= 0 or decay <= 0:
            raise ValueError(f"away_s and decay must be above 0, got {away_s} and {decay}")
        if not 0 <= start <= 1 or not 0 <= gain <= 1:
            raise ValueError(f"start and gain must be between 0 and 1, got {start} and {gain}")
        self.away_s, self.start, self.decay, self.gain, self.visits = away_s, start, decay, gain, visits
        self.begun = 0  # visits ever
        self.key = torch.zeros(users, dtype=torch.int64, device=device)
        self.level = torch.zeros(users, device=device)  # S when it was seen last
        self.seen = torch.zeros(users, dtype=torch.float64, device=device)  # newest request
        self.visit = torch.full((users,), -1, device=device)  # number of the running or last visit
        self.number = torch.full((visits,), -1, device=device)  # visit whose outcome stands here: number % visits
        self.owner = torch.zeros(visits, dtype=torch.int64, device=device)
        self.outcome = torch.full((visits,), torch.nan, device=device)  # NaN = the user is not back yet

    def at(self, user: Tensor, key: Tensor, time: Tensor) -> Tensor:
        """S_u of store rows `user` [n], whose keys are `key`, if they request at `time` [n]: [n]."""
        known = (self.visit[user] >= 0) & (self.key[user] == key)
        returns = known & (time - self.seen[user] > self.away_s)
        level = (self._decayed(user, time) + self.gain * returns).clamp(max=1.0)
        return torch.where(known, level, self.start)

    def request(self, user: Tensor, key: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Take note of requests: [n] each. Returns S_u then, and the numbers of the visits they belong to, [n] each."""
        level, visit = torch.zeros(len(user), device=self.level.device), torch.zeros_like(user)
        rank = rank_within(user)
        for at in range(int(rank.max()) + 1 if len(user) else 0):  # once, unless a user comes twice
            part = rank == at
            level[part], visit[part] = self._request(user[part], key[part], time[part])
        return level, visit

    def _request(self, user: Tensor, key: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        level = self.at(user, key, time)
        same = (self.visit[user] >= 0) & (self.key[user] == key)
        ends = (self.visit[user] >= 0) & (~same | (time - self.seen[user] > self.away_s))
        gone = torch.where(same, level, self._decayed(user, time))
        self._end(self.visit[user[ends]], gone[ends])
        begins = ends | (self.visit[user] < 0)
        number = self.begun + begins.cumsum(0) - 1
        self.begun += int(begins.sum())
        visit = torch.where(begins, number, self.visit[user])
        place = visit[begins] % self.visits
        self.number[place], self.owner[place], self.outcome[place] = visit[begins], user[begins], torch.nan
        self.key[user], self.level[user], self.visit[user] = key, level, visit
        self.seen[user] = torch.where(begins, time, torch.maximum(self.seen[user], time))
        return level, visit

    def _decayed(self, user: Tensor, time: Tensor) -> Tensor:
        return self.level[user] * torch.exp(-self.decay * (time - self.seen[user]).clamp_min(0.0)).float()

    def _end(self, visit: Tensor, outcome: Tensor) -> None:
        held = self.number[visit % self.visits] == visit
        self.outcome[visit[held] % self.visits] = outcome[held]

    def led_to(self, visit: Tensor, now: Tensor) -> Tensor:
        """Outcomes of visits [n] as far as they are known at event time `now`, a scalar: [n]; NaN = forgotten."""
        place = visit % self.visits
        outcome, owner = self.outcome[place], self.owner[place]
        waiting = outcome.isnan() & (self.visit[owner] == visit)
        outcome = torch.where(waiting, self._decayed(owner, now.expand(len(owner))), outcome)
        return torch.where(self.number[place] == visit, outcome, torch.nan)

    def _tables(self) -> dict[str, Tensor]:
        names = ("key", "level", "seen", "visit", "number", "owner", "outcome")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> State:
        process = {"begun": self.begun, "decay": self.decay, "gain": self.gain}
        return {**process, **{name: table.clone() for name, table in self._tables().items()}}

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()`.

        Raises:
            ValueError: if it was saved for another number of users or visits.
        """
        for name, table in self._tables().items():
            if state[name].shape != table.shape:
                raise ValueError(
                    f"the saved activeness has {name} of shape {tuple(state[name].shape)}, here it is "
                    f"{tuple(table.shape)}: sessions.users and memory must be what they were"
                )
            table.copy_(state[name])
        self.begun, self.decay, self.gain = state["begun"], state["decay"], state["gain"]
