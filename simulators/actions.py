"""What an agent says, as slates: five kinds of actions over the list of candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from simulators.core import Core

MODES = ("item", "slate", "page", "rank", "score")
ON_DUPLICATE = ("repair", "penalise", "raise")


class Actions:
    """The space of one mode and the way from its actions to slates.

    Actions are about places in the list of candidates, never about item numbers, so the space stays while items come
    and go:

    * "item": `Discrete(C)`, slates of one; in a world that always has more slots the others stay empty.
    * "slate": `MultiDiscrete([C] * K)`, best place first.
    * "page": `MultiDiscrete([C] * K)`, a page of `Core.shape` row by row; how a page is looked at is the core's matter.
    * "rank": `Box(F)`, a point among the item features; shown are the K candidates of the largest inner product with
      it, the best in the first slot.
    * "score": `Box(C)`, a number per candidate; shown are the K highest. Of equal ones the first in the list wins. In
      both boxes any finite numbers are taken, also those outside of -1..1.

    In "slate" and "page" one place may be named twice. Whatever `on_duplicate` says, an empty place, and a repeated one
    unless that is refused, is replaced by the next free place going round (`repair`).

    Args:
        mode: one of `MODES`.
        core: knows slots and features.
        count: C, candidates.
        on_duplicate: "repair"; "penalise", which also tells `decode`'s caller how many there were, to be taken off the
            reward; "raise".

    Raises:
        ValueError: an unknown mode or word, or mode "rank" in a world whose items have no features.
    """

    def __init__(self, mode: str, core: Core, count: int, on_duplicate: str = "repair") -> None:
        for name, word, known in (("action_mode", mode, MODES), ("on_duplicate", on_duplicate, ON_DUPLICATE)):
            if word not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {word!r}")
        if mode == "rank" and core.features.shape[1] == 0:
            raise ValueError(
                'action_mode "rank" ranks candidates by their features, and the items of this world have none: '
                'use "score"'
            )
        self.mode, self.core, self.count, self.on_duplicate = mode, core, count, on_duplicate
        self.named = mode in ("slate", "page")  # places are named, maybe one of them twice
        self.space = self._space()

    def _space(self) -> spaces.Space[Any]:
        if self.mode == "item":
            return spaces.Discrete(self.count)
        if self.named:
            return spaces.MultiDiscrete([self.count] * self.core.slate)
        return spaces.Box(-1.0, 1.0, (self._width(),), np.float32)

    def _width(self) -> int:
        return self.count if self.mode == "score" else self.core.features.shape[1]

    def decode(self, actions: NDArray[Any], candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Slates of item numbers.

        Args:
            actions: [n, ...] as the space says.
            candidates: [n, C] item numbers, 0 = empty place.

        Returns:
            slates [n, K] int64, all items different, 0 once the candidates are used up; and how many places were named
            again, [n] int64.

        Raises:
            ValueError: actions of the wrong shape, out of range or not finite, or repeats where they are refused.
        """
        if self.mode in ("rank", "score"):
            slates = self._top(self._numbers(actions, candidates), candidates)
            return slates, torch.zeros(len(slates), dtype=torch.int64, device=slates.device)
        places = self._places(actions, candidates)
        items = candidates.gather(1, places)
        again = _again(places)
        if self.on_duplicate == "raise" and bool(again.any()):
            row = int(again.any(1).nonzero()[0])
            raise ValueError(
                f"places {places[row].tolist()} name a candidate twice; name each once, or choose "
                'on_duplicate = "repair" or "penalise"'
            )
        wrong = (again | (items == 0)).any(1)
        if bool(wrong.any()):
            items[wrong] = repair(candidates[wrong], places[wrong])
        return pad(items, (0, self.core.slate - items.shape[1])), again.sum(1)

    def _places(self, actions: NDArray[Any], candidates: Tensor) -> Tensor:
        """[n, K] int64, checked."""
        n = len(candidates)
        shape = (n,) if self.mode == "item" else (n, self.core.slate)
        places = np.asarray(actions)
        if places.shape != shape or (n and (places.min() < 0 or places.max() >= self.count)):
            raise ValueError(
                f"expected actions of shape {shape} in 0..{self.count - 1}, got shape {places.shape} "
                f"in {places.min(initial=0)}..{places.max(initial=0)}"
            )
        return (
            torch.from_numpy(places.astype(np.int64)).to(candidates.device).view(n, shape[1] if len(shape) > 1 else 1)
        )

    def _numbers(self, actions: NDArray[Any], candidates: Tensor) -> Tensor:
        """[n, F] or [n, C] float32, checked."""
        shape, numbers = (len(candidates), self._width()), np.asarray(actions)
        if numbers.shape != shape or not np.isfinite(numbers).all():
            raise ValueError(f"expected finite actions of shape {shape}, got shape {numbers.shape}")
        return torch.from_numpy(numbers.astype(np.float32)).to(candidates.device)

    def _top(self, numbers: Tensor, candidates: Tensor) -> Tensor:
        """[n, K]: the highest scores, or the largest inner products with the features of the candidates."""
        if self.mode == "rank":
            # Not a matrix product: its rounding depends on how many rows there are.
            numbers = (self.core.features[candidates] * numbers.unsqueeze(1)).sum(2)
        left = numbers.masked_fill(candidates == 0, -torch.inf)
        chosen = []
        for _ in range(self.core.slate):
            place = left.argmax(1, keepdim=True)  # the first of equal ones, on every device
            chosen.append(torch.where(left.gather(1, place) > -torch.inf, candidates.gather(1, place), 0))
            left = left.scatter(1, place, -torch.inf)
        return torch.cat(chosen, 1)

    def masks(self, candidates: Tensor) -> NDArray[np.bool_]:
        """[n, C * K] bool, what sb3-contrib asks for: the places that hold a candidate, for each slot.

        Raises:
            ValueError: the mode has no places to mask.
        """
        if self.mode in ("rank", "score"):
            raise ValueError(f'action_mode "{self.mode}" takes any numbers: there is nothing to mask')
        there: NDArray[np.bool_] = (candidates > 0).cpu().numpy()
        return np.tile(there, (1, self.core.slate))


def repair(candidates: Tensor, places: Tensor) -> Tensor:
    """Slates without repeats: a place taken already, or empty, becomes the next free one, going round.

    Args:
        candidates: [n, C] item numbers, 0 = empty.
        places: [n, K] places in them.

    Returns:
        [n, K] item numbers; 0 once the candidates are used up.
    """
    count = candidates.shape[1]
    free = candidates > 0
    positions = torch.arange(count, device=places.device, dtype=torch.int32)
    chosen = []
    for slot in range(places.shape[1]):
        wanted = places[:, slot : slot + 1].int()
        distance = positions - wanted
        distance += (distance < 0) * count
        place = distance.masked_fill_(~free, count).argmin(1, keepdim=True)
        chosen.append(torch.where(free.gather(1, place), candidates.gather(1, place), 0))
        free.scatter_(1, place, False)
    return torch.cat(chosen, 1)


def _again(places: Tensor) -> Tensor:
    """[n, K] bool: the place stands in an earlier slot already."""
    again = torch.zeros_like(places, dtype=torch.bool)
    for slot in range(1, places.shape[1]):
        again[:, slot] = (places[:, :slot] == places[:, slot : slot + 1]).any(1)
    return again
