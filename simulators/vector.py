"""Any core as a Gymnasium `VectorEnv`: its users are the environments, stepped together."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from simulators.core import Core, Feedback
from streamrec.records import Kind

Arrays = dict[str, NDArray[Any]]

MAX_AGE_S = 30 * 86400.0
"""Older is as old as this."""


class SlateVectorEnv(VectorEnv[Arrays, NDArray[Any], NDArray[Any]]):
    """One episode = `horizon` decisions of one user. Every row has a core user of its own.

    Observation, a flat dictionary of fixed shapes (item numbers, 0 = empty; newest last):
    `items`, `kinds`, `ages` [L] clicks, seconds since each; `skipped`, `skip_ages` [S] explicit skips; `visit` [1]
    clicks of the running visit; `candidates` [C] item numbers one may show now, `mask` [C] 1 where there is one.

    Action: places in the list of candidates, not item numbers, so the space stays while items come and go. In mode
    "slate" `MultiDiscrete([C] * K)`, best place first; a candidate named twice or not there is replaced by the next
    free one in the list. In mode "item" `Discrete(C)` and slates of one. With as many candidates as items (and none
    arriving) the list is the catalogue in fixed order.

    Reward: the core's, by default one per click. `truncated` at the horizon; never `terminated`: who leaves comes back,
    so the end of a visit is a gap in time (`info["leave"]`, `info["gap"]` in seconds) across which returns add up.

    Args:
        num_envs: N.
        core: the dynamics, or "module:Class" of them; called with `users=num_envs` and the remaining keywords.
        horizon: decisions per episode.
        candidates: C, drawn from the items that are there at each request.
        history: L, clicks observed.
        skips: S, skips observed.
        action_mode: "slate" or "item".
        autoreset_mode: an `AutoresetMode` of Gymnasium or its value: "NextStep", "SameStep", "Disabled".
        settings: keywords of the core.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        num_envs: int = 1,
        core: str | Callable[..., Core] = "simulators.feed:Feed",
        horizon: int = 100,
        candidates: int = 50,
        history: int = 20,
        skips: int = 20,
        action_mode: str = "slate",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        **settings: Any,
    ) -> None:
        if action_mode not in ("slate", "item"):
            raise ValueError(f'action_mode must be "slate" or "item", got {action_mode!r}')
        if action_mode == "item":
            settings["slate"] = 1
        self.core = _find(core)(users=num_envs, **settings)
        for name, number, least in (("horizon", horizon, 1), ("candidates", candidates, self.core.slate)):
            if number < least:
                raise ValueError(f"{name} must be at least {least}, got {number}")
        self.num_envs, self.horizon, self.count = num_envs, horizon, candidates
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self.item_mode = action_mode == "item"
        self._make_spaces(history, skips)
        self._make_tables(history, skips)

    def _make_spaces(self, length: int, skips: int) -> None:
        top, c = self.core.capacity, self.count

        def box(high: float, width: int, dtype: Any) -> spaces.Box:
            return spaces.Box(0, high, (width,), dtype)

        self.single_observation_space = spaces.Dict(
            {
                "items": box(top, length, np.int32),
                "kinds": box(max(Kind), length, np.int8),
                "ages": box(MAX_AGE_S, length, np.float32),
                "skipped": box(top, skips, np.int32),
                "skip_ages": box(MAX_AGE_S, skips, np.float32),
                "visit": box(self.horizon * self.core.slate, 1, np.int32),
                "candidates": box(top, c, np.int32),
                "mask": box(1, c, np.int8),
            }
        )
        self.single_action_space = spaces.Discrete(c) if self.item_mode else spaces.MultiDiscrete([c] * self.core.slate)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def _make_tables(self, length: int, skips: int) -> None:
        n, at = self.num_envs, self.core.device
        self._rows = torch.arange(n, device=at)
        self._items = torch.zeros(n, length, dtype=torch.int32, device=at)
        self._times = torch.zeros(n, length, dtype=torch.float64, device=at)
        self._skipped = torch.zeros(n, skips, dtype=torch.int32, device=at)
        self._skip_times = torch.zeros(n, skips, dtype=torch.float64, device=at)
        self._visit = torch.zeros(n, dtype=torch.int32, device=at)
        self._candidates = torch.zeros(n, self.count, dtype=torch.int64, device=at)
        self._decisions = torch.zeros(n, dtype=torch.int64, device=at)
        self._done = torch.ones(n, dtype=torch.bool, device=at)  # over, or never begun
        self._begun = False

    # --- gymnasium ---------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Begin new episodes: with other people, or with those that the seeds stand for.

        Args:
            seed: row i gets `seed + i`, or the i-th of a sequence. Without, each row goes on to its next person; the
                first ones are drawn from fresh entropy.
            options: `reset_mask`, [N] bool: the rows to reset, the others go on.

        Raises:
            ValueError: a sequence or mask of the wrong length.
        """
        mask = (options or {}).get("reset_mask")
        if mask is not None and np.shape(mask) != (self.num_envs,):
            raise ValueError(f'options["reset_mask"] must have shape ({self.num_envs},), got {np.shape(mask)}')
        rows = self._rows if mask is None else self._rows[torch.as_tensor(mask, dtype=torch.bool)]
        seeds = self._seeds(seed)
        self._restart(rows, None if seeds is None else seeds[rows])
        return self._observe(), {}

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Tensor | None:
        """[N] int64, None = whoever comes next."""
        if isinstance(seed, int | np.integer):
            seed = [int(seed) + row for row in range(self.num_envs)]
        elif seed is None and self._begun:
            return None
        given = [None] * self.num_envs if seed is None else list(seed)
        if len(given) != self.num_envs:
            raise ValueError(f"expected {self.num_envs} seeds, one per environment, got {len(given)}")
        fresh = self.np_random.integers(2**62, size=self.num_envs)
        return torch.tensor([int(f) if s is None else s for s, f in zip(given, fresh, strict=True)]).to(
            self.core.device
        )

    def _restart(self, rows: Tensor, seeds: Tensor | None = None) -> None:
        self.core.reset(rows, seeds)
        for table in (self._items, self._times, self._skipped, self._skip_times, self._visit, self._decisions):
            table[rows] = 0
        self._done[rows] = False
        self._begun = True
        self._candidates[rows] = self.core.sample(rows, self.count)

    def step(self, actions: NDArray[Any]) -> tuple[Arrays, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Show every user the candidates at `actions` ([N, K], in mode "item" [N]).

        Raises:
            ResetNeeded: an episode is over, or none began, and the autoreset mode leaves resets to the caller.
            ValueError: actions of the wrong shape or out of range.
        """
        places = self._places(actions)
        idle = self._done.clone()
        if bool(idle.any()) and (not self._begun or self.autoreset_mode != AutoresetMode.NEXT_STEP):
            raise ResetNeeded("an episode is over: call reset before step")
        rows = self._rows[~idle]
        slates = self._slates(rows, places[rows])
        shown_at = self.core.time[rows]
        feedback = self.core.step(rows, slates)
        self._remember(rows, slates, feedback, shown_at)
        self._decisions[rows] += 1
        self._candidates[rows] = self.core.sample(rows, self.count)
        self._done[rows] = self._decisions[rows] >= self.horizon
        reward = torch.zeros(self.num_envs, dtype=torch.float64, device=rows.device)
        reward[rows] = feedback.reward.double()
        return self._finish(idle, reward, self._info(rows, slates, feedback))

    def _finish(
        self, idle: Tensor, reward: Tensor, info: dict[str, Any]
    ) -> tuple[Arrays, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        truncated = _array(self._done & ~idle)
        if self.autoreset_mode == AutoresetMode.NEXT_STEP and bool(idle.any()):
            self._restart(self._rows[idle])
        elif self.autoreset_mode == AutoresetMode.SAME_STEP and truncated.any():
            info = self._final(truncated, info)
            self._restart(self._rows[self._done])
        return self._observe(), _array(reward), np.zeros_like(truncated), truncated, info

    def _final(self, over: NDArray[Any], info: dict[str, Any]) -> dict[str, Any]:
        """The info of a step that ended episodes which begin anew within it, as Gymnasium lays it out."""
        last = self._observe()
        final_obs = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(over):
            final_obs[row] = {name: column[row] for name, column in last.items()}
        ended = {name: over if name.startswith("_") else column for name, column in info.items()}
        going_on = {name: column & ~over if name.startswith("_") else column for name, column in info.items()}
        return {**going_on, "final_obs": final_obs, "_final_obs": over, "final_info": ended, "_final_info": over}

    # --- actions -----------------------------------------------------------------------------------------------

    def _places(self, actions: NDArray[Any]) -> Tensor:
        """[N, K] int64, checked."""
        shape = (self.num_envs,) if self.item_mode else (self.num_envs, self.core.slate)
        places = np.asarray(actions)
        if places.shape != shape or places.min() < 0 or places.max() >= self.count:
            raise ValueError(
                f"expected actions of shape {shape} in 0..{self.count - 1}, got shape {places.shape} "
                f"in {places.min(initial=0)}..{places.max(initial=0)}"
            )
        return torch.from_numpy(places.astype(np.int64)).to(self.core.device).view(self.num_envs, -1)

    def _slates(self, rows: Tensor, places: Tensor) -> Tensor:
        """Item numbers at `places` [n, K] of the candidates of `rows`, all different; [n, K] int64."""
        candidates = self._candidates[rows]
        items = candidates.gather(1, places)
        ordered = items.sort(1).values
        wrong = (items == 0).any(1) | (ordered[:, 1:] == ordered[:, :-1]).any(1)
        if bool(wrong.any()):
            items[wrong] = repair(candidates[wrong], places[wrong])
        return items

    # --- observations ------------------------------------------------------------------------------------------

    def _remember(self, rows: Tensor, slates: Tensor, feedback: Feedback, shown_at: Tensor) -> None:
        when = shown_at.unsqueeze(1) + feedback.delay
        for slot in range(slates.shape[1]):
            clicked = feedback.kinds[:, slot] == int(Kind.CLICK)
            _push(self._items, rows[clicked], slates[clicked, slot])
            _push(self._times, rows[clicked], when[clicked, slot])
            skipped = feedback.kinds[:, slot] == int(Kind.SKIP)
            _push(self._skipped, rows[skipped], slates[skipped, slot])
            _push(self._skip_times, rows[skipped], when[skipped, slot])
        clicks = (feedback.kinds == int(Kind.CLICK)).sum(1, dtype=torch.int32)
        self._visit[rows] = torch.where(feedback.leave, 0, self._visit[rows] + clicks)

    def _observe(self) -> Arrays:
        now = self.core.time.unsqueeze(1)

        def ages(items: Tensor, times: Tensor) -> NDArray[Any]:
            return _array(((now - times) * (items > 0)).clamp(0.0, MAX_AGE_S).float())

        return {
            "items": _array(self._items),
            "kinds": _array((self._items > 0) * int(Kind.CLICK), np.int8),
            "ages": ages(self._items, self._times),
            "skipped": _array(self._skipped),
            "skip_ages": ages(self._skipped, self._skip_times),
            "visit": _array(self._visit.unsqueeze(1)),
            "candidates": _array(self._candidates, np.int32),
            "mask": _array(self._candidates > 0, np.int8),
        }

    def _info(self, rows: Tensor, slates: Tensor, feedback: Feedback) -> dict[str, Any]:
        """What the rewards are made of, [N] per key with a mask `_key` as Gymnasium has it."""
        columns = {
            "clicks": (feedback.kinds == int(Kind.CLICK)).sum(1),
            "skips": (feedback.kinds == int(Kind.SKIP)).sum(1),
            "leave": feedback.leave,
            "gap": feedback.gap,
            "shown": slates,
        }
        stepped = np.zeros(self.num_envs, dtype=np.bool_)
        stepped[rows.cpu().numpy()] = True
        info: dict[str, Any] = {}
        for name, column in columns.items():
            info[name] = np.zeros((self.num_envs, *column.shape[1:]), dtype=column.cpu().numpy().dtype)
            info[name][stepped] = column.cpu().numpy()
            info[f"_{name}"] = stepped.copy()
        return info


def repair(candidates: Tensor, places: Tensor) -> Tensor:
    """Slates without repeats: a place taken already, or empty, becomes the next free one, going round.

    Args:
        candidates: [n, C] item numbers, 0 = empty.
        places: [n, K] places in them.

    Returns:
        [n, K] item numbers; 0 once the candidates are used up.
    """
    free = candidates > 0
    positions = torch.arange(candidates.shape[1], device=places.device)
    chosen = []
    for slot in range(places.shape[1]):
        distance = (positions - places[:, slot : slot + 1]) % candidates.shape[1]
        place = torch.where(free, distance, candidates.shape[1]).argmin(1, keepdim=True)
        item = torch.where(free.gather(1, place), candidates.gather(1, place), 0)
        free = free.scatter(1, place, False)
        chosen.append(item)
    return torch.cat(chosen, 1)


def _push(table: Tensor, rows: Tensor, newest: Tensor) -> None:
    """Shift the windows of `rows` to the left and write `newest` on the right."""
    table[rows] = torch.cat([table[rows, 1:], newest.unsqueeze(1).to(table.dtype)], 1)


def _array(column: Tensor, dtype: type[np.generic] | None = None) -> NDArray[Any]:
    """A copy on the CPU that later steps do not change."""
    array = column.cpu().numpy()
    return array.astype(dtype if dtype is not None else array.dtype)


def _find(core: str | Callable[..., Core]) -> Callable[..., Core]:
    if not isinstance(core, str):
        return core
    module, _, name = core.partition(":")
    found: Callable[..., Core] = getattr(importlib.import_module(module), name)
    return found
