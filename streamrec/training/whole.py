"""Training on whole sequences at once: the encoder runs once over each and every click is predicted from its state."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from streamrec.data.sequences import Sequences
from streamrec.models.next_item import NextItem
from streamrec.nn.optimiser import Optimiser
from streamrec.training.batches import Steps, descend, in_batches, pieces, run


def epoch(
    model: NextItem,
    sequences: Sequences,
    optimiser: Steps | Optimiser,
    rows: int = 128,
    length: int | None = None,
    cut: bool = False,
    generator: Generator | None = None,
) -> dict[str, float]:
    """One pass over the sequences by `NextItem.sequence_loss`.

    The gradient reaches back over the whole window. Of a sequence longer than `length` or than the encoder reads, the
    newest clicks are learned, as the authors of SASRec do. With `cut` all clicks are: sequences are cut into pieces of
    at most `length` clicks, elsewhere in each epoch.

    Args:
        model: with a causal encoder.
        sequences: those of fewer than two clicks are left out.
        optimiser: of the model's parameters.
        rows: sequences in a batch.
        length: the newest clicks of a sequence that are looked at, None = all. One more than the encoder reads gives
            it all it can: the newest click of a window is only predicted.
        cut: learn the older clicks too.
        generator: shuffles the sequences and cuts them; None = in their order.

    Returns:
        `loss`: mean over the clicks; `events`: clicks trained on; `steps` of the optimiser; `seconds` of processor
        time.

    Raises:
        ValueError: `rows` or `length` below 1, or `cut` without a length or a generator.
        ArithmeticError: the loss became infinite or no number.
    """
    if cut:
        if length is None or generator is None:
            raise ValueError(f"to cut sequences takes a length and a generator, got length={length}, {generator=}")
        sequences = pieces(sequences, length, generator)
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
