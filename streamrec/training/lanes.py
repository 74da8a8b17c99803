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
from streamrec.nn.adagrad import Adagrad
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
        compile: see `SharedNegatives`; `Adagrad` has a setting of the same name.

    Returns:
        `loss`: mean over the clicks; `events`: clicks trained on; `steps` of the optimiser; `seconds` of processor
        time.

    Raises:
        ValueError: another encoder or loss, n_sample = None, or `lanes` or `steps` below 1.
        ArithmeticError: the loss became infinite or no number.
    """
    if lanes < 1 or steps < 1:
        raise ValueError(f"lanes and steps must be at least 1, got lanes={lanes}, steps={steps}")
    trainer = Lanes(model, sequences, optimiser, lanes * steps, compile)

    def step(block: Block) -> tuple[Tensor, int]:
        many = len(block.inputs)
        return trainer.step(block) * (lanes * steps / many), many

    # Without drawn items a lane that is left alone has no negatives.
    usable = (block for block in blocks(sequences, lanes, steps) if model.n_sample or len(block.inputs) > 1)
    return run(usable, step)


class Lanes:
    """Steps of session-parallel training; holds the states of the lanes.

    Args:
        model, sequences, optimiser, compile: see `epoch`.
        rows: what the sum of the loss over the clicks of a block is divided by.
    """

    def __init__(
        self, model: NextItem, sequences: Sequences, optimiser: Adagrad, rows: int, compile: bool = False
    ) -> None:
        if not isinstance(model.encoder, GRU4Rec):
            raise ValueError(f"lanes carry the states of a GRU4Rec, got {type(model.encoder).__name__}")
        self.encoder, self.rows = model.encoder, rows
        self.shared = SharedNegatives(model, sequences, optimiser, compile)
        self.states: list[Tensor] = []  # of each layer [b, D]

    def step(self, block: Block) -> Tensor:
        """Train on one block and return its loss."""
        device = self.shared.device
        if not self.states:
            self.states = [torch.zeros(block.lanes, self.encoder.dim, device=device) for _ in self.encoder.layers]
        if block.kept is not None:
            kept = block.kept.to(device)
            self.states = [state.index_select(0, kept) for state in self.states]
        encode = partial(self._encode, block.lanes, block.goes_on.to(device))
        return self.shared.update(block.inputs.to(device), block.targets.to(device), self.rows, encode)

    def _encode(self, lanes: int, goes_on: Tensor, vectors: Tensor) -> Tensor:
        sizes = [lanes] * (len(vectors) // lanes)
        shared = self.shared
        states = self.encoder.run(vectors, sizes, shared.model.generator, self.states, goes_on, shared.compile)
        self.states = [state.detach()[-lanes:] for state in states]
        return states[-1]
