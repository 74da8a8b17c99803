"""Any core as a Gymnasium `VectorEnv`: its users are the environments, stepped together."""

from __future__ import annotations

import importlib
import inspect
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

from simulators.actions import Actions
from simulators.core import Core, Feedback
from simulators.windows import Windows
from streamrec.records import POSITIVE, Kind

Arrays = dict[str, NDArray[Any]]

MAX_AGE_S = 30 * 86400.0
"""Older is as old as this."""

MAX_CONTEXT = 1e6
"""Numbers of a context beyond this are cut off, so that the space has an end."""

CANDIDATES = 50
"""C, where neither the caller nor the core says."""


class SlateVectorEnv(VectorEnv[Arrays, NDArray[Any], NDArray[Any]]):
    """One episode = at most `horizon` decisions of one user. Every row has a core user of its own.

    Observation, a flat dictionary of fixed shapes (item numbers, 0 = empty; newest last):
    `clicked`, `kinds`, `ages` [L] clicks and purchases, seconds since each; `skipped`, `skip_ages` [S] explicit skips;
    `visit` [1] clicks and purchases of the running visit; `candidates` [C] item numbers one may show now, `mask` [C] 1
    where there is one; `context` [G] what the world says of the user and the moment, if it says anything. With
    `obs_mode` "features" also `candidate_features` [C * F], candidate after candidate; with "ids" who wants features
    looks them up in `core.features`, which spares copying them every step.

    Action: places in the list of candidates, or numbers that order it (`simulators.actions.Actions`). With as many
    candidates as items, and none arriving, the list is the catalogue in fixed order. `page_shape` says how the slots of
    mode "page" lie, row by row.

    Reward: the core's, by default one per click. `truncated` at the horizon. Where lives end (`Core.mortal`), who
    leaves is `terminated`; elsewhere nobody ever is: who leaves comes back, so the end of a visit is a gap in time
    (`info["leave"]`, `info["gap"]` in seconds) across which returns add up. What rewards are made of is in the info:
    `clicks`, `skips`, `purchases`, `leave` per row, `kinds` and `shown` per slot, `duplicates` in modes "slate" and
    "page".

    Args:
        num_envs: N.
        core: the dynamics, or "module:Class" of them; called with `users=num_envs` and the remaining keywords.
        horizon: decisions per episode.
        candidates: C, drawn from the items that are there at each request; a core that draws its own (`Core.offered`)
            is told, if it takes this keyword. None: as many as the core offers, else 50.
        history: L, clicks and purchases observed.
        skips: S, skips observed.
        action_mode: "item", "slate", "page", "rank" or "score".
        on_duplicate: what becomes of a place named twice: "repair", "penalise" or "raise".
        duplicate_penalty: what "penalise" takes off the reward for each, beside repairing it.
        obs_mode: "ids" or "features".
        autoreset_mode: an `AutoresetMode` of Gymnasium or its value: "NextStep", "SameStep", "Disabled".
        settings: keywords of the core.

    Raises:
        ValueError: a setting out of its range, or one that does not go with the core.
    """

    def __init__(
        self,
        num_envs: int = 1,
        core: str | Callable[..., Core] = "simulators.feed:Feed",
        horizon: int = 100,
        candidates: int | None = None,
        history: int = 20,
        skips: int = 20,
        action_mode: str = "slate",
        on_duplicate: str = "repair",
        duplicate_penalty: float = 1.0,
        obs_mode: str = "ids",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        **settings: Any,
    ) -> None:
        self.core = _make(core, num_envs, action_mode == "item", candidates, settings)
        self.count = _count(self.core, candidates)
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {horizon}")
        _check_observed(self.core, obs_mode, history, skips)
        self.actions = Actions(action_mode, self.core, self.count, on_duplicate)
        self.penalty = duplicate_penalty if on_duplicate == "penalise" else 0.0
        self.num_envs, self.horizon = num_envs, horizon
        self.with_features = obs_mode == "features"
        self.page_shape = self.core.shape
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self._make_tables(history, skips)
        self._make_spaces(history, skips)

    def _make_tables(self, length: int, skips: int) -> None:
        n, at = self.num_envs, self.core.device
        self._rows = torch.arange(n, device=at)
        self._everybody = np.ones(n, dtype=np.bool_)
        self._positives, self._skips = Windows(n, length, at), Windows(n, skips, at)
        self._visit = torch.zeros(n, dtype=torch.int32, device=at)
        self._candidates = torch.zeros(n, self.count, dtype=torch.int64, device=at)
        self._decisions = torch.zeros(n, dtype=torch.int64, device=at)
        self._done = torch.ones(n, dtype=torch.bool, device=at)  # over, or never begun
        self._begun = False
        self._positive = torch.zeros(len(Kind), dtype=torch.bool, device=at)
        self._positive[list(POSITIVE)] = True

    def _make_spaces(self, length: int, skips: int) -> None:
        top, c = self.core.capacity, self.count
        context = self.core.context(self._rows[:1]).shape[1]

        def box(high: float, width: int, dtype: Any, low: float = 0) -> spaces.Box:
            return spaces.Box(low, high, (width,), dtype)

        observed = {
            "clicked": box(top, length, np.int32),
            "kinds": box(max(Kind), length, np.int8),
            "ages": box(MAX_AGE_S, length, np.float32),
            "skipped": box(top, skips, np.int32),
            "skip_ages": box(MAX_AGE_S, skips, np.float32),
            "visit": box(self.horizon * self.core.slate, 1, np.int32),
            "candidates": box(top, c, np.int32),
            "mask": box(1, c, np.int8),
        }
        self._told = context > 0
        if self._told:
            observed["context"] = box(MAX_CONTEXT, context, np.float32, -MAX_CONTEXT)
        if self.with_features:
            features = self.core.features
            low, high = min(0.0, float(features.min())), max(float(features.max()), 1e-6)
            observed["candidate_features"] = box(high, c * features.shape[1], np.float32, low)
        self.single_observation_space = spaces.Dict(observed)  # type: ignore[arg-type]
        self.single_action_space = self.actions.space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

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
        for window in (self._positives, self._skips):
            window.clear(rows)
        for table in (self._visit, self._decisions):
            table[rows] = 0
        self._done[rows] = False
        self._begun = True
        self._candidates[rows] = self.core.sample(rows, self.count)

    def step(self, actions: NDArray[Any]) -> tuple[Arrays, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Show every user what `actions` ([N, ...], as the space says) make of the candidates.

        Raises:
            ResetNeeded: an episode is over, or none began, and the autoreset mode leaves resets to the caller.
            ValueError: actions of the wrong shape or out of range.
        """
        idle = self._done.clone()
        some_idle = bool(idle.any())
        if some_idle and (not self._begun or self.autoreset_mode != AutoresetMode.NEXT_STEP):
            raise ResetNeeded("an episode is over: call reset before step")
        rows, candidates = self._rows, self._candidates
        if some_idle:
            rows = rows[~idle]
            candidates, actions = candidates[rows], _rows_of(actions, idle)
        slates, duplicates = self.actions.decode(actions, candidates)
        shown_at = self.core.time[rows]
        feedback = self.core.step(rows, slates)
        self._remember(rows, slates, feedback, shown_at)
        self._decisions[rows] += 1
        self._candidates[rows] = self.core.sample(rows, self.count)
        terminated = torch.zeros_like(idle)
        if self.core.mortal:
            terminated[rows] = feedback.leave
        self._done = ~idle & (terminated | (self._decisions >= self.horizon))
        reward = torch.zeros(self.num_envs, dtype=torch.float64, device=rows.device)
        reward[rows] = feedback.reward.double() - self.penalty * duplicates
        return self._finish(idle, terminated, reward, self._info(rows, slates, feedback, duplicates))

    def _finish(
        self, idle: Tensor, terminated: Tensor, reward: Tensor, info: dict[str, Any]
    ) -> tuple[Arrays, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        truncated = _array(self._done & ~terminated)
        if self.autoreset_mode == AutoresetMode.NEXT_STEP and bool(idle.any()):
            self._restart(self._rows[idle])
        elif self.autoreset_mode == AutoresetMode.SAME_STEP and bool(self._done.any()):
            info = self._final(_array(self._done), info)
            self._restart(self._rows[self._done])
        return self._observe(), _array(reward), _array(terminated), truncated, info

    def _final(self, over: NDArray[Any], info: dict[str, Any]) -> dict[str, Any]:
        """The info of a step that ended episodes which begin anew within it, as Gymnasium lays it out."""
        last = self._observe()
        final_obs = np.full(self.num_envs, None, dtype=object)
        rows = zip(*(column[over] for column in last.values()), strict=True)
        for row, values in zip(np.flatnonzero(over), rows, strict=True):
            final_obs[row] = dict(zip(last, values, strict=True))
        ended = {name: over if name.startswith("_") else column for name, column in info.items()}
        going_on = {name: column & ~over if name.startswith("_") else column for name, column in info.items()}
        return {
            **going_on,
            "final_obs": final_obs,
            "_final_obs": over,
            "final_obs_batch": {**last, **{f"_{name}": over for name in last}},
            "_final_obs_batch": over,
            "final_info": ended,
            "_final_info": over,
        }

    def action_masks(self) -> NDArray[np.bool_]:
        """[N, C * K] bool, what sb3-contrib asks for: the places that hold a candidate, for each slot."""
        return self.actions.masks(self._candidates)

    # --- observations ------------------------------------------------------------------------------------------

    def _remember(self, rows: Tensor, slates: Tensor, feedback: Feedback, shown_at: Tensor) -> None:
        when = shown_at.unsqueeze(1) + feedback.delay
        liked = self._positive[feedback.kinds.long()]
        self._positives.push(rows, liked, slates, feedback.kinds, when)
        self._skips.push(rows, feedback.kinds == int(Kind.SKIP), slates, feedback.kinds, when)
        visit = self._visit[rows] + liked.sum(1, dtype=torch.int32)
        self._visit[rows] = torch.where(feedback.leave, 0, visit)

    def _observe(self) -> Arrays:
        now, candidates = self.core.time, self._candidates
        observed = {
            "clicked": _array(self._positives.items),
            "kinds": _array(self._positives.kinds),
            "ages": self._positives.ages(now, MAX_AGE_S).cpu().numpy(),
            "skipped": _array(self._skips.items),
            "skip_ages": self._skips.ages(now, MAX_AGE_S).cpu().numpy(),
            "visit": _array(self._visit.unsqueeze(1)),
            "candidates": _array(candidates, np.int32),
            "mask": _array(candidates > 0, np.int8),
        }
        if self._told:
            observed["context"] = _array(self.core.context(self._rows).clamp(-MAX_CONTEXT, MAX_CONTEXT), np.float32)
        if self.with_features:
            features = self.core.features[candidates].masked_fill((candidates == 0).unsqueeze(2), 0.0)
            observed["candidate_features"] = _array(features.flatten(1), np.float32)
        return observed

    def _info(self, rows: Tensor, slates: Tensor, feedback: Feedback, duplicates: Tensor) -> dict[str, Any]:
        """What the rewards are made of, [N, ...] per key with a mask `_key` as Gymnasium has it."""
        columns = {
            "clicks": (feedback.kinds == int(Kind.CLICK)).sum(1),
            "skips": (feedback.kinds == int(Kind.SKIP)).sum(1),
            "purchases": (feedback.kinds == int(Kind.PURCHASE)).sum(1),
            "leave": feedback.leave,
            "gap": feedback.gap,
            "kinds": feedback.kinds,
            "shown": slates,
        }
        if self.actions.named:
            columns["duplicates"] = duplicates
        stepped = self._everybody
        if len(rows) < self.num_envs:
            stepped = np.zeros(self.num_envs, dtype=np.bool_)
            stepped[rows.cpu().numpy()] = True
        info: dict[str, Any] = {}
        for name, column in columns.items():
            known = _array(column)
            info[name] = known if stepped is self._everybody else _spread(known, stepped)
            info[f"_{name}"] = stepped.copy()
        return info


def _spread(column: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    """The rows of `column` where `rows` is true, zeros elsewhere."""
    wide = np.zeros((len(rows), *column.shape[1:]), dtype=column.dtype)
    wide[rows] = column
    return wide


def _rows_of(actions: NDArray[Any], idle: Tensor) -> NDArray[Any]:
    """The actions of those who are not idle; actions of the wrong number pass and are refused by who reads them."""
    given = np.asarray(actions)
    return given[~idle.cpu().numpy()] if len(given) == len(idle) else given


def _array(column: Tensor, dtype: type[np.generic] | None = None) -> NDArray[Any]:
    """A copy on the CPU that later steps do not change."""
    array = column.cpu().numpy()
    return array.astype(dtype if dtype is not None else array.dtype)


def _make(
    make: str | Callable[..., Core], users: int, single: bool, count: int | None, settings: dict[str, Any]
) -> Core:
    """The core, with slates of one if `single` and it can, and drawing its own candidates if it does."""
    if isinstance(make, str):
        module, _, name = make.partition(":")
        found: Callable[..., Core] = getattr(importlib.import_module(module), name)
    else:
        found = make
    takes = inspect.signature(found).parameters
    if single and "slate" in takes:
        settings = {**settings, "slate": 1}
    if count is not None and "candidates" in takes:
        settings = {**settings, "candidates": count}
    return found(users=users, **settings)


def _count(core: Core, candidates: int | None) -> int:
    """How many candidates there are to choose from."""
    if core.offered and candidates not in (None, core.offered):
        raise ValueError(
            f"{core.offered} candidates come with a request in this world: "
            f"candidates must be that or None, got {candidates}"
        )
    count = core.offered or candidates
    if count is None:
        return max(CANDIDATES, core.slate)
    if count < core.slate:
        raise ValueError(f"candidates must be at least {core.slate}, got {count}")
    return count


def _check_observed(core: Core, obs_mode: str, history: int, skips: int) -> None:
    if obs_mode not in ("ids", "features"):
        raise ValueError(f'obs_mode must be "ids" or "features", got {obs_mode!r}')
    if obs_mode == "features" and core.features.shape[1] == 0:
        raise ValueError('obs_mode "features" needs items with features, and those of this world have none: use "ids"')
    for name, number in (("history", history), ("skips", skips)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
