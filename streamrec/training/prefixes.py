"""Training by prefixes: every click is predicted from a window of the clicks before it. Works for any model."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Generator, Tensor

from streamrec.data.sequences import Sequences
from streamrec.nn.optimiser import Optimiser
from streamrec.records import History
from streamrec.training.batches import Steps, descend, in_batches, run


class Model(Protocol):
    """What is needed of a model."""

    def loss(self, history: History, target: Tensor) -> Tensor:
        """Scalar to differentiate."""


def epoch(
    model: Model,
    sequences: Sequences,
    optimiser: Steps | Optimiser,
    batch: int = 256,
    length: int | None = None,
    generator: Generator | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """One pass over all clicks that have one before them, by `model.loss`.

    A sequence of n clicks is encoded n - 1 times; `streamrec.training.whole` does it once, where the encoder can.

    Args:
        model: what to train.
        sequences: what to train on.
        optimiser: of the model's parameters.
        batch: clicks in a batch.
        length: the newest clicks shown to the model, None = all.
        generator: shuffles the clicks; None = sequence after sequence.
        device: where the model lives.

    Returns:
        `loss`: mean over the clicks; `events`: clicks trained on; `steps` of the optimiser; `seconds` of processor
        time.

    Raises:
        ValueError: `batch` below 1.
        ArithmeticError: the loss became infinite or no number.
    """
    rows, ends = sequences.clicks()

    def step(chosen: Tensor) -> tuple[Tensor, int]:
        history, target = sequences.prefixes(rows[chosen], ends[chosen], length)
        loss = model.loss(history.to(device), target.to(device))
        descend(optimiser, loss)
        return loss, len(chosen)

    return run(in_batches(torch.arange(len(rows)), batch, generator), step)
