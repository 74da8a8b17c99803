"""Any next-item model as an agent: shows what the model ranks highest, learns from what was clicked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn

from streamrec.catalog import Catalog
from streamrec.explore import choose, offered, pick
from streamrec.nn.adagrad import Adagrad
from streamrec.ports import State
from streamrec.records import Decision, History, Rows, Transition

SCORES_AT_ONCE = 4_194_304
"""Scores held at a time while acting (16 MiB of float32): wide catalogues are ranked some users after the others."""


class Model(Protocol):
    """What `Supervised` needs of a model; see `streamrec.models`."""

    def score(self, history: History, items: Tensor | None = None) -> Tensor:
        """[B, catalog.size], or [B, C] of `items` [B, C]."""

    def loss(self, history: History, target: Tensor) -> Tensor:
        """Scalar to differentiate."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of `History` that are used: the others need not be remembered."""

    def to(self, device: torch.device | str) -> Any: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


class Supervised:
    """A model as an agent: `act` = top K of its scores, `observe` = remember clicks, `update` = one optimiser step.

    A step trains on every click that is new since the last one, on `replay_ratio` times as many older ones drawn
    uniformly from memory, and on as many more as it takes to reach `batch`. Calls without anything new are epochs over
    the memory. Only ids are remembered, never vectors.

    The learning rate, eps and `batch` belong to an update every 128 clicks or so (`run.update_every`); many more clicks
    per step mean fewer steps and slower learning. Clicks beyond `4 * batch` wait for the next step.

    Args:
        model: scores and losses; its item table is trained by rows (`streamrec.nn.adagrad.Adagrad`).
        catalog: which items may be shown.
        slate: K, slots of a slate.
        learning_rate: of Adagrad.
        momentum: of Adagrad.
        eps: of Adagrad. The authors' 1e-6 is for losses averaged over 32 to 80 clicks; it weighs more the larger the
            batch and the smaller the gradients.
        batch: clicks in one step, at least.
        replay_ratio: older clicks per new one, at least.
        memory: newest clicks kept for replay.
        epsilon: share of exploration, see `streamrec.explore.choose`; 0 = always the top K.
        exclude_seen: never show what is in the user's window of positives.
        seed: replay and exploration.
        device: where the model and the memory live.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(
        self,
        model: Model,
        catalog: Catalog,
        slate: int,
        learning_rate: float = 0.07,
        momentum: float = 0.0,
        eps: float = 1e-8,
        batch: int = 256,
        replay_ratio: float = 1.0,
        memory: int = 200_000,
        epsilon: float = 0.0,
        exclude_seen: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch < 1 or memory < batch:
            raise ValueError(f"batch must be at least 1 and memory at least batch, got batch={batch}, memory={memory}")
        if replay_ratio < 0.0:
            raise ValueError(f"replay_ratio must be at least 0, got {replay_ratio}")
        if not 0.0 <= epsilon <= 1.0:
            raise ValueError(f"epsilon must be between 0 and 1, got {epsilon}")
        self.catalog = catalog
        self.slate = slate
        self.batch = batch
        self.replay_ratio = replay_ratio
        self.epsilon = epsilon
        self.exclude_seen = exclude_seen
        self.device = torch.device(device)
        self.generator = Generator(device).manual_seed(seed)
        self.model = model
        self.model.to(device)
        self.optimiser = Adagrad(model.named_parameters(), learning_rate, momentum, eps)
        self.clicks = Clicks(memory, model.reads, self.device)

    @torch.no_grad()
    def act(self, history: History) -> Decision:
        """The K available items with the highest scores, best first; 0 where fewer are available."""
        rows = max(1, SCORES_AT_ONCE // self.catalog.size)
        parts = [self._decide(history[start : start + rows]) for start in range(0, max(len(history), 1), rows)]
        return Decision.cat(parts)

    def _decide(self, history: History) -> Decision:
        seen = history.items if self.exclude_seen else None
        given = offered(history, self.catalog.available, seen)
        if given is not None:
            items, mask = given
            scores = self.model.score(history, items).where(mask, -torch.inf)
            index, slot_logp = choose(scores, self.slate, self.epsilon, self.generator)
            return Decision.of(history.user, pick(items, index), slot_logp)
        scores = self.model.score(history)
        scores.masked_fill_(~self.catalog.available[: scores.shape[1]].to(self.device), -torch.inf)
        if self.exclude_seen:
            scores.scatter_(1, history.items.long(), -torch.inf)
        slate, slot_logp = choose(scores, self.slate, self.epsilon, self.generator)
        return Decision.of(history.user, slate.clamp(min=0), slot_logp)

    def observe(self, transition: Transition) -> None:
        """Remember each clicked slot with the history it was clicked after."""
        shown = transition.shown.slate
        row, slot = torch.nonzero(transition.clicked() & (shown != 0), as_tuple=True)
        self.clicks.add(transition.history[row], shown[row, slot])

    def update(self) -> dict[str, float]:
        """One optimiser step; {} as long as no click was observed."""
        clicks = self.clicks.draw(self.batch, self.replay_ratio, self.generator)
        if clicks is None:
            return {}
        self.optimiser.zero_grad()
        loss = self.model.loss(clicks.history, clicks.target)
        torch.autograd.backward(loss)
        self.optimiser.step()
        return {"loss": float(loss.detach())}

    def state_dict(self) -> State:
        """Weights, optimiser, memory and randomness, as copies."""
        return {
            "model": {name: value.clone() for name, value in self.model.state_dict().items()},
            "optimiser": self.optimiser.state_dict(),
            "clicks": self.clicks.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.clicks.load_state_dict(state["clicks"])
        self.generator.set_state(state["generator"])


@dataclass
class Click(Rows):
    """What was clicked after which history."""

    history: History
    target: Tensor  # [B] int64


class Clicks:
    """The newest clicks of the stream, each with the history it came after, as ids in a ring.

    Args:
        capacity: clicks kept.
        reads: windows of `History` that are kept; the others come back with width 0.
        device: where they are kept.
    """

    def __init__(self, capacity: int, reads: tuple[str, ...], device: torch.device) -> None:
        unknown = set(reads) - {f.name for f in fields(History)}
        if unknown:
            raise ValueError(f"the model reads {sorted(unknown)}, which History does not have: see its attribute reads")
        self.capacity = capacity
        self.reads = reads
        self.device = device
        self.added = 0  # clicks ever added; click number i stands in row i % capacity
        self.trained = 0  # clicks handed out as new, or overwritten before they could be
        self.ring: Click | None = None  # allocated by the first clicks, whose widths it takes

    def add(self, history: History, target: Tensor) -> None:
        """Append rows, oldest first, overwriting the oldest."""
        clicks = Click(self._slim(history), target)
        if self.ring is None:
            self.ring = clicks.allocate(self.capacity)
        kept = slice(max(len(clicks) - self.capacity, 0), len(clicks))
        numbers = self.added + torch.arange(len(clicks), device=self.device)[kept]
        self.ring.put(numbers % self.capacity, clicks[kept])
        self.added += len(clicks)
        self.trained = max(self.trained, self.added - self.capacity)

    def draw(self, batch: int, replay_ratio: float, generator: Generator) -> Click | None:
        """New clicks, oldest first and at most `4 * batch`, then older ones at random. None: there are none."""
        if self.ring is None or self.added == 0:
            return None
        first, oldest = self.trained, max(self.added - self.capacity, 0)
        fresh = min(self.added - first, 4 * batch)
        replayed = min(max(batch - fresh, round(replay_ratio * fresh)), first - oldest)
        self.trained += fresh
        numbers = torch.arange(first, first + fresh, device=self.device)
        if replayed:
            older = torch.randint(oldest, first, (replayed,), generator=generator, device=generator.device)
            numbers = torch.cat([numbers, older.to(self.device)])
        return self.ring[numbers % self.capacity]

    def _slim(self, history: History) -> History:
        windows = {f.name: getattr(history, f.name) for f in fields(History)}
        unread = {name: x[:, :0] for name, x in windows.items() if x.dim() > 1 and name not in self.reads}
        return replace(history, **unread)

    def state_dict(self) -> State:
        filled = min(self.added, self.capacity)
        ring = {} if self.ring is None else {name: x[:filled].clone() for name, x in self.ring.columns()}
        return {"capacity": self.capacity, "added": self.added, "trained": self.trained, "ring": ring}

    def load_state_dict(self, state: State) -> None:
        """Take over a `state_dict()`.

        Raises:
            ValueError: if it was saved with another capacity.
        """
        if state["capacity"] != self.capacity:
            raise ValueError(f"the memory was saved with memory={state['capacity']}, here it is {self.capacity}")
        self.added, self.trained, self.ring = state["added"], state["trained"], None
        if state["ring"]:
            columns = {name.removeprefix("history."): x.to(self.device) for name, x in state["ring"].items()}
            saved = Click(target=columns.pop("target"), history=History(**columns))
            self.ring = saved.allocate(self.capacity)
            self.ring.put(torch.arange(len(saved.target), device=self.device), saved)
