"""Training on whole sequences at once: the encoder runs once over each and every click is predicted from its state."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from streamrec.data.sequences import Sequences
from streamrec.models.next_item import NextItem
from streamrec.nn.optimiser import Optimiser
from streamrec.training.batches import Steps, descend, in_batches, run


def epoch(
    model: NextItem,
    sequences: Sequences,
    optimiser: Steps | Optimiser,
    rows: int = 128,
    length: int | None = None,
    generator: Generator | None = None,
) -> dict[str, float]:
    """One pass over the sequences by `NextItem.sequence_loss`.

    The gradient reaches back over the whole window. Of a sequence longer than the encoder reads, the newest clicks
    are learned.

    Args:
        model: with a causal encoder.
        sequences: those of fewer than two clicks are left out.
        optimiser: of the model's parameters.
        rows: sequences in a batch.
        length: the newest clicks of a sequence that are looked at, None = all.
        generator: shuffles the sequences; None = in their order.

    Returns:
        `loss`: mean over the clicks; `events`: clicks trained on; `steps` of the optimiser; `seconds` of processor
        time.

    Raises:
        ValueError: `rows` below 1.
        ArithmeticError: the loss became infinite or no number.
    """
    device = model.bias.device
    usable = torch.nonzero(sequences.lengths >= 2).squeeze(1)

    def step(batch: Tensor) -> tuple[Tensor, int]:
        history = sequences.history(batch, length).to(device)
        clicks = (history.items != 0).sum(1) - 1
        longest = getattr(model.encoder, "length", None) or history.items.shape[1]
        loss = model.sequence_loss(history)
        descend(optimiser, loss)
        return loss, int(clicks.clamp(max=longest).sum())

    return run(in_batches(usable, rows, generator), step)
