"""Which session a request belongs to, when that session began, and which of its requests this one is."""

from __future__ import annotations

import torch
from torch import Tensor

from streamrec.mixing import mix
from streamrec.ports import State
from streamrec.records import Events, History

_POSITIVE = (1 << 63) - 1


class Visits:
    """The running session of every row of the session store, as requests show it.

    A session is what the log calls one, and where it names none, requests of a user no further apart than `gap_s`.

    Args:
        users: rows of the session store.
        gap_s: seconds of event time.
    """

    def __init__(self, users: int, gap_s: float) -> None:
        self.gap_s = gap_s
        # By row: hash of the user, hash the log gave the session, hash we give it, requests of it so far.
        self._table = torch.zeros(users, 4, dtype=torch.int64)
        self._clock = torch.zeros(users, 2, dtype=torch.float64)  # its first and its newest request

    def take(self, history: History, asked: Events) -> tuple[Tensor, Tensor, Tensor]:
        """Note requests: each user once. Returns session [B] int64 above 0, begin [B] float64, place from 0 [B]."""
        user, time = history.user, history.time
        key, named, session, place = self._table[user].unbind(1)
        begin, last = self._clock[user].unbind(1)
        cut = torch.where(asked.session != 0, asked.session != named, time - last > self.gap_s)
        fresh = cut | (key != history.key) | (place == 0)
        begin = torch.where(fresh, time, begin)
        own = mix(history.key ^ mix(begin.view(torch.int64))) & _POSITIVE
        own = torch.where(asked.session != 0, asked.session, own)
        session = torch.where(fresh, own, session)
        place = torch.where(fresh, 0, place)
        self._table[user] = torch.stack([history.key, asked.session, session, place + 1], dim=1)
        self._clock[user] = torch.stack([begin, torch.maximum(last, time) * ~fresh + time * fresh], dim=1)
        return session, begin, place

    def state_dict(self) -> State:
        used = int((self._table[:, 3] > 0).nonzero().max()) + 1 if bool((self._table[:, 3] > 0).any()) else 0
        return {"table": self._table[:used].clone(), "clock": self._clock[:used].clone()}

    def load_state_dict(self, state: State) -> None:
        for mine, saved in ((self._table, state["table"]), (self._clock, state["clock"])):
            mine.zero_()
            mine[: len(saved)] = saved
