"""Several learners of one model, each with users of its own: gradients are averaged before every step.

Every learner is a process that runs the same spec; `torchrun`, or whoever starts them, sets RANK, WORLD_SIZE,
MASTER_ADDR and MASTER_PORT, and `[run] learners` says how many are expected. They exchange tensors with
`torch.distributed` (gloo), nothing else.

They stay in step by talking at fixed moments: once per poll about who has something to learn from, and before each step
of an optimiser about which one. A learner that has nothing to step makes the others' steps with gradients of its own
that count nothing, so all weights stay equal. One whose stream is over goes on polling until all are.

Rows must mean the same items everywhere. Worlds that allow it (`rows_may_wait`) turn up new items that have no row yet:
once per poll the learners tell each other which, and give them rows in one order. What was said of an item in the poll
that it first turned up in is therefore said of no item.

Covered are the optimisers of `streamrec.nn`. Row-sparse gradients are averaged over the learners that take the step, as
dense ones are; catalogues are compared whenever rows are exchanged. An agent with an optimiser of another kind is
refused at its first step. What learns without gradients (counts, neighbours) learns from its own users only.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from streamrec.catalog import Catalog
from streamrec.collectives import OutOfStep, reduce, vectors
from streamrec.ports import State

__all__ = ["Learners", "OutOfStep", "Stepping", "folder", "joined", "rank", "share", "start"]

PATIENCE_S = 600.0
"""How long learners wait for one of them before they give up."""

_NONE, _DENSE, _SPARSE = 0, 1, 2
_NOBODY = 1 << 30


class Stepping(Protocol):
    """An optimiser that shares its gradients."""

    def moves(self) -> list[nn.Parameter]:
        """The parameters it moves, in an order that is the same in every process."""

    def step(self) -> None:
        """Share, and move."""


class Learners:
    """This process among all that learn the model.

    Args:
        count: of processes; must be what the environment says.
        catalog: of this process, compared with the others' where rows of items are exchanged.

    Raises:
        OutOfStep: the environment lacks RANK, WORLD_SIZE, MASTER_ADDR or MASTER_PORT, or names another count; or items
            expire, which each learner would do by its own clock.
    """

    def __init__(self, count: int, catalog: Catalog) -> None:
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise OutOfStep(
                f"run.learners = {count} needs {', '.join(missing)} in the environment: start the learners with "
                f"`torchrun --nproc-per-node {count} -m streamrec.cli consume ...`"
            )
        if catalog.ttl_s is not None:
            raise OutOfStep("run.learners is above 1: leave catalog.ttl_s out, each learner would free other rows")
        if int(os.environ["WORLD_SIZE"]) != count:
            raise OutOfStep(f"run.learners = {count}, but WORLD_SIZE is {os.environ['WORLD_SIZE']}")
        dist.init_process_group("gloo", timeout=timedelta(seconds=PATIENCE_S))
        self.count, self.rank, self.catalog = count, dist.get_rank(), catalog
        self._optimisers: list[weakref.ref[Stepping]] = []
        self._following = False  # making a step of the others
        self._digest: tuple[int, int] = (0, 0)  # size of the catalogue, hash of its ids

    def close(self) -> None:
        """Let go of the others, who must be at the same point or will be told that this one has gone."""
        global _learners
        if _learners is self:
            _learners = None
        dist.destroy_process_group()

    # --- what the loop says ----------------------------------------------------------------------------------------

    def most(self, due: int, ended: bool = False) -> tuple[int, bool]:
        """Once per poll: tell the others how many updates are due here, whether this stream is over, and new items.

        Returns:
            the most updates due anywhere, and whether every stream is over.
        """
        waiting = json.dumps(list(self.catalog.waiting)).encode() if self.catalog.waiting else b""
        said = torch.tensor([due, int(not ended), len(waiting)])
        reduce(said, dist.ReduceOp.MAX)
        if int(said[2]):
            lists = vectors(torch.frombuffer(bytearray(waiting or b"[]"), dtype=torch.uint8), self.count)
            self.catalog.settle([item for part in lists for item in json.loads(part.numpy().tobytes())])
        return int(said[0]), not bool(said[1])

    def newest(self, numbers: Sequence[int], load: Callable[[int], State | None]) -> State | None:
        """The newest checkpoint that all have whole; None = there is none.

        Args:
            numbers: of those here.
            load: what is in one, None if it is damaged.
        """
        lists = [part.tolist() for part in vectors(torch.tensor(numbers, dtype=torch.int64), self.count)]
        common = set(lists[0]).intersection(*lists[1:])
        for number in sorted(common, reverse=True):
            state = load(number)
            if not self.agree(int(state is None)):
                return state
        return None

    @contextmanager
    def round(self) -> Iterator[None]:
        """Around one update here, or around nothing: returns when everybody's update is over."""
        yield
        while True:
            active = self._next(0)
            if not active:
                return
            self._follow(active)

    def agree(self, wish: int) -> int:
        """The highest number anybody says."""
        said = torch.tensor([wish])
        reduce(said, dist.ReduceOp.MAX)
        return int(said)

    def in_step(self, now: float, checkpoint_at: float, halt: bool, stopped: bool) -> tuple[float, bool, bool]:
        """Once per poll: all write a checkpoint once one is due anywhere, and all halt once one of them does.

        Args:
            now, checkpoint_at: the time, and when a checkpoint is due here.
            halt: this learner goes no further.
            stopped: because it was told to.

        Returns:
            the time that it is for checkpoints here, whether to halt, and whether anybody was told to.
        """
        wish = self.agree(3 if stopped else 2 if halt else int(now >= checkpoint_at))
        return (max(now, checkpoint_at) if wish else min(now, checkpoint_at - 1e-9)), wish >= 2, wish == 3

    def same(self, weights: Iterable[Tensor]) -> None:
        """Refuse to begin with weights that differ.

        Raises:
            OutOfStep: they do, as when one learner goes on from a checkpoint that the others do not have.
        """
        digest = hashlib.blake2b(digest_size=7)
        for tensor in weights:
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        number = int.from_bytes(digest.digest(), "little")
        if self.agree(number) != -self.agree(-number):
            raise OutOfStep(
                "the learners begin with different weights: let all of them begin anew, or resume all of them from "
                "checkpoints of one number"
            )

    def weights(self) -> list[Tensor]:
        """What all optimisers move."""
        known = [optimiser() for optimiser in self._optimisers]
        return [p for optimiser in known if optimiser is not None for p in optimiser.moves()]

    # --- what optimisers say ---------------------------------------------------------------------------------------

    def register(self, optimiser: Stepping) -> None:
        """Optimisers are numbered as they are built, which is the same order in every learner."""
        self._optimisers.append(weakref.ref(optimiser))

    def average(self, optimiser: Stepping) -> None:
        """Replace the gradients of what `optimiser` moves by the mean over the learners that take this step.

        Raises:
            OutOfStep: another learner has other items, or has gone.
        """
        parameters = optimiser.moves()
        number = 1 + next(at for at, known in enumerate(self._optimisers) if known() is optimiser)
        if self._following:
            for parameter in parameters:
                parameter.grad = None  # of a step made before
        else:
            while (active := self._next(number)) != number:
                self._follow(active)  # which this learner does not step in this update, or not any more
        weight = torch.tensor([0.0 if self._following else 1.0])
        kinds = torch.tensor([_kind(parameter.grad) for parameter in parameters])
        most = kinds.clone()
        reduce(most, dist.ReduceOp.MAX)
        reduce(weight)
        self._dense(parameters, most == _DENSE, float(weight))
        for at in torch.nonzero(most == _SPARSE).flatten().tolist():
            self._sparse(parameters[at], float(weight))

    def _next(self, number: int) -> int:
        """The optimiser that is stepped now, the first one of those that anybody wants to; 0 = nobody is active."""
        said = torch.tensor([number or _NOBODY])
        reduce(said, dist.ReduceOp.MIN)
        return 0 if int(said) == _NOBODY else int(said)

    def _follow(self, number: int) -> None:
        """Make a step that only others have gradients for."""
        optimiser = self._optimisers[number - 1]()
        assert optimiser is not None
        self._following = True
        try:
            optimiser.step()
        finally:
            self._following = False

    def _dense(self, parameters: Sequence[nn.Parameter], dense: Tensor, weight: float) -> None:
        at = torch.nonzero(dense).flatten().tolist()
        if not at:
            return
        parts = []
        for place in at:
            grad = parameters[place].grad
            parts.append(torch.zeros_like(parameters[place]) if grad is None else grad)
        flat = torch.cat([part.reshape(-1) for part in parts])
        reduce(flat)
        flat /= weight
        for place, part in zip(at, torch.split(flat, [part.numel() for part in parts]), strict=True):
            parameters[place].grad = part.view_as(parameters[place]).clone()

    def _sparse(self, parameter: nn.Parameter, weight: float) -> None:
        """Rows and values of everybody, in the order of ranks, as one gradient."""
        self._compare_catalogs()
        grad = parameter.grad
        if grad is None:
            rows, values = torch.zeros(0, dtype=torch.int64), parameter.detach()[:0]
        else:
            whole = grad.coalesce()
            rows, values = whole.indices()[0], whole.values()
        rows, values = (torch.cat(vectors(mine, self.count)) for mine in (rows, values))
        whole = torch.sparse_coo_tensor(rows.unsqueeze(0), values / weight, parameter.shape, check_invariants=False)
        parameter.grad = whole.coalesce()

    def _compare_catalogs(self) -> None:
        size = self.catalog.size
        if self._digest[0] != size:
            whole = hashlib.blake2b("\n".join(self.catalog.ids).encode(), digest_size=7).digest()
            self._digest = size, int.from_bytes(whole, "little")
        said = torch.tensor([self._digest[1], -self._digest[1]])
        reduce(said, dist.ReduceOp.MAX)
        if int(said[0]) != -int(said[1]):
            raise OutOfStep(
                "the learners' catalogues differ, so rows of item tables mean different items: read from a world that "
                "lets learners agree on rows (KafkaWorld), or give all of them the same items in the same order"
            )


