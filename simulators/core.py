"""What a simulator is to the rest: dynamics in tensors, for any subset of its users at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from streamrec.ports import State
from streamrec.records import Rows

Unit = Literal["decision", "life", "day"]


@dataclass
class Feedback(Rows):
    """What n users did with the slates they got."""

    kinds: Tensor  # [n, K] int8, a Kind per slot: CLICK, SKIP, IMPRESSION (nobody knows more), NONE = empty slot
    reward: Tensor  # [n] float32
    leave: Tensor  # [n] bool, the visit ended here
    think: Tensor  # [n] float64, seconds spent on this slate
    gap: Tensor  # [n] float64, seconds away after that; 0 for those who stay
    value: Tensor  # [n, K] float32, strength of the reaction per slot: 1, or what the world measures (seconds, price)

    @property
    def delay(self) -> Tensor:
        """[n, K] float64, seconds from the slate to the reaction to each slot: they follow in order while thinking."""
        slots = self.kinds.shape[1]
        order = torch.arange(1, slots + 1, device=self.think.device, dtype=torch.float64)
        return self.think.unsqueeze(1) * (order / (slots + 1))


@runtime_checkable
class Core(Protocol):
    """The dynamics of a world, without gymnasium: one implementation, seen through the faces written for all.

    Users are rows 0..users-1 and items are numbers 1..capacity in the order in which they arrive; 0 is "no item". Each
    user has a clock of its own, which stands at the user's next request.
    """

    users: int  # U
    slate: int  # K
    capacity: int  # N, the most items there will ever be
    device: torch.device
    time: Tensor  # [U] float64, seconds since the start: the user's next request
    category: Tensor  # [N + 1] int64, what everybody may know of an item, above 0; 0 = unknown
    features: Tensor  # [N + 1, F] float32, the same in numbers; F may be 0
    offered: int  # C, candidates that come with a request (`sample` draws them); 0 = everything there is
    mortal: bool  # who leaves is gone for good, and the row goes to the next person
    unit: Unit  # what a policy is measured by: mean reward per decision, sum per life, or sum per user and day
    shape: tuple[int, int]  # rows and columns of a page; (K, 1) where the slate is a list

    def step(self, users: Tensor, slates: Tensor, time: Tensor | None = None) -> Feedback:
        """Show `slates` [n, K] to `users` [n], each user at most once; their clocks move to their next requests."""

    def reset(self, users: Tensor, seeds: Tensor | None = None) -> None:
        """Put new people into the rows `users` [n]; `seeds` [n] int64 decide who they are and what they will do."""

    def shift(self) -> None:
        """Change tastes now; nothing where tastes cannot."""

    def alive(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """The oldest and the newest item there is at each time: [n] float64 -> two of [n] int64."""

    def sample(self, users: Tensor, count: int) -> Tensor:
        """`count` different items that there are, at random: [n] -> [n, count] int64, 0 where there are too few."""

    def context(self, users: Tensor) -> Tensor:
        """What everybody may know of `users` [n] at their coming request, [n, G] float32; G may be 0."""

    def best(self, users: Tensor, foresight: float = 0.0) -> Tensor:
        """The slate of a policy that sees everything, [n, K] items; 0 = myopic, above 0 costs to come count too."""

    def worth(self, users: Tensor, items: Tensor | None = None, foresight: float = 0.0) -> Tensor:
        """What a policy that sees everything thinks of `items` [n, C] (None = 1..newest): [n, C] float32.

        With foresight 0 it is the probability of a click now if the user looks at the item, -inf for what is not there;
        above 0 what the click costs later is taken off.
        """

    def like(self, **changes: object) -> Self:
        """A fresh core with the same settings except `changes`."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...
