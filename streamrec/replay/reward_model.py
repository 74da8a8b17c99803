"""What a shown item is expected to earn: the model of doubly robust estimates, always fitted without what it scores."""

from __future__ import annotations

import torch
from torch import Tensor

from streamrec.ports import State


class RewardTable:
    """Mean reward by item and by slot, added up and drawn towards the mean of everything.

    q(item i, slot k) = m_i + m_k - m, where m is the mean reward of all rows, and m_i and m_k are means of the rows
    with that item or slot, drawn towards m as if `prior` more rows had earned just m. It knows nothing of the user.
    A doubly robust estimate stays unbiased with any model that has not seen the row; a better one makes the interval
    narrower.

    Cross-fitting is by blocks of time: rows that have earned their reward strictly before every request to come become
    part of the model once there are `block` of them. So a row is scored by a model made of blocks before its own, from
    nothing at all in the first block: q = 0, and DR is IPS there.
    (Cross-fitting: Chernozhukov et al., 2018; predictable fits for logs in order of time: Bibaut et al., NeurIPS 2021.)

    Args:
        capacity: rows of the catalogue.
        slots: K.
        prior: rows' worth of doubt about every item and slot.
        block: rows of a block, at least.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(self, capacity: int, slots: int, prior: float = 50.0, block: int = 256) -> None:
        if prior <= 0.0 or block < 1:
            raise ValueError(f"prior must be above 0 and block at least 1, got prior={prior}, block={block}")
        self.prior, self.block = prior, block
        self.newest = float("-inf")  # event time of the newest row in the model
        self._items = torch.zeros(2, capacity + 1, dtype=torch.float64)  # rows, rewards
        self._slots = torch.zeros(2, slots, dtype=torch.float64)
        self._item = torch.zeros(capacity + 1, dtype=torch.float64)  # the model: m_i
        self._slot = torch.zeros(slots, dtype=torch.float64)  # m_k - m
        self._waiting: list[Tensor] = []  # rows of the running block: [4, M] float64 item, slot, reward, time

    def predict(self, items: Tensor, slot: int) -> Tensor:
        """Expected reward of `items` [...] in a slot, float64 of the same shape."""
        return self._item[items] + self._slot[slot]

    def learn(self, item: Tensor, slot: Tensor, reward: Tensor, time: Tensor) -> None:
        """Take in rows that have earned `reward` [M] float64 by `time` [M]; the model does not change yet."""
        if len(item):
            self._waiting.append(torch.stack([item.double(), slot.double(), reward, time.double()]))

    def turn(self, now: float) -> None:
        """End the block if it is long enough; `now` is the time of the oldest request to come."""
        if sum(part.shape[1] for part in self._waiting) < self.block:
            return
        waiting = torch.cat(self._waiting, dim=1)
        due = waiting[3] < now
        self._waiting = [waiting]
        if int(due.sum()) >= self.block:
            self._waiting = [waiting[:, ~due]]
            self._fit(waiting[:, due])

    def _fit(self, block: Tensor) -> None:
        item, slot, reward, time = block
        for table, at in ((self._items, item.long()), (self._slots, slot.long())):
            table[0].index_add_(0, at, torch.ones_like(reward))
            table[1].index_add_(0, at, reward)
        rows, rewards = self._slots
        mean = rewards.sum() / rows.sum()
        self._item = (self._items[1] + self.prior * mean) / (self._items[0] + self.prior)
        self._slot = (rewards + self.prior * mean) / (rows + self.prior) - mean
        self.newest = max(self.newest, float(time.max()))

    def recycle(self, rows: Tensor) -> None:
        """Items that are gone leave the table; those to come have its mean."""
        self._items[:, rows] = 0.0
        total = self._slots.sum(1)
        self._item[rows] = total[1] / total[0] if float(total[0]) and self.newest > float("-inf") else 0.0

    def state_dict(self) -> State:
        tables = {name: getattr(self, f"_{name}").clone() for name in ("items", "slots", "item", "slot")}
        waiting = torch.cat([torch.zeros(4, 0, dtype=torch.float64), *self._waiting], dim=1)
        return {**tables, "newest": torch.tensor(self.newest, dtype=torch.float64), "waiting": waiting}

    def load_state_dict(self, state: State) -> None:
        for name in ("items", "slots", "item", "slot"):
            setattr(self, f"_{name}", state[name].clone())
        self.newest, self._waiting = float(state["newest"]), [state["waiting"].clone()]