_learners: Learners | None = None
_inner: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()


def start(count: int, catalog: Catalog) -> Learners | None:
    """Join the other learners; None where there are none. Optimisers built from now on take part.

    Raises:
        OutOfStep: the environment does not say where the others are.
    """
    global _learners
    _learners = Learners(count, catalog) if count > 1 else None
    if _learners is not None:
        register_optimizer_step_pre_hook(_refuse_others)
    return _learners


def rank(count: int) -> int:
    """Of this process among `count` learners; 0 where it is alone."""
    return int(os.environ.get("RANK", 0)) if count > 1 else 0


def folder(run_dir: Path, count: int) -> Path:
    """Where this learner leaves its files: the first one in the run directory, the others in folders there."""
    at = rank(count)
    return run_dir / f"learner-{at}" if at else run_dir


def joined(optimiser: Stepping, inside: torch.optim.Optimizer | None = None) -> None:
    """Called by an optimiser of `streamrec.nn` when it is built; `inside` makes the steps for it."""
    if _learners is not None:
        _learners.register(optimiser)
        if inside is not None:
            _inner.add(inside)


def share(optimiser: Stepping) -> None:
    """Called by an optimiser before it moves its parameters: their gradients become the mean of all learners'."""
    if _learners is not None:
        _learners.average(optimiser)


def _refuse_others(optimiser: torch.optim.Optimizer, arguments: object, keywords: object) -> None:
    if _learners is not None and optimiser not in _inner:
        raise OutOfStep(
            f"run.learners is above 1, and this agent has an optimiser of its own ({type(optimiser).__name__}), "
            "whose gradients are not shared: choose an agent that learns with those of streamrec.nn"
        )


def _kind(grad: Tensor | None) -> int:
    return _NONE if grad is None else _SPARSE if grad.is_sparse else _DENSE
