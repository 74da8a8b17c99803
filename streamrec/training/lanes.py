"""Session-parallel training, as the authors of GRU4Rec define it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamrec.data.sequences import Sequences
from streamrec.encoders.gru4rec import GRU4Rec
from streamrec.models.next_item import NextItem
from streamrec.nn import dropout
from streamrec.nn.adagrad import Adagrad
from streamrec.training import fused
from streamrec.training.batches import run
from streamrec.training.shared import SharedNegatives


@dataclass
class Block:
    """Some clicks in a row of each of b lanes, and the click that follows each. Step by step, T = steps * b."""

    inputs: Tensor  # [T] int64
    targets: Tensor  # [T] int64
    lanes: int  # b
    goes_on: Tensor  # [T, 1] float32, 0 where a session begins, else 1
    kept: Tensor | None  # [b] int64, lanes of the block before that are still there; None = all of them


def blocks(sequences: Sequences, lanes: int, steps: int = 1) -> Iterator[Block]:
    """Sessions side by side, one in each lane; a lane whose session has ended takes the next one.

    Sessions are taken in order, those of fewer than two clicks left out. When none are left, lanes end with their
    sessions. With fewer sessions than lanes there are as many lanes as sessions.

    Args:
        sequences: the sessions.
        lanes: sessions side by side.
        steps: clicks of each lane in a block, at most: a block ends early where lanes end.
    """
    items = sequences.items.cpu().numpy()
    block: list[tuple[Places, Places]] = []
    kept = None
    for at, began, alive in _places(sequences, lanes):
        if block and (alive is not None or len(block) == steps):
            yield _block(items, block, kept)
            block, kept = [], None
        kept = alive if not block else kept
        block.append((at, began))
    if block:
        yield _block(items, block, kept)


Places = NDArray[Any]


def _block(items: Places, block: list[tuple[Places, Places]], kept: Places | None) -> Block:
    at, began = (np.concatenate(column) for column in zip(*block, strict=True))
    return Block(
        torch.from_numpy(items[at]),
        torch.from_numpy(items[at + 1]),
        len(block[0][0]),
        torch.from_numpy(~began).float().unsqueeze(1),
        None if kept is None else torch.from_numpy(kept),
    )


def _places(sequences: Sequences, lanes: int) -> Iterator[tuple[Places, Places, Places | None]]:
    """For each step: place of the click of each lane [b], where a session begins [b], lanes left if some have ended."""
    lengths = sequences.lengths.cpu().numpy()
    usable = np.flatnonzero(lengths >= 2)
    first = sequences.starts.cpu().numpy()[usable]
    last = first + lengths[usable] - 1
    taken = min(lanes, len(usable))
    at, end = first[:taken].copy(), last[:taken].copy()
    began, same, alive = np.ones(taken, dtype=bool), np.zeros(taken, dtype=bool), None
    while len(at):
        many = int((end - at).min())
        yield at.copy(), began, alive
        for step in range(1, many):
            yield at + step, same, None
        at += many
        began, alive = at == end, None
        ended = np.flatnonzero(began)
        more = ended[: len(usable) - taken]
        at[more], end[more] = first[taken : taken + len(more)], last[taken : taken + len(more)]
        taken += len(more)
        if len(more) < len(ended):
            live = np.ones(len(at), dtype=bool)
            live[ended[len(more) :]] = False
            alive, at, end, began = np.flatnonzero(live), at[live], end[live], began[live]
            same = np.zeros(len(at), dtype=bool)


def epoch(
    model: NextItem,
    sequences: Sequences,
    optimiser: Adagrad,
    lanes: int = 32,
    steps: int = 1,
    compile: bool = False,
) -> dict[str, float]:
    """One pass over the sessions, in their order, side by side in lanes.

    As in the authors' code (hidasib/GRU4Rec_PyTorch_Official): the state of a lane is carried from step to step, with
    its dropout, and set to 0 where a session begins; the gradient reaches back one step; targets of the other lanes
    and `model.n_sample` drawn items are the negatives of a row, whether or not they equal its target; all clicks of
    `sequences` are counted as support before the first step; the loss is divided by `lanes * steps` even when some
    lanes have ended.

    Departures: equal columns are scored once (`streamrec.nn.merged_columns`), which changes nothing but rounding;
    negatives and dropout come from the model's own generator. In the narrower steps at the end the authors' logQ
    takes some drawn items for targets; here each column has the correction of what it is.

    With `steps` above 1 an optimiser step takes that many clicks of each lane: the gradient reaches back as many,
    and lanes * steps targets share the drawn items. What a step costs beside the scores is then spent on more
    clicks, which makes an epoch faster; the learning rate must be chosen for it.

    Args:
        model: a `NextItem` around `GRU4Rec`; its loss is any but "bce".
        sequences: oldest session first.
        optimiser: of the model's parameters.
        lanes: sessions side by side, the authors' batch size.
        steps: clicks of each lane in an optimiser step, 1 as the authors.
        compile: a step is one compiled function, `streamrec.training.fused`: for long training with `steps` = 1, the
            loss "bpr-max" or "cross-entropy", and an optimiser with momentum and without `norm`.

    Returns:
        `loss`: mean over the clicks; `events`: clicks trained on; `steps` of the optimiser; `seconds` of processor
        time.

    Raises:
        ValueError: another encoder or loss, n_sample = None, `lanes` or `steps` below 1, or settings that cannot be
            compiled.
        ArithmeticError: the loss became infinite or no number.
    """
    if lanes < 1 or steps < 1:
        raise ValueError(f"lanes and steps must be at least 1, got lanes={lanes}, steps={steps}")
    if compile and steps > 1:
        raise ValueError(f"compile = true is for steps of one click, got steps={steps}")
    trainer = (FusedLanes if compile else Lanes)(model, sequences, optimiser, lanes * steps)

    def step(block: Block) -> tuple[Tensor, int]:
        many = len(block.inputs)
        return trainer.step(block) * (lanes * steps / many), many

    # Without drawn items a lane that is left alone has no negatives.
    usable = (block for block in blocks(sequences, lanes, steps) if model.n_sample or len(block.inputs) > 1)
    return run(usable, step)


class Lanes:
    """Steps of session-parallel training; holds the states of the lanes.

    Args:
        model, sequences, optimiser: see `epoch`.
        rows: what the sum of the loss over the clicks of a block is divided by.
    """

    def __init__(self, model: NextItem, sequences: Sequences, optimiser: Adagrad, rows: int) -> None:
        if not isinstance(model.encoder, GRU4Rec):
            raise ValueError(f"lanes carry the states of a GRU4Rec, got {type(model.encoder).__name__}")
        self.encoder, self.rows = model.encoder, rows
        self.shared = SharedNegatives(model, sequences, optimiser)
        self.states: list[Tensor] = []  # of each layer [b, D]

    def step(self, block: Block) -> Tensor:
        """Train on one block and return its loss."""
        device = self.shared.device
        if not self.states:
            self.states = [torch.zeros(block.lanes, self.encoder.dim, device=device) for _ in self.encoder.layers]
        if block.kept is not None:
            kept = block.kept.to(device)
            self.states = [state.index_select(0, kept) for state in self.states]
        return self._train(block.inputs.to(device), block.targets.to(device), block.lanes, block.goes_on.to(device))

    def _train(self, inputs: Tensor, targets: Tensor, lanes: int, goes_on: Tensor) -> Tensor:
        return self.shared.update(inputs, targets, self.rows, partial(self._encode, lanes, goes_on))

    def _encode(self, lanes: int, goes_on: Tensor, vectors: Tensor) -> Tensor:
        sizes = [lanes] * (len(vectors) // lanes)
        states = self.encoder.run(vectors, sizes, self.shared.model.generator, self.states, goes_on)
        self.states = [state.detach()[-lanes:] for state in states]
        return states[-1]


class FusedLanes(Lanes):
    """The same steps, of one click each, as one compiled function (`streamrec.training.fused`)."""

    def __init__(self, model: NextItem, sequences: Sequences, optimiser: Adagrad, rows: int) -> None:
        super().__init__(model, sequences, optimiser, rows)
        if model.objective not in _FUSED:
            raise ValueError(f"compile = true goes with the losses {', '.join(_FUSED)}, got {model.objective!r}")
        if not optimiser.momentum or optimiser.norm:
            raise ValueError(
                "compile = true goes with an optimiser with momentum and without norm, "
                f"got momentum={optimiser.momentum}, norm={optimiser.norm}"
            )
        self._settings = optimiser.learning_rate, optimiser.momentum, optimiser.eps
        moved = partial(fused.moved, optimiser)
        self._tables = moved(self.encoder.items.weight), moved(model.bias)
        self._layers = [[moved(part) for part in layer.parameters()] for layer in self.encoder.layers]

    def _train(self, inputs: Tensor, targets: Tensor, lanes: int, goes_on: Tensor) -> Tensor:
        # The compiler makes a function of its own of a size of 1, not worth the seconds at the end of an epoch.
        return super()._train(inputs, targets, lanes, goes_on) if lanes == 1 else self._fused(inputs, targets, goes_on)

    @torch.no_grad()
    def _fused(self, inputs: Tensor, targets: Tensor, goes_on: Tensor) -> Tensor:
        shared, encoder = self.shared, self.encoder
        columns, objective = shared.columns(inputs, targets), shared.model.objective
        shape = len(inputs), encoder.dim
        loss: Tensor
        loss, self.states = fused.compiled(fused.step)(
            _FUSED[objective],
            shared.arguments(columns),
            self._tables,
            self._layers,
            columns,
            self.states,
            goes_on,
            [self._dropped(shape, p) for p in (encoder.dropout_embed, *[encoder.dropout_hidden] * len(self._layers))],
            self.rows,
            self._settings,
            PARTS if len(columns.items) >= PARTS**2 else 1,
        )
        return loss

    def _dropped(self, shape: tuple[int, int], p: float) -> tuple[Tensor, float] | None:
        return (dropout.bits(shape, self.shared.model.generator).to(self.shared.device), p) if p else None


PARTS = 8
"""In which the rows of a table are moved: a quarter of a MiB for 2,000 rows 224 wide."""

_FUSED = {"bpr-max": fused.bpr_max, "cross-entropy": fused.cross_entropy}
"""Losses that can be compiled."""
